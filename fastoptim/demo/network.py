"""The network that the demo trains: its forward and backward passes in NumPy.

One hidden layer with ReLU, batch normalisation before it if asked for, and softmax cross-entropy
on top. The arrays are float32, and the passes the same whatever takes the steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastoptim.init import kaiming_normal

from .digits import CLASSES, SEED

HIDDEN = 128

Array = NDArray[Any]
Weights = dict[str, Array]


class BatchNorm:
    """Batch normalisation of a layer: mean 0 and variance 1 for each unit, arXiv:1502.03167.

    A mini-batch in training is normalised by its own mean and variance, everything later by
    running averages of them. The scale and the shift that follow are weights of the network.
    """

    eps = 1e-5
    share = 0.1  # the weight of a new mini-batch in the running averages

    def __init__(self, units: int) -> None:
        self.mean = np.zeros(units, np.float32)
        self.variance = np.ones(units, np.float32)

    def train(self, z: Array) -> tuple[Array, Array]:
        """Return a normalised mini-batch and what it was divided by; update the averages."""
        mean, variance = z.mean(axis=0), z.var(axis=0)
        unbiased = variance * (len(z) / (len(z) - 1))
        self.mean += self.share * (mean - self.mean)
        self.variance += self.share * (unbiased - self.variance)
        std = np.sqrt(variance + self.eps)
        return (z - mean) / std, std

    def __call__(self, z: Array) -> Array:
        """Return what the running averages make of z."""
        return np.asarray((z - self.mean) / np.sqrt(self.variance + self.eps))

    @staticmethod
    def backward(d_normal: Array, normal: Array, std: Array) -> Array:
        """Return the gradient in z, on which the mean and the variance depend, too."""
        along = normal * (d_normal * normal).mean(axis=0)
        return np.asarray((d_normal - d_normal.mean(axis=0) - along) / std)


class Network:
    """The weights, and what depends on them.

    They start from He's normal distribution, the biases from zero; every network has the same
    start.
    """

    def __init__(self, inputs: int, *, batch_norm: bool = False) -> None:
        rng = np.random.default_rng(SEED)

        def he_normal(inputs: int, outputs: int) -> Array:
            return kaiming_normal(
                (inputs, outputs), np.float32, rng, nonlinearity="relu", layout="in_out"
            )

        self.weights: Weights = {
            "W1": he_normal(inputs, HIDDEN),
            "b1": np.zeros(HIDDEN, np.float32),
            "W2": he_normal(HIDDEN, CLASSES),
            "b2": np.zeros(CLASSES, np.float32),
        }
        self.norm = BatchNorm(HIDDEN) if batch_norm else None
        if self.norm:
            self.weights["scale"] = np.ones(HIDDEN, np.float32)  # b1 is the shift

    @property
    def arrays(self) -> Weights:
        """All that training changes: the weights, and the running averages."""
        averages = {"mean": self.norm.mean, "variance": self.norm.variance} if self.norm else {}
        return {**self.weights, **averages}

    def logits(self, x: Array) -> Array:
        """Return what the network makes of images when it is not being trained."""
        z = x @ self.weights["W1"]
        if self.norm:
            z = self.norm(z) * self.weights["scale"]
        return self._top(z)[1]

    def loss(self, x: Array, y: Array) -> float:
        """Return the mean cross-entropy when the network is not being trained."""
        return cross_entropy(self.logits(x), y)[0]

    def accuracy(self, x: Array, y: Array) -> float:
        """Return the share of the images whose digit the network tells."""
        return float(np.mean(self.logits(x).argmax(axis=1) == y))

    def loss_and_gradients(self, x: Array, y: Array) -> tuple[float, Weights]:
        """Return the mean cross-entropy of a mini-batch and its gradient in each weight."""
        w, norm = self.weights, self.norm
        z = x @ w["W1"]
        if norm:
            normal, std = norm.train(z)
            z = normal * w["scale"]
        hidden, logits = self._top(z)
        loss, d_logits = cross_entropy(logits, y)

        d_z = (d_logits @ w["W2"].T) * (hidden > 0)
        gradients = {
            "b1": d_z.sum(axis=0),
            "W2": hidden.T @ d_logits,
            "b2": d_logits.sum(axis=0),
        }
        if norm:
            gradients["scale"] = (d_z * normal).sum(axis=0)
            d_z = norm.backward(d_z * w["scale"], normal, std)
        gradients["W1"] = x.T @ d_z
        return loss, gradients

    def _top(self, z: Array) -> tuple[Array, Array]:
        """Return the hidden layer and the logits."""
        hidden = np.maximum(z + self.weights["b1"], 0)
        return hidden, hidden @ self.weights["W2"] + self.weights["b2"]


def cross_entropy(logits: Array, y: Array) -> tuple[float, Array]:
    """Return the mean cross-entropy of the softmax of logits, and its gradient in the logits."""
    rows = np.arange(len(y))
    logits = logits - logits.max(axis=1, keepdims=True)  # the softmax stays, exp cannot overflow
    exp = np.exp(logits)
    total = exp.sum(axis=1, keepdims=True)
    loss = np.mean(np.log(total[:, 0]) - logits[rows, y])

    d_logits = exp / total
    d_logits[rows, y] -= 1
    d_logits /= len(y)
    return float(loss), d_logits
