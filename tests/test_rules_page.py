"""The examples of docs/own_rules.md run, each with the tool that it is for."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from fresh import python

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "own_rules.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
NAMED = {match[1]: text for _, text in BLOCKS if (match := re.match(r"(?:/\*|#) (\w+\.\w+)", text))}
COMMANDS = [text for language, text in BLOCKS if language == "sh"]
FREE = [text for language, text in BLOCKS if language == "python" and text not in NAMED.values()]


def run(folder: Path, file: str, text: str) -> None:
    (folder / file).write_text(text)
    code = f"import runpy, sys; sys.path[:0] = [{str(ROOT)!r}, '.']; runpy.run_path({file!r})"
    done = python(code, cwd=folder, FASTOPTIM_CACHE_DIR=str(folder / "cache"))
    assert (done.returncode, done.stderr) == (0, "")


def shell(folder: Path, command: str) -> None:
    """Run a command of the page with this Python, its folder and this fastoptim before others."""
    bin_folder = Path(sys.executable).parent
    lines = f'export PATH="{bin_folder}:$PATH" PYTHONPATH="{ROOT}"\n{command}'
    done = subprocess.run(
        ["sh", "-ec", lines], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_all_examples_are_known():
    assert sorted(NAMED) == [
        "descending.pyx", "descent.c", "with_cffi.py", "with_ctypes.py", "with_cython.py",
        "with_numba.py",
    ]  # fmt: skip
    assert len(COMMANDS) == 2
    assert len(FREE) == 2


@pytest.mark.skipif(find_spec("llvmlite") is None, reason="they would warn without the extra")
@pytest.mark.parametrize("number", range(len(FREE)))
def test_rules(tmp_path, number):
    run(tmp_path, "rules.py", FREE[number])


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    """Return a folder with the compiled example in C."""
    if not shutil.which("cc") or sys.platform == "win32":
        pytest.skip("no C compiler here")
    folder = tmp_path_factory.mktemp("library")
    (folder / "descent.c").write_text(NAMED["descent.c"])
    shell(folder, COMMANDS[0])
    return folder


def test_c(library):
    run(library, "with_ctypes.py", NAMED["with_ctypes.py"])


def test_cffi(library):
    pytest.importorskip("cffi")
    run(library, "with_cffi.py", NAMED["with_cffi.py"])


def test_numba(tmp_path):
    if find_spec("numba") is None:
        pytest.skip("no numba here")
    run(tmp_path, "with_numba.py", NAMED["with_numba.py"])


def test_cython(tmp_path):
    pytest.importorskip("Cython")
    if not shutil.which("cc") or sys.platform == "win32":
        pytest.skip("no C compiler here")
    (tmp_path / "descending.pyx").write_text(NAMED["descending.pyx"])
    shell(tmp_path, COMMANDS[1])
    run(tmp_path, "with_cython.py", NAMED["with_cython.py"])
