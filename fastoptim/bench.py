"""``fastoptim bench``: a step beside the memory limit, NumPy and torch, on this machine.

Contenders take turns, A B C A B C ..., so that what slows the machine down for a while slows all
of them. A ratio is the median of the ratios within each round; a throughput is that of the bytes
that the formula must move, whatever a contender moves in fact.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from ._config import config
from ._engine import threads_for
from ._roofline import read, stream
from .cli import CommandError
from .contenders import (
    CASES,
    CONTENDERS,
    DTYPES,
    SIZES,
    Cell,
    Size,
    Step,
    UnavailableError,
    WrongResultError,
    import_torch,
    prepare,
    torch_default,
)

if TYPE_CHECKING:
    from rich.table import Table

SUBJECT, PROBE = "fastoptim", "probe"
RIVALS = [name for name in CONTENDERS if name != SUBJECT]
SHOWN = [name for name in RIVALS if name != "reference"]  # 80 columns hold no more; it is recorded

# The OpenMP workers of torch, and those of a BLAS, spin for some milliseconds after their work.
# Without a pause they would take the cores from whoever comes next.
PAUSE = 0.01
TURN = 0.005  # seconds that are timed at a time, at the least
ROUNDS = 5  # at the least
BUDGET = 2.0  # seconds for the rounds of one cell, if they are more

Rows = dict[str, Cell]
MILLION = Size(1, 1_000_000)


@dataclass(frozen=True)
class Result:
    """The seconds a step took each contender in each round."""

    cell: Cell
    threads: int
    seconds: Mapping[str, list[float]]
    left_out: Mapping[str, str]  # who could not be timed, and why

    def rate(self, name: str) -> float:
        """Return the median throughput in GB/s."""
        return self.cell.traffic / median(self.seconds[name]) / 1e9

    def ratio(self, name: str) -> float:
        """Return how many times as long as fastoptim a contender takes."""
        pairs = zip(self.seconds[name], self.seconds[SUBJECT], strict=True)
        return median(theirs / ours for theirs, ours in pairs)

    def record(self) -> dict[str, Any]:
        """Return what ``--json`` stores."""
        return {
            "optimizer": self.cell.case.name,
            "dtype": self.cell.dtype,
            "tensors": self.cell.size.tensors,
            "elements": self.cell.size.elements,
            "bytes": self.cell.traffic,
            "threads": self.threads,
            "rounds": len(self.seconds[SUBJECT]),
            "median_seconds": {name: median(times) for name, times in self.seconds.items()},
            "gb_per_second": {name: self.rate(name) for name in (SUBJECT, PROBE)},
            "share_of_probe": self.ratio(PROBE),
            "speedup_over": {name: self.ratio(name) for name in RIVALS if name in self.seconds},
            "left_out": dict(self.left_out),
        }


Results = dict[Cell, Result]


def measure(cell: Cell, budget: float) -> Result:
    """Check everyone who computes a cell, then time them, turn by turn.

    Parameters
    ----------
    cell : Cell
        The rule, size and dtype.
    budget : float
        Seconds for the rounds; `ROUNDS` rounds are run in any case.

    Returns
    -------
    Result
        The times of fastoptim, of the probe and of all rivals that exist here.

    Raises
    ------
    WrongResultError
        If a contender disagrees with the reference; then nobody is timed.
    """
    threads = threads_for(cell.traffic)
    steps = {SUBJECT: prepare(SUBJECT, cell), PROBE: probe(cell, threads)}
    left_out = {}
    for name in RIVALS:
        try:
            steps[name] = prepare(name, cell)
        except UnavailableError as why:
            left_out[name] = str(why)
    return Result(cell, threads, take_turns(steps, budget), left_out)


def probe(cell: Cell, threads: int) -> Step:
    """Return the step that moves the same bytes in one array, with hardly any arithmetic.

    An average of the parameters is a state array like others. The norm of g takes a pass of its
    own, which must end before the step can begin.
    """
    p, g, *state = (np.ones(cell.size.elements, cell.dtype) for _ in range(2 + cell.case.states))
    step = partial(stream, p, g, state, threads)
    if cell.case.reads == 1:
        return step
    return lambda: (read(g, threads), step())


def take_turns(steps: Mapping[str, Step], budget: float) -> dict[str, list[float]]:
    """Return the seconds that a step of each contender took in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    with _garbage_collector_disabled():
        repetitions = {name: _repetitions(step) for name, step in steps.items()}
        start = time.perf_counter()
        while len(seconds[SUBJECT]) < ROUNDS or time.perf_counter() - start < budget:
            for name, step in steps.items():
                time.sleep(PAUSE)
                seconds[name].append(_turn(step, repetitions[name]))
    return seconds


@contextmanager
def _garbage_collector_disabled() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _repetitions(step: Step) -> int:
    n = 1
    while n * _turn(step, n) < TURN:
        n *= 2
    return n


def _turn(step: Step, repetitions: int) -> float:
    """Return the seconds that a step takes, once as many have woken the workers and the caches."""
    for _ in range(repetitions):
        step()
    start = time.perf_counter()
    for _ in range(repetitions):
        step()
    return (time.perf_counter() - start) / repetitions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``fastoptim bench``."""
    parser.add_argument(
        "--optimizer",
        choices=list(CASES),
        metavar="NAME",
        help=f"time this one only: {', '.join(CASES)} (default: Adam, then the others briefly)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewest rounds, and no more than 1,000,000 elements"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record to this file")


def main(args: argparse.Namespace) -> int:
    """Measure, print the tables, write the record; return 1 if a contender was wrong."""
    if args.json:
        _check_writable(args.json)
    machine = environment()
    sections = _sections(args.optimizer, args.quick)
    try:
        results = _measured(sections, 0 if args.quick else BUDGET)
    except WrongResultError as error:
        print(f"fastoptim bench: wrong result of {error}", file=sys.stderr)
        return 1
    _show(machine, sections, results)
    if args.json:
        record = {"machine": machine, "results": [r.record() for r in results.values()]}
        args.json.write_text(json.dumps(record, indent=2) + "\n")
    return 0


def _check_writable(file: Path) -> None:
    try:
        file.open("a").close()
    except OSError as error:
        raise CommandError(f"--json: cannot write {file}: {error.strerror}") from None


def environment() -> dict[str, Any]:
    """Return what the figures depend on: CPU, level, threads, versions."""
    found = {"CPU": _cpu_name(), "CPUs": os.cpu_count(), **config()}
    try:
        torch = import_torch()
    except UnavailableError as why:
        return {**found, "torch": str(why)}
    return {
        **found,
        "torch": torch.__version__,
        "torch threads": torch.get_num_threads(),
        "torch default": torch_default(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _sections(optimizer: str | None, quick: bool) -> dict[str, Rows]:
    """Return the tables to fill in: for each title, what its rows are called and compare."""
    case = CASES[optimizer or "Adam"]
    sizes = [
        size for size in (Size(1, 64), *SIZES) if not (quick and size.elements > MILLION.elements)
    ]
    sections = {
        f"{case.name}, {dtype}": {str(size): Cell(case, size, dtype) for size in sizes}
        for dtype in DTYPES
    }
    if optimizer is None:
        others = [other for other in CASES.values() if other is not case]
        sections[f"Other rules, float32, {MILLION} elements"] = {
            other.name: Cell(other, MILLION, "float32") for other in others
        }
    return sections


def _measured(sections: dict[str, Rows], budget: float) -> Results:
    """Measure every cell, and show on stderr how far that is."""
    from rich.console import Console
    from rich.progress import Progress

    cells = [cell for rows in sections.values() for cell in rows.values()]
    results: Results = {}
    console = Console(stderr=True)
    # Drawn between the cells only: a thread that draws would take a core from the contenders.
    with Progress(
        console=console, auto_refresh=False, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("", total=len(cells))
        for cell in cells:
            progress.update(task, description=str(cell), refresh=True)
            results[cell] = measure(cell, budget)
            progress.advance(task)
    return results


def _show(machine: Mapping[str, Any], sections: dict[str, Rows], results: Results) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print("; ".join(f"{name} {value}" for name, value in machine.items()))
    for title, rows in sections.items():
        console.print()
        console.print(_table(title, {label: results[cell] for label, cell in rows.items()}))
    console.print(
        "\nprobe: a loop over one array that moves the same bytes and only adds\n"
        "NumPy, torch: times as long as fastoptim, the median of the ratios of each round\n"
        "absent: not installed; none: torch has not written it"
    )


def _table(title: str, results: Mapping[str, Result]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,  # for 80 columns
    )
    table.add_column("")
    for heading in ("fastoptim", "GB/s", "probe\nGB/s", "of\nprobe", *SHOWN):
        table.add_column(heading.replace(" ", "\n", 1), justify="right", no_wrap=True)
    for label, result in results.items():
        table.add_row(
            label,
            _duration(median(result.seconds[SUBJECT])),
            f"{result.rate(SUBJECT):.1f}",
            f"{result.rate(PROBE):.1f}",
            f"{result.ratio(PROBE):.2f}",
            *(result.left_out.get(name) or f"{result.ratio(name):.1f}x" for name in SHOWN),
        )
    return table


def _duration(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} us" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"
