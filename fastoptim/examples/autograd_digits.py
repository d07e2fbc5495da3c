"""Train a network of autograd's on digits, with the steps of fastoptim.

A multilayer perceptron in autograd's NumPy, whose weights have a Gaussian prior, learns the 1,797
images of 8 x 8 pixels that come with fastoptim by stochastic ascent of the posterior. A program
that steps with autograd's own optimizer differs in the import of ``adam`` alone.
"""

from __future__ import annotations

from itertools import pairwise

import autograd.numpy as np
import numpy
from autograd import grad
from autograd.scipy.special import logsumexp

from fastoptim.demo.digits import read_digits
from fastoptim.integrations.autograd import adam

LAYERS = (64, 200, 100, 10)
SPREAD = 0.1  # standard deviation of the weights at the start
PRECISION = 1.0  # of the prior
BATCH = 256
HELD_OUT = 360


def data(seed=0):
    """Return images and one-hot labels: those to learn from, then those held out."""
    images, labels = read_digits()
    order = numpy.random.default_rng(seed).permutation(len(labels))
    x, y = images[order].astype(float), numpy.eye(10)[labels[order]]
    return (x[HELD_OUT:], y[HELD_OUT:]), (x[:HELD_OUT], y[:HELD_OUT])


def start(seed=0):
    """Return small random weights and biases, a pair for each layer."""
    rng = numpy.random.default_rng(seed)
    return [
        (SPREAD * rng.standard_normal((m, n)), SPREAD * rng.standard_normal(n))
        for m, n in pairwise(LAYERS)
    ]


def log_probabilities(params, x):
    """Return the logarithm of the probability of each digit for each image."""
    *hidden, (w, b) = params
    for v, c in hidden:
        x = np.tanh(np.dot(x, v) + c)
    scores = np.dot(x, w) + b
    return scores - logsumexp(scores, axis=1, keepdims=True)


def log_posterior(params, x, y, share):
    """Return the log posterior, estimated from a mini-batch that is this share of the data."""
    prior = sum(np.sum(w**2) + np.sum(b**2) for w, b in params)
    return np.sum(log_probabilities(params, x) * y) / share - PRECISION / 2 * prior


def accuracy(params, x, y):
    """Return the share of the images whose digit the network tells."""
    return float(np.mean(np.argmax(log_probabilities(params, x), 1) == np.argmax(y, 1)))


def main(epochs=30, optimize=adam, report=print):
    """Train, and return the accuracy on the images held out."""
    (x, y), held_out = data()
    batches = -(-len(x) // BATCH)

    def loss(params, i):
        batch = slice(i % batches * BATCH, (i % batches + 1) * BATCH)
        return -log_posterior(params, x[batch], y[batch], len(x[batch]) / len(x)) / len(x)

    def callback(params, i, gradient):
        if i % (10 * batches) == 0:
            report(f"epoch {i // batches:3}: {accuracy(params, *held_out):.1%} of the digits")

    found = optimize(grad(loss), start(), callback, num_iters=epochs * batches, step_size=0.002)
    report(f"after {epochs} epochs: {accuracy(found, *held_out):.1%}")
    return accuracy(found, *held_out)


if __name__ == "__main__":
    main()
