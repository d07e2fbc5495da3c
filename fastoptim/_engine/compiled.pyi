from collections.abc import Mapping
from typing import Any

import numpy as np

tile_size: int
task_size: int

class RuleLoops:
    rule: str | None
    levels: Mapping[str, Mapping[np.dtype[Any], Any]]
    def __init__(self, rule: str | None, levels: dict[str, dict[np.dtype[Any], Any]]) -> None: ...
