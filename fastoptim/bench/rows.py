"""Steps by gradients that have but some rows, beside dense steps and torch's sparse ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

import fastoptim as fo

from . import _yardsticks, timing
from .contenders import SUBJECT, WrongResultError
from .rivals import UnavailableError, needed
from .sections import free_memory
from .timing import PROBE, take_turns
from .variants import variants

NUMPY, TORCH = "NumPy scatter", "torch sparse"
ZIPF = 1.05  # the exponent of skewed indices, as word counts have it
MOST_ARRAYS = 11  # of the size of a table: p and state of each contender, a dense gradient
MOST_DENSE = 1 << 28  # bytes of a table up to which dense steps are timed
Step = Callable[[], Any]


@dataclass(frozen=True)
class Table:
    """A table, and how many of its rows a gradient has, as the indices come."""

    rows: int
    width: int
    given: int
    skewed: bool = False

    def __str__(self) -> str:
        indices = " skewed" if self.skewed else ""
        return f"{self.given:,}{indices} of {self.rows:,} x {self.width}"

    @property
    def nbytes(self) -> int:
        """The bytes of the table."""
        return 4 * self.rows * self.width

    def gradients(self, count: int) -> list[fo.Rows]:
        """Return gradients that come in turn, so that not always the same rows are in the cache."""
        rng = np.random.default_rng(0)
        found = []
        for _ in range(count):
            if self.skewed:
                indices = (rng.zipf(ZIPF, self.given) - 1) % self.rows
                indices = indices * 7_919 % self.rows  # frequent rows lie apart
            else:
                indices = rng.integers(0, self.rows, self.given)
            values = rng.standard_normal((self.given, self.width), np.float32)
            found.append(fo.Rows(indices, values))
        return found


TABLES = [
    Table(1_000, 8, 16),
    Table(10_000, 16, 4_096),
    Table(100_000, 16, 4_096),
    Table(1_000_000, 16, 4_096),
    Table(10_000_000, 16, 4_096),
    Table(1_000_000, 64, 65_536),
    Table(1_000_000, 64, 65_536, skewed=True),
]
RULES = ("Adagrad", "lazy Adam")
IN_TURN = 8  # gradients


@dataclass(frozen=True)
class RowsCell:
    """A rule and a table."""

    rule: str
    table: Table

    def __str__(self) -> str:
        return f"{self.rule}, {self.table}"


@dataclass(frozen=True)
class RowsResult:
    """The seconds of each contender in each round."""

    cell: RowsCell
    seconds: Mapping[str, list[float]]
    traffic: int  # bytes that must move: of the rows of p and state, and all values
    probe_traffic: int  # bytes that the probe moves: of these rows, and of as many values
    left_out: Mapping[str, str]

    def ratio(self, name: str) -> float:
        """Return how many times as long as fastoptim a contender takes."""
        pairs = zip(self.seconds[name], self.seconds[SUBJECT], strict=True)
        return median(theirs / ours for theirs, ours in pairs)

    @property
    def share(self) -> float:
        """The rate at which fastoptim moves what must move, as a share of the probe's rate."""
        return self.ratio(PROBE) * self.traffic / self.probe_traffic

    def record(self) -> dict[str, Any]:
        """Return what ``--json`` stores."""
        table = self.cell.table
        return {
            "optimizer": self.cell.rule,
            "rows": table.rows,
            "width": table.width,
            "given": table.given,
            "skewed": table.skewed,
            "bytes": self.traffic,
            "share_of_probe": self.share,
            "rounds": len(self.seconds[SUBJECT]),
            "median_seconds": {name: median(times) for name, times in self.seconds.items()},
            "ratio": {name: self.ratio(name) for name in self.seconds if name != SUBJECT},
            "left_out": dict(self.left_out),
        }


def cells(quick: bool) -> list[RowsCell]:
    """Return what to measure, as far as the memory allows."""
    tables = [t for t in TABLES if not (quick and t.rows * t.width > 2_000_000)]
    return [RowsCell(rule, table) for rule in RULES for table in tables if not _lacks(table)]


def left_out() -> dict[str, str]:
    """Return the tables for which there is too little memory, and that that is why."""
    return {f"rows: {table}": "needs more memory than is free" for table in TABLES if _lacks(table)}


def _lacks(table: Table) -> bool:
    return MOST_ARRAYS * table.nbytes > free_memory()


def optimizer(rule: str, p: Any, **options: Any) -> fo.Optimizer:
    """Return the optimizer of a rule; the lazy one has the formula of torch's SparseAdam."""
    if rule == "Adagrad":
        return fo.Adagrad(p, lr=0.01, **options)
    return fo.Adam(p, lr=0.01, lazy=True, eps_hat=True, **options)


def measure(cell: RowsCell, budget: float) -> RowsResult:
    """Check the contenders, then time them, turn by turn.

    Parameters
    ----------
    cell : RowsCell
        The rule and the table.
    budget : float
        Seconds for the rounds, if the fewest take less.

    Returns
    -------
    RowsResult
        The times of fastoptim, of the probe, and of all others that exist here.

    Raises
    ------
    WrongResultError
        If a contender disagrees with the reference; then nobody is timed.
    """
    grads = cell.table.gradients(IN_TURN)
    expected = _expected(cell, grads)
    steps: dict[str, Step] = {}
    left_out = {}
    for name, make in ((SUBJECT, _ours), (NUMPY, _numpy), (TORCH, _torch)):
        try:
            steps[name], table = make(cell, grads)
        except UnavailableError as why:
            left_out[name] = str(why)
            continue
        for _ in grads:
            steps[name]()
        found = table[np.unique(grads[0].indices)]
        if not np.allclose(found, expected, rtol=1e-4, atol=1e-6):
            raise WrongResultError(f"{name}, {cell}: other parameters than the reference")
    probes, traffic, moved = _probes(cell, grads)
    turns = {name: partial(_seconds, step) for name, step in (steps | probes).items()}
    timing.settle(turns[SUBJECT])
    times = take_turns(turns, budget, timing.PAUSE)
    best = min(probes, key=lambda name: median(times[name]))
    times[PROBE] = times[best]
    found = {name: times[name] for name in (*steps, PROBE)}
    return RowsResult(cell, found, traffic, moved, left_out)


def _expected(cell: RowsCell, grads: Sequence[fo.Rows]) -> Any:
    """Return the rows of the first gradient after all steps, by the formulas in float64."""
    rows = np.unique(grads[0].indices)
    p = np.zeros((len(rows), cell.table.width))
    h, m, v = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)
    for t, given in enumerate(grads, start=1):
        place = np.searchsorted(rows, given.indices)
        here = (place < len(rows)) & (rows[np.minimum(place, len(rows) - 1)] == given.indices)
        g = np.zeros_like(p)
        np.add.at(g, place[here], given.values[here])
        if cell.rule == "Adagrad":
            h += g * g
            p -= 0.01 * g / (np.sqrt(h) + 1e-10)
            continue
        touched = np.isin(rows, given.indices)[:, None]
        m = np.where(touched, 0.9 * m + 0.1 * g, m)
        v = np.where(touched, 0.999 * v + 0.001 * g * g, v)
        rate = 0.01 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        p -= np.where(touched, rate * m / (np.sqrt(v) + 1e-8), 0)
    return p


def cycle(grads: Sequence[Any]) -> Iterator[Any]:
    """Yield gradients in turn, for ever."""
    while True:
        yield from grads


def zeros(table: Table) -> Any:
    """Return a table of zeros in memory that is there already."""
    return _yardsticks.touched(table.rows * table.width, "float32").reshape(-1, table.width)


def _ours(cell: RowsCell, grads: Sequence[fo.Rows]) -> tuple[Step, Any]:
    p, following = zeros(cell.table), cycle(grads)
    opt = optimizer(cell.rule, p)

    def step() -> None:
        rows = next(following)
        opt.step(fo.Rows(rows.indices, rows.values))

    return step, p


def _numpy(cell: RowsCell, grads: Sequence[fo.Rows]) -> tuple[Step, Any]:
    """Return what people do without rows: scatter into zeros, and step everything."""
    if cell.rule != "Adagrad":
        raise UnavailableError("none")  # it would be another algorithm
    if cell.table.nbytes > MOST_DENSE:
        raise UnavailableError("slow")
    p, following = zeros(cell.table), cycle(grads)
    opt = optimizer(cell.rule, p)

    def step() -> None:
        rows = next(following)
        g = np.zeros_like(p)
        np.add.at(g, rows.indices, rows.values)
        opt.step(g)

    return step, p


def _torch(cell: RowsCell, grads: Sequence[fo.Rows]) -> tuple[Step, Any]:
    """Return torch's own optimizer, with gradients as its embeddings make them."""
    torch = needed("torch")
    torch.sparse.check_sparse_tensor_invariants.disable()  # as ever, but without a warning
    table = zeros(cell.table)
    p = torch.nn.Parameter(torch.from_numpy(table))
    kind = torch.optim.Adagrad if cell.rule == "Adagrad" else torch.optim.SparseAdam
    opt = kind([p], lr=0.01)
    given = [(torch.from_numpy(g.indices)[None], torch.from_numpy(g.values)) for g in grads]
    following = cycle(given)

    def step() -> None:
        indices, values = next(following)
        p.grad = torch.sparse_coo_tensor(indices, values, p.shape, check_invariants=False)
        opt.step()

    return step, table


def _probes(cell: RowsCell, grads: Sequence[fo.Rows]) -> tuple[dict[str, Step], int, int]:
    """Return steps that read and write the same rows, each once, and only add.

    With them come the bytes that a step must move, and those that these move: of rows that are
    given several times they read one value.
    """
    states = 1 if cell.rule == "Adagrad" else 2
    arrays = [zeros(cell.table) for _ in range(1 + states)]
    numbers = [np.unique(g.indices) for g in grads]
    values = [g.values[: len(n)] for g, n in zip(grads, numbers, strict=True)]
    found: dict[str, Step] = {}
    for variant in variants(_yardsticks.levels()):
        passes = [
            _yardsticks.RowStream(v, n, arrays, *variant).step
            for v, n in zip(values, numbers, strict=True)
        ]
        found[f"{PROBE} {variant}"] = partial(_next, cycle(passes))
    rows = float(np.mean([len(n) for n in numbers]))
    bytes_of_row, stepped = 4 * cell.table.width, 2 * (1 + states) * rows
    must, moved = stepped + cell.table.given, stepped + rows
    return found, int(bytes_of_row * must), int(bytes_of_row * moved)


def _next(passes: Iterator[Step]) -> None:
    next(passes)()


def _seconds(step: Step, repetitions: int) -> float:
    """Return the seconds of a step, one right behind the other."""
    start = perf_counter()
    for _ in range(repetitions):
        step()
    return (perf_counter() - start) / repetitions
