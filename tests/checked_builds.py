"""Run the tests on builds that check themselves: on all four, or on those that are named.

    python tests/checked_builds.py [sanitizers] [debug] [threads] [valgrind] [arguments of pytest]

Each is built in a temporary folder, from a copy of the source tree, and has to notice a fault that
is made on purpose before it is trusted with the tests.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

ROOT = Path(__file__).parents[1]
CC = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC"))[0]


def faults_in(folder: Path) -> str:
    """Return the path of a library that makes faults, which is built into a folder."""
    library = folder / "faults.so"
    command = [CC, "-O1", "-Wall", "-Werror", "-shared", "-fPIC", ROOT / "tests" / "faults.c"]
    subprocess.run([*command, "-o", library, "-ldl"], check=True)
    return str(library)


def not_copied(folder: str, names: list[str]) -> set[str]:
    """Return what is built, and what else is no source, of the names in a folder."""
    patterns = [".*", "build", "dist", "*.egg-info", "*.so", "__pycache__"]
    if "fastoptim" in Path(folder).relative_to(ROOT).parts:
        patterns.append("*.c")  # written by Cython
    return shutil.ignore_patterns(*patterns)(folder, names)


# Code that is at fault: it steps one element too many, a parameter whose address is odd, and
# divides by zero.
STEP = """
import ctypes, numpy as np
from fastoptim import _levels
find = ctypes.pythonapi.PyCapsule_GetPointer
find.restype, find.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
(lowest,), *_ = _levels.loops["sgd"].levels.values()
address = find(lowest[np.dtype(float)].rule, b"fastoptim.loop")
sgd = ctypes.CFUNCTYPE(None, ctypes.c_ssize_t, *[ctypes.c_void_p] * 8)(address)
p, g, scalars = np.ones(1000), np.ones(1000), np.zeros(30)
def step(n, offset=0):
    sgd(n, p.ctypes.data + offset, g.ctypes.data, *[None] * 4, *[scalars.ctypes.data] * 2)
step(1000)
"""
PAST_THE_END = STEP + "step(1001)"
MISALIGNED = STEP + "step(900, offset=1)"
DIVISION_BY_ZERO = (
    "from fastoptim._engine.threads import set_grain, threads_for; set_grain(0); threads_for(1)"
)


class Build:
    """A copy of the source tree, built with options, and what Python needs to run its tests."""

    def __init__(self, folder: Path, **options: str) -> None:
        self.tree = folder / "tree"
        self.environment = os.environ | {"PYTHONPATH": str(self.tree)}
        shutil.copytree(ROOT, self.tree, ignore=not_copied)
        done = subprocess.run(
            [sys.executable, "setup.py", "build_ext", "--inplace"],
            cwd=self.tree,
            env=self.environment | options,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise SystemExit(done.stdout + done.stderr)

    def python(self, *arguments: str, under=(), **options) -> subprocess.CompletedProcess:
        command = [*under, sys.executable, *arguments]
        return subprocess.run(
            command, cwd=self.tree, env=self.environment, text=True, check=False, **options
        )

    def must_notice(self, fault: str, complaint: str, under: Sequence[str] = ()) -> None:
        found = self.python("-c", fault, under=under, stderr=subprocess.PIPE).stderr
        if not re.search(complaint, found):
            raise SystemExit(f"this build should have complained of {complaint!r}, found:\n{found}")

    def test(self, arguments: Sequence[str], leave_out: Sequence[str]) -> None:
        left_out = [f"--deselect=tests/{name}" for name in leave_out]
        if self.python("-m", "pytest", "-q", *left_out, *arguments).returncode != 0:
            raise SystemExit(1)


def sanitizers(folder: Path, arguments: Sequence[str]) -> None:
    """Run all tests under the address and undefined-behaviour sanitizers."""
    libraries = [
        subprocess.check_output([CC, f"-print-file-name={name}"], text=True).strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    build = Build(folder, FASTOPTIM_SANITIZE="1")
    build.environment |= {
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python frees little at its end
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
    }
    build.must_notice(PAST_THE_END, "AddressSanitizer: heap-buffer-overflow")
    build.must_notice(MISALIGNED, "runtime error: load of misaligned address")
    # Three build code without sanitizers, or look into machine code, which is other code here.
    # Sanitizers also keep memory back that was freed. Joblib waits for ever for its own workers. A
    # fork may leave the sanitizer's allocator locked in the child, whose new threads wait for it.
    joblib = "test_process.py::TestJoblib::test_large_parameters_can_only_be_read"
    forks = ("test_blas.py::test_fork", "test_blas.py::test_fork_while_another_thread_steps")
    built = ("test_build.py", "test_csrc.py", "test_vectorised.py")
    left_out = [*built, "test_memory.py", joblib, *forks]
    build.test(arguments, leave_out=left_out)


def debug(folder: Path, arguments: Sequence[str]) -> None:
    """Run all tests with Cython's checks, and with the assertions of the headers of Python."""
    build = Build(folder, FASTOPTIM_DEBUG="1")
    build.must_notice(DIVISION_BY_ZERO, "ZeroDivisionError")
    build.test(arguments, leave_out=["test_build.py"])


def threads(folder: Path, _: Sequence[str]) -> None:
    """Run the pool of threads and the ring, in C programs under the thread sanitizer."""
    program = str(folder / "pool")
    flags = ["-O1", "-g", "-fsanitize=thread", f"-I{ROOT / 'csrc'}", "-pthread"]
    sources = ROOT / "tests" / "pool.c", ROOT / "csrc" / "pool.c"
    subprocess.run([CC, *flags, *sources, "-o", program], check=True)
    found = subprocess.run([program, "race"], capture_output=True, text=True, check=False).stderr
    if "data race" not in found:
        raise SystemExit(f"the thread sanitizer should have complained of a race, found:\n{found}")
    subprocess.run([program], check=True)
    sources = ROOT / "tests" / "ring.c", ROOT / "csrc" / "ring.c"
    subprocess.run([CC, *flags, *sources, "-o", program], check=True)
    subprocess.run([program], check=True)


def valgrind(folder: Path, arguments: Sequence[str]) -> None:
    """Run the tests of odd arrays under memcheck, which also sees reads of unwritten memory.

    Complaints of Python, NumPy and the system, in which no function of ours takes part, are theirs.
    """
    if not shutil.which("valgrind"):
        raise SystemExit("valgrind: expected it to be installed, found no such command")
    memcheck = ["valgrind", "--num-callers=30"]
    build = Build(folder, FASTOPTIM_DEBUG="1")  # for the names of functions
    build.environment["PYTHONMALLOC"] = "malloc"
    ours = r"(at|by) 0x\w+: (__pyx_\w*fastoptim|fo_)"
    build.must_notice(PAST_THE_END, rf"Invalid read of size \d+\n==\d+== +{ours}", memcheck)
    pytest = ["-m", "pytest", "-q", "tests/test_arrays.py", *arguments]
    done = build.python(*pytest, under=memcheck, stderr=subprocess.PIPE)
    complaints = [part for part in re.split(r"==\d+== \n", done.stderr) if re.search(ours, part)]
    print(*complaints, f"memcheck: {len(complaints)} complaints of fastoptim", sep="\n")
    if complaints or done.returncode != 0:
        raise SystemExit(1)


CHECKS = {check.__name__: check for check in (sanitizers, debug, threads, valgrind)}


def main() -> None:
    names = list(takewhile(CHECKS.__contains__, sys.argv[1:]))
    arguments = sys.argv[1 + len(names) :]
    for name in names or CHECKS:
        print(f"{name}: {CHECKS[name].__doc__.splitlines()[0]}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            CHECKS[name](Path(folder), arguments)


if __name__ == "__main__":
    main()
