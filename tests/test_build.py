"""The build: from an sdist, with two compilers, and what it says when something is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from checked_builds import not_copied

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the compilers here are scripts")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Return a copy of the source tree in which nothing is built."""
    tree = tmp_path_factory.mktemp("source") / "tree"
    shutil.copytree(ROOT, tree, ignore=not_copied)
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


# What people have in their environment. Each of the first three alone brings code that takes
# denormals for zero; the others are left on by -fno-fast-math.
FAST = "-Ofast -ffast-math -funsafe-math-optimizations -fassociative-math -ffinite-math-only"

# What a library must do that was built from the sdist: keep denormals alive in the process, obey
# limits of CPUs that are set after the import, and give the bits of the reference at each level.
CORRECT = """
import os, sys
import numpy as np
tiny, half = np.full(4, 2.0**-1060), np.full(4, 2.0**-1061)
import fastoptim as fo
from fastoptim import _engine, _levels
from fastoptim._engine import machine
assert fo.__file__.startswith(sys.argv[1]), fo.__file__
assert sys.argv[2] != "clang" or "clang" in machine.compiler, machine.compiler
assert (tiny * 0.5).tobytes() == half.tobytes()  # what takes denormals for zero has == do so, too
assert _engine.threads.openmp_runtimes() == []  # none is linked
assert fo.get_num_threads() == _engine.threads.cpus()
from fastoptim.demo.digits import read_digits
assert len(read_digits()[1]) == 1797
if hasattr(os, "sched_setaffinity"):
    mine, before = os.sched_getaffinity(0), fo.get_num_threads()
    os.sched_setaffinity(0, {min(mine)})
    assert fo.get_num_threads() == 1
    os.sched_setaffinity(0, mine)
    assert fo.get_num_threads() == before
_engine.threads.set_grain(1)
fo.set_num_threads(4)
rng = np.random.default_rng(0)

def same(a, b):
    return np.array_equal(a, b, equal_nan=True) and (np.signbit(a) == np.signbit(b))[a == a].all()

def train(cls, g, **options):
    p = np.ones_like(g)
    optimizer = cls(p, bounds=(-4, 4), ema_decay=0.5, **options)
    for t in range(3):
        optimizer.step(g / (1 + t))
    return p

def check(name, g, **options):
    found = [train(getattr(fo, name), g, backend=b, **options) for b in ("compiled", "reference")]
    assert same(*found) and (found[0] != 1.0).any(), (_levels.active, name, options)

np.seterr(all="ignore")
for level in _levels.available():
    _levels.active, _levels.loops = [level], _levels.load(level)
    for name in fo.optimizers.__all__:
        for dtype in "f4", "f8":
            check(name, rng.standard_normal(10_003).astype(dtype), max_grad_norm=1.0)
            check(name, np.array([np.inf, -np.inf, np.nan, -0.0, 1e-310, 3.0], dtype))
"""


@pytest.mark.parametrize("compiler", ["cc", "clang"])
def test_sdist_builds_a_correct_wheel(source, tmp_path, compiler):
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler} here")
    environment = {"CC": compiler, "CFLAGS": FAST, "LDFLAGS": FAST}
    done = build(source, "--outdir", str(tmp_path), **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    written = [*(ROOT / "csrc").glob("*.c"), *(ROOT / "tests").glob("*.c")]
    c_sources = {path.relative_to(ROOT).as_posix() for path in written}
    headers = {f"csrc/{path.name}" for path in (ROOT / "csrc").glob("*.h")}
    assert headers <= names
    assert {"README.md", "LICENSE", "CHANGELOG.md", "SECURITY.md"} <= names
    assert "fastoptim/_loops.pxi" in names
    assert {"tests/test_build.py", "fastoptim/py.typed", "fastoptim/_engine/plan.pyi"} <= names
    built = {name for name in names if name.endswith((".c", ".so")) or name.startswith("build/")}
    assert built == c_sources

    (wheel,) = tmp_path.glob("*.whl")
    library = tmp_path / "library"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(library)
    assert not list(library.rglob("*.c"))
    assert list(library.glob("*.dist-info/licenses/fastoptim/demo/DIGITS.md"))
    # -S keeps out the import hook of an editable installation
    packages = os.pathsep.join([str(library), *(p for p in sys.path if p.endswith("-packages"))])
    done = subprocess.run(
        [sys.executable, "-S", "-c", CORRECT, str(library), compiler],
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
        ({}, given("-ffp-contract=off"), "does not take -ffp-contract=off, without"),
        (
            {},
            'for a; do case "$a" in *.c) cat "$a" ;; esac; done | grep -q __FAST_MATH__',
            "keeps to fast-math",
        ),
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


class Compiler:
    """A compiler that notes which modules it is given, and makes nothing of them."""

    def __init__(self, folder: Path, name: str) -> None:
        self.script, self.notes = folder / name, folder / "notes"
        self.notes.touch()

    def build(self, source: Path, refused: str = "-none", **environment: str) -> set[str]:
        """Build in place; return what was compiled. It has no such option as is refused."""
        self.script.write_text(f"""\
#!/bin/sh
for a; do case "$a" in {refused}) exit 1 ;; fastoptim/*.c|build/*.c) module=$a ;; esac; done
if [ "$1" = --version ]; then echo {environment.get("VERSION", "1")}; exit; fi
if [ -z "$module" ]; then exec {shutil.which("cc")} "$@"; fi
basename "$module" .c >> {self.notes}
while [ "$1" != -o ]; do shift; done
exec {shutil.which("cc")} -c -x c /dev/null -o "$2"
""")
        self.script.chmod(0o755)
        self.notes.write_text("")
        subprocess.run(
            [sys.executable, "setup.py", "build_ext", "--inplace"],
            cwd=source,
            env=os.environ | {"CC": str(self.script)} | environment,
            check=True,
        )
        return set(self.notes.read_text().split())


def built(source: Path) -> set[str]:
    """Return the modules in the source tree, once those in the folder of the build are the same."""
    here, there = source.glob("fastoptim/**/*.so"), source.glob("build/lib*/fastoptim/**/*.so")
    names = {path.name.partition(".")[0] for path in here}
    assert names == {path.name.partition(".")[0] for path in there}
    return names


def test_a_build_with_other_options_uses_nothing_of_the_one_before(source, tmp_path):
    compiler = Compiler(tmp_path, "cc")
    modules = compiler.build(source)
    assert modules == built(source)
    assert {"plan", "threads", "_loops_base_f32", "_loops_base_f64"} <= modules
    assert compiler.build(source) == set()
    for change in (
        {"CFLAGS": "-DANOTHER"},
        {"LDFLAGS": "-L/another"},
        {"FASTOPTIM_DEBUG": "1"},
        {"VERSION": "2"},
    ):
        assert compiler.build(source, **change) == modules
        assert compiler.build(source, **change) == set()
    another = Compiler(tmp_path, "another")
    assert another.build(source) == modules
    left = {name for name in modules if "_v3_" not in name}
    changed = left if left != modules else set()  # other machines have no such level
    assert another.build(source, refused="-march=x86-64-v3") == changed
    assert built(source) == left


def test_a_source_tree_that_cannot_be_written(source, tmp_path):
    tree = tmp_path / "tree"
    shutil.copytree(source, tree, ignore=shutil.ignore_patterns("build"))
    (tree / "build").touch()  # even root can make no folder of this name
    done = build(tree, "--wheel")
    assert done.returncode != 0
    found = (done.stdout + done.stderr).splitlines()
    (line,) = (line for line in found if line.startswith("fastoptim: "))
    assert "cannot write to the source tree (" in line
    assert "build from a copy of it" in line
