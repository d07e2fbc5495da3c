"""
Evolution strategies
====================

Climbing without gradients: the reward at random points around the mean, weighed by its rank, is an
estimate of the gradient, and Adam with ``maximize=True`` takes the step. The reward is Rastrigin's
function, which has a local optimum near each whole number.
``python -m fastoptim.examples.evolution`` holds a pole upright in the same way.
"""

import matplotlib.pyplot as plt
import numpy as np

import fastoptim as fo


def reward(x):
    return -(10 * x.shape[-1] + (x**2 - 10 * np.cos(2 * np.pi * x)).sum(axis=-1))


rng = np.random.default_rng(3)
mean = np.array([3.4, -2.6])
opt = fo.Adam(mean, lr=0.1, maximize=True)
path = [mean.copy()]
for generation in range(150):
    sigma = 1.2 * 0.98**generation
    z = rng.standard_normal((40, 2))
    z = np.concatenate([z, -z])
    ranks = reward(mean + sigma * z).argsort().argsort() / (len(z) - 1) - 0.5
    opt.step(ranks @ z / len(z))
    path.append(mean.copy())

x, y = np.meshgrid(np.linspace(-4.5, 4.5, 300), np.linspace(-4.5, 4.5, 300))
figure, ax = plt.subplots(figsize=(6, 5), layout="constrained")
ax.contourf(x, y, reward(np.stack([x, y], axis=-1)), 20, cmap="Greys_r")
ax.plot(*np.transpose(path), "o-", color="C1", markersize=3)
ax.plot(0, 0, "k*", markersize=10)
ax.set(title=f"the best is 0 at (0, 0); found {reward(mean):.2f}", aspect="equal")
