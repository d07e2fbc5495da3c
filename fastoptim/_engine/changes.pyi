from collections.abc import Iterable
from typing import Any

Change = tuple[Any, dict[Any, Any]]

def change(changes: Iterable[Change]) -> None: ...
