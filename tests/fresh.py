"""Code in a fresh interpreter, for what depends on the environment or ends the process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fastoptim import _engine

needs_openmp = pytest.mark.skipif(not _engine.openmp, reason="built without OpenMP")
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
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
        env={k: v for k, v in env.items() if v is not None},
        check=False,
    )


def output(code: str, **kwargs: str | None) -> str:
    done = python(code, **kwargs)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
