"""Optimizer classes of the user's own rules."""

from __future__ import annotations

import copyreg
import inspect
from functools import cache
from typing import Any

from .._kinds import shown
from .._optimizer import Optimizer
from ._own import OwnRule


def optimizer(rule: OwnRule, name: str | None = None) -> type[Optimizer]:
    """Return an optimizer class of a rule of one's own.

    It takes the hyperparameters of the rule and the options of every optimizer by name, as in
    ``Mine(params, lr=0.1, max_grad_norm=1.0)``: see `fastoptim.Optimizer`, which also has what its
    optimizers can do.

    Parameters
    ----------
    rule : OwnRule
        What `rule` has made.
    name : str, optional
        The name of the class; by default that of the rule's function in capitals, ``MyAdam`` for
        ``my_adam``.

    Returns
    -------
    type
        The class, the same one for the same rule and name. Its optimizers are pickled with a
        reference to the rule's function, whatever variable has the class; and their checkpoints
        have the name of the function with its module. Of another function by that name
        they cannot know: whether its state means the same is the user's affair.

    Raises
    ------
    TypeError, ValueError
        If the rule is not one that `rule` has made, or the name is none; if a hyperparameter is
        called as an attribute of every optimizer.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> @fo.rule(scalars=lambda lr=0.1: (lr,))
    ... def descent(p, g, lr):
    ...     return p - lr * g
    >>> Descent = fo.optimizer(descent)
    >>> p = np.array([1.0, 2.0])
    >>> opt = Descent(p, lr=0.5, backend="reference")
    >>> opt.step(np.array([1.0, 0.0]))
    >>> p
    array([0.5, 2. ])
    """
    if not isinstance(rule, OwnRule):
        raise TypeError(f"rule: expected a rule made by fastoptim.rule, found {shown(rule)}")
    if name is None:
        words = rule.function.__name__.split("_")
        name = "".join(word[:1].upper() + word[1:] for word in words)
    elif not isinstance(name, str):
        raise TypeError(f"name: expected the name of a class, or None, found {shown(name)}")
    elif not name.isidentifier():
        raise ValueError(f"name: expected the name of a class, or None, found {shown(name)}")
    return _made(rule, str(name))


@cache
def _made(rule: OwnRule, name: str) -> type[Optimizer]:
    for hyper in rule.own:
        if hasattr(Optimizer, hyper):
            raise ValueError(
                f"{rule.name}: expected names of hyperparameters that are no attributes of every "
                f"optimizer, found {hyper}"
            )
    place, _, _ = rule.__qualname__.rpartition(".")
    cls: Any = type(
        name,
        (Optimizer,),
        {
            "rule": rule,
            "_is_closed": True,
            "_saved_as": classmethod(lambda cls: rule.saved_as),
            "__module__": rule.__module__,
            "__qualname__": f"{place}.{name}".lstrip("."),
            "__doc__": rule.__doc__ or f"The rule `{rule.name}`; see `fastoptim.Optimizer`.",
            "__signature__": _signature(rule),
            "__reduce_ex__": _reduced,
        },
    )
    return cls  # type: ignore[no-any-return]


def _signature(rule: OwnRule) -> inspect.Signature:
    """Return the arguments of the class, as help shows them."""
    make = inspect.Parameter
    return inspect.Signature(
        [
            make("params", make.POSITIONAL_OR_KEYWORD),
            *(make(h, make.KEYWORD_ONLY, default=rule.defaults[h]) for h in rule.own),
            make("options", make.VAR_KEYWORD),
        ]
    )


def _reduced(self: Optimizer, protocol: Any) -> Any:
    """Pickle an optimizer by its rule, as its class may stand in the module by any name."""
    cls: type[Optimizer] = type(self)
    if "__reduce_ex__" not in vars(cls):  # a class that the user has derived has a name
        return object.__reduce_ex__(self, protocol)
    assert isinstance(cls.rule, OwnRule)
    return _new, (cls.rule, cls.__name__), self.__getstate__()


def _new(rule: OwnRule, name: str) -> Any:
    return copyreg.__newobj__(optimizer(rule, name))  # type: ignore[attr-defined]
