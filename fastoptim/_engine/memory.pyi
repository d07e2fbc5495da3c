from collections.abc import Iterable, Sequence
from typing import Any

class Gradients:
    def __init__(
        self, labels: Sequence[str], grads: Iterable[Any], writing: bool = False
    ) -> None: ...
