"""Every optimizer is complete: kernels, twin, formula, row in the README, one set of defaults."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
from zoo import DTYPES, LEVELS, OPTIMIZERS, hyperparameters, name_of

import fastoptim as fo
from fastoptim import _levels
from fastoptim._rule import Rule

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
RULES = [rule for rule in vars(fo.reference).values() if isinstance(rule, Rule)]


def test_every_class_is_public():
    subclasses = {cls for cls in vars(fo.optimizers).values() if isinstance(cls, type)}
    subclasses = {cls for cls in subclasses if issubclass(cls, fo.Optimizer)} - {fo.Optimizer}
    assert subclasses == set(OPTIMIZERS)
    assert {cls.__name__ for cls in OPTIMIZERS} <= set(fo.__all__)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("cls", OPTIMIZERS, ids=name_of)
def test_class_has_a_kernel_at_each_level(cls, level):
    assert set(_levels.load(level)[cls.rule.loop]) == set(map(np.dtype, DTYPES))


@pytest.mark.parametrize("level", LEVELS)
def test_every_kernel_has_a_twin(level):
    assert set(_levels.load(level)) == {rule.loop for rule in RULES} | {None}


@pytest.mark.parametrize("cls", OPTIMIZERS, ids=name_of)
def test_class_has_a_twin_that_is_public(cls):
    assert cls.rule in RULES
    assert getattr(fo.reference, cls.rule.name) is cls.rule


@pytest.mark.parametrize("cls", OPTIMIZERS, ids=name_of)
def test_docstring_has_formula_arguments_errors_source_and_example(cls):
    doc = inspect.getdoc(cls)
    for part in (".. math::", "Parameters", "Raises", "References", "Examples", ">>> "):
        assert part in doc
    for name in inspect.signature(cls).parameters:
        pattern = r"^\*\*options$" if name == "options" else rf"^{name} : "
        assert re.search(pattern, doc, re.MULTILINE), f"{name} is not described"
    for name in cls.rule.state:
        assert f'``"{name}"``' in doc, f"state {name} is not described"


@pytest.mark.parametrize("cls", OPTIMIZERS, ids=name_of)
def test_defaults_of_class_and_rule_agree(cls):
    ours = hyperparameters(cls)
    assert ours == {name: cls.rule.defaults[name] for name in ours}
    assert set(cls.rule.own) <= set(ours)


@pytest.mark.parametrize("cls", OPTIMIZERS, ids=name_of)
def test_class_has_a_row_in_the_readme(cls):
    assert re.search(rf"^\| `{cls.__name__}\(", README, re.MULTILINE)
