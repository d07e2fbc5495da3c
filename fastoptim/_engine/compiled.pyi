from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

tile_size: int
task_size: int

class RuleLoops:
    rule: str | None
    levels: Mapping[str, Sequence[Mapping[np.dtype[Any], Any]]]
    count: int
    def __init__(
        self, rule: str | None, levels: dict[str, list[Mapping[np.dtype[Any], Any]]]
    ) -> None: ...
