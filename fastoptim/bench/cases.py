"""What is compared: a rule with hyperparameters, so many arrays of such a size, a dtype."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from fastoptim import optimizers
from fastoptim._containers import Array
from fastoptim._optimizer import Optimizer

from . import numpy_plain

Dtype = Literal["float32", "float64"]

# What rules are told of these two, whatever the defaults of their classes are.
TOLD = {"lr": 1e-2, "weight_decay": 1e-2}
# Rules whose learning rate is a factor of steps that have a size of their own.
TOLD_OTHERWISE = {"Adadelta": {"lr": 1.0}, "LARS": {"lr": 1.0}}
# For a rule with a trust ratio, the number of arrays that must be read, for the norms of p and of
# the direction, before its step can begin: for LARS p and g; for LAMB m and v as well; for
# StableAdamW g and v.
AHEAD = {"LARS": 2, "LAMB": 4, "StableAdamW": 2}
CAUTIOUS = 2  # such arrays of a cautious rule: g and the momentum


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
    """A rule with hyperparameters, and the options of the optimizer that go around the rule."""

    name: str
    optimizer: type[Optimizer]
    hyper: dict[str, Any]
    around: dict[str, Any] = field(default_factory=dict)  # clipping and the average, or nothing
    # The number of arrays that must be read, for sums, before the step can begin: those of `AHEAD`
    # or of cautious steps; for clipping, g.
    ahead: int = 0

    @property
    def states(self) -> int:
        """The number of state arrays of a parameter, the average included."""
        return len(self.optimizer(np.zeros(1), **self.hyper, **self.around).state[0])


def hyper_of(cls: type[Optimizer]) -> dict[str, Any]:
    """Return all that a rule is told, so that nobody's defaults matter.

    These are the hyperparameters that the rule's function in `numpy_plain` asks for: those without
    a default there, and those whose default there is not that of the class.
    """
    defaults = cls.rule.defaults
    values = {**defaults, **TOLD, **TOLD_OTHERWISE.get(cls.__name__, {})}
    plain = getattr(numpy_plain, cls.rule.name, None)
    if plain is None:  # nobody has written it: "NumPy plain" has no such case
        return {"lr": values["lr"]}
    _, _, *asked = inspect.signature(plain).parameters.values()
    return {h.name: values[h.name] for h in asked if h.default != defaults[h.name]}


def _cases() -> list[Case]:
    classes = {name: getattr(optimizers, name) for name in optimizers.__all__}
    around = {"max_grad_norm": 1.0, "ema_decay": 0.999}
    momentum = {**hyper_of(optimizers.SGD), "momentum": 0.9}
    plain = [
        *(Case(n, cls, hyper_of(cls), ahead=AHEAD.get(n, 0)) for n, cls in classes.items()),
        Case("SGD-momentum", optimizers.SGD, momentum),
    ]
    cautious = [
        Case(
            f"{c.optimizer.__name__}-cautious",
            c.optimizer,
            {**c.hyper, "cautious": True},
            ahead=CAUTIOUS,
        )
        for c in plain
        if c.name in ("SGD-momentum", "AdamW", "Lion")
    ]
    clipped = Case("AdamW-clip-EMA", optimizers.AdamW, hyper_of(optimizers.AdamW), around, ahead=1)
    return [*plain, *cautious, clipped]


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

    @property
    def held(self) -> int:
        """The bytes of all arrays of a step: parameters, gradients and state."""
        return self.size.elements * np.dtype(self.dtype).itemsize * (2 + self.case.states)

    def arrays(self) -> tuple[list[Array], list[Array]]:
        """Return parameters in [-0.5, 0.5) and gradients in [0.5, 1.5), the same in every call.

        Such gradients keep the state away from zero, where subnormal numbers would be slow, and
        have a norm above 1, which is clipped.
        """
        rng, size = np.random.default_rng(0), self.size
        params = [rng.random(size.length, self.dtype) - 0.5 for _ in range(size.tensors)]
        grads = [rng.random(size.length, self.dtype) + 0.5 for _ in range(size.tensors)]
        return params, grads
