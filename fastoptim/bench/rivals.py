"""The other libraries, each called as its users call it.

Each function in `RIVALS` turns a case and arrays into a `Run`, or raises `UnavailableError`. A
library is imported by its own function alone, when that is called.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import count
from typing import Any

import numpy as np

from fastoptim._containers import Array

from . import _yardsticks
from .cases import Case
from .variants import Variant, variants

Step = Callable[[], Any]
Arrays = list[Array]


class UnavailableError(Exception):
    """A contender that does not exist here, in one word.

    It is "absent", not installed; "broken", installed, but it does not run, where a colon and the
    reason follow; "none", not written by its library; or "slow", which would take minutes.
    """


@dataclass(frozen=True)
class Run:
    """A contender at work.

    Parameters
    ----------
    step : function
        Takes one step; this is what is timed.
    results : function, optional
        Returns the parameters and then the averages, if there are any, or if the parameters are
        not updated in place.
    refresh : function, optional
        Takes over the gradients again after they have changed, if the contender has copies.
    """

    step: Step
    results: Callable[[], Arrays] | None = None
    refresh: Callable[[], Any] = lambda: None


def needed(module: str) -> Any:
    """Return a module of a package that only its own contenders need.

    Raises
    ------
    UnavailableError
        If it is not installed.
    """
    if find_spec(module.partition(".")[0]) is None:
        raise UnavailableError("absent")
    return import_module(module)


# PyTorch

# torch keeps scalars of these between the steps, in its default dtype, float32, whatever p has.
FLOAT32_SCALARS = ("ASGD", "NAdam")


def _torch(case: Case, params: Arrays, grads: Arrays, **options: bool) -> Run:
    """Run the class of ``torch.optim`` with the same name, formula and arguments."""
    torch = needed("torch")
    # torch's SGD with as much dampening as momentum is the averaged form of momentum.
    name, more = case.optimizer.__name__, {}
    if name == "Momentum":
        name, more = "SGD", {"dampening": case.hyper["momentum"]}
    method = getattr(torch.optim, name, None)
    if method is None or not {*options, *case.hyper} <= {*inspect.signature(method).parameters}:
        raise UnavailableError("none")
    tensors = _torch_tensors(params, grads)
    optimizer = method(tensors, **case.hyper, **more, **options)
    if more:
        # Without a velocity to start from, torch takes the first gradient for it, undamped. With
        # one of zeros, it damps the first gradient as all others.
        for tensor in tensors:
            optimizer.state[tensor]["momentum_buffer"] = torch.zeros_like(tensor)
    if name in FLOAT32_SCALARS and params[0].dtype == np.float64:
        return Run(partial(_in_double, optimizer.step))
    if case.around:
        return _torch_around(optimizer.step, tensors, params, **case.around)
    return Run(optimizer.step)


def _in_double(step: Step) -> None:
    torch = needed("torch")
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        step()
    finally:
        torch.set_default_dtype(default)


def _torch_tensors(params: Arrays, grads: Arrays) -> list[Any]:
    """Return tensors in the memory of the parameters, with gradients in that of the gradients."""
    torch = needed("torch")
    tensors = [torch.from_numpy(p) for p in params]
    for tensor, g in zip(tensors, grads, strict=True):
        tensor.grad = torch.from_numpy(g)
    return tensors


def _torch_around(
    rule: Step, tensors: list[Any], params: Arrays, max_grad_norm: float, ema_decay: float
) -> Run:
    """Clip and average as torch does: the latter as `get_ema_multi_avg_fn` of `swa_utils`.

    torch clips the gradients in place. The next step finds them clipped, and multiplies them all
    the same: torch does so whatever the norm.
    """
    torch = needed("torch")
    emas = [tensor.clone() for tensor in tensors]
    averages = [ema.numpy() for ema in emas]

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(tensors, max_grad_norm)
        rule()
        torch._foreach_lerp_(emas, tensors, 1 - ema_decay)

    return Run(step, lambda: [*params, *averages])


def torch_default() -> str:
    """Return how torch steps unless told: "foreach", or "one tensor at a time"."""
    torch = needed("torch")
    choose = needed("torch.optim.optimizer")._default_to_fused_or_foreach
    _, foreach = choose([torch.ones(1)], differentiable=False)
    return "foreach" if foreach else "one tensor at a time"


# What others wrote for torch

SCHEDULE_FREE = {"ScheduleFreeSGD": "SGDScheduleFree", "ScheduleFreeAdamW": "AdamWScheduleFree"}


def _optimi(case: Case, params: Arrays, grads: Arrays) -> Run:
    """Run the class of torch-optimi with the same name, formula and arguments."""
    only(case, "Adan", "StableAdamW")
    method = getattr(needed("optimi"), case.name)
    return Run(method(_torch_tensors(params, grads), **case.hyper).step)


def _schedulefree(case: Case, params: Arrays, grads: Arrays) -> Run:
    """Run the class of schedulefree, on copies of the gradients, which it may overwrite."""
    only(case, *SCHEDULE_FREE)
    torch = needed("torch")
    method = getattr(needed("schedulefree"), SCHEDULE_FREE[case.name])
    tensors = _torch_tensors(params, grads)
    theirs = [tensor.grad for tensor in tensors]
    optimizer = method(tensors, **case.hyper)
    optimizer.train()
    for tensor in tensors:
        tensor.grad = torch.empty_like(tensor)

    def step() -> None:
        torch._foreach_copy_([tensor.grad for tensor in tensors], theirs)
        optimizer.step()

    return Run(step)


# DeepSpeed


def _deepspeed(case: Case, params: Arrays, grads: Arrays) -> Run:
    """Run its optimizers for the CPU, which DeepSpeed compiles when they are first used."""
    only(case, "Adam", "AdamW", "Adagrad")
    refuse_float64(params)
    if case.name == "Adagrad":
        method = needed("deepspeed.ops.adagrad").DeepSpeedCPUAdagrad
    else:
        adam = needed("deepspeed.ops.adam").DeepSpeedCPUAdam
        method = partial(adam, adamw_mode=case.name == "AdamW")
    return Run(method(_torch_tensors(params, grads), **case.hyper).step)


# numba


@lru_cache(maxsize=1)
def _numba_loops(numba: Any) -> dict[str, Any]:
    @numba.njit(parallel=True, fastmath=True)
    def sgd(p, g, lr):  # type: ignore[no-untyped-def]
        for i in numba.prange(p.size):
            p[i] -= lr * g[i]

    @numba.njit(parallel=True, fastmath=True)
    def momentum(p, g, v, mu, lr):  # type: ignore[no-untyped-def]
        for i in numba.prange(p.size):
            v[i] = mu * v[i] + g[i]
            p[i] -= lr * v[i]

    @numba.njit(parallel=True, fastmath=True)
    def adagrad(p, g, h, lr, eps):  # type: ignore[no-untyped-def]
        for i in numba.prange(p.size):
            h[i] += g[i] * g[i]
            p[i] -= lr * g[i] / (np.sqrt(h[i]) + eps)

    @numba.njit(parallel=True, fastmath=True)
    def adam(p, g, m, v, b1, a1, b2, a2, lr, r2, eps):  # type: ignore[no-untyped-def]
        for i in numba.prange(p.size):
            m[i] = b1 * m[i] + a1 * g[i]
            v[i] = b2 * v[i] + a2 * g[i] * g[i]
            p[i] -= lr * m[i] / (np.sqrt(v[i]) * r2 + eps)

    @numba.njit(parallel=True, fastmath=True)
    def adamw(p, g, m, v, b1, a1, b2, a2, lr, r2, eps, decay):  # type: ignore[no-untyped-def]
        for i in numba.prange(p.size):
            m[i] = b1 * m[i] + a1 * g[i]
            v[i] = b2 * v[i] + a2 * g[i] * g[i]
            p[i] = decay * p[i] - lr * m[i] / (np.sqrt(v[i]) * r2 + eps)

    loops = sgd, momentum, adagrad, adam, adamw
    return dict(zip(NUMBA, loops, strict=True))


NUMBA = ("SGD", "SGD-momentum", "Adagrad", "Adam", "AdamW")


def _numba(case: Case, params: Arrays, grads: Arrays) -> Run:
    """Run parallel loops with fast mathematics, one for each tensor."""
    only(case, *NUMBA)
    loop, real = _numba_loops(needed("numba"))[case.name], params[0].dtype.type
    hyper = case.hyper
    arrays = [params, grads, *(_zeros(params) for _ in range(case.states))]
    if "betas" not in hyper:
        names = [name for name in ("momentum", "lr", "eps") if name in hyper]
        return Run(partial(_each, loop, arrays, [real(hyper[name]) for name in names]))
    decay = [1 - hyper["lr"] * hyper["weight_decay"]] if case.name == "AdamW" else []
    scalars = _adam_scalars(case)
    return Run(lambda: _each(loop, arrays, [real(x) for x in (*next(scalars), *decay)]))


def _each(function: Callable[..., Any], arrays: list[Arrays], scalars: list[Any]) -> None:
    for of_one_tensor in zip(*arrays, strict=True):
        function(*of_one_tensor, *scalars)


def _zeros(params: Arrays) -> Arrays:
    return [np.zeros_like(p) for p in params]


def _adam_scalars(case: Case) -> Iterator[tuple[float, ...]]:
    """Yield b1, a1, b2, a2, lr, r2, eps of each step: the letters of `fastoptim.reference`."""
    lr, (b1, b2), eps = case.hyper["lr"], case.hyper["betas"], case.hyper["eps"]
    for t in count(1):
        yield b1, 1 - b1, b2, 1 - b2, lr / (1 - b1**t), (1 - b2**t) ** -0.5, eps


# numexpr


def _numexpr(case: Case, params: Arrays, grads: Arrays) -> Run:
    """Run one expression for each array that changes."""
    only(case, "SGD", "Adam")
    evaluate, real = needed("numexpr").evaluate, params[0].dtype.type
    if case.name == "SGD":
        lr = real(case.hyper["lr"])

        def sgd(p: Any, g: Any) -> None:
            evaluate("p - lr * g", {"p": p, "g": g, "lr": lr}, out=p)

        return Run(partial(_each, sgd, [params, grads], []))

    def adam(p: Any, g: Any, m: Any, v: Any, *scalars: Any) -> None:
        names = dict(zip(("b1", "a1", "b2", "a2", "lr", "r2", "eps"), scalars, strict=True))
        names |= {"p": p, "g": g, "m": m, "v": v}
        evaluate("b1 * m + a1 * g", names, out=m)
        evaluate("b2 * v + a2 * g * g", names, out=v)
        evaluate("p - lr * m / (sqrt(v) * r2 + eps)", names, out=p)

    arrays, steps = [params, grads, _zeros(params), _zeros(params)], _adam_scalars(case)
    return Run(lambda: _each(adam, arrays, [real(x) for x in next(steps)]))


# JAX and optax

OPTAX = (
    *("SGD", "SGD-momentum", "RMSprop", "Adam", "AdamW"),
    *("Lion", "AdaBelief", "Yogi", "AdEMAMix", "ADOPT", "LAMB", "LARS"),
)


def _optax(case: Case, params: Arrays, grads: Arrays) -> Run:
    """Run the rule of optax in one compiled function, which is given the old arrays to reuse.

    JAX has arrays of its own, into which the gradients are copied before the timing starts.
    """
    only(case, *OPTAX)
    optax, jax = needed("optax"), needed("jax")
    name = case.optimizer.__name__.lower()
    rule = getattr(optax, name, None) or getattr(optax.contrib, name)
    rule = rule(**_optax_hyper(case))

    def update(params: Any, state: Any, grads: Any) -> Any:
        updates, state = rule.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(update, donate_argnums=(0, 1))
    # JAX computes in float32 unless told otherwise.
    double = partial(jax.enable_x64, True) if params[0].dtype == np.float64 else nullcontext
    with double():
        ours = [jax.numpy.array(p) for p in params]
        state, theirs = rule.init(ours), []

    def refresh() -> None:
        nonlocal theirs
        with double():
            theirs = [jax.numpy.array(g) for g in grads]

    def step() -> None:
        nonlocal ours, state
        with double():
            ours, state = compiled(ours, state, theirs)
            jax.block_until_ready((ours, state))

    return Run(step, lambda: [np.asarray(p) for p in ours], refresh)


def _optax_hyper(case: Case) -> dict[str, Any]:
    hyper = dict(case.hyper)
    found = {"learning_rate": hyper.pop("lr")}
    if "betas" in hyper:
        found |= {f"b{i}": beta for i, beta in enumerate(hyper.pop("betas"), start=1)}
    if case.name == "RMSprop":
        found |= {"decay": hyper.pop("alpha"), "eps_in_sqrt": False}
    return found | hyper


# thinc


def _thinc(case: Case, params: Arrays, grads: Arrays) -> Run:
    """Run ``NumpyOps.adam`` on a copy of the gradient, which it overwrites with zeros."""
    only(case, "Adam")
    refuse_float64(params)
    ops = needed("thinc.api").NumpyOps()
    (b1, b2), eps = case.hyper["betas"], case.hyper["eps"]
    arrays = [params, grads, [g.copy() for g in grads], _zeros(params), _zeros(params)]
    steps = count(1)

    def adam(p: Any, g: Any, copy: Any, m: Any, v: Any, lr: float) -> None:
        np.copyto(copy, g)
        ops.adam(p, copy, m, v, b1, b2, eps, lr)

    def step() -> None:
        t = next(steps)
        _each(adam, arrays, [case.hyper["lr"] * math.sqrt(1 - b2**t) / (1 - b1**t)])

    return Run(step)


# C

BY_HAND = "C by hand"


def _by_hand(case: Case, params: Arrays, grads: Arrays, variant: Variant) -> Run:
    """Run loops of plain C or intrinsics, with the bits of ours, on threads that stay awake."""
    only(case, "Adam", "SGD-momentum")
    refuse_float64(params)
    rule = _yardsticks.Adam if case.name == "Adam" else _yardsticks.Momentum
    return Run(rule(params, grads, *variant, **case.hyper).step)


def by_hand_variants() -> list[Variant]:
    """Return in which ways the loops in C are run: in plain C where there are no others."""
    levels = _yardsticks.levels()
    return variants(levels[1:] or levels)


# scikit-learn


def _scikit_learn(case: Case, params: Arrays, grads: Arrays) -> Run:
    """Run the optimizers of its ``MLPClassifier``."""
    only(case, "SGD", "SGD-momentum", "Adam")
    module = needed("sklearn.neural_network._stochastic_optimizers")
    hyper = case.hyper
    if case.name == "Adam":
        b1, b2 = hyper["betas"]
        optimizer = module.AdamOptimizer(params, hyper["lr"], b1, b2, hyper["eps"])
    else:
        momentum = hyper.get("momentum", 0.0)
        optimizer = module.SGDOptimizer(params, hyper["lr"], momentum=momentum, nesterov=False)
    return Run(partial(optimizer.update_params, params, grads))


def only(case: Case, *names: str) -> None:
    """Refuse all cases but these: a library has no others, or has them by another formula."""
    if case.name not in names:
        raise UnavailableError("none")


def refuse_float64(params: Arrays) -> None:
    """Refuse float64, for a library that has float32 alone."""
    if params[0].dtype != np.float32:
        raise UnavailableError("none")


RIVALS: dict[str, Callable[..., Run]] = {
    "torch default": _torch,
    "torch foreach": partial(_torch, foreach=True),
    "torch fused": partial(_torch, fused=True),
    "torch-optimi": _optimi,
    "schedulefree": _schedulefree,
    "DeepSpeed": _deepspeed,
    "numba": _numba,
    BY_HAND: _by_hand,
    "numexpr": _numexpr,
    "optax": _optax,
    "thinc": _thinc,
    "scikit-learn": _scikit_learn,
}
PACKAGES = (
    *("torch", "torch-optimi", "schedulefree", "deepspeed", "numba", "numexpr", "jax", "optax"),
    *("thinc", "scikit-learn"),
)
# Some libraries add eps elsewhere: their results are compared with that flavour of the reference.
FLAVOURS = {(name, "Adam"): (("eps_hat", True),) for name in ("thinc", "scikit-learn")}


def versions() -> dict[str, str]:
    """Return the version of each of these packages, or "absent"."""
    return {package: _version(package) for package in PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
