"""
What options do
===============

The same noisy descent with and without options that every optimizer has: an average of the
parameters, clipping of rare large gradients, and a mask of pruned weights.
"""

import matplotlib.pyplot as plt
import numpy as np

import fastoptim as fo

truth = np.random.default_rng(0).standard_normal(200) * (np.arange(200) < 20)


def run(averaged=False, **options):
    rng, w, errors = np.random.default_rng(1), np.zeros(200), []
    opt = fo.SGD(w, lr=0.05, **options)
    for _ in range(400):
        noise = rng.standard_normal(200) * (30 if rng.random() < 0.02 else 1)
        opt.step(w - truth + noise)
        errors.append(np.linalg.norm((opt.ema if averaged else w) - truth))
    return errors


mask = fo.prune.magnitude(truth, 0.9)  # as if we knew which weights matter
runs = {
    "none": run(),
    "max_grad_norm=20": run(max_grad_norm=20.0),
    "and ema_decay=0.98": run(max_grad_norm=20.0, ema_decay=0.98, averaged=True),
    "and mask": run(max_grad_norm=20.0, ema_decay=0.98, averaged=True, mask=mask),
}
figure, ax = plt.subplots(figsize=(7, 3.8), layout="constrained")
for name, errors in runs.items():
    ax.plot(errors, label=name, linewidth=1)
ax.set(yscale="log", xlabel="step", ylabel="distance to the truth")
ax.legend(loc="lower left", fontsize=8)
