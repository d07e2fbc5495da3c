from collections.abc import Callable
from typing import Any

import numpy as np

class Format:
    dtype: np.dtype[Any]
    real: np.dtype[Any]
    def __init__(
        self,
        dtype: Any,
        real: Any,
        load: int = 0,
        store: int = 0,
        decode: Callable[[Any], Any] | None = None,
        encode: Callable[[Any], Any] | None = None,
    ) -> None: ...
    def fill(self, array: Any, value: Any) -> None: ...

FORMATS: dict[np.dtype[Any], Format]

def format_of(label: str, array: Any) -> Format: ...
