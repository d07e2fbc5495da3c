"""Lowering the learning rate where a metric no longer improves.

This is no schedule: what it does depends on metrics, and it has a state. Of an optimizer it knows
only ``param_groups``, each a mapping with an ``"lr"``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, SupportsFloat

from numpy import ndarray

from .._kinds import Choice, Count, Extended, Fraction, NonNegative, Real, checked, shown
from ._arguments import check_fields, checked_items


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
        check_fields(self)
        low = Real(0)
        if isinstance(self.min_lr, (list, tuple)):
            self.min_lr = checked_items("min_lr", self.min_lr, lambda n, v: checked(n, low, v))
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
