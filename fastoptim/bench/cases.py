"""What is compared: a rule with hyperparameters, so many arrays of such a size, a dtype."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from fastoptim import optimizers
from fastoptim._containers import Array
from fastoptim._optimizer import Optimizer

from . import numpy_plain

Dtype = Literal["float32", "float64"]

_LR = {"lr": 1e-2}
_MU = {**_LR, "momentum": 0.9}
_RMS = {**_LR, "alpha": 0.99, "eps": 1e-8}
_MAX = {**_LR, "betas": (0.9, 0.999)}
_ADAM = {**_MAX, "eps": 1e-8}
_ADAMW = {**_ADAM, "weight_decay": 1e-2}

# All that the rule of each class is told, so that nobody's defaults matter.
HYPER: dict[str, dict[str, Any]] = {
    "SGD": _LR,
    "Momentum": _MU,
    "RMSprop": _RMS,
    "Adagrad": {**_LR, "eps": 1e-10},
    "Adam": _ADAM,
    "AdamW": _ADAMW,
    "Adadelta": {"lr": 1.0, "rho": 0.9, "eps": 1e-6},
    "Adamax": _ADAM,
    "NAdam": {**_ADAM, "momentum_decay": 4e-3},
    "RAdam": _ADAM,
    "Rprop": {**_LR, "etas": (0.5, 1.2), "step_sizes": (1e-6, 50.0)},
    "ASGD": {**_LR, "lambd": 1e-4, "alpha": 0.75, "t0": 1e6},
    "Lion": {**_LR, "betas": (0.9, 0.99), "weight_decay": 1e-2},
    "AdaBelief": {**_MAX, "eps": 1e-16, "eps_root": 1e-16},
    "LAMB": {**_ADAMW, "eps": 1e-6},
    "LARS": {"lr": 1.0, "momentum": 0.9, "weight_decay": 1e-2, "trust_coefficient": 1e-3},
}


@dataclass(frozen=True)
class Size:
    """So many tensors, each of so many elements."""

    tensors: int
    length: int

    def __str__(self) -> str:
        return f"{self.tensors:,} x {self.length:,}" if self.tensors > 1 else f"{self.length:,}"

    @property
    def elements(self) -> int:
        """The number of elements of all tensors."""
        return self.tensors * self.length


DTYPES: tuple[Dtype, ...] = ("float32", "float64")
SIZES = (
    Size(1, 64),
    Size(1, 4096),
    Size(1, 65_536),
    Size(1, 1_000_000),
    Size(1, 16_000_000),
    Size(1000, 1000),
)


@dataclass(frozen=True, eq=False)
class Case:
    """A rule with hyperparameters, and what is done around it."""

    name: str
    optimizer: type[Optimizer]
    hyper: dict[str, Any]
    around: dict[str, Any] = field(default_factory=dict)
    # Arrays that must be read, for their norms, before the step can begin: for those of LARS, p
    # and g; for that of LAMB's direction, m and v as well; for clipping, g.
    ahead: int = 0

    @property
    def states(self) -> int:
        """The number of state arrays, an average among them."""
        return len(self.optimizer(np.zeros(1), **self.hyper, **self.around).state[0])


def _cases() -> list[Case]:
    ahead = {"LARS": 2, "LAMB": 4}
    cases = [
        Case(name, cls, HYPER.get(name, _LR), ahead=ahead.get(name, 0))
        for name in optimizers.__all__
        if hasattr(numpy_plain, (cls := getattr(optimizers, name)).rule.name)
    ]
    around = {"max_grad_norm": 1.0, "ema_decay": 0.999}
    return [
        *cases,
        Case("SGD-momentum", optimizers.SGD, _MU),
        Case("AdamW-clip-EMA", optimizers.AdamW, _ADAMW, around, ahead=1),
    ]


CASES = {case.name: case for case in _cases()}


class Problem(Protocol):
    """A rule, and arrays for it to work on."""

    @property
    def case(self) -> Case:
        """The rule."""

    @property
    def dtype(self) -> Dtype:
        """The dtype of all arrays."""

    def arrays(self) -> tuple[list[Array], list[Array]]:
        """Return parameters and gradients, the same in every call."""

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class Cell:
    """What the contenders are compared at: a rule, a size and a dtype."""

    case: Case
    size: Size
    dtype: Dtype

    def __str__(self) -> str:
        return f"{self.case.name} {self.dtype} {self.size}"

    @property
    def traffic(self) -> int:
        """The bytes that a step must move: g is read; p and each state array read and written."""
        streams = self.case.ahead + 1 + 2 * (1 + self.case.states)
        return self.size.elements * np.dtype(self.dtype).itemsize * streams

    def arrays(self) -> tuple[list[Array], list[Array]]:
        """Return parameters in [-0.5, 0.5) and gradients in [0.5, 1.5), the same in every call.

        Such gradients keep the state away from zero, where subnormal numbers would be slow, and
        have a norm above 1, which is clipped.
        """
        rng, size = np.random.default_rng(0), self.size
        params = [rng.random(size.length, self.dtype) - 0.5 for _ in range(size.tensors)]
        grads = [rng.random(size.length, self.dtype) + 0.5 for _ in range(size.tensors)]
        return params, grads
