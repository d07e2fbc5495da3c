"""
Optimizers on a function of two variables
=========================================

Eight rules from the same start on Rosenbrock's function, whose valley is bent and nearly flat. Each
has a learning rate that suits it; no rule is the best on everything.
"""

import matplotlib.pyplot as plt
import numpy as np

import fastoptim as fo


def rosenbrock(x, y):
    return (1 - x) ** 2 + 20 * (y - x**2) ** 2


def gradient(p):
    x, y = p
    return np.array([-2 * (1 - x) - 80 * x * (y - x**2), 40 * (y - x**2)])


runs = {
    "SGD": (fo.SGD, {"lr": 0.004}),
    "SGD, momentum": (fo.SGD, {"lr": 0.002, "momentum": 0.9}),
    "RMSprop": (fo.RMSprop, {"lr": 0.02}),
    "Adagrad": (fo.Adagrad, {"lr": 0.4}),
    "Adam": (fo.Adam, {"lr": 0.08}),
    "Lion": (fo.Lion, {"lr": 0.02}),
    "Rprop": (fo.Rprop, {"lr": 0.02}),
    "ScheduleFreeAdamW": (fo.ScheduleFreeAdamW, {"lr": 0.1}),
}
x, y = np.meshgrid(np.linspace(-1.8, 1.6, 200), np.linspace(-0.8, 2.6, 200))
figure, axes = plt.subplots(2, 4, figsize=(10, 5.4), sharex=True, sharey=True, layout="constrained")
for ax, (name, (cls, hyper)) in zip(axes.flat, runs.items(), strict=True):
    p = np.array([-1.5, 2.0])
    opt = cls(p, **hyper)
    path = [p.copy()]
    for _ in range(200):
        opt.step(gradient(p))
        path.append(p.copy())  # p itself changes in each step
    ax.contour(x, y, rosenbrock(x, y), np.geomspace(0.1, 300, 14), cmap="Greys", linewidths=0.6)
    ax.plot(*np.transpose(path), ".-", markersize=3, linewidth=0.8)
    ax.plot(1, 1, "k*", markersize=8)
    ax.set(title=f"{name}: {rosenbrock(*p):.1e}", xlim=(-1.8, 1.6), ylim=(-0.8, 2.6))
    ax.title.set_fontsize(9)
