"""Evolution strategies: climb with nothing but the values of a function, and with Adam.

The mean of a Gaussian is moved along an estimate of the gradient: the function is asked at pairs of
points mirrored at the mean, mean + sigma z and mean - sigma z (antithetic sampling), and half the
difference of the ranks of their values weighs z. Adam then takes the step. The update is that of
Salimans et al., "Evolution strategies as a scalable alternative to reinforcement learning", 2017,
arXiv:1703.03864.

Two tasks: the Rastrigin function with its many local optima, and a pole on a cart, which a network
holds upright that has a hundred weights, and one that has a million.
"""

from __future__ import annotations

import time

import numpy as np

import fastoptim as fo


def ranked(values):
    """Return the ranks of values, spread evenly from -1/2 to 1/2."""
    ranks = np.empty(len(values))
    ranks[np.argsort(values)] = np.linspace(-0.5, 0.5, len(values))
    return ranks


def ascend(value, mean, *, generations, pairs, sigma, lr, seed=0, report=None):
    """Move the mean, in place, to where a function of a vector is large.

    Parameters
    ----------
    value : function
        What to climb.
    mean : ndarray
        Where to start, and in the end the result.
    generations, pairs : int
        How many steps to take, and how many pairs of points to ask for each.
    sigma : float or function
        How far the points spread, and for a function of the generation: in each.
    lr : float or schedule
        Adam's learning rate.
    seed : int, default 0
        Of the random numbers.
    report : function, optional
        ``report(generation, values)`` is called for each generation.
    """
    rng = np.random.default_rng(seed)
    optimizer = fo.Adam(mean, lr=lr, maximize=True)
    gradient, point = np.empty_like(mean), np.empty_like(mean)
    for generation in range(generations):
        spread = sigma(generation) if callable(sigma) else sigma
        # The directions of a generation take too much memory: each is drawn anew from its seed.
        seeds = rng.integers(2**63, size=pairs)
        values = np.empty((pairs, 2))
        for i in range(pairs):
            z = direction(seeds[i], mean)
            for side, sign in enumerate((spread, -spread)):
                np.multiply(z, sign, out=point)
                np.add(point, mean, out=point)
                values[i, side] = value(point)
        ranks = ranked(values.ravel()).reshape(pairs, 2)
        gradient[...] = 0
        for i in range(pairs):
            z = direction(seeds[i], mean)
            z *= (ranks[i, 0] - ranks[i, 1]) / (2 * pairs * spread)
            gradient += z
        optimizer.step(gradient)
        if report:
            report(generation, values)


def direction(seed, mean):
    """Return the random direction that belongs to a seed."""
    return np.random.default_rng(seed).standard_normal(mean.shape, dtype=mean.dtype)


def rastrigin(x):
    """Return the Rastrigin function, upside down: its maximum is 0 at 0, among many others."""
    return -float(10 * x.size + np.sum(x * x - 10 * np.cos(2 * np.pi * x)))


class CartPole:
    """A pole on a cart that is pushed left or right, by the physics of Barto et al., 1983.

    A network with two hidden layers pushes. The value of its weights is for how many of 100 steps
    the pole stays within 12 degrees and the cart within 2.4 metres, on average over some starts.
    """

    starts = np.random.default_rng(4).uniform(-0.1, 0.1, (4, 4))

    def __init__(self, width):
        self.width = width

    def weights(self, seed=0):
        """Return random weights of a network, as one vector."""
        rng, n = np.random.default_rng(seed), self.width
        layers = ((4, n), (n, n), (n, 1))
        found = [rng.standard_normal(shape) / np.sqrt(shape[0]) for shape in layers]
        return np.concatenate([w.ravel() for w in found]).astype(np.float32)

    def __call__(self, weights, limit=100):
        """Return for how many steps a network keeps the pole up."""
        n = self.width
        first, second, last = np.split(weights, [4 * n, 4 * n + n * n])
        first, second = first.reshape(4, n), second.reshape(n, n)
        states, alive, steps = self.starts.copy(), np.ones(len(self.starts), bool), 0.0
        for _ in range(limit):
            hidden = np.tanh(np.tanh(10 * states.astype(np.float32) @ first) @ second)
            force = np.where(hidden @ last > 0, 10.0, -10.0)
            states += 0.02 * self.motion(states, force)
            alive &= (np.abs(states[:, 0]) < 2.4) & (np.abs(states[:, 2]) < np.radians(12))
            steps += alive.mean()
            if not alive.any():
                break
        return steps

    @staticmethod
    def motion(states, force, cart=1.0, pole=0.1, half=0.5, gravity=9.8):
        """Return the rates of position, speed, angle and angular speed."""
        _, speed, angle, turning = states.T
        sin, cos = np.sin(angle), np.cos(angle)
        push = (force + pole * half * turning**2 * sin) / (cart + pole)
        bend = (gravity * sin - cos * push) / (half * (4 / 3 - pole * cos**2 / (cart + pole)))
        return np.stack([speed, push - pole * half * bend * cos / (cart + pole), turning, bend], 1)


def say(line):
    """Print a line at once, wherever it goes."""
    print(line, flush=True)


def progress(name, generations, lines, report):
    """Return a function that reports the mean value of some generations, in so many lines."""

    def tell(generation, values):
        if (generation + 1) % max(1, generations // lines) == 0:
            report(f"{name}, generation {generation + 1} of {generations}: {values.mean():.1f}")

    return tell


def climb_rastrigin(generations=600, size=10, report=say):
    """Return the value of the point that the Rastrigin function is climbed to."""
    mean = np.full(size, 2.5)
    ascend(
        rastrigin,
        mean,
        generations=generations,
        pairs=50,
        sigma=lambda t: max(0.01, 0.99**t),  # wide enough at first to see past the ripples
        lr=fo.schedules.CosineAnnealing(0.05, T_max=generations),
        report=progress("Rastrigin", generations, 6, report),
    )
    return rastrigin(mean)


def balance(width, generations, pairs, sigma, lr, report=say):
    """Return how many weights a network has, and for how many steps it keeps the pole up.

    First as it starts, then as it has learned.
    """
    task = CartPole(width)
    weights = task.weights()
    before = task(weights)
    ascend(
        task,
        weights,
        generations=generations,
        pairs=pairs,
        sigma=sigma,
        lr=lr,
        report=progress("Pole", generations, 5, report),
    )
    return weights.size, before, task(weights)


SMALL = {"width": 8, "generations": 30, "pairs": 10, "sigma": 0.2, "lr": 0.1}
LARGE = {"width": 998, "generations": 5, "pairs": 8, "sigma": 0.02, "lr": 0.01}


def main(report=say):
    """Run the tasks."""
    report(
        f"Rastrigin, 10 parameters: {climb_rastrigin(report=report):.4f}, where 0 is the maximum"
    )
    for settings in (SMALL, LARGE):
        start = time.perf_counter()
        size, before, after = balance(**settings, report=report)
        report(
            f"Pole on a cart, {size:,} parameters: upright for {before:.0f} of 100 steps at first, "
            f"then for {after:.0f} ({time.perf_counter() - start:.1f} s)"
        )


if __name__ == "__main__":
    main()
