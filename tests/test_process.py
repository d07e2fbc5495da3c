"""Promise 4: a good guest in the process; and the environment variables."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from textwrap import indent

import numpy as np
import pytest
from fresh import LOAD_OPENMP, OPENMP, needs_openmp, output, python
from zoo import LEVELS

import fastoptim as fo

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


# What workers import: with "spawn" and "forkserver" they know nothing of the parent's own code.
WORKER = """
import numpy as np
import fastoptim as fo
from fastoptim import _engine

_engine.threads.set_grain(1)
G = [np.full(50_000, 0.5 - k, "float32") for k in range(4)]

def train(optimizer):
    for g in G:
        optimizer.step(g)
    (p,) = optimizer.param_groups[0]["params"]
    return [a.tobytes() for a in (p, *optimizer.state[0].values())], fo.get_num_threads()

def made():
    fo.set_num_threads(2)
    lr = fo.schedules.Linear(0.1, total_iters=5)
    optimizer = fo.Adam(np.ones_like(G[0]), lr=lr, ema_decay=0.5, max_grad_norm=1.0)
    optimizer.step(G[0])
    return optimizer
"""


@pytest.fixture
def run_workers(tmp_path):
    """Run code beside a module of workers, for a minute at the most."""
    (tmp_path / "worker.py").write_text(WORKER)

    def run(code):
        program = tmp_path / "program.py"
        program.write_text(
            "import copy\nfrom worker import *\nif __name__ == '__main__':\n" + indent(code, "    ")
        )
        start = f"import runpy; runpy.run_path({str(program)!r}, run_name='__main__')"
        done = python(start, cwd=tmp_path, timeout=60)
        assert done.returncode == 0, done.stderr

    return run


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing_after_a_parallel_step(method, run_workers):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    run_workers(f"""
import multiprocessing
optimizer = made()
expected, _ = train(copy.deepcopy(optimizer))
with multiprocessing.get_context({method!r}).Pool(2) as pool:
    found = pool.map(train, [optimizer] * 3)
for arrays, threads in found:
    assert arrays == expected
    assert threads == 1 or {method!r} != "fork", threads
assert train(optimizer)[0] == expected
""")


class TestJoblib:
    @pytest.fixture(autouse=True)
    def _joblib(self):
        pytest.importorskip("joblib", reason="needs joblib")

    @pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading"])
    def test_workers(self, backend, run_workers):
        run_workers(f"""
import joblib
optimizer = made()
expected, _ = train(copy.deepcopy(optimizer))
work = [joblib.delayed(train)(copy.deepcopy(optimizer)) for _ in range(3)]
for arrays, _ in joblib.Parallel(n_jobs=2, backend={backend!r})(work):
    assert arrays == expected
assert train(optimizer)[0] == expected
""")

    def test_large_parameters_can_only_be_read(self, run_workers):
        """Joblib maps them into the memory of its workers; a step says what is wrong."""
        run_workers("""
import joblib
optimizer = made()
parallel = joblib.Parallel(n_jobs=2, max_nbytes=1000)
(saved,) = parallel([joblib.delayed(fo.Adam.state_dict)(optimizer)])
assert saved["state"][0]["m"].tobytes() == optimizer.state[0]["m"].tobytes()
try:
    parallel([joblib.delayed(train)(optimizer)])
except ValueError as error:
    assert "params: expected a writable array, found a read-only one" in str(error), error
else:
    raise AssertionError("took a step")
""")


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="Python has a GIL")
def test_import_leaves_the_gil_off():
    assert output("import sys, fastoptim; print(sys._is_gil_enabled())") == "False"


class TestFrozenPrograms:
    """What gathers the modules of a program, to pack them, runs no code: it reads the imports."""

    def test_what_is_imported_is_seen(self):
        code = """
import sys
from modulefinder import ModuleFinder
import fastoptim

class Finder(ModuleFinder):
    def find_module(self, name, path, parent=None):
        if path is None and name != "fastoptim":
            raise ImportError  # other packages are none of our business
        return super().find_module(name, path, parent)

finder = Finder()
finder.import_hook("fastoptim")
ours = {name for name in sys.modules if name.partition(".")[0] == "fastoptim"}
print(sorted(ours - set(finder.modules)))
"""
        assert output(code) == "[]"

    def test_no_level_at_all(self):
        code = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("fastoptim._loops_"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
from importlib import util
find_spec = util.find_spec
util.find_spec = lambda name, *rest: None if "._loops_" in name else find_spec(name, *rest)
sys.meta_path.insert(0, Missing())
import fastoptim
"""
        done = python(code)
        assert done.returncode == 1
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("ImportError: fastoptim: expected compiled loops (the modules ")


def test_import_is_light():
    heavy = "{'matplotlib', 'rich', 'safetensors', 'torch', 'sklearn', 'pytest', 'Cython'}"
    assert output(f"import sys, fastoptim; print(sorted({heavy} & set(sys.modules)))") == "[]"


class TestEnvironmentVariables:
    LEVEL = "from fastoptim import _levels; print(*_levels.active)"

    @pytest.mark.parametrize("level", LEVELS)
    def test_isa_forces_a_level(self, level):
        assert output(self.LEVEL, FASTOPTIM_ISA=level) == level

    def test_all_levels_are_used_by_default(self):
        assert output(self.LEVEL) == " ".join(LEVELS)

    TUNING = f"{LEVEL}; from fastoptim._engine import tuning; print(tuning.is_tuning())"

    def test_without_tuning_the_level_is_the_highest(self):
        assert output(self.TUNING, FASTOPTIM_TUNING="off") == f"{LEVELS[-1]}\nFalse"
        assert output(self.TUNING, FASTOPTIM_TUNING="ON").endswith("True")

    def test_unknown_tuning(self):
        done = python(self.LEVEL, FASTOPTIM_TUNING="no")
        assert done.returncode == 1
        last = done.stderr.strip().splitlines()[-1]
        assert last == "ImportError: FASTOPTIM_TUNING: expected 'on' or 'off', found 'no'"

    def test_unknown_isa(self):
        done = python(self.LEVEL, FASTOPTIM_ISA="v9")
        assert done.returncode == 1
        last = done.stderr.strip().splitlines()[-1]
        assert last == (
            "ImportError: FASTOPTIM_ISA: expected a level that was built and that this CPU runs "
            f"({', '.join(LEVELS)}), found 'v9'"
        )

    BACKEND = "import numpy as np, fastoptim as fo; print(fo.SGD(np.ones(1)).backend)"

    def test_backend(self):
        assert output(self.BACKEND, FASTOPTIM_BACKEND="reference") == "reference"

    @pytest.mark.parametrize("value", ["", " "])
    def test_an_empty_one_is_as_good_as_none(self, value):
        names = "NUM_THREADS", "ISA", "TUNING", "BACKEND"
        variables = [f"FASTOPTIM_{name}" for name in names]
        limit = "from fastoptim._engine.threads import explain_limit; print(explain_limit())"
        code = "; ".join([self.LEVEL, limit, self.BACKEND])
        assert output(code, **dict.fromkeys(variables, value)) == output(code)

    def test_each_is_read_by_one_function(self):
        """So that what it makes of an empty one holds for all."""
        paths = (ROOT / "fastoptim").glob("*.py")
        reading = {path.name for path in paths if re.search(r"environ\b|getenv", path.read_text())}
        assert reading == {"_kinds.py"}


def test_show_config(capsys):
    fo.show_config()
    text = capsys.readouterr().out
    for word in ("fastoptim", fo.__version__, "NumPy", "compiler", "OpenMP", "threads", "tuning"):
        assert word in text
    with fo.num_threads(1):
        fo.show_config()
    assert "threads    1\nlimited by num_threads\n" in capsys.readouterr().out


@needs_openmp
def test_show_config_names_the_runtimes_of_openmp():
    shown = "import fastoptim as fo; fo.show_config(); "
    found = output(shown + LOAD_OPENMP + "fo.show_config()").splitlines()
    assert [line.split()[1] for line in found if "OpenMP  " in line] == ["none", Path(OPENMP).name]


class TestThreadpoolctl:
    @pytest.fixture(autouse=True)
    def _threadpoolctl(self):
        pytest.importorskip("threadpoolctl")

    def test_is_not_imported(self):
        """Importing it sets an environment variable."""
        code = "import sys, fastoptim; print('threadpoolctl' in sys.modules)"
        assert output(code) == "False"

    def test_what_waits_for_its_import_leaves_no_trace(self):
        code = """
import sys
before = list(sys.meta_path)
import fastoptim
import threadpoolctl
assert sys.meta_path == before
assert threadpoolctl.__loader__ is threadpoolctl.__spec__.loader
assert type(threadpoolctl.__loader__) is type(fastoptim.__loader__)
print(sum(c.internal_api == "fastoptim" for c in threadpoolctl._ALL_CONTROLLERS))
"""
        assert output(code) == "1"

    def test_it_is_missing_or_old(self, tmp_path):
        code = f"""
import sys
import fastoptim
sys.path[:] = [p for p in sys.path if not p.endswith("-packages")]
try:
    import threadpoolctl
except ModuleNotFoundError:
    print("missing")
sys.path.insert(0, {str(tmp_path)!r})
import threadpoolctl
print(threadpoolctl.AGE)
"""
        (tmp_path / "threadpoolctl.py").write_text("AGE = 'old'")
        assert output(code).split() == ["missing", "old"]


@pytest.fixture
def run_unbuilt(tmp_path):
    """Run Python in a source tree in which nothing is compiled."""

    def compiled(folder, names):
        return [name for name in names if name.endswith((".so", ".pyd")) or name == "__pycache__"]

    shutil.copytree(ROOT / "fastoptim", tmp_path / "fastoptim", ignore=compiled)
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
