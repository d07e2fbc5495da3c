"""Muon: a rule with matrix products, written around fastoptim.

fastoptim's own rules change each element by what belongs to that element. Muon steps along a
momentum that is made orthogonal as a whole, for which NumPy multiplies matrices; the result is
given to `fastoptim.SGD` as if it were a gradient, and what goes around a step (groups, schedules,
weight decay, bounds, averages) comes with it. Biases, and all else that is no matrix, are left to
`fastoptim.AdamW`:

    m = mu m + g;  p = (1 - lr wd) p - lr 0.2 sqrt(max(rows, columns)) orthogonal(g + mu m)

K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; the scale is that
of J. Liu et al., "Muon is scalable for LLM training", 2025, arXiv:2502.16982, with which a learning
rate of AdamW suits Muon, too.
"""

from __future__ import annotations

import math

import numpy as np

import fastoptim as fo
from fastoptim.demo.digits import load_digits
from fastoptim.demo.network import Network

BATCH = 128


def orthogonal(x, iterations=5):
    """Return about U V^T for a matrix U S V^T, by an iteration of Newton and Schulz.

    Each iteration takes the singular values s to 3.4445 s - 4.775 s^3 + 2.0315 s^5; after five of
    them all but the smallest are between 0.7 and 1.2.
    """
    wide = x if x.shape[0] <= x.shape[1] else x.T
    wide = wide / (np.linalg.norm(wide) + 1e-7)
    for _ in range(iterations):
        square = wide @ wide.T
        wide = 3.4445 * wide + (-4.775 * square + 2.0315 * square @ square) @ wide
    return wide if x.shape[0] <= x.shape[1] else wide.T


class Muon:
    """Muon for matrices, and AdamW for all other parameters.

    Parameters
    ----------
    params : mapping
        The arrays to update in place, by name.
    lr : float or schedule, default 1e-3
        The learning rate of both.
    momentum : float, default 0.95
        Of the matrices.
    weight_decay : float, default 0
        Decoupled, of both.
    **options
        What every optimizer of fastoptim takes, for both.
    """

    def __init__(self, params, lr=1e-3, momentum=0.95, weight_decay=0.0, **options):
        matrices = {name: p for name, p in params.items() if p.ndim == 2}
        others = {name: p for name, p in params.items() if p.ndim != 2}
        # Without a momentum of SGD's own, an L2 penalty and a decoupled decay are the same.
        groups = [
            {"optimizer": fo.SGD, "params": matrices, "lr": lr},
            {"optimizer": fo.AdamW, "params": others, "lr": lr},
        ]
        groups = [group for group in groups if group["params"]]
        self.opt = fo.Mixed(groups, weight_decay=weight_decay, **options)
        self.momentum = momentum
        self.momenta = {name: np.zeros_like(p) for name, p in matrices.items()}

    def step(self, grads):
        """Update the parameters in place, along gradients of the same names."""
        directions = {name: self.direction(name, grads[name]) for name in self.momenta}
        others = {name: g for name, g in grads.items() if name not in self.momenta}
        given = [of_group for of_group in (directions, others) if of_group]
        self.opt.step(given if len(given) > 1 else given[0])

    def direction(self, name, g):
        """Update the momentum of a matrix, and return the direction of its step."""
        m = self.momenta[name]
        m *= self.momentum
        m += g
        return 0.2 * math.sqrt(max(g.shape)) * orthogonal(g + self.momentum * m)


def train(method, epochs, seed=0, **hyper):
    """Return the loss on the images that a network learns from, and its accuracy on others."""
    digits, rng = load_digits(), np.random.default_rng(seed)
    x, y = digits.x_train, digits.y_train
    network = Network(x.shape[1])
    optimizer = method(network.weights, **hyper)
    for _ in range(epochs):
        for batch in np.array_split(rng.permutation(len(y)), len(y) // BATCH):
            _, grads = network.loss_and_gradients(x[batch], y[batch])
            optimizer.step(grads)
    return network.loss(x, y), network.accuracy(digits.x_test, digits.y_test)


def main(epochs=3, report=print):
    """Train a network on digits with AdamW and with Muon, and say how far each comes."""
    for method in (fo.AdamW, Muon):
        loss, accuracy = train(method, epochs, lr=0.05, weight_decay=0.01)
        report(
            f"{method.__name__:5}, {epochs} epochs: loss {loss:.4f}, {accuracy:.1%} of new digits"
        )


if __name__ == "__main__":
    main()
