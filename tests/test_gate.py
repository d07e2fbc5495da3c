"""The gate (.ci/run) and what developers run by hand are the same, and its budgets hold."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GATE = ROOT / ".ci" / "run"


@pytest.mark.skipif(not GATE.exists(), reason="a copy of the tree without its dot-files")
def test_hooks_run_what_the_gate_runs():
    config = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    hooks = re.findall(r"^ +entry: (.*)$", config, re.MULTILINE)
    lines = GATE.read_text(encoding="utf-8").splitlines()
    start = lines.index("environment lint") + 1
    commands = lines[start : lines.index("", start)]
    commands = [command for command in commands if not command.startswith("python -m pip")]
    # pre-commit itself names the files that are in C
    files = " csrc/* fastoptim/include/* tests/*.c"
    assert hooks == [command.removesuffix(files) for command in commands]


# A valgrind that counts whatever it is told: so many instructions for each step of each array.
VALGRIND = """\
#!/bin/sh
while [ $# -gt 3 ]; do shift; done
echo "==1== Collected : $(({per_step} * $3 + 1000))" >&2
"""
COUNT = """
import sys; sys.path.insert(0, {bench!r})
import count_instructions as counting
counting.COUNTED_WITH = {counted_with}
sys.exit(counting.main())
"""


def count(folder: Path, per_step: int, counted_with: str) -> subprocess.CompletedProcess[str]:
    fake = folder / "valgrind"
    fake.write_text(VALGRIND.format(per_step=per_step))
    fake.chmod(0o755)
    path = os.pathsep.join([str(folder), os.environ["PATH"]])
    program = COUNT.format(bench=str(ROOT / "bench"), counted_with=counted_with)
    command = [sys.executable, "-c", program]
    environment = {**os.environ, "PATH": path}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(sys.platform == "win32", reason="the valgrind here is a script")
class TestInstructions:
    def test_within_the_budget(self, tmp_path):
        done = count(tmp_path, 14_650, "counting.environment()")
        assert (done.returncode, done.stderr) == (0, "")
        assert "over the budget" not in done.stdout

    def test_over_the_budget(self, tmp_path):
        done = count(tmp_path, 16_000, "counting.environment()")
        assert (done.returncode, done.stderr) == (1, "")
        assert done.stdout.count("over the budget") == 1

    def test_other_compilers_and_pythons_have_no_budget(self, tmp_path):
        done = count(tmp_path, 16_000, "'gcc 1, Python 2.0, vax'")
        assert (done.returncode, done.stderr) == (0, "")
        assert "no budgets: they are those of gcc 1, Python 2.0, vax, and this is" in done.stdout
        assert "over the budget" not in done.stdout

    def test_without_valgrind(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        program = COUNT.format(bench=str(ROOT / "bench"), counted_with="''")
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (
            1,
            "count_instructions: valgrind is not installed\n",
        )
