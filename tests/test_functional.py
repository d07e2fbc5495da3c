"""The rules as functions on the caller's own state, compiled and in NumPy."""

from __future__ import annotations

import inspect
import pickle
import re

import numpy as np
import pytest
from fresh import output
from zoo import DTYPES, OPTIMIZERS, gradients, hyperparameters, name_of, options, same_bits

from fastoptim import functional, reference
from fastoptim._docs import entries, sections

CASES = [(cls, chosen) for cls in OPTIMIZERS for chosen in options(cls)]


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
    missing = [cls for cls in OPTIMIZERS if cls.__name__.lower() not in dir(functional)]
    assert not missing, (
        "fastoptim/functional.py: expected a function of each class, its name in __all__, and an "
        "example in its docstring:" + "".join(map(declaration, missing))
    )
    assert sorted(cls.__name__.lower() for cls in OPTIMIZERS) == dir(functional) == dir(reference)


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


@pytest.mark.parametrize("cls", OPTIMIZERS, ids=name_of)
def test_the_declaration_in_the_message_is_right(cls):
    """What is there to copy is what functional.py has, up to the docstring."""
    name = cls.__name__.lower()
    source = inspect.getsource(inspect.unwrap(getattr(functional, name)))
    assert declaration(cls).split('"""')[0].strip() == source.split('"""')[0].strip()


@pytest.mark.parametrize("cls", OPTIMIZERS, ids=name_of)
def test_signature_is_that_of_the_rule(cls):
    """What is declared for type checkers and help() is what a call is checked against."""
    declared = inspect.signature(getattr(functional, cls.__name__.lower()))
    plain = [p.replace(annotation=p.empty) for p in declared.parameters.values()]
    assert declared.replace(parameters=plain, return_annotation=declared.empty) == (
        cls.rule.__signature__
    )


@pytest.mark.parametrize("cls", OPTIMIZERS, ids=name_of)
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
