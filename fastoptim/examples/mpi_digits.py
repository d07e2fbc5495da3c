"""A network that learns digits, with a share of each batch on every rank: ``grads="local"``.

    mpiexec -n 2 python -m mpi4py -m fastoptim.examples.mpi_digits [mnist.npz]

Every rank holds the network, and works out the gradients of its share of a batch. `Sharded` adds
them up, steps its part of the weights on each rank, and sends the new ones to all. Without a file
in Keras's layout the images are those that come with fastoptim.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from mpi4py import MPI

import fastoptim as fo
from fastoptim.demo.digits import load_digits, load_npz
from fastoptim.demo.network import Network
from fastoptim.integrations.mpi import Sharded

BATCH = 64


def train(comm, digits, epochs=12):
    """Return the share of the test images that the network tells after so many epochs."""
    network = Network(digits.x_train.shape[1])  # the same weights on all ranks
    optimizer = Sharded(
        fo.AdamW, network.weights, comm, average=True, lr=2e-3, max_grad_norm=5.0, ema_decay=0.9
    )
    rng = np.random.default_rng(0)  # the same batches on all ranks
    count = BATCH // comm.size * comm.size
    for _ in range(epochs):
        order = rng.permutation(len(digits.x_train))
        for start in range(0, len(order) - count + 1, count):
            own = order[start : start + count][comm.rank :: comm.size]
            _, gradients = network.loss_and_gradients(digits.x_train[own], digits.y_train[own])
            optimizer.step(gradients)
    with optimizer.use_ema():  # all ranks enter together
        accuracy = network.accuracy(digits.x_test, digits.y_test)
    optimizer.close()
    return accuracy


def main(path=None):
    """Train with the ranks that there are."""
    comm = MPI.COMM_WORLD
    digits = load_npz(Path(path)) if path else load_digits()
    accuracy = train(comm, digits)
    if comm.rank == 0:
        print(f"{len(digits.x_train):,} images, {comm.size} ranks: accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
