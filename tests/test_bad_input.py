"""Promise 3, argument by argument: every public callable reads a value rightly, or refuses it.

The table says of each argument of each public callable what is right, and of what kind it is; an
argument without a row fails. Each is given every odd value. Then either the call does what it does
with the plain value that is meant, or it raises TypeError or ValueError, whose message names the
argument, what was found and what was expected, and has changed nothing.
"""

from __future__ import annotations

import functools
import inspect
import re
import tempfile
from collections import UserDict, deque
from collections.abc import Callable, Iterator
from itertools import takewhile
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest
from wrong import (
    ARRAYS,
    CLOSED,
    FINITE,
    FLAG,
    NONNEGATIVE,
    POSITIVE,
    ROLES,
    SHARE,
    Kind,
    Lying,
    count,
    extended,
    maybe,
    others,
    real,
    several,
    whole_numbers,
    word,
)
from zoo import OPTIMIZERS, name_of, snapshot

import fastoptim as fo
from fastoptim import functional, init, reference, schedules
from fastoptim._optimizer import Options
from fastoptim._rule import Rule
from fastoptim._settings import SETTINGS
from fastoptim.bench.loop import can_share
from fastoptim.mixed import MixedOptions
from fastoptim.schedules import Constant, ReduceLROnPlateau

BASE = np.arange(1.0, 7.0).reshape(2, 3)
ONES = np.ones((2, 3))


def optimizer(**options: Any) -> fo.Optimizer:
    opt = fo.Adam([BASE.copy(), BASE.copy()], lr=0.1, **options)
    opt.step([ONES, ONES])
    return opt


# The callables


def callables() -> dict[str, Any]:
    """Return every public function, class and method, by name."""
    found: dict[str, Any] = {}
    modules = [m for name in fo.__all__ if isinstance(m := getattr(fo, name), ModuleType)]
    for module in [fo, *modules]:
        for name in module.__all__ if module not in (functional, reference, fo.typing) else ():
            if callable(value := getattr(module, name)):
                found[name] = value
    for module in (functional, reference):
        found |= {f"{module.__name__[10:]}.{name}": getattr(module, name) for name in RULES}
    classes = {name: cls for name, cls in found.items() if isinstance(cls, type)}
    for name, cls in classes.items():
        if name != "ParamGroup":
            own = takewhile(lambda b, c=cls: b is c or b not in classes.values(), cls.__mro__)
            for method, value in (item for base in own for item in vars(base).items()):
                public = method == "__call__" or not method.startswith("_")
                if public and isinstance(value, FunctionType):
                    found[f"{name}.{method}"] = value
    return found


RULES = [
    name
    for name, rule in vars(reference).items()
    if isinstance(rule, Rule) and not rule.numbers  # with which there is no function
]
# Optimizers make the groups, which are public for isinstance and for annotations.
# Those of rules are NumPy's; what rows may be is in tests/test_rows.py.
NOT_CALLED = {"Optimizer", "ParamGroup", "Rows", "Rows.from_csr", "Schedule", "where", "sqrt"}
CALLABLES = {name: value for name, value in callables().items() if name not in NOT_CALLED}

# What the methods are called on, and calls that are more than a call.
BOUND: dict[str, Callable[[], Callable[..., Any]]] = {
    "Optimizer.add_param_group": lambda: optimizer().add_param_group,
    "Optimizer.load_state_dict": lambda: optimizer().load_state_dict,
    "Optimizer.state_dict": lambda: optimizer().state_dict,
    "Optimizer.load": lambda: optimizer().load,
    "Optimizer.rebind": lambda: optimizer().rebind,
    "Optimizer.save": lambda: optimizer().save,
    "Optimizer.step": lambda: optimizer().step,
    "Optimizer.use_average": lambda: fo.ScheduleFreeSGD(BASE.copy()).use_average,
    "Optimizer.use_ema": lambda: optimizer(ema_decay=0.5).use_ema,
    "Schedule.__call__": lambda: Constant(0.1).__call__,
    "Cyclic.momentum": lambda: schedules.Cyclic(0.1, 0.5).momentum,
    "OneCycle.momentum": lambda: schedules.OneCycle(0.5, 9).momentum,
    "ReduceLROnPlateau.step": lambda: ReduceLROnPlateau(optimizer()).step,
    "ReduceLROnPlateau.state_dict": lambda: ReduceLROnPlateau(optimizer()).state_dict,
    "ReduceLROnPlateau.load_state_dict": lambda: ReduceLROnPlateau(optimizer()).load_state_dict,
    "num_threads": lambda: entered(fo.num_threads),
    "rule": lambda: lambda **given: fo.rule(**given)(drift),
    "share_blas_threads": lambda: entered(fo.share_blas_threads),
    **{
        f"{module}.{name}": lambda m=m, name=name: rule_with_state(getattr(m, name))
        for module, m in (("functional", functional), ("reference", reference))
        for name in RULES
    },
}


def entered(manager: Any) -> Callable[..., None]:
    def call(**given):
        with manager(**given):
            pass

    return call


def drift_scalars(step, lr=0.1):
    return (lr,)


def drift(p, g, m, lr):
    return p - lr * g, m


def rule_with_state(rule: Any) -> Callable[..., None]:
    """Return a rule that is given the state that its hyperparameters ask for."""
    needs = getattr(reference, rule.__name__).needs

    def call(**given):
        for name, need in needs.items():
            if isinstance(given[need], (float, int, np.number, np.bool_)) and not given[need]:
                given[name] = None
        rule(**given)

    return call


def arguments(name: str) -> list[str]:
    """Return the names of a callable's arguments, with those that every optimizer takes."""
    found = [n for n in inspect.signature(CALLABLES[name]).parameters if n != "self"]
    if "options" in found:
        found.remove("options")
        options = MixedOptions if name == "Mixed" else Options
        found += [option for option in options.__annotations__ if option not in found]
    return found


# The table: what is right for an argument, and its kind

ERRORS = {"T": TypeError, "V": ValueError}


def arrays(role: str) -> Iterator[tuple[Any, Any]]:
    """Yield odd arrays, with a plain copy of each where it is right, else the error."""
    for make, outcomes in ARRAYS.values():
        outcome = outcomes[ROLES.index(role)]
        if outcome != ".":
            array = make(BASE.copy())
            yield array, ERRORS[outcome] if outcome in ERRORS else np.array(array, subok=False)


def placed(role: str, *forms: Callable[[Any], Any], alone: bool = True) -> list[tuple[Any, Any]]:
    """Return odd arrays in each form of container, and those that are arrays alone."""
    found = []
    for array, outcome in arrays(role):
        for form in (*forms, lambda x: x) if alone and isinstance(array, np.ndarray) else forms:
            wrong = isinstance(outcome, type)
            found.append((form(array), outcome if wrong else form(outcome)))
    return found


def table(
    cases: Callable[[], list[tuple[Any, Any]]], none: Any = TypeError, iterator: Any = Exception
) -> Kind:
    """Return the kind of the cases; what is no container at all is refused with TypeError.

    An iterator may be one of gradients, and is refused for the numbers that it gives.
    """

    class Table(Kind):
        def cases(self):
            for value in others():
                if not hasattr(value, "__len__"):
                    outcome = iterator if isinstance(value, Iterator) else TypeError
                    yield value, none if value is None else outcome
            yield from cases()

    return Table(lambda _: TypeError)


NOT_TRIED = "not tried"  # an outcome


def params_cases():
    whole = [BASE.copy(), BASE.copy()]
    buffer = np.ones(12)
    return [
        *placed("param", lambda x: [BASE.copy(), x], lambda x: {"w": x}, lambda x: [{"params": x}]),
        *(([x], error) for x, error in ((whole, [whole]), ({}, ValueError), ({1: 2}, TypeError))),
        *(([], ValueError), ((), ValueError), ({}, ValueError), (iter([]), ValueError)),
        *(("weights", TypeError), (b"ab", TypeError), ({1, 2}, TypeError), ({}.keys(), TypeError)),
        ([{"params": whole}, BASE.copy()], TypeError),
        ([whole[0], whole[0]], ValueError),
        ([buffer[:6], buffer[5:]], ValueError),
        ([buffer[:6], buffer[6:]], [np.ones(6), np.ones(6)]),
        ((x for x in whole), [BASE.copy(), BASE.copy()]),
        (deque(whole), [BASE.copy(), BASE.copy()]),
        (UserDict(w=whole[0]).values(), [BASE.copy()]),
        (UserDict(w=whole[0]), {"w": BASE.copy()}),
    ]


def rebind_cases():
    found = []
    for array, outcome in arrays("param"):
        fits = not isinstance(outcome, type) and (outcome.shape, outcome.dtype) == ((2, 3), "f8")
        error = outcome if isinstance(outcome, type) else Exception
        found.append(([BASE.copy(), array], [BASE.copy(), outcome] if fits else error))
    others = ([BASE.copy()], [BASE.copy()] * 3, {"w": BASE.copy()}, BASE.copy(), {}, [])
    return [*found, *((x, ValueError) for x in others)]


def group_cases():
    found = [
        ({"params": x}, y if isinstance(y, type) else {"params": y})
        for x, y in params_cases()
        if not (isinstance(x, list) and x and isinstance(x[0], dict))
    ]
    return [*found, ([BASE], TypeError), ({"lr": 1}, TypeError), ({}, TypeError), ("w", TypeError)]


def mixed_cases():
    def of(group):
        return [{"optimizer": fo.SGD, **group}] if isinstance(group, dict) else group

    wrong = [([BASE], TypeError), ([{"params": BASE}], ValueError), ([], ValueError)]
    return [*wrong, *((of(x), y if isinstance(y, type) else of(y)) for x, y in group_cases())]


def grads_cases():
    pair_of = [ONES, ONES]
    return [
        *placed("grad", lambda x: [ONES, x], lambda x: (x, None), alone=False),
        *((x, TypeError) for x in ({}, {0: ONES, 1: ONES}, set(), "ab", ONES)),
        *((x, ValueError) for x in ([], [ONES], [ONES] * 3, Lying([ONES]), Lying([ONES] * 3))),
        (deque(pair_of), pair_of),
        (iter(pair_of), pair_of),
        (pair_of, pair_of),
        ([None, None], [None, None]),
    ]


def grads_alone(role):
    def cases():
        shared = np.ones(8)
        twice = [shared[:4], shared[3:]], [shared, shared], {"a": shared[::2], "b": shared[:2]}
        found = placed(role, lambda x: [ONES.copy(), x], lambda x: {"w": x})
        found += [("ab", TypeError), (b"ab", TypeError), ({1}, TypeError), (iter([]), ValueError)]
        if role == "clip":
            found += [(x, ValueError) for x in twice]
        return found

    return cases


def weights_cases():
    found = placed("prune", lambda x: [BASE.copy(), x], lambda x: {"w": x})
    return [*found, ([], ValueError), ({}, ValueError), ("ab", TypeError), ({1}, TypeError)]


def mask_cases():
    found = placed("mask", lambda x: [x], alone=False)
    return [*found, ([], ValueError), ([None] * 2, ValueError), ({}, TypeError), ("w", TypeError)]


def saved_cases():
    """Return state_dicts of `optimizer` in which one thing is odd."""
    saved, found = optimizer().state_dict(), []

    def with_one(value, *path):
        odd = inner = dict(saved)
        for key in path[:-1]:
            inner[key] = list(inner[key]) if isinstance(inner[key], list) else dict(inner[key])
            inner = inner[key]
        inner[path[-1]] = value
        if value is KeyError:
            del inner[path[-1]]
        return odd

    def add(error, value, *path):
        found.append((with_one(value, *path), error))

    for array, outcome in arrays("saved"):
        place = "state", 0, "m"
        plain = outcome if isinstance(outcome, type) else with_one(outcome, *place)
        found.append((with_one(array, *place), plain))
    for name in saved:
        add(ValueError, KeyError, name)
        if name != "skipped_steps":
            for value in (None, 1j, [], "text", np.ones(2), object()):
                add(Exception, value, name)
    for value in (True, 1.0, "1", None, np.ones(2)):
        add(TypeError, value, "format")
        add(TypeError, value, "skipped_steps")
        add(TypeError, value, "state", 0, "step")
    for value in (-1, 2**62, 10**5000):
        add(ValueError, value, "state", 1, "step")
    for value in (-1, 2, 2**70):
        add(ValueError, value, "format")
    for value in (5, None, np.arange(2), [0, 0], [0], [0, 1, 2], [np.ones(2), 1], "01", {0: 0}):
        add(ValueError, value, "param_groups", 0, "params")
    for value in ([1, 0], (0, 1), (1, 0)):  # a set of names, in whatever order
        add(saved, value, "param_groups", 0, "params")
    add(ValueError, 5, "param_groups", 0, 5)
    add(ValueError, KeyError, "param_groups", 0, "lr")
    add(ValueError, ONES, "state", 0, "x")
    add(ValueError, KeyError, "state", 0, "v")
    add(ValueError, {}, "state", "w")
    return [*found, ({}, ValueError), ({0.25: 1}, ValueError), ("text", TypeError), ([], TypeError)]


def plateau_cases():
    saved = ReduceLROnPlateau(optimizer()).state_dict()
    return [({}, ValueError), ({**saved, "x": 1}, ValueError), ([], TypeError)]


def callables_only(value: Any) -> Any:
    return value if callable(value) else TypeError


def sequence_of(item: Callable[[Any], Any], fits: Callable[[list[Any]], bool]) -> Kind:
    def outcome(value):
        if not issubclass(type(value), (list, tuple, range, np.ndarray)):
            return TypeError
        if isinstance(value, np.ndarray) and value.ndim == 0:
            return TypeError
        found = [item(x) for x in value]
        wrong = [x for x in found if x in (TypeError, ValueError)]
        return wrong[0] if wrong else tuple(found) if fits(found) else ValueError

    return Kind(outcome, lambda: [[1, 2], (1,), [2], [3, -1], np.array([4]), [0.5], [1, 2, 3]])


def metric(value: Any) -> Any:
    if type(value) is np.ndarray:
        return float(value) if value.shape == () and value.dtype == float else TypeError
    if type(value) in (bool, np.bool_):
        return float(value)
    if type(value).__name__ == "Decimal":
        return float(value)
    outcome = extended(value)
    if outcome is not ValueError or isinstance(value, (float, np.floating)):
        return value if outcome is ValueError else outcome
    return ValueError


def dtype(value: Any) -> Any:
    if type(value) in (str, type, np.dtype):
        return "f8" if value in ("float64", float) else TypeError
    if type(value) in (np.float32, np.float64):  # which NumPy asks for its dtype
        return value.dtype
    return TypeError


def path(value: Any) -> Any:
    return NOT_TRIED if issubclass(type(value), (str, bytes)) else TypeError


@functools.cache
def folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory()


def saved_file() -> str:
    file = f"{folder().name}/saved"
    optimizer().save(file)
    return file


def least_rate(value: Any) -> Any:
    if issubclass(type(value), (list, tuple)):
        return sequence_of(NONNEGATIVE.outcome, lambda found: len(found) == 1).outcome(value)
    return NONNEGATIVE.outcome(value)


def state_names(value: Any) -> Any:
    sequences = list, tuple, range, np.ndarray
    if not issubclass(type(value), sequences) or getattr(value, "shape", None) == ():
        return TypeError
    # the function has the arguments of one state array
    return NOT_TRIED if all(isinstance(x, str) for x in value) else ValueError


def mapping_of_names(value: Any) -> Any:
    if value is not None and type(value) is not dict:
        return TypeError
    return ValueError if value else value


def loops(value: Any) -> Any:
    return None if value is None else ValueError if type(value) is dict else TypeError


def name_of_rule(value: Any) -> Any:
    if value is not None and not issubclass(type(value), str):
        return TypeError
    return value if value is None else str(value) or ValueError


def name_of_class(value: Any) -> Any:
    found = name_of_rule(value)
    return ValueError if isinstance(found, str) and not found.isidentifier() else found


def decoupled(value: Any) -> Any:
    found = FLAG.outcome(value)
    return NOT_TRIED if found is True or isinstance(value, str) else found


NATURAL = count(1)
INVERTIBLE = real(lambda x: x > 0 and 1 / float(x) < np.inf)
GAIN = real(lambda x: 0 <= x < 1e30)
MIDDLING = real(lambda x: 1e-100 <= x < 1e100)
LAYOUT = word("out_in", "in_out")
NONLINEARITY = word(*init.GAINS, "leaky_relu")
PARAMS = lambda: [BASE.copy()]  # noqa: E731
WEIGHTS = table(weights_cases)
STATE = Kind(lambda value: TypeError)
DRIFT = fo.rule(scalars=drift_scalars, state=("m",))(drift)
ROWS: dict[str, tuple[Any, Kind]] = {
    # optimizers, and the functions of their rules
    "params": (PARAMS, table(params_cases)),
    "Mixed.params": (
        lambda: [{"optimizer": fo.SGD, "params": BASE.copy()}],
        table(mixed_cases),
    ),
    "Optimizer.add_param_group.group": (lambda: {"params": BASE.copy()}, table(group_cases)),
    "Optimizer.rebind.params": (lambda: [BASE.copy(), BASE.copy()], table(rebind_cases)),
    "Optimizer.step.grads": (lambda: [ONES, ONES], table(grads_cases)),
    "Optimizer.step.grad_scale": (1.0, INVERTIBLE),
    "Optimizer.load_state_dict.state_dict": (lambda: optimizer().state_dict(), table(saved_cases)),
    "path": (lambda: saved_file(), Kind(path)),
    "Optimizer.save.params": (True, FLAG),
    "lr": (0.1, NONNEGATIVE),
    "momentum": (0.9, NONNEGATIVE),
    "Momentum.momentum": (0.9, SHARE),
    "ScheduleFreeSGD.momentum": (0.9, SHARE),
    "functional.momentum.momentum": (0.9, SHARE),
    "reference.momentum.momentum": (0.9, SHARE),
    "dampening": (0.0, FINITE),
    "weight_decay": (0.1, NONNEGATIVE),
    "alpha": (0.5, SHARE),
    "ASGD.alpha": (0.5, NONNEGATIVE),
    "functional.asgd.alpha": (0.5, NONNEGATIVE),
    "reference.asgd.alpha": (0.5, NONNEGATIVE),
    **dict.fromkeys(
        ("AdEMAMix.alpha", "functional.ademamix.alpha", "reference.ademamix.alpha"),
        (0.5, NONNEGATIVE),
    ),
    "betas": ((0.9, 0.99), several(SHARE.outcome, 0.5)),
    **dict.fromkeys(
        [
            f"{name}.betas"
            for rule in ("AdEMAMix", "Adan")
            for name in (rule, f"functional.{rule.lower()}", f"reference.{rule.lower()}")
        ],
        ((0.9, 0.99, 0.999), several(SHARE.outcome, 0.5, size=3)),
    ),
    **dict.fromkeys(("FTRL.lr", "functional.ftrl.lr", "reference.ftrl.lr"), (0.1, INVERTIBLE)),
    "etas": ((0.5, 1.2), several(NONNEGATIVE.outcome, 0.5, lambda a, b: 0 < a < 1 < b)),
    "step_sizes": ((0.1, 50.0), several(NONNEGATIVE.outcome, 0.5, lambda a, b: a <= b)),
    "rho": (0.9, SHARE),
    "form": ("averaged", word("averaged", "heavy_ball")),
    "mask": (None, table(mask_cases, none=None)),
    "bounds": (None, maybe(several(extended, 0.5, lambda a, b: a <= b))),
    "ema_decay": (None, maybe(SHARE)),
    "max_grad_value": (None, maybe(NONNEGATIVE)),
    "max_param_grad_norm": (None, maybe(NONNEGATIVE)),
    "max_grad_norm": (None, maybe(NONNEGATIVE)),
    "nonfinite": ("skip", word("ignore", "raise", "skip")),
    "backend": ("reference", maybe(word("compiled", "reference"))),
    "state_path": (None, maybe(Kind(path))),
    "step": (3, count(1, 62)),
    **dict.fromkeys(
        (
            "eps",
            "eps_root",
            "l1",
            "lambd",
            "t0",
            "lr_decay",
            "initial_accumulator_value",
            "l1_regularization_strength",
            "l2_regularization_strength",
            "beta",
            "momentum_decay",
            "ScheduleFreeSGD.warmup_steps",
            "ScheduleFreeAdamW.warmup_steps",
            "r",
            "weight_lr_power",
            "trust_coefficient",
        ),
        (0.5, NONNEGATIVE),
    ),
    **dict.fromkeys(
        (
            "nesterov",
            "amsgrad",
            "centered",
            "eps_inside",
            "eps_hat",
            "cautious",
            "lazy",
            "rests",
            "maximize",
            "flush_denormals",
            "cast_grads",
            "decoupled_weight_decay",
            "three_phase",
            "staircase",
        ),
        (False, FLAG),
    ),
    # gradients, pruning, initial weights
    "grads": (lambda: [BASE.copy(), None], table(grads_alone("measure"), iterator=[0.25, 0.5])),
    "clip_grad_norm_.grads": (lambda: [BASE.copy(), None], table(grads_alone("clip"))),
    "clip_grad_value_.grads": (lambda: [BASE.copy(), None], table(grads_alone("clip"))),
    "max_norm": (1.0, NONNEGATIVE),
    "clip_value": (1.0, NONNEGATIVE),
    "arrays": (lambda: [BASE.copy()], WEIGHTS),
    "sparsity": (0.5, CLOSED),
    "shape": (
        (2, 3),
        Kind(
            whole_numbers,
            lambda: [
                (1,) * 65,
                (2**31, 2**31),
                (2**61,) * 30,
                [3, 4],
                (3, 0),
                (3, True),
                (3, 4.0),
                np.array([3, 4]),
                {3, 4},
                b"ab",
            ],
        ),
    ),
    "dtype": (
        "f8",
        Kind(
            dtype,
            lambda: [
                "float64",
                float,
                np.float16,
                int,
                ">f8",
                "f8,f8",
                "(2,",
                "no such",
                object,
                np.dtype("i8"),
                {"names": ["a"], "formats": []},
            ],
        ),
    ),
    "rng": (
        lambda: np.random.default_rng(1),
        Kind(
            lambda value: TypeError,
            lambda: [np.random, np.random.RandomState(1), np.random.default_rng],
        ),
    ),
    "gain": (1.0, GAIN),
    "layout": ("in_out", LAYOUT),
    "a": (0.1, FINITE),
    "mode": ("fan_in", word("fan_in", "fan_out")),
    "nonlinearity": ("relu", NONLINEARITY),
    "param": (None, maybe(FINITE)),
    # schedules
    **dict.fromkeys(("base", "eta_min", "base_lr", "max_lr"), (0.5, FINITE)),
    **dict.fromkeys(
        ("factor", "gamma", "start_factor", "end_factor", "power", "decay_rate", "threshold"),
        (0.5, NONNEGATIVE),
    ),
    **dict.fromkeys(
        (
            "total_iters",
            "step_size",
            "warmup_steps",
            "T_max",
            "T_0",
            "T_mult",
            "step_size_up",
        ),
        (5, NATURAL),
    ),
    **dict.fromkeys(("step_size_down", "epochs", "steps_per_epoch"), (None, maybe(NATURAL))),
    **dict.fromkeys(("decay_steps", "div_factor", "final_div_factor"), (2.0, POSITIVE)),
    **dict.fromkeys(("base_momentum", "max_momentum"), (0.5, FINITE)),
    "OneCycle.momentum.base_momentum": (0.5, MIDDLING),
    "OneCycle.momentum.max_momentum": (0.5, MIDDLING),
    "OneCycle.total_steps": (
        5,
        Kind(lambda value: ValueError if value is None else NATURAL.outcome(value)),
    ),
    "WarmUp.warmup_steps": (5, count(0)),
    "Cyclic.mode": ("triangular", word("triangular", "triangular2", "exp_range")),
    "scale_fn": (None, maybe(Kind(callables_only))),
    "scale_mode": ("cycle", word("cycle", "iterations")),
    "anneal_strategy": ("cos", word("cos", "linear")),
    "pct_start": (0.5, CLOSED),
    "schedule": (Constant(0.1), Kind(callables_only)),
    "schedulers": ([Constant(0.1), Constant(0.2)], sequence_of(callables_only, lambda x: False)),
    "milestones": ([3], sequence_of(count(0).outcome, lambda x: len(x) == 1)),
    "MultiStep.milestones": ([3], sequence_of(count(0).outcome, lambda x: x == sorted(x))),
    "Schedule.__call__.step": (3, count(0)),
    "steps": (
        3,
        Kind(
            lambda value: (
                x if (x := NATURAL.outcome(value)) in (TypeError, ValueError) else NOT_TRIED
            )
        ),
    ),
    # the plateau
    "optimizer": (optimizer, Kind(lambda value: TypeError)),
    "ReduceLROnPlateau.mode": ("min", word("min", "max")),
    "ReduceLROnPlateau.factor": (0.5, SHARE),
    "patience": (1, count(0)),
    "cooldown": (1, count(0)),
    "threshold_mode": ("rel", word("rel", "abs", "rel_magnitude")),
    "min_lr": (0.0, Kind(least_rate, lambda: [[0.5], (0.5,), [-1.0], [True], [0.1, 0.1]])),
    "metric": (0.5, Kind(metric)),
    "ReduceLROnPlateau.load_state_dict.state_dict": (
        lambda: ReduceLROnPlateau(optimizer()).state_dict(),
        table(plateau_cases),
    ),
    # rules of one's own
    "scalars": (lambda: drift_scalars, Kind(lambda value: TypeError)),
    "state": (("m",), Kind(state_names)),
    "needs": (None, Kind(mapping_of_names)),
    "starts": (None, Kind(mapping_of_names)),
    "decoupled": (False, Kind(decoupled)),
    "name": (None, Kind(name_of_rule)),
    "loops": (None, Kind(loops)),
    "rule": (lambda: DRIFT, Kind(lambda value: TypeError)),
    "optimizer.name": (None, Kind(name_of_class)),
    # of rules whose steps cannot leave out rows
    **{
        f"{cls.__name__}.lazy": (
            False,
            Kind(lambda value: ValueError if (made := FLAG.outcome(value)) is True else made),
        )
        for cls in OPTIMIZERS
        if not cls.rule.lazy
    },
    # the process
    "n": (1, count(1, 31)),
    "set_num_threads.n": (None, maybe(count(1, 31))),
    "share": (
        False,
        Kind(
            lambda value: FLAG.outcome(value) or NOT_TRIED if type(value) is not bool else NOT_TRIED
        ),
    ),
}
NOT_CHECKED = {"plot.ax"}  # matplotlib's


def alone(role: str) -> list[tuple[Any, Any]]:
    """Return odd arrays, of parameters those that can have plain gradients and state."""
    plain = ONES.shape, ONES.strides, ONES.dtype
    return [
        (array, outcome)
        for array, outcome in arrays(role)
        if isinstance(outcome, type)
        or role != "param"
        or (array.shape, array.strides, array.dtype) == plain
    ]


def row(name: str, argument: str) -> tuple[Any, Kind]:
    """Return what is right for an argument, and its kind."""
    if name.partition(".")[0] in ("functional", "reference"):
        rule = getattr(reference, name.partition(".")[2])
        if argument in ("p", "g", *rule.state):
            role = {"p": "param", "g": "grad"}.get(argument, "state")
            return lambda: BASE.copy(), table(lambda: alone(role))
        if argument in rule.needs.values() and ROWS[argument][1] is FLAG:
            return True, FLAG  # so that there is state to be odd
        if argument == "step" and not rule.needs_step:
            return 3, maybe(ROWS["step"][1])
    return ROWS.get(f"{name}.{argument}") or ROWS[argument]


TABLE = {
    name: {a: row(name, a) for a in arguments(name) if f"{name}.{a}" not in NOT_CHECKED}
    for name in CALLABLES
}


def test_every_row_has_an_argument():
    used = {key for name, rows in TABLE.items() for a in rows for key in (a, f"{name}.{a}")}
    assert set(ROWS) <= used
    assert set(BOUND) <= set(CALLABLES)


@pytest.fixture(autouse=True)
def _threads():
    yield
    fo.set_num_threads(None)


def seen(thing: Any) -> Any:
    """Return all that can be seen of what a call is given, belongs to or returns."""
    if isinstance(thing, (np.ndarray, np.floating)):
        return thing.dtype.str, thing.shape, np.asarray(thing).tobytes()
    if isinstance(thing, fo.Optimizer):
        return snapshot(thing), thing.grad_norm, thing.skipped_steps, thing.backend
    if isinstance(thing, ReduceLROnPlateau):
        return seen(thing.state_dict()), seen(thing.optimizer)
    if isinstance(thing, np.random.Generator):
        return repr(thing.bit_generator.state)
    if isinstance(thing, dict):
        return [(key, seen(value)) for key, value in thing.items()]
    if isinstance(thing, (list, tuple)):
        return [seen(value) for value in thing]
    try:
        return repr(thing)
    except ValueError:  # of a number of over 4,300 digits
        return hash(thing)


def called(name: str, argument: str, value: Any) -> tuple[Any, ...]:
    """Call with an argument that may be odd; return the error or the result, and what is seen."""
    call = BOUND.get(name, lambda: CALLABLES[name])()
    rows = TABLE[name].items()
    given = {a: v() if isinstance(v, FunctionType) else v for a, (v, _) in rows}
    watched = [getattr(call, "__self__", None), {a: v for a, v in given.items() if a != argument}]
    before = seen(watched)
    try:
        result = call(**{**given, argument: value})
    except Exception as error:
        return error, before, seen(watched), fo.get_num_threads()
    written = argument == "p" or (name.startswith("clip") and argument == "grads")
    changed = seen(value) if written else None
    return None, seen(result), seen(watched), fo.get_num_threads(), changed


@pytest.mark.parametrize(("name", "argument"), [(n, a) for n, rows in TABLE.items() for a in rows])
def test_argument(name, argument):
    if name == "plot":
        pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra `plot`)")
    if name in ("Optimizer.save", "Optimizer.load"):
        pytest.importorskip("safetensors", reason="safetensors is not installed")
    if name == "share_blas_threads" and not can_share():
        pytest.skip("NumPy's BLAS cannot share its threads")
    for value, outcome in TABLE[name][argument][1].cases():
        if outcome is NOT_TRIED:
            continue
        error, *rest = called(name, argument, value)
        if isinstance(outcome, type):
            assert is_refusal(error, outcome, argument), (value, error)
            assert rest[0] == rest[1]
        else:
            assert error is None, (value, error)
            assert rest == list(called(name, argument, outcome)[1:]), value


def is_refusal(error: Exception | None, expected: type, argument: str) -> bool:
    label = "params" if argument == "group" else argument
    pattern = rf"^{label}\b.*: expected .*found ."
    kinds = (TypeError, ValueError) if expected is Exception else expected
    return isinstance(error, kinds) and re.match(pattern, str(error), re.DOTALL) is not None


# The ways to a hyperparameter beside the constructor's argument
WAYS: dict[str, Callable[[fo.Optimizer, str, Any], None]] = {
    "attribute": setattr,
    "item": lambda opt, name, value: opt.param_groups[0].__setitem__(name, value),
    "update": lambda opt, name, value: opt.param_groups[0].update({"lr": 0.3, name: value}),
    "group": lambda opt, name, value: opt.add_param_group({"params": BASE.copy(), name: value}),
    "state_dict": lambda opt, name, value: opt.load_state_dict(with_hyper(opt, name, value)),
}
CALLS_FOR_STATE = {"ema_decay": 0.5, "amsgrad": True, "centered": True}
HYPER = [(cls, a) for cls in OPTIMIZERS for a in TABLE[cls.__name__] if a in cls.rule.kinds]


def with_hyper(opt: fo.Optimizer, name: str, value: Any) -> dict[str, Any]:
    saved = opt.state_dict()
    saved["param_groups"][0][name] = value
    return saved


@pytest.mark.parametrize(
    ("cls", "name", "way"),
    [
        *((*hyper, way) for hyper in HYPER for way in WAYS),
        *((fo.Adam, setting, "attribute") for setting in SETTINGS),
    ],
    ids=name_of,
)
def test_hyperparameter(cls, name, way):
    rows = TABLE[cls.__name__]
    right = {a: rows[a][0] for a in rows if a in cls.rule.kinds}
    if way == "state_dict":  # which has only the state that there is
        right |= {a: on for a, on in CALLS_FOR_STATE.items() if a == name}

    def made():
        opt = cls([BASE.copy()], **right)
        opt.step([ONES])
        return opt

    opt = made()
    before = seen(opt)
    for value, outcome in rows[name][1].cases():
        if isinstance(outcome, type):
            with pytest.raises((TypeError, ValueError)) as caught:
                WAYS[way](opt, name, value)
            assert is_refusal(caught.value, outcome, name)
            assert seen(opt) == before
        else:
            changed = made()
            WAYS[way](changed, name, value)
            found = getattr(changed, name) if name in SETTINGS else changed.param_groups[-1][name]
            assert repr(found) == repr(outcome)
