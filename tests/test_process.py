"""Promise 4: a good guest in the process; and the environment variables."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from fresh import output, python
from zoo import LEVELS

import fastoptim as fo
from fastoptim import _engine

ROOT = Path(__file__).parents[1]


def test_import_leaves_the_environment_as_it_was():
    code = (
        "import os; before = dict(os.environ); import fastoptim; assert dict(os.environ) == before;"
        "import ctypes; libc = ctypes.CDLL(None); libc.getenv.restype = ctypes.c_char_p;"
        "print(libc.getenv(b'OMP_WAIT_POLICY'))"
    )
    assert output(code) == "None"
    assert output(code, OMP_WAIT_POLICY="ACTIVE") == "b'ACTIVE'"


def test_import_keeps_subnormals_and_starts_no_thread():
    code = """
import threading, os, numpy as np
before = len(os.listdir('/proc/self/task')) if os.path.exists('/proc/self/task') else 0
import fastoptim as fo
after = len(os.listdir('/proc/self/task')) if os.path.exists('/proc/self/task') else 0
assert after == before, (before, after)
tiny, half = 2.0**-1060, 2.0**-1061
p = np.full(100_000, tiny)
assert (p * 0.5 == half).all()
fo.SGD(p, lr=0.5).step(np.full(100_000, tiny))
assert (p == half).all()
assert (np.full(100_000, tiny) * 0.5 == half).all()
"""
    output(code)


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="Python has a GIL")
def test_import_leaves_the_gil_off():
    assert output("import sys, fastoptim; print(sys._is_gil_enabled())") == "False"


def test_import_is_light():
    heavy = (
        "{'matplotlib', 'rich', 'safetensors', 'torch', 'sklearn', 'mlxtend', 'pytest', 'Cython'}"
    )
    assert output(f"import sys, fastoptim; print(sorted({heavy} & set(sys.modules)))") == "[]"


class TestEnvironmentVariables:
    LEVEL = "from fastoptim import _levels; print(_levels.active)"

    @pytest.mark.parametrize("level", LEVELS)
    def test_isa_forces_a_level(self, level):
        assert output(self.LEVEL, FASTOPTIM_ISA=level) == level

    def test_isa_is_the_highest_by_default(self):
        assert output(self.LEVEL) == LEVELS[-1]

    def test_unknown_isa(self):
        done = python(self.LEVEL, FASTOPTIM_ISA="v9")
        assert done.returncode == 1
        last = done.stderr.strip().splitlines()[-1]
        assert last == (
            "ImportError: FASTOPTIM_ISA: expected a level that was built and that this CPU runs "
            f"({', '.join(LEVELS)}), found 'v9'"
        )

    def test_backend(self):
        code = "import numpy as np, fastoptim as fo; print(fo.SGD(np.ones(1)).backend)"
        assert output(code, FASTOPTIM_BACKEND="reference") == "reference"


def test_show_config(capsys):
    fo.show_config()
    text = capsys.readouterr().out
    for word in ("fastoptim", fo.__version__, "NumPy", "compiler", "OpenMP", "threads", "level"):
        assert word in text
    with fo.num_threads(1):
        fo.show_config()
    expected = "num_threads" if _engine.openmp else "built without OpenMP"
    assert f"threads    1\nlimited by {expected}\n" in capsys.readouterr().out


@pytest.fixture
def run_unbuilt(tmp_path):
    """Run Python in a source tree in which nothing is compiled."""
    package = tmp_path / "fastoptim"
    package.mkdir()
    for source in (ROOT / "fastoptim").glob("*.py"):
        (package / source.name).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    # -S, so that the import hook of an editable installation does not mend the tree
    packages = str(Path(np.__file__).parents[1])
    return lambda *args: subprocess.run(
        [sys.executable, "-S", *args],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": packages},
        capture_output=True,
        text=True,
        check=False,
    )


def test_command_in_a_source_tree_that_is_not_built_says_so_in_one_line(run_unbuilt):
    done = run_unbuilt("-m", "fastoptim", "demo")
    assert done.returncode != 0
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert "is not built" in line
    assert "python -m pip install -e ." in line


def test_import_from_a_source_tree_that_is_not_built(run_unbuilt):
    done = run_unbuilt("-c", "import fastoptim")
    assert done.returncode == 1
    assert "ImportError: fastoptim is not built in" in done.stderr.strip().splitlines()[-1]
