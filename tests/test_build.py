"""The build: from an sdist, without OpenMP, and what it says when something is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the compilers here are scripts")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Return a copy of the source tree in which nothing is built."""
    tree = tmp_path_factory.mktemp("source") / "tree"
    ignored = shutil.ignore_patterns(
        ".*", "build", "dist", "*.egg-info", "_*.c", "*.so", "__pycache__"
    )
    shutil.copytree(ROOT, tree, ignore=ignored)
    return tree


def build(source: Path, *args: str, **environment: str) -> subprocess.CompletedProcess:
    env = {name: value for name, value in os.environ.items() if not name.startswith("FASTOPTIM")}
    return subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", *args],
        cwd=source,
        env=env | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def compiler_that_fails_if(condition: str, folder: Path) -> str:
    """Return a compiler that fails on a condition, told in shell, and else is the real one."""
    script = folder / "cc"
    script.write_text(
        f'#!/bin/sh\nif {condition}; then exit 1; fi\nexec {shutil.which("cc")} "$@"\n'
    )
    script.chmod(0o755)
    return str(script)


def test_sdist_builds_a_correct_serial_wheel(source, tmp_path):
    done = build(source, "--outdir", str(tmp_path), FASTOPTIM_OPENMP="off")
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    headers = {f"csrc/{path.name}" for path in (ROOT / "csrc").glob("*.h")}
    assert headers <= names
    assert {"README.md", "LICENSE", "CHANGELOG.md", "SECURITY.md"} <= names
    assert "fastoptim/_kernels.pxi" in names
    assert {"tests/test_build.py", "fastoptim/py.typed", "fastoptim/_engine.pyi"} <= names
    built = {name for name in names if name.endswith((".c", ".so")) or name.startswith("build/")}
    assert built == {"tests/pool.c"}

    (wheel,) = tmp_path.glob("*.whl")
    library = tmp_path / "library"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(library)
    assert not list(library.glob("fastoptim/*.c"))
    assert list(library.glob("*.dist-info/licenses/fastoptim/demo/DIGITS.md"))
    code = """
import numpy as np, fastoptim as fo
from fastoptim import _engine
assert fo.__file__.startswith({library!r}), fo.__file__
assert _engine.openmp == 0 and fo.get_num_threads() == 1
from fastoptim.demo.digits import read_digits
assert len(read_digits()[1]) == 1797
fo.set_num_threads(4)
g = np.random.default_rng(0).standard_normal(1_000_003)
p, q = np.ones_like(g), np.ones_like(g)
ours, reference = fo.Adam(p), fo.Adam(q, backend="reference")
for t in range(3):
    ours.step(g * t)
    reference.step(g * t)
assert (p == q).all() and (p != 1.0).all()
""".replace("{library!r}", repr(str(library)))
    # -S keeps out the import hook of an editable installation
    packages = os.pathsep.join([str(library), *(p for p in sys.path if p.endswith("-packages"))])
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env=os.environ | {"PYTHONPATH": packages},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def given(option: str) -> str:
    return f'echo "$*" | grep -q -e {option}'


@pytest.mark.parametrize(
    ("environment", "broken", "message"),
    [
        ({}, "true", "no working C compiler"),
        (
            {},
            'for a; do case "$a" in *.c) cat "$a" ;; esac; done | grep -q Python.h',
            "Python.h is",
        ),
        ({"FASTOPTIM_OPENMP": "on"}, given("-fopenmp"), "FASTOPTIM_OPENMP=on, but the compiler"),
        ({"FASTOPTIM_OPENMP": "yes"}, "false", "FASTOPTIM_OPENMP: expected on, off or auto"),
        (
            {"FASTOPTIM_SANITIZE": "1"},
            given("-fsanitize"),
            "FASTOPTIM_SANITIZE=1, but the compiler",
        ),
    ],
)
def test_failed_build_says_what_is_missing_in_one_line(
    source, tmp_path, environment, broken, message
):
    cc = compiler_that_fails_if(broken, tmp_path)
    done = build(source, "--wheel", "--outdir", str(tmp_path), CC=cc, **environment)
    assert done.returncode != 0
    lines = [line for line in (done.stdout + done.stderr).splitlines() if message in line]
    assert len(lines) == 1
    assert lines[0].startswith("fastoptim: ")
