"""Steps that the ranks of MPI share, beside the bare exchange, and what a model says of more ranks.

Started under ``mpiexec``, all ranks run this together; the first prints. Of each round the three
take turns, and the slowest rank counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

import fastoptim as fo
from fastoptim.cli import CommandError

SIZES = (1_000_000, 16_000_000)  # elements of one float32 array
ROUNDS = 25
WAVE_BYTES = 1 << 25
BYTES = 28  # that a step of Adam moves for an element: g, and p, m and v read and written
AROUND = 22  # that are moved for an element beside the step: to pack, add up and unpack
LATENCY = 5e-6  # seconds until a message between two nodes comes, which is assumed
NODES = (8, 32, 128, 1024)
NETWORKS = {"10 Gb/s": 1.25e9, "100 Gb/s": 12.5e9}
PARAMETERS = 1_000_000_000
NOTES = """
step: one optimizer on a rank's part of the elements; exchange: Alltoallv and
Allgatherv of the same bytes in the same waves, and nothing else; total: a step
of Sharded, with grads="local"; of both: as many times both together. Medians,
of the slowest rank."""


@dataclass(frozen=True)
class Row:
    """What one size takes, in seconds."""

    elements: int
    ranks: int
    step: float
    exchange: float
    total: float

    def record(self) -> dict[str, Any]:
        """Return the row as the record has it."""
        return {**vars(self), "memory": self.memory, "network": self.network}

    @property
    def memory(self) -> float:
        """The bytes a second that the step of a rank moves."""
        return BYTES * self.elements / self.ranks / self.step

    @property
    def network(self) -> float:
        """The bytes a second that a rank gets in the exchange, infinite if it is alone."""
        nbytes = 8 * self.elements * (self.ranks - 1) / self.ranks
        return nbytes / self.exchange if nbytes else float("inf")


def predicted(
    elements: int,
    ranks: int,
    memory: float,
    network: float,
    wave_bytes: int = WAVE_BYTES,
    latency: float = LATENCY,
) -> float:
    """Return the seconds of a step of Adam in float32 with a rank on each node.

    That is T = 22 P/M + 8 P (N-1)/(N W) + 28 P/(N M) for P elements, N ranks, and M and W bytes a
    second through memory and network; and in each wave 2 (N-1) messages, one behind the other.
    """
    waves = -(-4 * elements // wave_bytes)
    return (
        AROUND * elements / memory
        + 8 * elements * (ranks - 1) / (ranks * network)
        + BYTES * elements / (ranks * memory)
        + 2 * waves * (ranks - 1) * latency
    )


def main(quick: bool) -> list[Row]:
    """Measure on all ranks together, and print what was found on the first."""
    try:
        from fastoptim.integrations.mpi import Sharded
    except ImportError as error:
        raise CommandError(f"--mpi: {error}") from None
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    sizes = (100_000,) if quick else SIZES
    found = [_measured(comm, Sharded, size, 3 if quick else ROUNDS) for size in sizes]
    if comm.Get_rank() == 0:
        _show(found)
        return found
    return []


def _measured(comm: Any, sharded: Any, elements: int, rounds: int) -> Row:
    ranks, rank = comm.Get_size(), comm.Get_rank()
    own = np.random.default_rng(rank).standard_normal(elements).astype(np.float32)
    p, part = np.ones(elements, np.float32), np.ones(-(-elements // ranks), np.float32)
    opt = sharded(fo.Adam, p, comm, lr=0.001, wave_bytes=WAVE_BYTES)
    alone = fo.Adam(part, lr=0.001)
    _check(comm, opt, p, own)
    exchange = _exchange(comm, elements)
    turns: Sequence[Callable[[], Any]] = (
        lambda: alone.step(own[: part.size]),
        exchange,
        lambda: opt.step(own),
    )
    times: list[list[float]] = [[], [], []]
    for number in range(-2, rounds):  # the first two do not count
        for turn, found in zip(turns, times, strict=True):
            comm.Barrier()
            start = time.perf_counter()
            turn()
            taken = max(comm.allgather(time.perf_counter() - start))
            if number >= 0:
                found.append(taken)
    opt.close()
    return Row(elements, ranks, *map(median, times))


def _check(comm: Any, opt: Any, p: Any, own: Any) -> None:
    """Raise unless a step does what one process does with the sum of the gradients."""
    found = comm.allgather(own)
    while len(found) > 1:
        pairs = [found[i : i + 2] for i in range(0, len(found), 2)]
        found = [pair[0] + pair[1] if len(pair) == 2 else pair[0] for pair in pairs]
    expected = p.copy()
    fo.Adam(expected, lr=0.001).step(found[0])
    opt.step(own)
    if not np.array_equal(p, expected):
        raise RuntimeError("Sharded: expected the parameters of one process, found others")


def _exchange(comm: Any, elements: int) -> Callable[[], None]:
    """Return what sends as many bytes as a step, wave by wave."""
    ranks, rank = comm.Get_size(), comm.Get_rank()
    most = max(1, WAVE_BYTES // ranks)
    left = -(-4 * elements // ranks)
    waves = [min(most, left - start) for start in range(0, left, most)]
    sent, got = np.zeros((2, ranks * max(waves)), np.uint8)

    def exchange() -> None:
        from mpi4py import MPI

        for nbytes in waves:
            counts, starts = np.full(ranks, nbytes), nbytes * np.arange(ranks)
            others = counts * (np.arange(ranks) != rank)
            buffers = ([x, (others, starts), MPI.BYTE] for x in (sent, got))
            comm.Alltoallv(*buffers)
            comm.Allgatherv(MPI.IN_PLACE, [got, (counts, starts), MPI.BYTE])

    return exchange


def _show(rows: Sequence[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title=f"Adam, float32, {rows[0].ranks} ranks, milliseconds")
    for name in ("elements", "step", "exchange", "total", "of both", "model"):
        table.add_column(name, justify="right")
    for row in rows:
        model = predicted(row.elements, row.ranks, row.memory, row.network, latency=0.0)
        seconds = (row.step, row.exchange, row.total)
        both = f"{row.total / (row.step + row.exchange):.2f}"
        cells = [f"{1e3 * x:.2f}" for x in seconds]
        table.add_row(f"{row.elements:,}", *cells, both, f"{1e3 * model:.2f}")
    console.print(table)
    console.print(NOTES, highlight=False)
    memory = rows[-1].memory
    table = Table(
        title=f"The model: {PARAMETERS:,} elements, a rank on each node, "
        f"{memory / 1e9:.1f} GB/s through memory, seconds"
    )
    for name in ("nodes", *NETWORKS):
        table.add_column(name, justify="right")
    for nodes in NODES:
        found = [predicted(PARAMETERS, nodes, memory, rate) for rate in NETWORKS.values()]
        table.add_row(str(nodes), *(f"{seconds:.2f}" for seconds in found))
    alone = BYTES * PARAMETERS / memory
    console.print(table)
    console.print(f"one process, which needs no exchange: {alone:.2f} s", highlight=False)
