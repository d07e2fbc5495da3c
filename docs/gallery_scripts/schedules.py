"""
Schedules
=========

Learning rates as functions of the step. Each may be passed as any hyperparameter of any optimizer,
and ``plot`` draws it.
"""

import matplotlib.pyplot as plt

import fastoptim.schedules as s

cosine = s.CosineAnnealing(1.0, T_max=400)
schedules = {
    "CosineAnnealing": cosine,
    "WarmUp of it": s.WarmUp(cosine, warmup_steps=50),
    "CosineAnnealingWarmRestarts": s.CosineAnnealingWarmRestarts(1.0, T_0=60, T_mult=2),
    "OneCycle": s.OneCycle(1.0, total_steps=400),
    "Cyclic": s.Cyclic(0.1, max_lr=1.0, step_size_up=50),
    "Exponential": s.Exponential(1.0, gamma=0.99),
    "Step": s.Step(1.0, step_size=100, gamma=0.4),
    "MultiStep": s.MultiStep(1.0, milestones=[80, 280], gamma=0.3),
    "Linear": s.Linear(1.0, start_factor=1.0, end_factor=0.1, total_iters=300),
    "Polynomial": s.Polynomial(1.0, total_iters=400, power=2.0),
    "InverseSqrt": s.InverseSqrt(1.0, warmup_steps=40),
    "Sequential": s.Sequential(
        [s.Linear(1.0, start_factor=0.1, total_iters=100), s.Constant(1.0, factor=1), cosine],
        milestones=[100, 200],
    ),
}
figure, axes = plt.subplots(4, 3, figsize=(9, 8), sharex=True, sharey=True, layout="constrained")
for ax, (name, schedule) in zip(axes.flat, schedules.items(), strict=True):
    s.plot(schedule, 400, ax=ax)
    ax.set(title=name, xlabel="", ylabel="")
    if ax.get_legend():
        ax.get_legend().remove()
