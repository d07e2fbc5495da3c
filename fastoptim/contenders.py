"""What is compared: each rule as people run it today, checked before anyone may time it.

A contender turns a rule and its own copies of the arrays into a function that takes one step. It
reaches the benchmarks through `prepare` alone, which runs it against the reference first and
refuses it if the parameters, or their averages where it keeps some, differ by more than rounding.

The NumPy versions of a rule are generators: the state is local, and each ``next()`` takes a step.
What a case does around its rule, clipping and averaging, concerns all arrays together; a function
for each library adds it to the step of the rule.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib import import_module
from importlib.util import find_spec
from itertools import count
from typing import Any, Literal

import numpy as np

from . import optimizers as fo
from ._base import Array, Optimizer

Dtype = Literal["float32", "float64"]
Step = Callable[[], Any]  # returns the averages of the parameters, if it keeps some
Steps = Iterator[None]

# The check turns and scales the gradient for each of its steps: with the same gradient every time,
# Adam would pass with any betas. The last factor is 1: so is the gradient when the timing starts.
FACTORS = (1.0, 2.0, -1.0, 1.0)
TOLERANCE = 8  # units of rounding at 1, which the parameters stay below


class UnavailableError(Exception):
    """A contender that does not exist here: "absent", not installed, or "none", not written."""


class WrongResultError(Exception):
    """A contender that disagrees with the reference."""


def _plain_sgd(p: Any, g: Any, lr: float) -> Steps:
    while True:
        p -= lr * g
        yield


def _plain_sgd_momentum(p: Any, g: Any, lr: float, momentum: float) -> Steps:
    v = np.zeros_like(p)
    while True:
        v = momentum * v + g
        p -= lr * v
        yield


def _plain_momentum(p: Any, g: Any, lr: float, momentum: float) -> Steps:
    v = np.zeros_like(p)
    while True:
        v = momentum * v + (1 - momentum) * g
        p -= lr * v
        yield


def _plain_rmsprop(p: Any, g: Any, lr: float, alpha: float, eps: float) -> Steps:
    v = np.zeros_like(p)
    while True:
        v = alpha * v + (1 - alpha) * g**2
        p -= lr * g / (np.sqrt(v) + eps)
        yield


def _plain_adagrad(p: Any, g: Any, lr: float, eps: float) -> Steps:
    h = np.zeros_like(p)
    while True:
        h += g**2
        p -= lr * g / (np.sqrt(h) + eps)
        yield


def _plain_adam(
    p: Any, g: Any, lr: float, betas: tuple[float, float], eps: float, weight_decay: float = 0.0
) -> Steps:
    b1, b2 = betas
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t in count(1):
        if weight_decay:
            p -= lr * weight_decay * p
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        m_hat = m / (1 - b1**t)
        v_hat = v / (1 - b2**t)
        p -= lr * m_hat / (np.sqrt(v_hat) + eps)
        yield


# In place: `a` is one scratch array for all tensors, and nothing is allocated after the start.


def _in_place_sgd(p: Any, g: Any, a: Any, lr: float) -> Steps:
    while True:
        np.multiply(g, lr, out=a)
        np.subtract(p, a, out=p)
        yield


def _in_place_sgd_momentum(p: Any, g: Any, a: Any, lr: float, momentum: float) -> Steps:
    v = np.zeros_like(p)
    while True:
        np.multiply(v, momentum, out=v)
        np.add(v, g, out=v)
        np.multiply(v, lr, out=a)
        np.subtract(p, a, out=p)
        yield


def _in_place_momentum(p: Any, g: Any, a: Any, lr: float, momentum: float) -> Steps:
    v = np.zeros_like(p)
    while True:
        np.multiply(v, momentum, out=v)
        np.multiply(g, 1 - momentum, out=a)
        np.add(v, a, out=v)
        np.multiply(v, lr, out=a)
        np.subtract(p, a, out=p)
        yield


def _in_place_rmsprop(p: Any, g: Any, a: Any, lr: float, alpha: float, eps: float) -> Steps:
    v = np.zeros_like(p)
    while True:
        np.multiply(v, alpha, out=v)
        np.multiply(g, g, out=a)
        np.multiply(a, 1 - alpha, out=a)
        np.add(v, a, out=v)
        np.sqrt(v, out=a)
        np.add(a, eps, out=a)
        np.divide(g, a, out=a)
        np.multiply(a, lr, out=a)
        np.subtract(p, a, out=p)
        yield


def _in_place_adagrad(p: Any, g: Any, a: Any, lr: float, eps: float) -> Steps:
    h = np.zeros_like(p)
    while True:
        np.multiply(g, g, out=a)
        np.add(h, a, out=h)
        np.sqrt(h, out=a)
        np.add(a, eps, out=a)
        np.divide(g, a, out=a)
        np.multiply(a, lr, out=a)
        np.subtract(p, a, out=p)
        yield


def _in_place_adam(
    p: Any,
    g: Any,
    a: Any,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float = 0.0,
) -> Steps:
    b1, b2 = betas
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t in count(1):
        if weight_decay:
            np.multiply(p, 1 - lr * weight_decay, out=p)
        np.multiply(m, b1, out=m)
        np.multiply(g, 1 - b1, out=a)
        np.add(m, a, out=m)
        np.multiply(v, b2, out=v)
        np.multiply(g, g, out=a)
        np.multiply(a, 1 - b2, out=a)
        np.add(v, a, out=v)
        np.sqrt(v, out=a)
        np.multiply(a, (1 - b2**t) ** -0.5, out=a)
        np.add(a, eps, out=a)
        np.divide(m, a, out=a)
        np.multiply(a, lr / (1 - b1**t), out=a)
        np.subtract(p, a, out=p)
        yield


# Around the rule. It sees `clipped`, where people would scale g in place: the next step of a
# benchmark has the same g, and is to clip it again.


def _plain_around(
    rule: Step,
    params: Sequence[Any],
    grads: Sequence[Any],
    clipped: Sequence[Any],
    max_grad_norm: float,
    ema_decay: float,
) -> Step:
    emas = [p.copy() for p in params]

    def step() -> list[Any]:
        norm = np.sqrt(sum(np.sum(g**2) for g in grads))
        for c, g in zip(clipped, grads, strict=True):
            c[...] = g * min(1.0, max_grad_norm / (norm + 1e-6))
        rule()
        for i, p in enumerate(params):
            emas[i] = ema_decay * emas[i] + (1 - ema_decay) * p
        return emas

    return step


def _in_place_around(
    rule: Step,
    params: Sequence[Any],
    grads: Sequence[Any],
    clipped: Sequence[Any],
    max_grad_norm: float,
    ema_decay: float,
) -> Step:
    emas, a = [p.copy() for p in params], np.empty_like(params[0])

    def step() -> list[Any]:
        norm = math.sqrt(sum(np.vdot(g, g) for g in grads))
        for c, g in zip(clipped, grads, strict=True):
            np.multiply(g, min(1.0, max_grad_norm / (norm + 1e-6)), out=c)
        rule()
        for ema, p in zip(emas, params, strict=True):
            np.multiply(ema, ema_decay, out=ema)
            np.multiply(p, 1 - ema_decay, out=a)
            np.add(ema, a, out=ema)
        return emas

    return step


def _torch_around(
    rule: Step, tensors: Sequence[Any], max_grad_norm: float, ema_decay: float
) -> Step:
    """Clip and average as torch does: the latter as `get_ema_multi_avg_fn` of `swa_utils`.

    torch clips the gradients in place. The next step finds them clipped, and multiplies them all
    the same: torch does so whatever the norm.
    """
    torch = import_torch()
    emas = [tensor.clone() for tensor in tensors]
    averages = [ema.numpy() for ema in emas]

    def step() -> list[Any]:
        torch.nn.utils.clip_grad_norm_(tensors, max_grad_norm)
        rule()
        torch._foreach_lerp_(emas, tensors, 1 - ema_decay)
        return averages

    return step


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
SIZES = (Size(1, 4096), Size(1, 65_536), Size(1, 1_000_000), Size(1, 16_000_000), Size(1000, 1000))


@dataclass(frozen=True, eq=False)
class Case:
    """A rule with hyperparameters, and who else computes it."""

    name: str
    optimizer: type[Optimizer]
    hyper: dict[str, Any]
    plain: Callable[..., Steps]
    in_place: Callable[..., Steps]
    torch: str  # the class in torch.optim
    torch_hyper: dict[str, Any] = field(default_factory=dict)  # further ones
    around: dict[str, Any] = field(default_factory=dict)  # what is done around the rule

    @property
    def states(self) -> int:
        """The number of state arrays, an average among them."""
        return len(self.optimizer(np.zeros(1), **self.hyper, **self.around).state[0])

    @property
    def reads(self) -> int:
        """How often g must be read: once more for its norm, which the step needs."""
        return 2 if "max_grad_norm" in self.around else 1


_LR = {"lr": 1e-2}
_MU = {**_LR, "momentum": 0.9}
_RMS = {**_LR, "alpha": 0.99, "eps": 1e-8}
_ADAM = {**_LR, "betas": (0.9, 0.999), "eps": 1e-8}
_ADAMW = {**_ADAM, "weight_decay": 1e-2}
_CLIP_EMA = {"max_grad_norm": 1.0, "ema_decay": 0.999}

_CASES = (
    Case("SGD", fo.SGD, _LR, _plain_sgd, _in_place_sgd, "SGD"),
    Case("SGD-momentum", fo.SGD, _MU, _plain_sgd_momentum, _in_place_sgd_momentum, "SGD"),
    Case(
        "Momentum", fo.Momentum, _MU, _plain_momentum, _in_place_momentum, "SGD", {"dampening": 0.9}
    ),
    Case("RMSprop", fo.RMSprop, _RMS, _plain_rmsprop, _in_place_rmsprop, "RMSprop"),
    Case(
        "Adagrad", fo.Adagrad, {**_LR, "eps": 1e-10}, _plain_adagrad, _in_place_adagrad, "Adagrad"
    ),
    Case("Adam", fo.Adam, _ADAM, _plain_adam, _in_place_adam, "Adam"),
    Case("AdamW", fo.AdamW, _ADAMW, _plain_adam, _in_place_adam, "AdamW"),
    Case(
        "AdamW-clip-EMA",
        fo.AdamW,
        _ADAMW,
        _plain_adam,
        _in_place_adam,
        "AdamW",
        around=_CLIP_EMA,
    ),
)
CASES = {case.name: case for case in _CASES}


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
        streams = self.case.reads + 2 * (1 + self.case.states)
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


def _fastoptim_step(
    case: Case, params: Sequence[Array], grads: Sequence[Array], backend: str
) -> Step:
    optimizer = case.optimizer(params, backend=backend, **case.hyper, **case.around)
    step = partial(optimizer.step, grads)
    if not case.around:
        return step
    averages = optimizer.ema
    return lambda: step() or averages


def _numpy_step(
    rule: Callable[[Any, Any], Steps],
    around: Callable[..., Step],
    case: Case,
    params: Sequence[Array],
    grads: Sequence[Array],
) -> Step:
    seen = [g.copy() for g in grads] if case.around else grads
    step = _together([rule(p, g) for p, g in zip(params, seen, strict=True)])
    return around(step, params, grads, seen, **case.around) if case.around else step


def _numpy_plain_step(case: Case, params: Sequence[Array], grads: Sequence[Array]) -> Step:
    rule = partial(case.plain, **case.hyper)
    return _numpy_step(rule, _plain_around, case, params, grads)


def _numpy_in_place_step(case: Case, params: Sequence[Array], grads: Sequence[Array]) -> Step:
    rule = partial(case.in_place, a=np.empty_like(params[0]), **case.hyper)
    return _numpy_step(rule, _in_place_around, case, params, grads)


def _together(generators: list[Steps]) -> Step:
    def step() -> None:
        for steps in generators:
            next(steps)

    return step


def _torch_step(
    case: Case, params: Sequence[Array], grads: Sequence[Array], **options: bool
) -> Step:
    torch = import_torch()
    optimizer_class = getattr(torch.optim, case.torch)
    for option in options:
        if option not in inspect.signature(optimizer_class).parameters:
            raise UnavailableError("none")
    tensors = [torch.from_numpy(p) for p in params]
    for tensor, g in zip(tensors, grads, strict=True):
        tensor.grad = torch.from_numpy(g)
    optimizer = optimizer_class(tensors, **case.hyper, **case.torch_hyper, **options)
    if "dampening" in case.torch_hyper:
        # torch does not damp the gradient that it takes for the first velocity, but does so if
        # it finds a velocity to start from.
        for tensor in tensors:
            optimizer.state[tensor]["momentum_buffer"] = torch.zeros_like(tensor)
    step: Step = optimizer.step
    return _torch_around(step, tensors, **case.around) if case.around else step


def import_torch() -> Any:
    """Return torch, which only its own contenders need.

    Raises
    ------
    UnavailableError
        If it is not installed.
    """
    if find_spec("torch") is None:
        raise UnavailableError("absent")
    return import_module("torch")


def torch_default() -> str:
    """Return how torch steps unless told: "foreach", or "one tensor at a time"."""
    torch = import_torch()
    choose = import_module("torch.optim.optimizer")._default_to_fused_or_foreach
    _, foreach = choose([torch.ones(1)], differentiable=False)
    return "foreach" if foreach else "one tensor at a time"


CONTENDERS: dict[str, Callable[[Case, Sequence[Array], Sequence[Array]], Step]] = {
    "fastoptim": partial(_fastoptim_step, backend="compiled"),
    "reference": partial(_fastoptim_step, backend="reference"),
    "NumPy plain": _numpy_plain_step,
    "NumPy in place": _numpy_in_place_step,
    "torch default": _torch_step,
    "torch fused": partial(_torch_step, fused=True),
}


def prepare(name: str, cell: Cell) -> Step:
    """Return the step of a contender on arrays of its own, once it has proved right.

    Raises
    ------
    UnavailableError
        If there is no such contender here.
    WrongResultError
        If its parameters or averages differ from the reference's by more than rounding.
    """
    arrays, step = _stepped(name, cell)
    pairs = zip(arrays, _expected(cell), strict=True)
    error = np.max([np.abs(a - expected).max() for a, expected in pairs])
    if not error <= TOLERANCE * np.finfo(cell.dtype).eps:  # a NaN is wrong as well
        raise WrongResultError(
            f"{name}: {cell}: after {len(FACTORS)} steps the parameters or their averages differ "
            f"from the reference's by up to {error:.2g}"
        )
    return step


def _stepped(name: str, cell: Cell) -> tuple[list[Array], Step]:
    """Return the parameters and their averages after some steps, and the step."""
    params, grads = cell.arrays()
    fresh = [g.copy() for g in grads]
    step = CONTENDERS[name](cell.case, params, grads)
    averages = None
    for factor in FACTORS:
        for g, values in zip(grads, fresh, strict=True):  # some clip them in place
            np.multiply(values, factor, out=g)
        averages = step()
    return [*params, *(averages or [])], step


@lru_cache(maxsize=1)  # the contenders for one cell come one after another
def _expected(cell: Cell) -> list[Array]:
    return _stepped("reference", cell)[0]
