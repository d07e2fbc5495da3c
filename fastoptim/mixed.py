"""Mixed: param groups that step by different rules, as one optimizer.

It adds to an optimizer where the rule of a group comes from. That a plan steps several rules is the
engine's doing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ._groups import Hyperparameter
from ._hyper import Hyper
from ._kinds import entry, unknown
from ._optimizer import CommonOptions, Optimizer, class_with_rule
from ._rule import AFTER, BEFORE, Scheduled
from ._settings import pop_settings
from ._stepper import Stepper
from ._trees import is_sequence

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Mixed"]

COMMON = (*BEFORE, *AFTER)  # what every rule understands, and a group may have from all


class MixedOptions(CommonOptions, total=False):
    """The keyword arguments that Mixed takes beside its groups."""

    weight_decay: Scheduled[float]
    maximize: Scheduled[bool]


class Mixed(Optimizer):
    """Several rules in one optimizer: each param group names the class whose rule it steps by.

    There is one step, with one pass over memory; one norm over the gradients of all groups; one
    checkpoint. The bits are those of an optimizer for each group, if their gradients are scaled by
    the same factor.

    Parameters
    ----------
    params : sequence of group mappings
        ``{"optimizer": fo.AdamW, "params": ..., "lr": ...}``: a class, parameters as that class
        takes them, and hyperparameters of the class. Those that are missing have its defaults.
    weight_decay, l1, max_grad_value, max_param_grad_norm, maximize, bounds, ema_decay : optional
        For the groups that do not have their own; see `Optimizer`.
    max_grad_norm, nonfinite, flush_denormals, cast_grads, backend, state_path : optional
        For the optimizer as a whole, as in `Optimizer`.

    Attributes
    ----------
    state : dict
        For each parameter the state arrays of its rule.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected.

    Notes
    -----
    ``opt.lr = 0.1`` sets the learning rate of all groups, as it does in every optimizer, and
    ``opt.param_groups[0]["lr"] = 0.1`` that of one. ``opt.param_groups[0].rule`` is the rule of a
    group. `add_param_group` takes a group of any rule. A state dict or a file has the name of each
    group's rule, and is loaded by groups that have the same.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> table, dense = np.ones(2), np.ones(2)
    >>> opt = fo.Mixed(
    ...     [
    ...         {"optimizer": fo.Adagrad, "params": table, "lr": 0.5},
    ...         {"optimizer": fo.SGD, "params": dense, "lr": 0.1},
    ...     ],
    ...     max_grad_norm=1.0,
    ... )
    >>> opt.step([np.array([3.0, 0.0]), np.array([0.0, 4.0])])
    >>> opt.grad_norm
    5.0
    >>> table.round(6), dense.round(6)
    (array([0.5, 1. ]), array([1.  , 0.92]))
    """

    _names_rules = True

    if not TYPE_CHECKING:  # for a type checker it is that of every optimizer
        lr = Hyperparameter("lr")

    def __init__(
        self,
        params: Iterable[Mapping[str, Any]],
        **options: Unpack[MixedOptions],
    ) -> None:
        hyper: dict[str, Any] = {**options}
        backend = hyper.pop("backend", None)
        path = hyper.pop("state_path", None)
        settings = pop_settings(hyper)
        for name in hyper:
            if name in ("mask", "lr"):
                raise TypeError(f"{name}: expected one in each param group, found one for all")
            if name not in COMMON:
                raise TypeError(unknown(name, type(self).__name__, self._arguments()))
        self._common = hyper
        groups = _groups_in(params)
        rules = [_class_in(f"params[{i}]", group).rule for i, group in enumerate(groups)]
        Stepper.__init__(self, self._chosen_backend(backend, rules), settings, path)
        self._add_groups(groups)

    @classmethod
    def _kinds(cls) -> Collection[str]:
        return "lr", *COMMON

    def _defaults_of(self, label: str, group: dict[str, Any]) -> tuple[str, Hyper]:
        cls = _class_in(label, group)
        del group["optimizer"]
        # which raises if the rule lacks loops for it
        self._chosen_backend(self.backend, [cls.rule])
        return cls.__name__, cls.rule.initial.changed(self._common)


def __dir__() -> list[str]:
    return __all__


def _groups_in(params: Any) -> list[Any]:
    """Return the groups, if there is a sequence of some."""
    if not is_sequence(params):
        raise TypeError(
            "params: expected a sequence of param groups, as in [{'optimizer': fastoptim.AdamW, "
            f"'params': params}}], found {type(params).__name__}"
        )
    groups = list(params)
    if not groups:
        raise ValueError("params: expected at least one param group, found none")
    return groups


def _class_in(label: str, group: Any) -> type[Optimizer]:
    """Return the class that a group names."""
    return class_with_rule(f"{label}['optimizer']", entry(label, group, "optimizer"))
