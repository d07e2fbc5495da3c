"""Evolution strategies on several ranks, which share seeds: ``grads="summed"``.

    mpiexec -n 2 python -m mpi4py -m fastoptim.examples.mpi_evolution

Each rank asks the function at its share of the points, and all tell each other the values: a few
numbers, however long the vector is. The directions are drawn from seeds that all ranks know, so
that each makes the same gradient of the values, and no gradient is sent (Salimans et al. 2017,
arXiv:1703.03864). The state of Adam is shared out over the ranks.
"""

from __future__ import annotations

import numpy as np
from mpi4py import MPI

import fastoptim as fo
from fastoptim.integrations.mpi import Sharded

from .evolution import direction, ranked, rastrigin


def ascend(comm, value, mean, *, generations, pairs, sigma, lr, seed=0):
    """Move the mean, in place and on all ranks, to where a function of a vector is large."""
    rng = np.random.default_rng(seed)  # the same on all ranks
    optimizer = Sharded(fo.Adam, mean, comm, grads="summed", lr=lr, maximize=True)
    own = range(comm.rank, pairs, comm.size)
    for generation in range(generations):
        spread = sigma(generation)
        seeds = rng.integers(2**63, size=pairs)
        values = np.zeros((pairs, 2))
        for i in own:
            step = spread * direction(seeds[i], mean)
            values[i] = value(mean + step), value(mean - step)
        comm.Allreduce(MPI.IN_PLACE, values)  # to each number all ranks but one add 0
        ranks = ranked(values.ravel()).reshape(pairs, 2)
        gradient = np.zeros_like(mean)
        for i in range(pairs):
            weight = (ranks[i, 0] - ranks[i, 1]) / (2 * pairs * spread)
            gradient += weight * direction(seeds[i], mean)
        optimizer.step(gradient)
    optimizer.close()


def climb(comm, generations=200):
    """Climb to the top of the Rastrigin function in 10 dimensions; return how high it is there."""
    mean = np.full(10, 2.5)
    ascend(
        comm,
        rastrigin,
        mean,
        generations=generations,
        pairs=100,
        sigma=lambda generation: 1.0 * 0.97**generation,
        lr=fo.schedules.Exponential(0.3, 0.98),
    )
    return rastrigin(mean)


def main():
    """Climb with the ranks that there are."""
    comm = MPI.COMM_WORLD
    top = climb(comm)
    if comm.rank == 0:
        print(f"Rastrigin, 10 parameters, {comm.size} ranks: {top:.3f} (the best is 0)")


if __name__ == "__main__":
    main()
