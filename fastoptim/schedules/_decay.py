"""Schedules that stay, go down in stairs or along a curve, or go up first and then down.

Each is a formula of the step alone. What repeats itself or has several phases is in `_cyclic`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from .._kinds import NonNegative, Number, Switch
from ._arguments import Natural, Positive, checked_items, checked_step
from ._schedule import Schedule


@dataclass(frozen=True)
class Constant(Schedule):
    r"""A smaller (or larger) value for some steps, then the base value.

    .. math::

        \eta_t = f \eta \text{ for } t < T, \quad \eta_t = \eta \text{ from } t = T \text{ on}

    ``Constant(base, factor=1)`` is the same value at every step. The formula is that of
    ``torch.optim.lr_scheduler.ConstantLR``.

    Parameters
    ----------
    base : float
        :math:`\eta`.
    factor : float, default 1/3
        :math:`f \ge 0`.
    total_iters : int, default 5
        :math:`T \ge 1`.

    Examples
    --------
    >>> from fastoptim.schedules import Constant
    >>> schedule = Constant(0.1, factor=0.5, total_iters=2)
    >>> [schedule(t) for t in range(4)]
    [0.05, 0.05, 0.1, 0.1]
    """

    base: Number
    factor: NonNegative = 1 / 3
    total_iters: Natural = 5

    def _value(self, t: int) -> float:
        return self.base * self.factor if t < self.total_iters else self.base


@dataclass(frozen=True)
class Step(Schedule):
    r"""The base value, times a factor after every so many steps.

    .. math:: \eta_t = \eta \gamma^{\lfloor t / s \rfloor}

    The formula is that of ``torch.optim.lr_scheduler.StepLR``.

    Parameters
    ----------
    base : float
        :math:`\eta`.
    step_size : int
        :math:`s \ge 1`.
    gamma : float, default 0.1
        :math:`\gamma \ge 0`.

    Examples
    --------
    >>> from fastoptim.schedules import Step
    >>> schedule = Step(0.8, step_size=2, gamma=0.5)
    >>> [schedule(t) for t in range(5)]
    [0.8, 0.8, 0.4, 0.4, 0.2]
    """

    base: Number
    step_size: Natural
    gamma: NonNegative = 0.1

    def _value(self, t: int) -> float:
        return self.base * self.gamma ** (t // self.step_size)


@dataclass(frozen=True)
class MultiStep(Schedule):
    r"""The base value, times a factor at each milestone.

    .. math:: \eta_t = \eta \gamma^{n}, \quad n = |\{m_i \le t\}|

    The formula is that of ``torch.optim.lr_scheduler.MultiStepLR``.

    Parameters
    ----------
    base : float
        :math:`\eta`.
    milestones : sequence of int
        The :math:`m_i \ge 0`, in any order; one that stands there twice counts twice.
    gamma : float, default 0.1
        :math:`\gamma \ge 0`.

    Examples
    --------
    >>> from fastoptim.schedules import MultiStep
    >>> schedule = MultiStep(0.8, milestones=[1, 4], gamma=0.5)
    >>> [schedule(t) for t in range(6)]
    [0.8, 0.4, 0.4, 0.4, 0.2, 0.2]
    """

    base: Number
    milestones: Sequence[int]
    gamma: NonNegative = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        milestones = checked_items("milestones", self.milestones, checked_step)
        object.__setattr__(self, "milestones", tuple(sorted(milestones)))

    def _value(self, t: int) -> float:
        return self.base * self.gamma ** bisect_right(self.milestones, t)


@dataclass(frozen=True)
class Exponential(Schedule):
    r"""The base value, times a factor after every step.

    .. math:: \eta_t = \eta \gamma^t

    The formula is that of ``torch.optim.lr_scheduler.ExponentialLR``.

    Parameters
    ----------
    base : float
        :math:`\eta`.
    gamma : float
        :math:`\gamma \ge 0`.

    Examples
    --------
    >>> from fastoptim.schedules import Exponential
    >>> schedule = Exponential(0.8, gamma=0.5)
    >>> [schedule(t) for t in range(4)]
    [0.8, 0.4, 0.2, 0.1]
    """

    base: Number
    gamma: NonNegative

    def _value(self, t: int) -> float:
        return self.base * self.gamma**t


@dataclass(frozen=True)
class Linear(Schedule):
    r"""A straight line between two multiples of the base value, then the second of them.

    .. math:: \eta_t = \eta \left( a + (b - a) \frac{\min(t, T)}{T} \right)

    The formula is that of ``torch.optim.lr_scheduler.LinearLR``, which takes factors up to 1 only,
    and none that starts from 0.

    Parameters
    ----------
    base : float
        :math:`\eta`.
    start_factor : float, default 1/3
        :math:`a \ge 0`.
    end_factor : float, default 1
        :math:`b \ge 0`.
    total_iters : int, default 5
        :math:`T \ge 1`.

    Examples
    --------
    >>> from fastoptim.schedules import Linear
    >>> schedule = Linear(0.8, start_factor=0.5, total_iters=2)
    >>> [round(schedule(t), 6) for t in range(4)]
    [0.4, 0.6, 0.8, 0.8]
    """

    base: Number
    start_factor: NonNegative = 1 / 3
    end_factor: NonNegative = 1.0
    total_iters: Natural = 5

    def _value(self, t: int) -> float:
        done = min(t, self.total_iters) / self.total_iters
        return self.base * (self.start_factor + (self.end_factor - self.start_factor) * done)


@dataclass(frozen=True)
class Polynomial(Schedule):
    r"""A power of the part that is left, down to 0.

    .. math:: \eta_t = \eta \left( 1 - \frac{\min(t, T)}{T} \right)^k

    The formula is that of ``torch.optim.lr_scheduler.PolynomialLR``.

    Parameters
    ----------
    base : float
        :math:`\eta`.
    total_iters : int, default 5
        :math:`T \ge 1`.
    power : float, default 1
        :math:`k \ge 0`.

    Examples
    --------
    >>> from fastoptim.schedules import Polynomial
    >>> schedule = Polynomial(1.6, total_iters=4, power=2)
    >>> [round(schedule(t), 6) for t in range(6)]
    [1.6, 0.9, 0.4, 0.1, 0.0, 0.0]
    """

    base: Number
    total_iters: Natural = 5
    power: NonNegative = 1.0

    def _value(self, t: int) -> float:
        left = self.total_iters - min(t, self.total_iters)
        return float(self.base * (left / self.total_iters) ** self.power)


@dataclass(frozen=True)
class InverseTimeDecay(Schedule):
    r"""The base value, divided by what grows with the time.

    .. math:: \eta_t = \frac{\eta}{1 + r t / s}

    With ``staircase`` the time is counted in whole intervals, :math:`\lfloor t / s \rfloor` for
    :math:`t / s`. The formula is that of ``keras.optimizers.schedules.InverseTimeDecay``.

    Parameters
    ----------
    base : float
        :math:`\eta`.
    decay_steps : float
        :math:`s > 0`, the interval.
    decay_rate : float
        :math:`r \ge 0`.
    staircase : bool, default False
        Go down in stairs.

    Examples
    --------
    >>> from fastoptim.schedules import InverseTimeDecay
    >>> schedule = InverseTimeDecay(0.6, decay_steps=1, decay_rate=0.5)
    >>> [round(schedule(t), 6) for t in range(5)]
    [0.6, 0.4, 0.3, 0.24, 0.2]
    """

    base: Number
    decay_steps: Positive
    decay_rate: NonNegative
    staircase: Switch = False

    def _value(self, t: int) -> float:
        time = t / self.decay_steps
        return self.base / (1 + self.decay_rate * (math.floor(time) if self.staircase else time))


@dataclass(frozen=True)
class InverseSqrt(Schedule):
    r"""A straight line up from 0 to the base value, then down with the root of the time.

    .. math:: \eta_t = \eta \min\left( \frac{t}{w}, \sqrt{\frac{w}{t}} \right)

    The paper's rate for a model of width d is that of ``base=(d * warmup_steps) ** -0.5``; it
    counts steps from 1, so step t here is its step t, and step 0 moves nothing.

    Parameters
    ----------
    base : float
        :math:`\eta`, the largest value, reached at step w.
    warmup_steps : int
        :math:`w \ge 1`.

    References
    ----------
    A. Vaswani et al., "Attention is all you need", arXiv:1706.03762, section 5.3.

    Examples
    --------
    >>> from fastoptim.schedules import InverseSqrt
    >>> schedule = InverseSqrt(0.1, warmup_steps=4)
    >>> [round(schedule(t), 6) for t in (0, 1, 2, 4, 16, 64)]
    [0.0, 0.025, 0.05, 0.1, 0.05, 0.025]
    """

    base: Number
    warmup_steps: Natural

    def _value(self, t: int) -> float:
        w = self.warmup_steps
        return self.base * (t / w if t < w else math.sqrt(w / t))
