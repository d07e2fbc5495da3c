from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .parts import Piece
from .scratch import Scratch

def punch(fd: int, at: int, size: int) -> bool: ...

class Ring:
    given: int
    has_changed: bool
    def __init__(
        self,
        fd: int,
        direct: bool,
        waves: Any,
        buffers: int,
        failed: Callable[[int, str], BaseException],
    ) -> None: ...
    def take(self, wave: int) -> np.ndarray[Any, np.dtype[np.uint8]]: ...
    def give(self, changed: bool) -> None: ...
    def settle(self) -> None: ...
    def stop(self) -> None: ...
    @property
    def moved(self) -> tuple[int, int]: ...

class RingWaves:
    gradients: bool
    pieces: Sequence[Sequence[Piece]]
    def __init__(
        self,
        ring: Ring | None,
        pieces: list[list[Piece]],
        offsets: list[np.ndarray[Any, Any]],
        scratch: Scratch,
    ) -> None: ...
    def before(self, wave: int, what: str) -> np.ndarray[Any, Any]: ...
    def behind(self, wave: int, what: str) -> None: ...
