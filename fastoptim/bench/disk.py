"""State on disk: a step beside a plain loop that reads and writes as many bytes.

The loop is what a program in C would have: one thread, blocks of the length of a wave, `preadv` and
`pwritev` one after the other, on a file that was opened as that of the step.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from fastoptim._containers import Array
from fastoptim._engine.disk import wave_bytes
from fastoptim._engine.scratch import Scratch
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
        ours, params = _stepper(cell, os.path.join(name, "run.state"))
        theirs, wanted = _stepper(cell, None)
        for _ in range(CHECKED_STEPS):
            ours()
            theirs()
        if any(a.tobytes() != b.tobytes() for a, b in zip(params, wanted, strict=True)):
            raise WrongResultError("the parameters differ from those with state in memory")
        nbytes = cell.case.states * sum(p.nbytes for p in params)
        scratch = Scratch(os.path.join(name, "plain.state"))
        loop = _plain_loop(scratch, nbytes)
        turns = {SUBJECT: _turn(ours), PLAIN: _turn(loop), MEMORY: _turn(theirs)}
        seconds = take_turns(turns, budget, pause=0)
        del ours, turns, loop
        return DiskResult(cell, nbytes, scratch.direct, seconds)


def _stepper(cell: Cell, path: str | None) -> tuple[Callable[[], None], list[Array]]:
    """Return a step, with its state in a file or in memory, and the parameters."""
    params, grads = cell.arrays()
    case = cell.case
    optimizer = case.optimizer(params, state_path=path, **case.hyper, **case.around)
    return lambda: optimizer.step(grads), params


def _plain_loop(scratch: Scratch, nbytes: int) -> Callable[[], None]:
    """Return a function that reads and writes so many bytes, in whole blocks."""
    block = wave_bytes()
    count = -(-nbytes // block)
    at = scratch.reserve(count * block)
    room = mmap.mmap(-1, block)
    np.frombuffer(room, np.uint8)[...] = 1

    def loop() -> None:
        for k in range(count):
            place = at + k * block
            if os.preadv(scratch.fd, [room], place) + os.pwritev(scratch.fd, [room], place) < (
                2 * block
            ):
                raise OSError(f"{scratch.path}: expected whole blocks, found parts of them")
        if not scratch.direct:
            os.fdatasync(scratch.fd)
            os.posix_fadvise(scratch.fd, at, count * block, os.POSIX_FADV_DONTNEED)

    return loop


def _turn(step: Callable[[], None]) -> Callable[[int], float]:
    """Return a function that returns the mean seconds of so many steps."""

    def turn(steps: int) -> float:
        start = perf_counter()
        for _ in range(steps):
            step()
        return (perf_counter() - start) / steps

    return turn
