"""Hyperparameters of torch's param groups, as fastoptim has them.

They may be tensors there, hold arguments that choose among torch's implementations, and be a
rounding error below zero where a scheduler of torch's has left them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastoptim._rule import Rule

# Arguments that choose among torch's implementations. There is one here, which has the results of
# all: those that only choose how fast it goes may have any value.
REFUSED = ("capturable", "differentiable")
FLAGS = ("foreach", "fused", *REFUSED)
SCHEDULED = ("lr", "momentum", "betas")  # what schedulers of torch's move
PLAIN = (float, bool, type(None), int, str)  # what most of them are
ROUNDINGS = 1024  # by whose sum a hyperparameter may be below zero, and still mean zero


def hyper_of(rule: Rule, group: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters of a group that the rule has, unchecked.

    The defaults are those of the optimizer: they tell of what size a learning rate was.
    """
    for name in REFUSED:
        if group.get(name):
            raise ValueError(f"{name}: expected False, found {group[name]!r}")
    found = {}
    for name in rule.kinds:
        if name in group:
            value = group[name]
            found[name] = value if type(value) in PLAIN else plain(name, value)
    for name in SCHEDULED:
        if name in found and _is_negative(found[name]):
            found[name] = _rounded(found[name], _roundings(name, group, defaults))
    return found


def plain(name: str, value: Any) -> Any:
    """Return a hyperparameter without tensors."""
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(
                f"{name}: expected a number or a tensor of one element, "
                f"found a tensor of shape {tuple(value.shape)}"
            )
        return value.item()
    if isinstance(value, (tuple, list)):
        return tuple(plain(name, item) for item in value)
    if callable(value):
        raise TypeError(
            f"{name}: expected a number, found a function; see torch.optim.lr_scheduler"
        )
    return value


def _is_negative(value: Any) -> bool:
    """Tell whether a hyperparameter is a number below zero, or a pair with one."""
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, (int, float)) and item < 0:
            return True
    return False


def _roundings(name: str, group: Mapping[str, Any], defaults: Mapping[str, Any]) -> float:
    """Return how far below zero a scheduler's roundings may put a hyperparameter."""
    eps: float = torch.finfo(torch.float64).eps
    if isinstance(group[name], Tensor) and group[name].is_floating_point():
        eps = torch.finfo(group[name].dtype).eps
    if name != "lr":  # of the order of 1
        return ROUNDINGS * eps
    # A learning rate is of any size: what it started from tells how large an error may be.
    starts = (defaults["lr"], group.get("initial_lr", 0.0))
    scale: float = max(abs(plain("lr", start)) for start in starts)
    return ROUNDINGS * eps * scale


def _rounded(value: Any, most: float) -> Any:
    """Return a hyperparameter, with zero for what is below zero by no more than roundings."""
    if isinstance(value, tuple):
        return tuple(_rounded(item, most) for item in value)
    return 0.0 if _is_negative(value) and value >= -most else value
