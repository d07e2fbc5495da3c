"""Optimizers for torch that are made of classes of fastoptim, also of the user's own.

The class of fastoptim says itself what a call of it means: it is called for one array without
elements, and asked for the hyperparameters and settings that it has then.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

import fastoptim as fo
from fastoptim._kinds import unknown
from fastoptim._settings import SETTINGS

from ._hyperparameters import FLAGS, plain
from ._link import COUNTED
from ._optimizer import Optimizer

# Arguments of a class of fastoptim that are of no use for tensors.
OF_ARRAYS = ("backend", "mask", "state_path")


class Made(type):
    """The type of the classes made here, by which ``copyreg`` knows them."""

    method: type[fo.Optimizer]


class OfClass(Optimizer):
    """What the classes made here share: the arguments of a class of fastoptim."""

    def __init__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(params, **_defaults(self.method, args, kwargs))


def made_of(method: type[fo.Optimizer], module: str) -> type[Optimizer]:
    """Return an optimizer for torch with the name, the arguments and the rule of a class."""
    own = {
        "__doc__": f"`{method.__module__}.{method.__qualname__}` for torch's tensors.",
        "__module__": module,
        "method": method,
        "names": COUNTED | {name: name for name in method.rule.state},
    }
    made: Any = Made(method.__name__, (OfClass,), own)
    found: type[Optimizer] = made
    return found


def _defaults(
    method: type[fo.Optimizer], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the hyperparameters, settings and flags of torch's that a call of a class means."""
    flags = {name: value for name, value in kwargs.items() if name in FLAGS}
    given = _named(method, args, {k: value for k, value in kwargs.items() if k not in FLAGS})
    for name in OF_ARRAYS:
        if name in given:
            known = [name for name in inspect.signature(method).parameters if name != "params"]
            raise TypeError(unknown(name, f"{method.__name__} for torch", known))
    optimizer = method(np.zeros(0), **{name: plain(name, value) for name, value in given.items()})
    hyper = dict(optimizer.param_groups[0])
    del hyper["params"], hyper["mask"]
    for name, value in given.items():
        # A tensor stays one, for schedulers to change, where it means what the class goes by.
        if _has_tensor(value) and name in hyper and hyper[name] == plain(name, value):
            hyper[name] = value
    return {**hyper, **{name: getattr(optimizer, name) for name in SETTINGS}, **flags}


def _has_tensor(value: Any) -> bool:
    items = value if isinstance(value, (tuple, list)) else (value,)
    return any(isinstance(item, Tensor) for item in items)


def _named(
    method: type[fo.Optimizer], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a call, but for the parameters, by their names."""
    signature = inspect.signature(method)
    found = signature.bind(None, *args, **kwargs).arguments
    for p in signature.parameters.values():
        if p.kind is p.VAR_KEYWORD:
            found |= found.pop(p.name, {})
    del found[next(iter(signature.parameters))]  # the parameters
    return found
