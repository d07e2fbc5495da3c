"""The hot loops are vector code: the compiled modules hold packed arithmetic for each loop."""

from __future__ import annotations

import ast
import inspect
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from checked_builds import ROOT, not_copied
from zoo import LEVELS

from fastoptim import _levels, reference
from fastoptim._engine import machine

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64"
    or not shutil.which("objdump")
    or not sys.platform.startswith("linux"),
    reason="needs objdump, and what compilers make of the loops on x86-64 Linux",
)

REGISTER = {"base": "xmm", "v3": "ymm", "v4": "zmm"}
LETTER = {32: "s", 64: "d"}


def slowest(update: Callable[..., None]) -> set[str]:
    """Return the slowest operations of an update: what its source divides and takes roots of."""
    nodes = list(ast.walk(ast.parse(inspect.getsource(update))))
    found = {"div" for node in nodes if isinstance(node, ast.Div)}
    found |= {"sqrt" for node in nodes if isinstance(node, ast.Attribute) and node.attr == "sqrt"}
    return found or {"mul"}


RULES = [rule for rule in vars(reference).values() if isinstance(rule, reference.Rule)]
STAGES = {"after": {"mul"}, "before_elements": {"mul"}}
LOOPS = {rule.loop: slowest(rule.update) for rule in RULES} | STAGES


@pytest.fixture(scope="module", params=["gcc", "clang"])
def modules(request, tmp_path_factory) -> Path:
    """Return the folder of modules that a compiler made: of these here, or of new ones."""
    compiler = request.param
    if machine.compiler.startswith(compiler):
        return Path(_levels.__file__).parent
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler} here")
    tree = tmp_path_factory.mktemp(compiler) / "tree"
    shutil.copytree(ROOT, tree, ignore=not_copied)
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=tree,
        env=os.environ | {"CC": compiler},
        check=True,
    )
    return tree / "fastoptim"


def functions_of(module: Path) -> dict[str, str]:
    """Return the machine code of each function of a module, in words."""
    text = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", module],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    parts = re.split(r"^[0-9a-f]+ <([^>]+)>:$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@cache
def disassembly(modules: Path, level: str, bits: int) -> dict[str, str]:
    """Return the machine code of each loop of a module, in words."""
    (module,) = modules.glob(f"_loops_{level}_f{bits}.*")
    functions = functions_of(module)
    result = {}
    for name in LOOPS:
        # the C function may be split in two (name, name.cold)
        found = [code for symbol, code in functions.items() if re.search(rf"_{name}(\.|$)", symbol)]
        result[name] = "".join(found)
    return result


def test_every_loop_is_here():
    assert set(LOOPS) - set(STAGES) == {name for name in _levels.loops if isinstance(name, str)}


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("level", LEVELS)
def test_every_loop_is_vectorised(modules, level, bits):
    register, letter = REGISTER[level], LETTER[bits]
    for name, code in disassembly(modules, level, bits).items():
        assert code, f"no function for {name}"
        for operation in LOOPS[name]:
            packed = rf"\bv?{operation}p{letter}\b[^\n]*%{register}"
            assert re.search(packed, code), f"{name}: no packed {operation} in {register} registers"


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("level", LEVELS)
def test_no_precision_is_mixed_and_nothing_is_fused(modules, level, bits):
    """A conversion between float and double, or a fused multiply-add, would change bits."""
    for name, code in disassembly(modules, level, bits).items():
        assert not re.search(r"\bv?cvt(ss2sd|sd2ss|ps2pd|pd2ps)\b", code), f"{name} converts"
        assert not re.search(r"\bvfn?m(add|sub)", code), f"{name} fuses"


@pytest.mark.parametrize("level", LEVELS)
def test_every_option_has_its_vector_loop(modules, level):
    """Adam: weight decay or not, amsgrad or not: four loops, each with its packed square root."""
    for bits, letter in LETTER.items():
        code = disassembly(modules, level, bits)["adam"]
        assert len(re.findall(rf"\bv?sqrtp{letter}\b[^\n]*%{REGISTER[level]}", code)) >= 4


# For two types of numbers, the memory of rows and that of their values is asked for at two places
# each. gcc makes two loops for each of the values, and had left out those for the rows, as without
# effect.
PREFETCHES = {"gcc": 12, "clang": 8}


def test_rows_are_asked_for_ahead(modules, request):
    """Else a step of rows waits for each."""
    (module,) = (modules / "_engine").glob("compiled.*.so")
    found = {
        name: len(re.findall(r"\bprefetch", code))
        for name, code in functions_of(module).items()
        if "_update_" in name or "ask_for_row" in name  # it depends on what is inlined into which
    }
    assert sum(found.values()) >= PREFETCHES[request.node.callspec.params["modules"]], found
