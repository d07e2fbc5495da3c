"""Schedules along waves and triangles: once, again and again, or in a few phases.

Each is a formula of the step alone, and knows no other schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, cast

from .._kinds import Choice, Closed, NonNegative, Number, Real, Switch, checked
from ._arguments import MaybeNatural, Natural, Positive, checked_callable
from ._schedule import Schedule

DIVISIBLE = Real(1e-100, 1e100)  # the quotient of two such numbers is finite and above 0


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
            checked_callable("scale_fn", self.scale_fn)

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
