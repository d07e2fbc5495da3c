"""The rules as functions on the caller's own state, compiled and in NumPy."""

from __future__ import annotations

import inspect
import pickle
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fresh import output
from zoo import (
    DTYPES,
    OPTIMIZERS,
    WITH_FUNCTIONS,
    gradients,
    hyperparameters,
    name_of,
    options,
    same_bits,
)

from fastoptim import functional, optimizers, reference
from fastoptim._docs import entries, sections

CASES = [(cls, chosen) for cls in WITH_FUNCTIONS for chosen in options(cls)]


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize(("cls", "chosen"), CASES, ids=lambda v: name_of(v))
def test_functions_take_the_steps_of_the_class(cls, chosen, dtype):
    rule = cls.rule
    rng = np.random.default_rng(41)
    start = [rng.standard_normal(37).astype(dtype)]
    hyper = {**hyperparameters(cls), **chosen}
    given = {name: v for name, v in hyper.items() if name in rule.__signature__.parameters}
    optimizer = cls([start[0].copy()], **chosen)
    runs = []
    for module in (functional, reference):
        state = [
            np.full(37, rule.start_of(s, hyper), dtype) if s in rule.state_for(hyper) else None
            for s in rule.state
        ]
        runs.append((getattr(module, rule.name), start[0].copy(), state))
    for step in range(1, 6):
        g = gradients(rng, start)
        optimizer.step(g)
        for function, p, state in runs:
            function(p, g[0], *state, step=step, **given)
    for _, p, state in runs:
        assert same_bits(p, optimizer.param_groups[0]["params"][0])
        for name, array in zip(rule.state, state, strict=True):
            if array is not None:
                assert same_bits(array, optimizer.state[0][name])


def test_every_class_has_a_function():
    missing = [cls for cls in WITH_FUNCTIONS if cls.__name__.lower() not in dir(functional)]
    assert not missing, (
        "fastoptim/functional.py: expected a function of each class, its name in __all__, and an "
        "example in its docstring:" + "".join(map(declaration, missing))
    )
    assert sorted(cls.__name__.lower() for cls in WITH_FUNCTIONS) == dir(functional)
    assert sorted(cls.__name__.lower() for cls in OPTIMIZERS) == dir(reference)


@pytest.mark.parametrize(
    "cls", [cls for cls in OPTIMIZERS if cls not in WITH_FUNCTIONS], ids=name_of
)
def test_rules_that_keep_numbers_are_stepped_by_their_class(cls):
    names = ", ".join(cls.rule.numbers)
    arrays = [np.ones(2) for _ in ("p", "g", *cls.rule.state)]
    with pytest.raises(TypeError, match=rf"without numbers of the steps .* \({names}\)"):
        cls.rule(*arrays, step=1)
    assert all(np.array_equal(a, np.ones(2)) for a in arrays)


def declaration(cls):
    """Return the text that declares the function of a class, to copy into functional.py."""
    hints = {**inspect.get_annotations(functional.sgd), **inspect.get_annotations(cls.__init__)}
    lines = []
    for p in cls.rule.__signature__.parameters.values():
        if p.name == "step":
            lines.append("*")
        is_array = p.kind is p.POSITIONAL_OR_KEYWORD
        hint = "Array" if is_array else "int" if p.name == "step" else hints[p.name]
        if (is_array or p.name == "step") and p.default is not p.empty:
            hint += " | None"
        default = "" if p.default is p.empty else f" = {p.default!r}".replace("'", '"')
        lines.append(f"{p.name}: {hint}{default}")
    arguments = "".join(f"    {line},\n" for line in lines)
    name = cls.__name__
    return (
        f"\n\n@_steps_of(optimizers.{name})\ndef {name.lower()}(\n{arguments}) -> None:\n"
        f'    """Take a step of {name}.\n\n    Examples\n    --------\n    >>> ...\n    """\n'
    )


@pytest.mark.parametrize("cls", WITH_FUNCTIONS, ids=name_of)
def test_the_declaration_in_the_message_is_right(cls):
    """What is there to copy is what functional.py has, up to the docstring."""
    name = cls.__name__.lower()
    source = inspect.getsource(inspect.unwrap(getattr(functional, name)))
    assert declaration(cls).split('"""')[0].strip() == source.split('"""')[0].strip()


@pytest.mark.parametrize("cls", WITH_FUNCTIONS, ids=name_of)
def test_signature_is_that_of_the_rule(cls):
    """What is declared for type checkers and help() is what a call is checked against."""
    declared = inspect.signature(getattr(functional, cls.__name__.lower()))
    plain = [p.replace(annotation=p.empty) for p in declared.parameters.values()]
    assert declared.replace(parameters=plain, return_annotation=declared.empty) == (
        cls.rule.__signature__
    )


@pytest.mark.parametrize("cls", WITH_FUNCTIONS, ids=name_of)
def test_docstring_explains_every_argument(cls):
    function = getattr(functional, cls.__name__.lower())
    parts = sections(function.__doc__)
    assert {"Parameters", "Raises", "See Also", "References", "Examples"} <= parts.keys()
    assert ".. math::" in parts[""]
    assert f"functional.{function.__name__}(p, g" in parts["Examples"]
    signature = inspect.signature(function).parameters
    described = entries(parts["Parameters"])
    assert list(described) == list(signature)
    for name, entry in described.items():
        default = signature[name].default
        if default in (None, inspect.Parameter.empty):
            continue
        said = re.search(r"default (.*)", entry.partition("\n")[0])[1]
        assert eval(said, {}) == default if default != "averaged" else said == '"averaged"', name


def test_without_docstrings_there_is_none():
    code = "import fastoptim as fo; print(fo.functional.adam.__doc__)"
    assert output(code, PYTHONOPTIMIZE="2") == "None"


def test_they_look_like_functions():
    assert functional.adam.__name__ == "adam"
    assert functional.adam.__module__ == "fastoptim.functional"
    assert pickle.loads(pickle.dumps(functional.adam)) is functional.adam
    assert repr(reference.sgd).startswith("<rule sgd(p, g, v=None, *, step=None, lr=0.001")


def ones(n=3, dtype=np.float64):
    return np.ones(n, dtype)


BUFFER = ones(8)

REFUSED = {
    "no step": (((ones(), ones(), ones(), ones()), {}), TypeError, "step"),
    "step 0": (
        ((ones(), ones(), ones(), ones()), {"step": 0}),
        ValueError,
        "step: expected a whole number >= 1",
    ),
    "step 1.0": (
        ((ones(), ones(), ones(), ones()), {"step": 1.0}),
        TypeError,
        "step: expected a whole number",
    ),
    "unknown": (
        ((ones(), ones(), ones(), ones()), {"step": 1, "beta1": 0.9}),
        TypeError,
        "beta1: adam has no such argument (did you mean betas?); it has p, g, m, v, v_max, step",
    ),
    "bad lr": (
        ((ones(), ones(), ones(), ones()), {"step": 1, "lr": -1}),
        ValueError,
        "lr: expected",
    ),
    "no v": (((ones(), ones(), ones()), {"step": 1}), TypeError, "v"),
    "v is None": (
        ((ones(), ones(), ones(), None), {"step": 1}),
        TypeError,
        "v: expected an array, found None",
    ),
    "no v_max": (
        ((ones(), ones(), ones(), ones()), {"step": 1, "amsgrad": True}),
        TypeError,
        "v_max: expected an array with amsgrad=True, found None",
    ),
    "v_max for nothing": (
        ((ones(), ones(), ones(), ones(), ones()), {"step": 1}),
        TypeError,
        "v_max: expected None with amsgrad=False, found an array",
    ),
    "p": ((([1.0], ones(), ones(), ones()), {"step": 1}), TypeError, "p: expected a NumPy array"),
    "g": (
        ((ones(), ones(4), ones(), ones()), {"step": 1}),
        ValueError,
        "g: expected shape (3,) as p has",
    ),
    "m dtype": (
        ((ones(), ones(), ones(3, np.float32), ones()), {"step": 1}),
        TypeError,
        "m: expected dtype float64 as p has, found float32",
    ),
    "m shape": (
        ((ones(), ones(), ones(4), ones()), {"step": 1}),
        ValueError,
        "m: expected shape (3,)",
    ),
    "v layout": (
        (
            (np.ones((2, 3)), np.ones((2, 3)), np.ones((2, 3)), np.ones((2, 3), order="F")),
            {"step": 1},
        ),
        ValueError,
        "v: expected the memory layout of p",
    ),
    "v strided": (
        ((ones(), ones(), ones(), ones(6)[::2]), {"step": 1}),
        ValueError,
        "v: expected a dense",
    ),
    "m and v overlap": (
        ((ones(), ones(), BUFFER[:3], BUFFER[2:5]), {"step": 1}),
        ValueError,
        "v: expected parameters and state with memory of their own, found memory shared with m",
    ),
    "g is m": (
        ((ones(), BUFFER[:3], BUFFER[:3], ones()), {"step": 1}),
        ValueError,
        "g: expected memory apart",
    ),
    "too many": (((ones(),) * 7, {"step": 1}), TypeError, "too many positional"),
}


@pytest.mark.parametrize("module", [functional, reference], ids=["functional", "reference"])
@pytest.mark.parametrize(("call", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_calls_change_nothing(call, error, message, module):
    args, kwargs = call
    before = [None if a is None else np.array(a).tobytes() for a in args]
    with pytest.raises(error) as caught:
        module.adam(*args, **kwargs)
    assert message in str(caught.value)
    assert [None if a is None else np.array(a).tobytes() for a in args] == before


UNCOUNTED = [cls for cls in OPTIMIZERS if not cls.rule.needs_step]


def test_rules_that_need_no_step():
    assert {cls.__name__ for cls in UNCOUNTED} == {
        "SGD", "Momentum", "RMSprop", "Adadelta", "Rprop", "Lion", "FTRL", "LARS"
    }  # fmt: skip


@pytest.mark.parametrize("module", [functional, reference], ids=["functional", "reference"])
@pytest.mark.parametrize("cls", UNCOUNTED, ids=name_of)
def test_without_a_step_they_go_where_they_go_with_it(cls, module):
    rng = np.random.default_rng(2)
    for chosen in options(cls):
        hyper = {**hyperparameters(cls), **chosen}
        if cls.__name__ == "SGD" and hyper["momentum"] and hyper["dampening"]:
            continue
        given = {name: v for name, v in hyper.items() if name in cls.rule.__signature__.parameters}
        names = cls.rule.state_for(hyper)
        runs = [
            [
                np.ones(5),
                *(
                    np.full(5, cls.rule.start_of(s, hyper)) if s in names else None
                    for s in cls.rule.state
                ),
            ]
            for _ in range(2)
        ]
        function = getattr(module, cls.rule.name)
        for step in range(1, 4):
            g = rng.standard_normal(5)
            for (p, *state), counted in zip(runs, ({"step": step}, {}), strict=True):
                function(p, g, *state, **counted, **given)
        for with_step, without in zip(*runs, strict=True):
            assert with_step is without is None or same_bits(with_step, without)


@pytest.mark.parametrize("module", [functional, reference], ids=["functional", "reference"])
def test_a_step_is_asked_for_where_it_matters(module):
    p, v = ones(), np.zeros(3)
    with pytest.raises(
        TypeError, match="step: expected the number of the step, whose first is not"
    ):
        module.sgd(p, ones(), v, momentum=0.9, dampening=0.5)
    with pytest.raises(TypeError, match="step: expected the number of the step, which lr is a sch"):
        module.lion(p, ones(), v, lr=lambda t: 0.1)
    with pytest.raises(TypeError, match=r"missing a required .*argument: 'step'"):
        module.asgd(p, ones(), v)
    with pytest.raises(TypeError, match="step: expected a whole number >= 1 and < 2"):
        module.asgd(p, ones(), v, step=None)
    assert p.tolist() == ones().tolist()
    assert v.tolist() == [0.0] * 3


@pytest.mark.parametrize("module", [functional, reference], ids=["functional", "reference"])
def test_arrays_may_be_given_by_name(module):
    p, q = ones(), ones()
    module.adam(p, ones(), np.zeros(3), np.zeros(3), None, step=1)
    module.adam(v=np.zeros(3), g=ones(), p=q, m=np.zeros(3), step=1)
    assert same_bits(p, q)
    with pytest.raises(TypeError, match="multiple values for argument 'p'"):
        module.adam(p, ones(), np.zeros(3), p=q, v=np.zeros(3), step=1)


def test_a_call_may_come_from_a_schedule_of_another_and_from_many_threads():
    """Calls have nothing in common but what never changes."""
    expected = [ones() * 0.5, np.zeros(3), np.zeros(3)]
    functional.adam(expected[0], ones(), *expected[1:], step=1, lr=0.5)

    def run(n):
        inner = [ones() * 0.5, np.zeros(3), np.zeros(3)]
        outer = [ones() * 0.5, np.zeros(3), np.zeros(3)]

        def lr(t):
            functional.adam(inner[0], ones(), *inner[1:], step=1, lr=0.5)
            return 0.5

        functional.adam(outer[0], ones(), *outer[1:], step=1, lr=lr)
        return [inner, outer]

    with ThreadPoolExecutor(4) as pool:
        for arrays in pool.map(run, range(50)):
            assert all(
                same_bits(a, b) for each in arrays for a, b in zip(each, expected, strict=True)
            )


def test_nothing_is_kept_of_a_call():
    arrays = [np.ones(1000) for _ in range(4)]
    counts = [sys.getrefcount(a) for a in arrays]
    functional.adam(*arrays, step=1)
    assert [sys.getrefcount(a) for a in arrays] == counts


def test_no_call_and_no_step_looks_at_a_signature(monkeypatch):
    """To bind by a signature takes eight times as long as a small step."""

    def refuse(*args, **kwargs):
        raise AssertionError("inspect")

    opt = optimizers.Adam([{"params": ones()}, {"params": ones()}])
    for name in ("signature", "get_annotations"):
        monkeypatch.setattr(inspect, name, refuse)
    monkeypatch.setattr(inspect.Signature, "bind", refuse)
    functional.adam(ones(), ones(), ones(), ones(), step=1, lr=0.5, betas=(0.5, 0.5))
    opt.lr = 0.5
    opt.param_groups[1]["lr"] = lambda t: 0.25
    opt.step([ones(), ones()])
