"""What tools/wheels.py finds in a wheel, and what its compiler is told; the gate makes a wheel."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("tomllib", reason="needs Python 3.11")
TOOLS = Path(__file__).parents[1] / "tools"


def load(name):
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


wheels, zig_cc = load("wheels"), load("zig_cc")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("-O3 -c loops.c", "-O3 -Xclang -O3 -c loops.c"),
        ("-g -O2", "-O2"),
        ("-march=x86-64-v4", "-mcpu=x86_64_v4"),
        ("-march=armv8.2-a+sve -o -g.o", "-mcpu=generic+v8_2a+sve -o -g.o"),
    ],
)
def test_words_of_gcc_for_zig(words, expected):
    assert list(zig_cc.in_zigs_words(words.split())) == expected.split()


FUSED = "vfmadd213ps vfnmsub132sd fmadd fnmsub fmla fmls fmad fnmls fmlal"
PLAIN = "vmulps vaddsubps fmul fadd fsub fmov faddv mla fmulx"


@pytest.mark.parametrize("operation", FUSED.split())
def test_a_fused_operation_is_seen(operation):
    assert re.findall(wheels.FUSED, f"   10f4: \t{operation}\tv0.4s, v1.4s, v2.4s\n") == [operation]


@pytest.mark.parametrize("operation", PLAIN.split())
def test_others_are_not_taken_for_it(operation):
    assert re.findall(wheels.FUSED, f"   10f4: \t{operation}\tv0.4s, v1.4s, v2.4s\n") == []


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("libc.so.6", True),
        ("libm.so.6", True),
        ("ld-linux-aarch64.so.1", True),
        ("libSystem.B.dylib", True),
        ("python313.dll", True),
        ("KERNEL32.dll", True),
        ("libgomp.so.1", False),
        ("libgcc_s.so.1", False),
        ("libomp.dylib", False),
        ("VCOMP140.DLL", False),
        ("libpython3.13.so.1.0", False),
    ],
)
def test_libraries_of_the_system(library, allowed):
    assert bool(re.fullmatch(wheels.SYSTEM, library, re.IGNORECASE)) == allowed


def test_code_is_what_is_compiled(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        archive.writestr("fastoptim/plan.so", bytes(70))
        archive.writestr("fastoptim/plan.cp313-win_amd64.pyd", bytes(30))
        archive.writestr("fastoptim/digits.csv", bytes(1000))
    assert wheels.code(tmp_path / "a.whl") == 100


def test_an_installed_wheel_is_tested_by_files_that_are_here():
    arguments = wheels.files(wheels.suite(), str(TOOLS.parent))
    assert sum(Path(argument).is_file() for argument in arguments) > 5
    assert [a for a in arguments if not a.startswith("-") and not Path(a).is_file()] == []


def test_the_oldest_python_is_named_everywhere():
    project = wheels.PROJECT["project"]
    oldest = project["requires-python"].removeprefix(">=")
    named = [c.rpartition(" ")[2] for c in project["classifiers"] if " :: 3." in c]
    assert named[0] == oldest
    assert named == sorted(named, key=lambda version: int(version.partition(".")[2]))


def test_a_command_that_fails_is_told_whole():
    command = [sys.executable, "-c", "print(*range(100), sep='\\n'); raise SystemExit(3)"]
    with pytest.raises(wheels.StepError, match="99") as error:
        wheels.run(*command)
    assert shlex.quote(sys.executable) in str(error.value)
    assert "\n50\n" not in str(error.value)
    assert "\n50\n" in error.value.printed
