"""State on disk: a step beside a plain loop that reads and writes as many bytes.

The loop is what a program in C would have: one thread, blocks of the length of a wave, `preadv` and
`pwritev` one after the other. It goes over the file of the step, and writes what it has read: two
files may lie on parts of a disk of which one is twice as fast as the other.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from fastoptim._containers import Array
from fastoptim._engine.disk import wave_bytes
from fastoptim._engine.scratch import BLOCK, DIRECT
from fastoptim.cli import CommandError

from .cases import Case, Cell, Size
from .contenders import SUBJECT, WrongResultError
from .timing import take_turns

PLAIN, MEMORY = "plain loop", "state in memory"
ELEMENTS = (8_000_000, 64_000_000)
CHECKED_STEPS = 3
BUDGET = 20  # seconds a cell


@dataclass(frozen=True)
class DiskResult:
    """The seconds of a step, and of its rivals, in each round."""

    cell: Cell
    nbytes: int  # of state
    direct: bool  # whether the file is read and written past the page cache
    seconds: Mapping[str, list[float]]

    def ratio(self, name: str) -> float:
        """Return how many times as long as a step a rival takes."""
        pairs = zip(self.seconds[name], self.seconds[SUBJECT], strict=True)
        return median(theirs / ours for theirs, ours in pairs)

    def rate(self, name: str) -> float:
        """Return how many bytes are read or written in a second, in GB."""
        return 2 * self.nbytes / median(self.seconds[name]) / 1e9

    def record(self) -> dict[str, Any]:
        """Return what ``--json`` stores."""
        return {
            "optimizer": self.cell.case.name,
            "dtype": self.cell.dtype,
            "elements": self.cell.size.elements,
            "state_bytes": self.nbytes,
            "wave_bytes": wave_bytes(),
            "direct": self.direct,
            "rounds": len(self.seconds[SUBJECT]),
            "median_seconds": {name: median(found) for name, found in self.seconds.items()},
            "of_plain_loop": self.ratio(PLAIN),
        }


def cells(case: Case, quick: bool) -> list[Cell]:
    """Return what to measure."""
    if not hasattr(os, "preadv"):
        raise CommandError("--disk: expected a system with preadv, found none")
    return [Cell(case, Size(1, n), "float32") for n in (ELEMENTS[:1] if quick else ELEMENTS)]


def measure(cell: Cell, folder: Path, budget: float) -> DiskResult:
    """Check the first steps, then time them, turn by turn.

    Parameters
    ----------
    cell : Cell
        The rule and the size.
    folder : Path
        Where the files are made.
    budget : float
        Seconds for the rounds, if the fewest take less.

    Returns
    -------
    DiskResult
        The times of the steps, of the plain loop, and of steps with state in memory.

    Raises
    ------
    WrongResultError
        If the bits are not those of state in memory; then nobody is timed.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fastoptim-") as name:
        path = os.path.join(name, "run.state")
        ours, params = _stepper(cell, path)
        theirs, wanted = _stepper(cell, None)
        for _ in range(CHECKED_STEPS):
            ours()
            theirs()
        if any(a.tobytes() != b.tobytes() for a, b in zip(params, wanted, strict=True)):
            raise WrongResultError("the parameters differ from those with state in memory")
        nbytes = cell.case.states * sum(p.nbytes for p in params)
        with _opened(path) as (fd, direct):
            loop = _plain_loop(fd, direct, os.path.getsize(path) - BLOCK)
            turns = {SUBJECT: _turn(ours), PLAIN: _turn(loop), MEMORY: _turn(theirs)}
            seconds = take_turns(turns, budget, pause=0)
        del ours, turns
        return DiskResult(cell, nbytes, direct, seconds)


def _stepper(cell: Cell, path: str | None) -> tuple[Callable[[], None], list[Array]]:
    """Return a step, with its state in a file or in memory, and the parameters."""
    params, grads = cell.arrays()
    case = cell.case
    optimizer = case.optimizer(params, state_path=path, **case.hyper, **case.around)
    return lambda: optimizer.step(grads), params


@contextmanager
def _opened(path: str) -> Iterator[tuple[int, bool]]:
    """Open the file of a step once more, as that was, and tell whether past the page cache."""
    flags = os.O_RDWR | os.O_CLOEXEC
    try:
        fd, direct = os.open(path, flags | DIRECT), bool(DIRECT)
    except OSError:  # which the step has met, too
        fd, direct = os.open(path, flags), False
    try:
        yield fd, direct
    finally:
        os.close(fd)


def _plain_loop(fd: int, direct: bool, nbytes: int) -> Callable[[], None]:
    """Return a function that reads so many bytes behind the first block, and writes them again."""
    room = memoryview(mmap.mmap(-1, wave_bytes()))

    def loop() -> None:
        for start in range(0, nbytes, len(room)):
            block = room[: nbytes - start]
            for move in os.preadv, os.pwritev:
                if move(fd, [block], BLOCK + start) < len(block):
                    raise OSError("the plain loop: expected whole blocks, found parts of them")
        if not direct:
            os.fdatasync(fd)
            os.posix_fadvise(fd, BLOCK, nbytes, os.POSIX_FADV_DONTNEED)

    return loop


def _turn(step: Callable[[], None]) -> Callable[[int], float]:
    """Return a function that returns the mean seconds of so many steps."""

    def turn(steps: int) -> float:
        start = perf_counter()
        for _ in range(steps):
            step()
        return (perf_counter() - start) / steps

    return turn
