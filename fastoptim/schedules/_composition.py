"""Schedules made of others, of which they know only that they are called with a step."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from .._kinds import Count, NonNegative
from ._arguments import checked_callable, checked_items, checked_step
from ._schedule import Schedule


@dataclass(frozen=True)
class WarmUp(Schedule):
    r"""A straight line up to the first value of a schedule, then that schedule.

    .. math::

        \eta_t = \eta_0 \left( a + (1 - a) \frac{t}{w} \right) \text{ for } t < w, \quad
        \eta_t = s(t - w) \text{ from } t = w \text{ on}

    where :math:`\eta_0 = s(0)`. With torch it takes a SequentialLR of a LinearLR and the other.

    Parameters
    ----------
    schedule : callable
        s, a schedule or any callable from a step to a value; it counts from the end of the
        warm-up.
    warmup_steps : int
        :math:`w \ge 0`.
    start_factor : float, default 0
        :math:`a \ge 0`; with 0, step 0 moves nothing.

    References
    ----------
    P. Goyal et al., "Accurate, large minibatch SGD: training ImageNet in 1 hour",
    arXiv:1706.02677.

    Examples
    --------
    >>> from fastoptim.schedules import CosineAnnealing, WarmUp
    >>> schedule = WarmUp(CosineAnnealing(0.4, T_max=2), warmup_steps=4)
    >>> [round(schedule(t), 6) for t in range(7)]
    [0.0, 0.1, 0.2, 0.3, 0.4, 0.2, 0.0]
    """

    schedule: Callable[[int], float]
    warmup_steps: Annotated[int, Count(0)]
    start_factor: NonNegative = 0.0

    def __post_init__(self) -> None:
        checked_callable("schedule", self.schedule)
        super().__post_init__()

    def _value(self, t: int) -> float:
        w, a = self.warmup_steps, self.start_factor
        return self.schedule(0) * (a + (1 - a) * t / w) if t < w else self.schedule(t - w)


@dataclass(frozen=True)
class Sequential(Schedule):
    r"""One schedule after another, each counting from its milestone.

    .. math:: \eta_t = s_i(t - m_i) \text{ for } m_i \le t < m_{i+1}, \quad m_0 = 0

    As in ``torch.optim.lr_scheduler.SequentialLR``, whose keywords these are.

    Parameters
    ----------
    schedulers : sequence of callable
        :math:`s_0, s_1, \dots`: schedules, or any callables from a step to a value.
    milestones : sequence of int
        :math:`m_1 \le m_2 \le \dots`, the first step of each schedule but the first.

    Examples
    --------
    Go down along half a wave, and stay there:

    >>> from fastoptim.schedules import Constant, CosineAnnealing, Sequential
    >>> down, stay = CosineAnnealing(0.5, T_max=2, eta_min=0.1), Constant(0.1, factor=1)
    >>> schedule = Sequential([down, stay], milestones=[2])
    >>> [round(schedule(t), 6) for t in range(5)]
    [0.5, 0.3, 0.1, 0.1, 0.1]
    """

    schedulers: Sequence[Callable[[int], float]]
    milestones: Sequence[int]

    def __post_init__(self) -> None:
        schedulers = checked_items("schedulers", self.schedulers, checked_callable)
        milestones = checked_items("milestones", self.milestones, checked_step)
        if not schedulers:
            raise ValueError("schedulers: expected at least one, found none")
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                f"milestones: expected {len(schedulers) - 1}, one for each of the schedulers but "
                f"the first, found {len(milestones)}"
            )
        if list(milestones) != sorted(milestones):
            raise ValueError(f"milestones: expected numbers that go up, found {milestones}")
        object.__setattr__(self, "schedulers", schedulers)
        object.__setattr__(self, "milestones", milestones)

    def _value(self, t: int) -> float:
        i = bisect_right(self.milestones, t)
        return self.schedulers[i](t - (self.milestones[i - 1] if i else 0))
