r"""Schedules: the value of a hyperparameter at each step.

A schedule is a small immutable callable, ``schedule(t)`` is the value for step t, counted from 0.
It is computed from t alone, so the step counter is all the state that a schedule needs. Whatever
torch has too takes torch's name without ``LR``, torch's arguments after the base value, and gives
torch's values. A schedule fits any hyperparameter, not only a learning rate.

`ReduceLROnPlateau` is no schedule: what it does depends on a metric, and it has a state.

Design: torch multiplies the value of the step before, here each formula stands in its closed form.
Whole numbers stay whole until the last division, so that a late step is as exact as an early one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, SupportsFloat, cast, get_type_hints

from numpy import ndarray

from ._kinds import (
    Above,
    Choice,
    Closed,
    Count,
    Extended,
    Fraction,
    Maybe,
    NonNegative,
    Number,
    Real,
    Switch,
    checked,
    items_of,
    shown,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "Constant",
    "CosineAnnealing",
    "CosineAnnealingWarmRestarts",
    "Cyclic",
    "Exponential",
    "InverseSqrt",
    "InverseTimeDecay",
    "Linear",
    "MultiStep",
    "OneCycle",
    "Polynomial",
    "ReduceLROnPlateau",
    "Schedule",
    "Sequential",
    "Step",
    "WarmUp",
    "plot",
]


def __dir__() -> list[str]:
    return __all__


Positive = Annotated[float, Above(0)]
DIVISIBLE = Real(1e-100, 1e100)  # by one another
Natural = Annotated[int, Count(1)]
MaybeNatural = Annotated[int | None, Maybe(Count(1))]


def _check_fields(instance: Any) -> None:
    """Check the fields of a dataclass that are annotated with a kind, and store what it returns."""
    hints = get_type_hints(type(instance), include_extras=True)
    for f in fields(instance):
        for kind in getattr(hints[f.name], "__metadata__", ()):
            value = checked(f.name, kind, getattr(instance, f.name))
            object.__setattr__(instance, f.name, value)  # it may be frozen


def _checked_items(name: str, values: Any, check: Callable[[str, Any], Any]) -> tuple[Any, ...]:
    """Return the values as a tuple, each of them checked under its own name."""
    try:
        items = items_of(values)
    except TypeError:
        raise TypeError(f"{name}: expected a sequence, found {shown(values)}") from None
    return tuple(check(f"{name}[{i}]", item) for i, item in enumerate(items))


def _checked_step(name: str, value: Any) -> int:
    return cast("int", checked(name, Count(0), value))


def _checked_callable(name: str, value: Any) -> Any:
    if not callable(value):
        raise TypeError(f"{name}: expected a callable from a step to a value, found {shown(value)}")
    return value


@dataclass(frozen=True)
class Schedule(ABC):
    """What all schedules share: they are immutable values, and can be called with a step.

    A subclass is a frozen dataclass that defines ``_value(t)``. Where fastoptim takes a schedule,
    it takes any other callable from a step to a value too.
    """

    def __post_init__(self) -> None:
        _check_fields(self)

    def __call__(self, step: int) -> float:
        """Return the value for one step.

        Parameters
        ----------
        step : int
            The number of the step, counted from 0.

        Returns
        -------
        float
            The value.

        Raises
        ------
        TypeError, ValueError
            If the step is not a whole number, or is negative, or is one that the schedule does
            not reach, or whose value is too large for a float.
        """
        t = _checked_step("step", step)
        try:
            return self._value(t)
        except OverflowError as error:
            raise ValueError(f"step: expected one whose value fits a float, found {t}") from error

    @abstractmethod
    def _value(self, t: int) -> float:
        """Return the value for step t, which has been checked."""


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

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected.

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

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected.

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

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected.

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
        milestones = _checked_items("milestones", self.milestones, _checked_step)
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

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected.

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

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected.

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

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected.

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

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected.

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

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected.

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


def _cosine(start: float, end: float, part: float) -> float:
    """Go from start (part 0) to end (part 1) along half a wave."""
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2


@dataclass(frozen=True)
class CosineAnnealing(Schedule):
    r"""Half a wave down, and half a wave up again, for ever.

    .. math::

        \eta_t = \eta_{min} + \frac{1}{2} (\eta - \eta_{min})
        \left( 1 + \cos \frac{\pi t}{T_{max}} \right)

    The formula is that of ``torch.optim.lr_scheduler.CosineAnnealingLR``, which goes up again
    after step :math:`T_{max}`. To stay down, go on with a constant; see `Sequential`.

    Parameters
    ----------
    base : float
        :math:`\eta`.
    T_max : int
        :math:`T_{max} \ge 1`, the step of the lowest value.
    eta_min : float, default 0
        :math:`\eta_{min}`, the lowest value.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected.

    References
    ----------
    I. Loshchilov, F. Hutter, "SGDR: stochastic gradient descent with warm restarts",
    arXiv:1608.03983.

    Examples
    --------
    >>> from fastoptim.schedules import CosineAnnealing
    >>> schedule = CosineAnnealing(0.4, T_max=2)
    >>> [round(schedule(t), 6) for t in range(5)]
    [0.4, 0.2, 0.0, 0.2, 0.4]
    """

    base: Number
    T_max: Natural
    eta_min: Number = 0.0

    def _value(self, t: int) -> float:
        return _cosine(self.base, self.eta_min, t % (2 * self.T_max) / self.T_max)


@dataclass(frozen=True)
class CosineAnnealingWarmRestarts(Schedule):
    r"""Half a wave down, again and again, each taking longer.

    .. math::

        \eta_t = \eta_{min} + \frac{1}{2} (\eta - \eta_{min})
        \left( 1 + \cos \frac{\pi T_{cur}}{T_i} \right), \quad T_i = T_0 T_{mult}^i

    where :math:`T_{cur}` counts the steps since restart i. The formula is that of
    ``torch.optim.lr_scheduler.CosineAnnealingWarmRestarts``.

    Parameters
    ----------
    base : float
        :math:`\eta`, the value at each restart.
    T_0 : int
        :math:`T_0 \ge 1`, the number of steps until the first restart.
    T_mult : int, default 1
        :math:`T_{mult} \ge 1`.
    eta_min : float, default 0
        :math:`\eta_{min}`, which the value nears before a restart.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected.

    References
    ----------
    I. Loshchilov, F. Hutter, "SGDR: stochastic gradient descent with warm restarts",
    arXiv:1608.03983.

    Examples
    --------
    >>> from fastoptim.schedules import CosineAnnealingWarmRestarts
    >>> schedule = CosineAnnealingWarmRestarts(0.4, T_0=2, T_mult=2)
    >>> [round(schedule(t), 6) for t in range(7)]
    [0.4, 0.2, 0.4, 0.341421, 0.2, 0.058579, 0.4]
    """

    base: Number
    T_0: Natural
    T_mult: Natural = 1
    eta_min: Number = 0.0

    def _value(self, t: int) -> float:
        current, length = self._period(t)
        return _cosine(self.base, self.eta_min, current / length)

    def _period(self, t: int) -> tuple[int, int]:
        """Return the steps since the last restart, and from that to the next."""
        if self.T_mult == 1:
            return t % self.T_0, self.T_0
        # A loop over the restarts, because a logarithm rounds to the wrong one at some of them.
        length = self.T_0
        while t >= length:
            t -= length
            length *= self.T_mult
        return t, length


@dataclass(frozen=True)
class Cyclic(Schedule):
    r"""A straight line up and a straight line down, again and again.

    .. math::

        \eta_t = \eta_{base} + (\eta_{max} - \eta_{base}) x_t s_t

    where :math:`x_t` goes from 0 up to 1 and down to 0 in each cycle, and :math:`s_t` is 1
    ("triangular"), :math:`2^{1-c}` in cycle c = 1, 2, ... ("triangular2") or :math:`\gamma^t`
    ("exp_range"). The formula is that of ``torch.optim.lr_scheduler.CyclicLR``; what that does to
    the momentum is a schedule of its own, `momentum`.

    Parameters
    ----------
    base_lr : float
        :math:`\eta_{base}`, the value at the start of each cycle.
    max_lr : float
        :math:`\eta_{max}`.
    step_size_up : int, default 2000
        The number of steps from the start of a cycle to its peak.
    step_size_down : int, optional
        The number of steps from there to the next cycle, by default as many.
    mode : {"triangular", "triangular2", "exp_range"}, default "triangular"
        What :math:`s_t` is.
    gamma : float, default 1
        :math:`\gamma \ge 0`.
    scale_fn : callable, optional
        A function that gives :math:`s_t`, whatever ``mode`` says.
    scale_mode : {"cycle", "iterations"}, default "cycle"
        Whether ``scale_fn`` is called with c or with t.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected.

    References
    ----------
    L. N. Smith, "Cyclical learning rates for training neural networks", arXiv:1506.01186.

    Examples
    --------
    >>> from fastoptim.schedules import Cyclic
    >>> schedule = Cyclic(0.1, 0.5, step_size_up=2, mode="triangular2")
    >>> [round(schedule(t), 6) for t in range(9)]
    [0.1, 0.3, 0.5, 0.3, 0.1, 0.2, 0.3, 0.2, 0.1]
    """

    base_lr: Number
    max_lr: Number
    step_size_up: Natural = 2000
    step_size_down: MaybeNatural = None
    mode: Annotated[str, Choice(("triangular", "triangular2", "exp_range"))] = "triangular"
    gamma: NonNegative = 1.0
    scale_fn: Callable[[int], float] | None = None
    scale_mode: Annotated[str, Choice(("cycle", "iterations"))] = "cycle"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale_fn is not None:
            _checked_callable("scale_fn", self.scale_fn)

    def momentum(self, base_momentum: float = 0.8, max_momentum: float = 0.9) -> Cyclic:
        """Return the schedule of a momentum that falls where this one rises.

        Parameters
        ----------
        base_momentum : float, default 0.8
            The lowest momentum, at the peak of the first cycle.
        max_momentum : float, default 0.9
            The momentum at the start of each cycle.

        Returns
        -------
        Cyclic
            What torch's CyclicLR gives to the momentum with ``cycle_momentum=True``.

        Examples
        --------
        >>> from fastoptim.schedules import Cyclic
        >>> schedule = Cyclic(0.1, 0.5, step_size_up=2).momentum(0.8, 0.9)
        >>> [round(schedule(t), 6) for t in range(5)]
        [0.9, 0.85, 0.8, 0.85, 0.9]
        """
        base_momentum = checked("base_momentum", Real(), base_momentum)
        max_momentum = checked("max_momentum", Real(), max_momentum)
        return replace(self, base_lr=max_momentum, max_lr=base_momentum)

    def _value(self, t: int) -> float:
        up = self.step_size_up
        down = self.step_size_down or up
        cycle, position = divmod(t, up + down)
        height = position / up if position <= up else (up + down - position) / down
        return self.base_lr + (self.max_lr - self.base_lr) * height * self._scale(cycle + 1, t)

    def _scale(self, cycle: int, t: int) -> float:
        if self.scale_fn is not None:
            return self.scale_fn(cycle if self.scale_mode == "cycle" else t)
        if self.mode == "exp_range":
            return self.gamma**t
        return math.ldexp(1.0, 1 - cycle) if self.mode == "triangular2" else 1.0


@dataclass(frozen=True)
class OneCycle(Schedule):
    r"""Up from a small value to the largest, and down to one far smaller.

    The value goes from :math:`\eta_{max} / d` to :math:`\eta_{max}`, the peak at step
    :math:`p T - 1`, and on to :math:`\eta_{max} / (d f)` at step T - 1; with ``three_phase`` first
    back to :math:`\eta_{max} / d`, at step :math:`2 p T - 2`. From a to b it goes along half a
    wave or a straight line: at the part x of the way

    .. math::

        \eta = b + \frac{1}{2} (a - b) (1 + \cos \pi x) \quad \text{or} \quad \eta = a + (b - a) x

    The formula is that of ``torch.optim.lr_scheduler.OneCycleLR``; what that does to the momentum
    is a schedule of its own, `momentum`. As in torch, step T, one after the last, goes on along
    the last curve, and a later step raises ValueError. Where a phase has no length, for which
    torch divides by zero, the value is the one that the phase ends with.

    Parameters
    ----------
    max_lr : float
        :math:`\eta_{max}`.
    total_steps : int, optional
        :math:`T \ge 1`; by default ``epochs * steps_per_epoch``.
    epochs, steps_per_epoch : int, optional
        Give T where ``total_steps`` does not; the schedule keeps only T.
    pct_start : float, default 0.3
        :math:`0 \le p \le 1`, the part of the steps that go up.
    anneal_strategy : {"cos", "linear"}, default "cos"
        Half a wave or a straight line.
    div_factor : float, default 25
        :math:`d > 0`.
    final_div_factor : float, default 1e4
        :math:`f > 0`.
    three_phase : bool, default False
        Go down as slowly as up, and only then further.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected.

    References
    ----------
    L. N. Smith, N. Topin, "Super-convergence: very fast training of neural networks using large
    learning rates", arXiv:1708.07120.

    Examples
    --------
    >>> from fastoptim.schedules import OneCycle
    >>> schedule = OneCycle(1.0, total_steps=7, pct_start=3 / 7, div_factor=2, final_div_factor=5)
    >>> [round(schedule(t), 6) for t in range(7)]
    [0.5, 0.75, 1.0, 0.868198, 0.55, 0.231802, 0.1]
    """

    max_lr: Number
    total_steps: MaybeNatural = None
    epochs: MaybeNatural = field(default=None, repr=False)
    steps_per_epoch: MaybeNatural = field(default=None, repr=False)
    pct_start: Annotated[float, Closed(0, 1)] = 0.3
    anneal_strategy: Annotated[str, Choice(("cos", "linear"))] = "cos"
    div_factor: Positive = 25.0
    final_div_factor: Positive = 1e4
    three_phase: Switch = False

    def __post_init__(self) -> None:
        super().__post_init__()
        total = self.total_steps
        if self.epochs is not None and self.steps_per_epoch is not None:
            total = self.epochs * self.steps_per_epoch
        if total is None:
            raise ValueError(
                "total_steps: expected a whole number >= 1, or else both epochs and "
                "steps_per_epoch, found None"
            )
        if self.total_steps not in (None, total):
            raise ValueError(
                f"total_steps: expected epochs * steps_per_epoch = {total}, "
                f"found {self.total_steps}"
            )
        # One schedule has one form, so that two that are the same are equal.
        for name, value in (("total_steps", total), ("epochs", None), ("steps_per_epoch", None)):
            object.__setattr__(self, name, value)

    def momentum(self, base_momentum: float = 0.85, max_momentum: float = 0.95) -> OneCycle:
        """Return the schedule of a momentum that falls where this one rises.

        Parameters
        ----------
        base_momentum : float, default 0.85
            The lowest momentum, at the peak; > 0.
        max_momentum : float, default 0.95
            The momentum at the start and at the end; > 0.

        Returns
        -------
        OneCycle
            What torch's OneCycleLR gives to the momentum with ``cycle_momentum=True``.

        Examples
        --------
        >>> from fastoptim.schedules import OneCycle
        >>> schedule = OneCycle(1.0, total_steps=7, pct_start=3 / 7).momentum(0.85, 0.95)
        >>> [round(schedule(t), 6) for t in range(7)]
        [0.95, 0.9, 0.85, 0.864645, 0.9, 0.935355, 0.95]
        """
        base_momentum = checked("base_momentum", DIVISIBLE, base_momentum)
        max_momentum = checked("max_momentum", DIVISIBLE, max_momentum)
        div_factor = base_momentum / max_momentum
        return replace(self, max_lr=base_momentum, div_factor=div_factor, final_div_factor=1.0)

    def _value(self, t: int) -> float:
        total = cast("int", self.total_steps)
        if t > total:
            raise ValueError(f"step: expected at most total_steps = {total}, found {t}")
        begin, phases = 0.0, self._phases(total)
        while len(phases) > 1 and t > phases[0][0]:
            begin, *_ = phases.pop(0)
        finish, a, b = phases[0]
        part = (t - begin) / (finish - begin) if finish != begin else 1.0
        return _cosine(a, b, part) if self.anneal_strategy == "cos" else a + (b - a) * part

    def _phases(self, total: int) -> list[tuple[float, float, float]]:
        """Return for each phase its last step, and the values that it goes from and to."""
        high, low = self.max_lr, self.max_lr / self.div_factor
        lowest, rise = low / self.final_div_factor, self.pct_start * total
        if self.three_phase:
            return [(rise - 1, low, high), (2 * rise - 2, high, low), (total - 1, low, lowest)]
        return [(rise - 1, low, high), (total - 1, high, lowest)]


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

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected.

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
        _checked_callable("schedule", self.schedule)
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

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected.

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
        schedulers = _checked_items("schedulers", self.schedulers, _checked_callable)
        milestones = _checked_items("milestones", self.milestones, _checked_step)
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


@dataclass(eq=False)
class ReduceLROnPlateau:
    r"""Lower the learning rate of an optimizer when a metric has stopped improving.

    After more than ``patience`` steps in a row without improvement, the learning rate of each
    param group becomes :math:`\max(f \eta, \eta_{min})`. The rules are those of
    ``torch.optim.lr_scheduler.ReduceLROnPlateau``; a metric that is not a number does not improve.

    A metric improves if it is beyond the best one, b, by more than the threshold, c:

    ==================  ========================  ========================
    ``threshold_mode``  ``mode="min"``            ``mode="max"``
    ==================  ========================  ========================
    "rel"               :math:`< b (1 - c)`       :math:`> b (1 + c)`
    "abs"               :math:`< b - c`           :math:`> b + c`
    "rel_magnitude"     :math:`< b - c |b|`       :math:`> b + c |b|`
    ==================  ========================  ========================

    "rel" is for metrics that stay positive. Where b is negative, as a log-likelihood or a reward
    may be, its goal is *worse* than b: a metric that gets slowly worse counts as an improvement,
    becomes the best one, and the learning rate stays. "rel_magnitude" is the same for positive
    metrics, and right for the others.

    Parameters
    ----------
    optimizer : Optimizer
        Whose learning rates to lower. They have to be numbers, not schedules.
    mode : {"min", "max"}, default "min"
        Whether a lower or a higher metric is better.
    factor : float, default 0.1
        :math:`0 \le f < 1`.
    patience : int, default 10
        The number of steps without improvement to allow.
    threshold : float, default 1e-4
        c, how much better than the best a metric must be, >= 0.
    threshold_mode : {"rel", "abs", "rel_magnitude"}, default "rel"
        Whether the threshold is a factor of the best metric, a distance from it, or a part of its
        magnitude. With metrics that may be negative, take one of the last two.
    cooldown : int, default 0
        For how many steps after a reduction none is counted.
    min_lr : float or sequence of float, default 0
        :math:`\eta_{min} \ge 0`, for all param groups or for each.
    eps : float, default 1e-8
        The smallest change to make, >= 0.

    Attributes
    ----------
    best : float
        The last metric that improved.
    num_bad_epochs : int
        The number of steps without improvement.
    cooldown_counter : int
        The number of steps left in which none is counted.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> from fastoptim.schedules import ReduceLROnPlateau
    >>> opt = fo.SGD(np.zeros(3), lr=0.8)
    >>> plateau = ReduceLROnPlateau(opt, factor=0.5, patience=1)
    >>> for loss in [1.0, 1.0, 1.0, 0.7]:
    ...     plateau.step(loss)
    ...     print(opt.lr)
    0.8
    0.8
    0.4
    0.4
    """

    optimizer: Any = field(repr=False)
    mode: Annotated[str, Choice(("min", "max"))] = "min"
    factor: Fraction = 0.1
    patience: Annotated[int, Count(0)] = 10
    threshold: NonNegative = 1e-4
    threshold_mode: Annotated[str, Choice(("rel", "abs", "rel_magnitude"))] = "rel"
    cooldown: Annotated[int, Count(0)] = 0
    min_lr: float | Sequence[float] = 0.0
    eps: NonNegative = 1e-8
    best: Annotated[float, Extended()] = field(init=False)
    num_bad_epochs: Annotated[int, Count(0)] = field(default=0, init=False)
    cooldown_counter: Annotated[int, Count(0)] = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.best = math.inf
        self._check()
        if self.mode == "max":
            self.best = -math.inf

    def step(self, metric: SupportsFloat) -> None:
        """Take note of a metric, and lower the learning rates if it is time.

        Parameters
        ----------
        metric : float
            Or what can be made one, such as an array without axes.

        Raises
        ------
        TypeError, ValueError
            If the metric is no number, or a learning rate is none, or there is not one ``min_lr``
            for each param group; then nothing has changed.
        """
        current = _metric(metric)
        better = self._is_better(current)
        bad = 0 if better or self.cooldown_counter else self.num_bad_epochs + 1
        cooldown = max(self.cooldown_counter - 1, 0)
        if bad > self.patience:
            self._reduce()
            bad, cooldown = 0, self.cooldown
        self.best = current if better else self.best
        self.num_bad_epochs, self.cooldown_counter = bad, cooldown

    def state_dict(self) -> dict[str, Any]:
        """Return all that a later run needs to go on: the arguments and the counts.

        Returns
        -------
        dict
            The arguments but the optimizer, and ``"best"``, ``"num_bad_epochs"`` and
            ``"cooldown_counter"``.
        """
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "optimizer"}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned.

        Parameters
        ----------
        state_dict : mapping
            From a `ReduceLROnPlateau`; its arguments replace those given here.

        Raises
        ------
        TypeError, ValueError
            If anything in it does not fit; then nothing has changed.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict: expected a mapping, found {type(state_dict).__name__}")
        expected = list(self.state_dict())
        if set(state_dict) != set(expected):
            raise ValueError(f"state_dict: expected the keys {expected}, found {list(state_dict)}")
        loaded = copy(self)
        vars(loaded).update(state_dict)
        loaded._check()
        vars(self).update(vars(loaded))

    def _check(self) -> None:
        if not isinstance(getattr(self.optimizer, "param_groups", None), Sequence):
            raise TypeError(f"optimizer: expected an optimizer, found {shown(self.optimizer)}")
        _check_fields(self)
        low = Real(0)
        if isinstance(self.min_lr, (list, tuple)):
            self.min_lr = _checked_items("min_lr", self.min_lr, lambda n, v: checked(n, low, v))
        else:
            self.min_lr = checked("min_lr", low, self.min_lr)
        self._min_lrs(len(self.optimizer.param_groups))

    def _min_lrs(self, count: int) -> Sequence[float]:
        """Return the lowest learning rate of each of the param groups, of which there are count."""
        if not isinstance(self.min_lr, Sequence):
            return [self.min_lr] * count
        if len(self.min_lr) != count:
            raise ValueError(
                f"min_lr: expected {count} values, one for each param group, "
                f"found {len(self.min_lr)}"
            )
        return self.min_lr

    def _is_better(self, metric: float) -> bool:
        best, margin = self.best, -self.threshold if self.mode == "min" else self.threshold
        if self.threshold_mode == "abs":
            goal = best + margin
        elif self.threshold_mode == "rel":
            goal = best * (1 + margin)
        elif math.isinf(best):  # as at the start; it has no part
            goal = best
        else:
            goal = best * (1 + margin if best > 0 else 1 - margin)
        return metric < goal if self.mode == "min" else metric > goal

    def _reduce(self) -> None:
        groups = self.optimizer.param_groups
        old = [
            checked(f"optimizer.param_groups[{i}]['lr']", Real(), group["lr"])
            for i, group in enumerate(groups)
        ]
        for group, lr, low in zip(groups, old, self._min_lrs(len(groups)), strict=True):
            new = max(lr * self.factor, low)
            if lr - new > self.eps:
                group["lr"] = new


def _metric(value: Any) -> float:
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    # float() would read text, and in NumPy before 2.4 arrays of one element
    is_number = kind not in ("S", "U") and not (issubclass(type(value), ndarray) and value.ndim)
    if isinstance(value, SupportsFloat) and is_number:
        try:
            return float(value)
        except OverflowError:
            raise ValueError(
                f"metric: expected a number that fits a float, found {shown(value)}"
            ) from None
        except (TypeError, ValueError):
            pass
    raise TypeError(f"metric: expected a number, found {shown(value)}")


def plot(schedule: Callable[[int], float], steps: int, *, ax: Axes | None = None) -> Axes:
    """Draw the values of a schedule.

    Parameters
    ----------
    schedule : callable
        A schedule, or any callable from a step to a value.
    steps : int
        How many steps to draw, from step 0 on; at least 1.
    ax : matplotlib.axes.Axes, optional
        Where to draw, for several schedules in one picture; by default a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        What was drawn on; the label of the curve is the schedule.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    TypeError, ValueError
        If an argument is not as described.

    Examples
    --------
    >>> from fastoptim.schedules import OneCycle, plot
    >>> ax = plot(OneCycle(0.1, total_steps=100), 100)  # doctest: +SKIP
    >>> ax.figure.savefig("schedule.png")  # doctest: +SKIP
    """
    _checked_callable("schedule", schedule)
    numbers = range(checked("steps", Count(1), steps))
    if ax is None:
        ax = _new_axes()
    ax.plot(numbers, [schedule(t) for t in numbers], label=repr(schedule))
    ax.set(xlabel="step", ylabel="value")
    return ax


def _new_axes() -> Axes:
    try:
        from matplotlib import pyplot
    except ModuleNotFoundError as error:
        raise ImportError(
            "fastoptim.schedules.plot needs matplotlib, which is not installed: "
            'python -m pip install "fastoptim[plot]"',
            name=error.name,
        ) from error
    return pyplot.subplots()[1]
