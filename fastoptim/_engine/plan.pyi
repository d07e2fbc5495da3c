from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from .changes import Change
from .entry import Entry, Twin
from .memory import Gradients
from .parts import Sums, Waves

most_state: int

def measure(grads: Gradients, loops: Any) -> tuple[float, str | None]: ...
def clip(grads: Gradients, loops: Any, factor: float, limit: float) -> None: ...

class Plan:
    def __init__(
        self,
        entries: Iterable[Entry],
        labels: Sequence[Sequence[str]],
        twins: Iterable[Twin] = (),
        loops: Any = None,
        zeroing: bool = False,
        unstarted: Iterable[bool] = (),
        watched: Iterable[tuple[Sequence[tuple[Any, list[Any]]], Callable[[], None]]] = (),
        sums: Sums | None = None,
        waves: Waves | None = None,
    ) -> None: ...
    def __enter__(self) -> Plan: ...
    def break_off(self, error: BaseException) -> None: ...
    def __exit__(self, *_: object) -> None: ...
    def retire(self, changes: Iterable[Change], values: Sequence[Any]) -> None: ...
    shows: str | None
    retired: bool
    broken: str | None
    @property
    def steps(self) -> list[int]: ...
    @steps.setter
    def steps(self, counts: Sequence[int]) -> None: ...
    @property
    def numbers(self) -> list[tuple[float, ...]]: ...
    @numbers.setter
    def numbers(self, numbers: Sequence[tuple[float, ...]]) -> None: ...
    @property
    def in_use(self) -> bool: ...
    @property
    def unstarted(self) -> list[bool]: ...
    def start_averages(self, groups: Sequence[Any]) -> None: ...
    def step(
        self,
        grads: Sequence[Any],
        groups: Sequence[Any],
        scale: float = 1.0,
        changes: Sequence[Change] = (),
        judge: Callable[[float, str | None], tuple[float | None, Sequence[Change]]] | None = None,
        flush: bool = False,
        casting: bool | None = None,
        agree: Callable[[list[tuple[Any, ...]], list[Any]], None] | None = None,
    ) -> bool: ...
    def measure(self, grads: Sequence[Any]) -> tuple[float, str | None]: ...

class ShownAverages(AbstractContextManager[None]):
    def __init__(
        self,
        name: str,
        averaged: Callable[[], Plan],
        function: Callable[..., Any] | None = None,
    ) -> None: ...
    def __exit__(self, *_: object) -> None: ...
