"""Code in a fresh interpreter, for what depends on the environment or ends the process."""

from __future__ import annotations

import ctypes.util
import os
import signal
import subprocess
import sys

import pytest

# An OpenMP runtime that tests load where another library would have brought one.
OPENMP = ctypes.util.find_library("gomp") or ctypes.util.find_library("omp")
LOAD_OPENMP = f"import ctypes; openmp = ctypes.CDLL({OPENMP!r})\n"
needs_openmp = pytest.mark.skipif(not OPENMP, reason="no OpenMP runtime here")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

# For code that imports os: the exit status of a child of this process that does some work.
FORK = """
def fork(work):
    pid = os.fork()
    if pid == 0:
        try:
            work(); os._exit(0)
        except BaseException:
            import traceback; traceback.print_exc(); os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


def python(
    code: str, cwd=None, timeout=120, **environment: str | None
) -> subprocess.CompletedProcess:
    """Run code in a fresh interpreter; a variable that is None is left out."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("FASTOPTIM", "OMP", "GOMP"))}
    env |= environment
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={k: v for k, v in env.items() if v is not None},
        start_new_session=True,  # with a process group of its own
    )
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except BaseException:  # it took too long, or Ctrl-C, of which the process knows nothing
        kill_all(process)
        raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def kill_all(process: subprocess.Popen) -> None:
    """End a process that hangs, and its children, which would otherwise spin on."""
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.communicate()


def output(code: str, **kwargs: str | None) -> str:
    done = python(code, **kwargs)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
