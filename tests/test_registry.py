"""Every optimizer is complete: loop, twin, docstring, name in the README, one set of defaults.

Each message names the file, and what is to be added there.
"""

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
    missing = sorted(cls.__name__ for cls in subclasses - set(OPTIMIZERS))
    assert not missing, f"fastoptim/optimizers.py, __all__: expected {missing} there, too"
    assert subclasses == set(OPTIMIZERS)
    assert {cls.__name__ for cls in OPTIMIZERS} <= set(fo.__all__)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("cls", OPTIMIZERS, ids=name_of)
def test_class_has_a_loop_at_each_level(cls, level):
    loops, name = _levels.load(level), cls.rule.loop
    assert name in loops, (
        f"fastoptim/_loops.pxi: expected a loop {name}, and its name in LOOPS; build it by "
        "`python setup.py build_ext --inplace`"
    )
    assert set(loops[name].levels[level][0]) == set(map(np.dtype, DTYPES))


@pytest.mark.parametrize("level", LEVELS)
def test_every_loop_has_a_twin(level):
    twins = {rule.loop for rule in RULES}
    loops = set(_levels.load(level)) - {None}
    alone = sorted(loops - twins)
    assert not alone, f"fastoptim/reference.py: expected rules {alone}, as _loops.pxi has loops"
    missing = sorted(twins - loops)
    assert not missing, f"fastoptim/_loops.pxi: expected loops {missing}, as there are rules"
    assert loops == twins


@pytest.mark.parametrize("cls", OPTIMIZERS, ids=name_of)
def test_class_has_a_twin_that_is_public(cls):
    assert cls.rule in RULES
    assert getattr(fo.reference, cls.rule.name) is cls.rule


@pytest.mark.parametrize("cls", OPTIMIZERS, ids=name_of)
def test_docstring_has_formula_arguments_errors_source_and_example(cls):
    doc = inspect.getdoc(cls)
    for part in (".. math::", "Parameters", "Raises", "References", "Examples", ">>> "):
        assert part in doc, (
            f"fastoptim/optimizers.py: expected {part!r} in {cls.__name__}'s docstring"
        )
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


def test_the_readme_names_all_classes():
    sentence = re.search(r"^The rules: (.*?)\.", README, re.MULTILINE | re.DOTALL)
    assert sentence, "README.md: expected a sentence that begins with 'The rules: '"
    named = re.findall(r"\w+", sentence[1].replace(" and ", ", "))
    assert sorted(named) == sorted(cls.__name__ for cls in OPTIMIZERS), "README.md, The rules"
