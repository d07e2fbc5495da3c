"""The contenders, who compute a step, and the check without which none of them is timed.

A contender turns a case and arrays into a `Run`. The benchmarks get its step from `prepare` alone,
which first lets it take some steps, and refuses it if the parameters, or their averages where it
keeps some, differ from those of the reference by more than rounding.
"""

from __future__ import annotations

import inspect
import math
import textwrap
from collections.abc import Callable
from functools import lru_cache, partial
from types import ModuleType
from typing import Any

import numpy as np

from fastoptim.schedules import CosineAnnealing

from . import numpy_in_place, numpy_plain, rivals
from .cases import Case, Problem
from .rivals import Arrays, Run, Step, UnavailableError
from .variants import Variant

# What the gradient is multiplied by in each step of the check. If it were the same gradient in all
# steps, Adam would pass with any betas. There are seven, because RAdam's formula changes at the
# sixth step. The last factor is 1, so that the timing begins with the gradient as it was given.
FACTORS = (1.0, 2.0, -1.0, 1.0, 1.5, -0.5, 1.0)
TOLERANCE = 8  # units of rounding at 1, which the parameters stay below


LONGEST_REASON = 200  # characters: some libraries' errors fill a screen


class WrongResultError(Exception):
    """A contender that disagrees with the reference."""


def one_line(error: Exception) -> str:
    """Return the type and the message of an error, of a `WrongResultError` the message alone."""
    text = str(error) if isinstance(error, WrongResultError) else f"{type(error).__name__}: {error}"
    return textwrap.shorten(text, LONGEST_REASON, placeholder=" ...")


def _fastoptim(case: Case, params: Arrays, grads: Arrays, backend: str, **flavour: Any) -> Run:
    optimizer = case.optimizer(params, backend=backend, **case.hyper, **case.around, **flavour)
    averages = optimizer.ema if "ema_decay" in case.around else []
    return Run(partial(optimizer.step, grads), lambda: [*params, *averages])


def _numpy_plain(case: Case, params: Arrays, grads: Arrays) -> Run:
    return _numpy(numpy_plain, _steps_of(numpy_plain, case), case, params, grads)


def _numpy_in_place(case: Case, params: Arrays, grads: Arrays) -> Run:
    steps_of = _steps_of(numpy_in_place, case)
    scratch = np.empty_like(max(params, key=np.size)).reshape(-1)

    def in_scratch(p: Any, g: Any) -> Any:
        return steps_of(p, g, scratch[: p.size].reshape(p.shape))

    return _numpy(numpy_in_place, in_scratch, case, params, grads)


def _numpy(
    module: ModuleType, steps_of: Callable[..., Any], case: Case, params: Arrays, grads: Arrays
) -> Run:
    if not case.around:
        return Run(_together(steps_of, params, grads))
    max_norm, decay = case.around["max_grad_norm"], case.around["ema_decay"]
    # People would scale g in place. Here the next step needs the same g to clip again.
    clipped, averages = [g.copy() for g in grads], [p.copy() for p in params]
    rule_step = _together(steps_of, params, clipped)

    def step() -> None:
        module.clip_by_norm(clipped, grads, max_norm)
        rule_step()
        module.average(averages, params, decay)

    return Run(step, lambda: [*params, *averages])


def _steps_of(module: ModuleType, case: Case) -> Callable[..., Any]:
    """Return the generator function of a case's rule, with its hyperparameters."""
    steps = getattr(module, case.optimizer.rule.name, None)
    if steps is None or not case.hyper.keys() <= inspect.signature(steps).parameters.keys():
        raise UnavailableError("none")
    return partial(steps, **{name: _plain(value) for name, value in case.hyper.items()})


def _plain(value: Any) -> Any:
    """Return a hyperparameter, of a schedule the function that people write in its place."""
    if not isinstance(value, CosineAnnealing):
        return value
    highest, lowest, length = value.base, value.eta_min, value.T_max
    return lambda t: lowest + (highest - lowest) * (1 + math.cos(math.pi * t / length)) / 2


def _together(steps_of: Callable[[Any, Any], Any], params: Arrays, grads: Arrays) -> Step:
    """Return a step of all tensors, each with a generator of its own."""
    generators = [steps_of(p, g) for p, g in zip(params, grads, strict=True)]

    def step() -> None:
        for steps in generators:
            next(steps)

    return step


SUBJECT, REFERENCE = "fastoptim", "reference"
CONTENDERS: dict[str, Callable[..., Run]] = {
    SUBJECT: partial(_fastoptim, backend="compiled"),
    REFERENCE: partial(_fastoptim, backend="reference"),
    "NumPy plain": _numpy_plain,
    "NumPy in place": _numpy_in_place,
    **rivals.RIVALS,
}


def variants_of(name: str) -> list[Variant] | list[None]:
    """Return the ways in which a contender can be run, or None where nobody can choose."""
    return rivals.by_hand_variants() if name == rivals.BY_HAND else [None]


def prepare(name: str, problem: Problem, variant: Variant | None = None) -> Step:
    """Return the step of a contender on arrays of its own, once it has proved right.

    Parameters
    ----------
    name : str
        One of `CONTENDERS`.
    problem : Problem
        What it is to compute.
    variant : Variant, optional
        One of `variants_of` the contender, by default the last.

    Raises
    ------
    UnavailableError
        If there is no such contender here.
    WrongResultError
        If its parameters or averages differ from the reference's by more than rounding.
    """
    return prepare_on(name, problem, *problem.arrays(), variant)


def prepare_on(
    name: str, problem: Problem, params: Arrays, grads: Arrays, variant: Variant | None = None
) -> Step:
    """Return the step of a contender on these arrays, which are the problem's."""
    flavour = rivals.FLAVOURS.get((name, problem.case.name), ())
    run, arrays = _checked_run(name, problem.case, params, grads, variant)
    pairs = zip(arrays, _expected(problem, flavour), strict=True)
    error = np.max([np.abs(a - expected).max() for a, expected in pairs])
    if not error <= TOLERANCE * np.finfo(problem.dtype).eps:  # a NaN is wrong as well
        raise WrongResultError(
            f"wrong result of {name}: after {len(FACTORS)} steps the parameters or their averages "
            f"differ from the reference's by up to {error:.2g}"
        )
    return run.step


def _checked_run(
    name: str, case: Case, params: Arrays, grads: Arrays, variant: Variant | None
) -> tuple[Run, Arrays]:
    """Return a contender at work, and its results after some steps."""
    variant = variant or variants_of(name)[-1]
    try:
        run = CONTENDERS[name](case, params, grads, *([variant] if variant else []))
        return run, _after_some_steps(run, params, grads)
    except UnavailableError:
        raise
    except Exception as error:
        if name not in rivals.RIVALS:
            raise
        # Whatever another library fails with, the others can be measured.
        raise UnavailableError(f"broken: {one_line(error)}") from error


def _after_some_steps(run: Run, params: Arrays, grads: Arrays) -> Arrays:
    fresh = [g.copy() for g in grads]
    for factor in FACTORS:
        for g, values in zip(grads, fresh, strict=True):  # some contenders clip g in place
            np.multiply(values, factor, out=g)
        run.refresh()
        run.step()
    return run.results() if run.results else params


@lru_cache(maxsize=2)  # the contenders for one problem come one after another
def _expected(problem: Problem, flavour: tuple[tuple[str, Any], ...]) -> Arrays:
    params, grads = problem.arrays()
    run = _fastoptim(problem.case, params, grads, "reference", **dict(flavour))
    return _after_some_steps(run, params, grads)
