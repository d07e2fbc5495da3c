"""What each part of the benchmark measures: which cells, and beside whom."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .cases import CASES, DTYPES, SIZES, Case, Cell, Size
from .contenders import CONTENDERS, REFERENCE, SUBJECT, variants_of
from .rivals import BY_HAND
from .timing import BUDGET, PROBE, is_slow

COMMON = (REFERENCE, "NumPy plain", "NumPy in place", "torch default", "torch fused")
RIVALS = tuple(name for name in CONTENDERS if name not in (SUBJECT, REFERENCE))
RIVALS_BUDGET = 15.0  # seconds: a dozen take turns, some of them slow ones
FOR_MANY = ("NumPy in place", "torch foreach", "torch fused")
FOR_SCALE = ("NumPy plain", "NumPy in place", "torch fused")
FOR_SIZES = ("torch fused", "DeepSpeed", "numba", BY_HAND)  # compiled, and with threads
SIZES_BUDGET = 5.0  # seconds

MILLION = Size(1, 1_000_000)
MANY = [
    Size(tensors, length)
    for length in (16, 100, 1000, 10_000, 100_000)
    for tensors in (1, 10, 100, 1000, 10_000, 100_000)
]
MOST_OF_MANY = 20_000_000  # elements; with more, the number of tensors makes no difference
LENGTHS = [Size(1, 4**k) for k in range(3, 10)]
LENGTHS += [MILLION, Size(1, 4_000_000), Size(1, 16_000_000)]
SCALE = [Size(1, n) for n in (*(10**k for k in range(2, 9)), 250_000_000)]


@dataclass(frozen=True)
class Section:
    """A part of the benchmark."""

    name: str  # in the record
    title: str
    cells: Sequence[Cell]
    rivals: Sequence[str]
    budget: float = BUDGET  # seconds for each cell
    left_out: dict[Cell, str] = field(default_factory=dict)


def steps(case: Case, quick: bool) -> list[Section]:
    """Return the sizes of one rule, in each dtype."""
    sizes = _up_to_a_million(SIZES) if quick else SIZES
    return [
        Section("steps", f"{case.name}, {dtype}", [Cell(case, s, dtype) for s in sizes], COMMON)
        for dtype in DTYPES
    ]


def rules(case: Case) -> Section:
    """Return one size of all other rules."""
    cells = [Cell(other, MILLION, "float32") for other in CASES.values() if other is not case]
    return Section("rules", f"Other rules, float32, {MILLION} elements", cells, COMMON, BUDGET / 2)


def rivals(case: Case, quick: bool) -> Section:
    """Return the cells at which a rule is compared with all rivals, and one of SGD."""
    sizes = [*SIZES, Size(1000, 100), Size(100, 64)]
    cells = [Cell(case, size, "float32") for size in sizes]
    cells += [Cell(case, size, "float64") for size in (MILLION, Size(1, 16_000_000))]
    cells.append(Cell(CASES["SGD"], MILLION, "float32"))
    if quick:
        cells = [cell for cell in cells if cell.size in _up_to_a_million([cell.size])]
    return Section("rivals", "Rivals", list(dict.fromkeys(cells)), RIVALS, RIVALS_BUDGET)


def sizes(cases: Sequence[Case], quick: bool) -> Section:
    """Return all sizes of one tensor, beside those who could be as fast."""
    lengths = _up_to_a_million(LENGTHS) if quick else LENGTHS
    cells = [Cell(case, size, "float32") for case in cases for size in lengths]
    return Section("sizes", "Sizes", cells, FOR_SIZES, SIZES_BUDGET)


def default_cases() -> list[Case]:
    """Return the rules of `sizes` unless one is asked for."""
    return [CASES[name] for name in ("Adam", "AdamW", "SGD-momentum", "Adagrad")]


def many(case: Case, quick: bool) -> Section:
    """Return many tensors of many sizes."""
    cells = [Cell(case, size, "float32") for size in MANY]
    most = MILLION.elements if quick else MOST_OF_MANY
    return _feasible("many", "Many tensors", cells, FOR_MANY, most)


def scale(case: Case, quick: bool) -> Section:
    """Return one tensor of many sizes, as large as the memory allows."""
    cells = [Cell(case, size, "float32") for size in SCALE]
    most = MILLION.elements if quick else SCALE[-1].elements
    return _feasible("scale", "One tensor", cells, FOR_SCALE, most)


def _up_to_a_million(sizes: Iterable[Size]) -> list[Size]:
    return [size for size in sizes if size.elements <= MILLION.elements]


def _feasible(
    name: str, title: str, cells: Sequence[Cell], rivals: Sequence[str], most: int
) -> Section:
    """Return a section without the cells that are too large, which are named."""
    free, left_out = free_memory(), {}
    for cell in cells:
        needed = memory(cell, rivals)
        if cell.size.elements > most:
            left_out[cell] = f"more than {most:,} elements"
        elif needed > free:
            left_out[cell] = f"needs {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} are free"
    cells = [cell for cell in cells if cell not in left_out]
    return Section(name, title, cells, rivals, BUDGET / 4, left_out)


def memory(cell: Cell, rivals: Sequence[str]) -> int:
    """Return the bytes that measuring a cell takes."""
    array = cell.size.elements * np.dtype(cell.dtype).itemsize
    arrays = 2 + cell.case.states
    timed = [SUBJECT, PROBE, *(name for name in rivals if not is_slow(name, cell.size))]
    contenders = sum(len(variants_of(name)) for name in timed)  # the probe's share their arrays
    # The reference is there for a while, with some temporaries, and leaves its results behind.
    return array * (arrays * contenders + arrays + 4)


def free_memory() -> float:
    """Return the bytes that this process can have: of the machine, and of its cgroup."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = [1024 * int(s.split()[1]) for s in lines if s.startswith("MemAvailable:")]
    except OSError:
        found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2]
    try:
        most, used = (Path("/sys/fs/cgroup", f"memory.{s}").read_text() for s in ("max", "current"))
        found += [int(most) - int(used)]
    except (OSError, ValueError):  # there is none, or its limit is "max"
        pass
    return min(found)
