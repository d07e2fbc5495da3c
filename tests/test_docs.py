"""The examples in docstrings and in the README run, and print what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest

import fastoptim

MODULES = [
    f"fastoptim.{module.name}"
    for module in pkgutil.iter_modules(fastoptim.__path__)
    if module.name != "__main__"
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_files_that_the_security_page_names():
    names = re.findall(r"tests/[\w.]+", (ROOT / "SECURITY.md").read_text(encoding="utf-8"))
    assert len(names) > 8
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_python_blocks_of_the_readme():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


def test_one_line_examples_of_the_options():
    examples = re.findall(r"^\|.*\| `((?:fo|opt)\..*)` \|$", README, re.MULTILINE)
    assert len(examples) > 8
    for example in examples:
        params, grads = [np.ones(3)], [np.ones(3)]
        names = {"fo": fastoptim, "np": np, "params": params, "grads": grads, "w": np.arange(10.0)}
        names["opt"] = fastoptim.SGD(params)
        result = eval(example, names)
        if isinstance(result, fastoptim.Optimizer):
            result.step([np.ones_like(p) for p in params] if "params" in example else np.ones(10))


def test_first_block_prints_a_loss_that_falls(capsys):
    block = README.partition("```python\n")[2].partition("```")[0]
    exec(compile(block, "README.md", "exec"), {})
    printed = re.findall(r"^step \d+: loss (\S+)$", capsys.readouterr().out, re.MULTILINE)
    said = re.search(r"# from (\S+) down to (\S+)", block)
    assert said
    assert [printed[0], printed[-1]] == list(said.groups())
    assert float(printed[0]) > 10 * float(printed[-1])
