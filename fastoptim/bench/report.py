"""What the figures depend on, and the tables of the figures."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from functools import cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from fastoptim._config import config

from . import rivals
from .cases import Cell
from .choice import OWN, ChoiceResult
from .clients import LONGEST_MODEL, Client, ClientResult
from .contenders import REFERENCE, SUBJECT
from .disk import MEMORY, PLAIN, DiskResult
from .loop import ALONE, LoopResult, Training
from .rows import NUMPY, TORCH, RowsCell, RowsResult
from .sections import Section
from .timing import PROBE, Result

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WAITING = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"  # how the OpenMP workers of all libraries wait
COLUMNS, COLUMNS_OF_MANY = 5, 6  # of a table whose columns are sizes, or numbers
NOTES = """
probe: a loop over one array that moves the same bytes and only adds, at the
fastest of all levels and numbers of threads; of probe: a share of its
throughput, with ~ where the machine is noisy: the middle half of the rounds
spreads over more than 10 % of it; in parentheses where the arrays fit into the
caches: there arithmetic takes longer than the bytes, and the probe is no limit
NumPy, torch, ...: times as long as fastoptim, the median of the ratios of each
round; as the probe: times as long as the probe takes, which nothing that moves
these bytes can exceed
C by hand: the fastest of AVX2 and AVX-512 on one thread and on more, which stay
awake from step to step
none: its library has not written it; slow: it would take minutes"""
CHOICE_NOTES = """
own choice: what the engine chooses by timing its steps; v3 x 2, ...: times as
long as that, at this level on so many threads, the median of the ratios of each
round; of the best: the time of the best fixed choice as a share of that of the
own choice; ran: how the last step of the own choice was run"""
LOOP_NOTES = """
iteration: forward and backward passes in NumPy, and a step of fastoptim; NumPy:
times as long
matrices: the passes alone; with steps of fastoptim, or of NumPy in place,
between them: times as long"""
DISK_NOTES = """
GB/s: of state, read and written; plain loop: preadv and pwritev of as much, one
after the other; of plain loop: its time as a share of that of the step; state
in memory: the time of a step with that, as a multiple"""
CPU_INFO = Path("/proc/cpuinfo")  # of Linux
ROWS_NOTES = """
probe: a loop that reads and writes the same rows of p and state, each once and in
ascending order, and adds a value to each that it reads one behind the other, at the
fastest of all levels and numbers of threads; of probe: the rate at which fastoptim
moves the bytes that must move (these rows, read and written, and all values that
were given, read), as a share of that of the probe; indices do not count; NumPy
scatter: np.add.at into zeros, and a dense step of fastoptim; torch sparse: torch's
Adagrad, or SparseAdam; both times as long"""
CLIENT_NOTES = """
before, after: seconds of the training with the library's own update, and with
fastoptim's; ratio: the median of the ratios of each round
differs by: the largest difference of the results, as a share of their largest
value
absent: not installed; the extra of that name brings each
failed: did not run, or had another result; then the exit status is 1"""


def environment() -> dict[str, Any]:
    """Return what the figures depend on: the day, CPU, level, threads, versions."""
    cpu = {"CPU": _cpu_name(), "CPUs": os.cpu_count()}
    found = {"date": date.today().isoformat(), **cpu, **config(), **rivals.versions()}
    found |= {name: os.environ[name] for name in WAITING if name in os.environ}
    try:
        torch = rivals.needed("torch")
    except Exception:  # absent or broken: it cannot be asked
        return found
    return {
        **found,
        "torch threads": torch.get_num_threads(),
        "torch default": rivals.torch_default(),
    }


def _cpu_name() -> str:
    """Return the name of the CPU, and what tells its generation where the name alone does not."""
    try:
        first = CPU_INFO.read_text().split("\n\n")[0]
    except OSError:
        first = ""
    pairs = (line.partition(":") for line in first.splitlines())
    said = {key.strip(): value.strip() for key, _, value in pairs}
    name = said.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in said:
        name += f" (family {said['cpu family']} model {said.get('model', 'unknown')})"
    return name


def show(
    machine: Mapping[str, Any],
    sections: Sequence[Section],
    results: Mapping[Any, Result],
    failed: Mapping[Any, str],
) -> None:
    """Print where it was measured, and the sections."""
    console = _console()
    console.print("; ".join(f"{name} {value}" for name, value in machine.items()))
    reasons = dict.fromkeys(pair for result in results.values() for pair in result.left_out.items())
    absent = dict.fromkeys(name for name, why in reasons if why == "absent")
    for section in sections:
        done = [results.get((section.name, cell)) for cell in section.cells]
        present = [name for name in section.rivals if name not in absent]
        _print_section(console, replace(section, rivals=present), list(filter(None, done)))
    if absent:
        console.print(f"\nabsent, since they are not installed: {', '.join(absent)}")
    for name, why in reasons:
        if why.startswith("broken: "):
            console.print(f"\n{name} is {why}")
    if sections:
        console.print(NOTES)
    _print_failed(console, failed, Cell)


def show_choices(results: Sequence[ChoiceResult]) -> None:
    """Print the engine's own choice beside the fixed ones."""
    console = _console()
    tables: dict[str, list[ChoiceResult]] = {}
    for result in results:
        title = f"{result.cell.case.name}, {result.cell.dtype}, {result.measured}"
        tables.setdefault(title, []).append(result)
    for title, block in tables.items():
        console.print("", _choice_table(title, block))
    if results:
        console.print(CHOICE_NOTES)


def show_loops(loops: Sequence[LoopResult], failed: Mapping[Any, str]) -> None:
    """Print the training loops."""
    console = _console()
    if loops:
        console.print("", _loop_table(loops), LOOP_NOTES)
    _print_failed(console, failed, Training)


def show_disk(results: Sequence[DiskResult]) -> None:
    """Print the steps with state on disk."""
    if results:
        console = _console()
        how = "past the page cache" if results[0].direct else "through the page cache"
        title = f"State on disk, {results[0].cell.case.name}, {results[0].cell.dtype}, {how}"
        headings = ["step", "GB/s", "plain loop\nGB/s", "of\nplain loop", "state in\nmemory"]
        table = _table(title, headings)
        for found in results:
            table.add_row(
                f"{found.nbytes / 1e6:,.0f} MB",
                duration(median(found.seconds[SUBJECT])),
                f"{found.rate(SUBJECT):.2f}",
                f"{found.rate(PLAIN):.2f}",
                f"{found.ratio(PLAIN):.2f}",
                f"{found.ratio(MEMORY):.3f}x",
            )
        console.print("", table, DISK_NOTES)


def _print_failed(console: Console, failed: Mapping[Any, str], kind: type) -> None:
    for thing, why in failed.items():
        if isinstance(thing, kind):
            console.print(f"failed: {thing}: {why}")


def show_rows(results: Sequence[RowsResult], failed: Mapping[Any, str]) -> None:
    """Print what steps by some rows take."""
    console = _console()
    for rule in dict.fromkeys(result.cell.rule for result in results):
        block = [result for result in results if result.cell.rule == rule]
        headings = [SUBJECT, "of\nprobe", *(name.replace(" ", "\n") for name in (NUMPY, TORCH))]
        table = _table(f"Some rows, {rule}, float32", headings)
        for result in block:
            table.add_row(
                str(result.cell.table),
                duration(median(result.seconds[SUBJECT])),
                f"{result.share:.2f}",
                *(
                    result.left_out[name]
                    if name in result.left_out
                    else f"{result.ratio(name):.1f}x"
                    for name in (NUMPY, TORCH)
                ),
            )
        console.print("", table)
    if results:
        console.print(ROWS_NOTES)
    _print_failed(console, failed, RowsCell)


def show_clients(
    results: Sequence[ClientResult], failed: Mapping[Any, str], absent: Mapping[str, str]
) -> None:
    """Print the trainings with other libraries."""
    headings = ["model", "before\ns", "after\ns", "ratio", "differs\nby"]
    table = _table("Clients", headings, padding=0)
    model = table.columns[1]
    model.justify, model.no_wrap, model.max_width = "left", False, LONGEST_MODEL
    for result in results:
        table.add_row(
            result.client.library,
            result.client.model,
            f"{median(result.before):.3f}",
            f"{median(result.after):.3f}",
            f"{result.ratio:.2f}x",
            f"{result.difference:.0e}",
        )
    for thing, why in failed.items():
        if isinstance(thing, Client):
            table.add_row(thing.library, f"{thing.model}\nfailed: {why}")
        elif isinstance(thing, str):
            table.add_row(thing, f"failed: {why}")
    console = _console()
    console.print("", table)
    if absent:
        console.print(f"absent: {', '.join(absent)}")
    console.print(CLIENT_NOTES)


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)  # brackets in errors are brackets


def _table(title: str, headings: Iterable[str], padding: int = 1) -> Table:
    """Return an empty table, which without padding has room for more in 80 columns."""
    from rich import box
    from rich.table import Table

    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, padding, 0, 0),
        show_edge=False,
    )
    table.add_column("", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _print_section(console: Console, section: Section, results: Sequence[Result]) -> None:
    if not results:
        console.print(f"\n{section.title}: nothing was measured")
    elif section.name in ("steps", "rules"):
        console.print("", _by_rows(section, results))
    else:
        _print_by_columns(console, section, results)
    for cell, why in section.left_out.items():
        console.print(f"left out: {cell}: {why}")


def _by_rows(section: Section, results: Sequence[Result]) -> Table:
    """Return a table with a row for each size or rule, and a column for each contender."""
    rivals = [name for name in section.rivals if name != REFERENCE]  # 80 columns hold no more
    names = [name.replace(" ", "\n", 1) for name in rivals]
    headings = [SUBJECT, "GB/s", "probe\nGB/s", "of\nprobe", *names]
    table = _table(section.title, headings, padding=0)
    for result in results:
        table.add_row(
            result.cell.case.name if section.name == "rules" else str(result.cell.size),
            duration(median(result.seconds[SUBJECT])),
            f"{result.rate(SUBJECT):.1f}",
            f"{result.rate(PROBE):.1f}",
            _share(result),
            *(_times(result, name) for name in rivals),
        )
    return table


def _print_by_columns(console: Console, section: Section, results: Sequence[Result]) -> None:
    """Print tables with a column for each size, and a row for each contender."""
    blocks: dict[str, list[Result]] = {}
    for result in results:
        size = result.cell.size
        of = f" of {size.length:,}" if section.name == "many" else ""
        title = f"{section.title}{of}, {result.cell.case.name}, {result.cell.dtype}"
        blocks.setdefault(title, []).append(result)
    columns = COLUMNS_OF_MANY if section.name == "many" else COLUMNS
    for title, block in blocks.items():
        for start in range(0, len(block), columns):
            console.print("", _by_columns(title, section, block[start : start + columns]))


def _by_columns(title: str, section: Section, results: Sequence[Result]) -> Table:
    rows: dict[str, Callable[[Result], str]] = {
        SUBJECT: lambda r: duration(median(r.seconds[SUBJECT])),
        "GB/s": lambda r: f"{r.rate(SUBJECT):.1f}",
        "of probe": _share,
    }
    if section.name == "many":
        headings = [f"{result.cell.size.tensors:,}" for result in results]
        rows["a tensor"] = lambda r: duration(median(r.seconds[SUBJECT]) / r.cell.size.tensors)
    else:
        headings = [str(result.cell.size) for result in results]
    table = _table(title, headings)
    for label, value in rows.items():
        table.add_row(label, *map(value, results))
    for name in section.rivals:
        table.add_row(name, *(_times(result, name) for result in results))
        if name == "NumPy plain":
            table.add_row("  as the probe", *(_times(r, name, r.bound) for r in results))
    return table


def _choice_table(title: str, results: Sequence[ChoiceResult]) -> Table:
    table = _table(title, [str(result.cell.size) for result in results])
    table.add_row(OWN, *(duration(median(r.seconds[OWN])) for r in results))
    for name in results[0].fixed:
        table.add_row(name, *(f"{r.ratio(name):.2f}x" for r in results))
    table.add_row("of the best", *(f"{r.ratio(r.best):.2f}" for r in results))
    table.add_row("ran", *(r.ran for r in results))
    return table


def _loop_table(loops: Sequence[LoopResult]) -> Table:
    rivals = [name for name in loops[0].seconds if name not in (SUBJECT, REFERENCE, ALONE)]
    headings = ["iteration", *(name.replace(" ", "\n", 1) for name in rivals)]
    headings += ["matrices", "with\nsteps", "with\nNumPy's"]
    title = f"Training loops, {loops[0].training.case.name}, float32"
    table = _table(title, headings, padding=0)
    for loop in loops:
        table.add_row(
            str(loop.training).partition(" ")[2].replace("batch ", ""),
            duration(loop.iteration(SUBJECT)),
            *(f"{loop.ratio(name):.2f}x" for name in rivals),
            duration(loop.matrices(ALONE)),
            *(f"{loop.slowdown(name):.2f}x" for name in (SUBJECT, "NumPy in place")),
        )
    return table


def _share(result: Result) -> str:
    share = f"{'~' if result.is_noisy else ''}{result.ratio(PROBE):.2f}"
    return f"({share})" if result.cell.held < _cache_bytes() else share


@cache
def _cache_bytes() -> int:
    """Return the bytes of the largest cache of the first CPU, 0 where the system does not say."""
    sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    return max((1024 * int(path.read_text().strip().rstrip("K")) for path in sizes), default=0)


def _times(result: Result, name: str, ratio_of: Callable[[str], float] | None = None) -> str:
    if name in result.left_out:
        return result.left_out[name].partition(":")[0]
    ratio = (ratio_of or result.ratio)(name)
    return f"{ratio:.{2 - (ratio >= 10) - (ratio >= 100)}f}x"


def duration(seconds: float) -> str:
    """Return a time in a readable unit."""
    for unit, scale in {"ns": 1e9, "us": 1e6}.items():
        if seconds * scale < 999.95:
            return f"{seconds * scale:.1f} {unit}"
    return f"{seconds * 1e3:.2f} ms" if seconds < 0.999995 else f"{seconds:.2f} s"
