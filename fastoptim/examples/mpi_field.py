"""A field fitted to measurements, each rank with a part of the domain: ``grads="own"``.

    mpiexec -n 2 python -m mpi4py -m fastoptim.examples.mpi_field

The domain is a square whose rows are shared out over the ranks. The field is smooth and near the
measured points: it makes sum (u - d)^2 at these and a multiple of sum |grad u|^2 small. Neighbours
send each other the rows at their border, as such programs do; the optimizer shares nothing but the
norm of the gradient, by which it is clipped.
"""

from __future__ import annotations

import numpy as np
from mpi4py import MPI

import fastoptim as fo
from fastoptim.integrations.mpi import Sharded

SIDE, SMOOTH = 64, 0.5


def truth():
    """Return the field that is measured."""
    x = np.linspace(0, 1, SIDE)
    return np.sin(3 * x)[:, None] * np.cos(5 * x)


def fit(comm, steps=300):
    """Return the root of the mean squared error of the fitted field."""
    rows = SIDE * comm.rank // comm.size, SIDE * (comm.rank + 1) // comm.size
    own = slice(*rows)
    measured = (np.random.default_rng(0).random((SIDE, SIDE)) < 0.3)[own]
    data = truth()[own]
    u = np.zeros_like(data)
    optimizer = Sharded(fo.Adam, u, comm, grads="own", lr=0.05, max_grad_norm=10.0)
    for _ in range(steps):
        above, below = borders(comm, u)
        padded = np.vstack([above, u, below])
        down, right = np.diff(padded, axis=0), np.diff(u, axis=1)
        gradient = 2 * measured * (u - data)
        gradient += 2 * SMOOTH * (down[:-1] - down[1:])
        gradient[:, 1:] += 2 * SMOOTH * right
        gradient[:, :-1] -= 2 * SMOOTH * right
        optimizer.step(gradient)
    optimizer.close()
    return np.sqrt(comm.allreduce(np.sum((u - data) ** 2)) / SIDE**2)


def borders(comm, u):
    """Return the rows next to this rank's: those of its neighbours, at an end its own."""
    before = comm.rank - 1 if comm.rank > 0 else MPI.PROC_NULL
    behind = comm.rank + 1 if comm.rank < comm.size - 1 else MPI.PROC_NULL
    above, below = u[:1].copy(), u[-1:].copy()
    comm.Sendrecv(u[-1:].copy(), behind, recvbuf=above, source=before)
    comm.Sendrecv(u[:1].copy(), before, recvbuf=below, source=behind)
    return above, below


def main():
    """Fit the field with the ranks that there are."""
    comm = MPI.COMM_WORLD
    error = fit(comm)
    if comm.rank == 0:
        print(f"{SIDE} x {SIDE} points, {comm.size} ranks: error {error:.4f}")


if __name__ == "__main__":
    main()
