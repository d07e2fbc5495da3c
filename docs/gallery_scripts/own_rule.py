"""
A rule of one's own
===================

The update is a function of arrays, in NumPy. ``fo.rule`` compiles it to one pass over memory, with
threads, groups, schedules and all options. Here it is the momentum of the sign of the gradient,
with steps that shrink where the sign keeps changing.
"""

import matplotlib.pyplot as plt
import numpy as np

import fastoptim as fo


def wary_scalars(lr=0.1, beta=0.8):
    return lr, beta, 1 - beta


@fo.rule(state=("m", "c"), scalars=wary_scalars)
def wary(p, g, m, c, lr, b, a):
    sign = fo.where(g > 0, 1, fo.where(g < 0, -1, g))
    m = b * m + a * sign
    c = b * c + a * fo.abs(m)  # near 1 where the sign is always the same
    return p - lr * c * m, m, c


Wary = fo.optimizer(wary)

scales = np.array([1.0, 30.0, 1000.0])  # a bowl that is far steeper along one axis than another
figure, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
for name, cls, lr in (("wary", Wary, 0.1), ("Adam", fo.Adam, 0.1), ("SGD", fo.SGD, 0.0015)):
    p = np.array([3.0, -2.0, 1.0])
    opt, losses = cls(p, lr=lr), []
    for _ in range(150):
        losses.append(scales @ p**2 / 2)
        opt.step(scales * p)
    ax.plot(losses, label=name)
ax.set(yscale="log", xlabel="step", ylabel="loss")
ax.legend()
