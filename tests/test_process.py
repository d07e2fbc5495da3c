"""Promise 4: a good guest in the process; and the environment variables."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from zoo import LEVELS

import fastoptim as fo
from fastoptim import _engine

ROOT = Path(__file__).parents[1]
needs_openmp = pytest.mark.skipif(not _engine.openmp, reason="built without OpenMP")


def python(code: str, cwd=None, timeout=120, **environment: str) -> subprocess.CompletedProcess:
    """Run code in a fresh interpreter; a variable that is None is left out."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("FASTOPTIM", "OMP", "GOMP"))}
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
        env=env | environment,
        check=False,
    )


def output(code: str, **kwargs: str) -> str:
    done = python(code, **kwargs)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


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


def test_import_is_light():
    heavy = "{'matplotlib', 'rich', 'torch', 'sklearn', 'mlxtend', 'pytest', 'Cython'}"
    assert output(f"import sys, fastoptim; print(sorted({heavy} & set(sys.modules)))") == "[]"


STEP_IN_CHILD = """
import os, sys, threading
import numpy as np
import fastoptim as fo
from fastoptim import _engine
_engine.set_grain(1)
fo.set_num_threads(2)
p = np.zeros(200_000, np.float32); g = np.ones_like(p)
opt = fo.Adam(p, lr=0.5)
opt.step(g)
def child():
    assert fo.get_num_threads() == 1
    opt.step(g)
    assert np.allclose(p, -1.0)
def fork(work):
    pid = os.fork()
    if pid == 0:
        try:
            work(); os._exit(0)
        except BaseException:
            import traceback; traceback.print_exc(); os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


@needs_openmp
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork_after_a_parallel_step():
    """Child, grandchild, and a fork from a second thread; the parent stays parallel."""
    code = (
        STEP_IN_CHILD
        + """
def grandchild():
    child(); sys.exit(fork(lambda: opt.step(g)))
assert fork(child) == 0
def both():
    child(); assert fork(lambda: opt.step(g)) == 0
assert fork(both) == 0
codes = []
thread = threading.Thread(target=lambda: codes.append(fork(child)))
thread.start(); thread.join()
assert codes == [0], codes
assert fo.get_num_threads() == 2
opt.step(g)
"""
    )
    done = python(code, timeout=60)
    assert done.returncode == 0, done.stderr


class TestEnvironmentVariables:
    LEVEL = "from fastoptim import _levels; print(_levels.active)"
    THREADS = "import fastoptim as fo; print(fo.get_num_threads())"

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

    @needs_openmp
    def test_threads(self):
        assert output(self.THREADS, OMP_NUM_THREADS="3") == "3"
        assert output(self.THREADS, OMP_NUM_THREADS="3", FASTOPTIM_NUM_THREADS="2") == "2"
        code = (
            "import fastoptim as fo; fo.set_num_threads(4); print(fo.get_num_threads());"
            "fo.set_num_threads(None); print(fo.get_num_threads())"
        )
        assert output(code, FASTOPTIM_NUM_THREADS="2").split() == ["4", "2"]

    @pytest.mark.parametrize("value", ["0", "-1", "two", "", "1.5"])
    def test_threads_that_are_no_number(self, value):
        done = python(self.THREADS, FASTOPTIM_NUM_THREADS=value)
        assert done.returncode == 1
        last = done.stderr.strip().splitlines()[-1]
        assert "FASTOPTIM_NUM_THREADS: expected a whole number >= 1, found" in last

    def test_backend(self):
        code = "import numpy as np, fastoptim as fo; print(fo.SGD(np.ones(1)).backend)"
        assert output(code, FASTOPTIM_BACKEND="reference") == "reference"


@needs_openmp
def test_threadpoolctl_is_obeyed():
    threadpoolctl = pytest.importorskip("threadpoolctl")
    with threadpoolctl.threadpool_limits(1, user_api="openmp"):
        assert fo.get_num_threads() == 1
    assert fo.get_num_threads() > 1 or os.cpu_count() == 1


@pytest.mark.parametrize("n", [0, -1, 1.5, "2", True])
def test_set_num_threads_refuses(n):
    before = fo.get_num_threads()
    with pytest.raises((TypeError, ValueError), match="n: expected a whole number >= 1, found"):
        fo.set_num_threads(n)
    assert fo.get_num_threads() == before


def test_small_steps_use_one_thread():
    """The library's own count of threads stays what it was before the first large step."""
    code = """
import os, numpy as np, fastoptim as fo
tasks = lambda: len(os.listdir('/proc/self/task'))
p = np.zeros(10_000); opt = fo.Adam(p)
before = tasks(); opt.step(np.ones(10_000)); small = tasks()
p = np.zeros(4_000_000); opt = fo.Adam(p); opt.step(np.ones(4_000_000)); large = tasks()
print(small - before, large - before)
"""
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    small, large = output(code, FASTOPTIM_NUM_THREADS="3").split()
    assert small == "0"
    assert large == ("2" if _engine.openmp else "0")


def test_show_config(capsys):
    fo.show_config()
    text = capsys.readouterr().out
    for word in ("fastoptim", fo.__version__, "NumPy", "compiler", "OpenMP", "threads", "level"):
        assert word in text


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
