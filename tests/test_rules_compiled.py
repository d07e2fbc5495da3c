"""How rules of one's own are compiled: vector code of each level, kept on disk, or not at all."""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import rewritten
from fresh import FORK, needs_fork, python
from written import function_from, numbers
from zoo import LEVELS

import fastoptim as fo
from fastoptim.rules import _cache, _compiler, _own
from fastoptim.rules._llvm import target_of

REGISTER = {"base": "xmm", "v3": "ymm", "v4": "zmm"}
OPERATIONS = {
    "adam": ("sqrt", "div"),
    "sgd": ("mul",),
    "rprop": ("mul",),
    "rmsprop": ("sqrt", "div"),
}

needs_llvm = pytest.mark.skipif(_compiler.llvm() is None, reason="the extra rules is not installed")


def optimised(rule, level):
    """Return the program of a rule's loop, as LLVM has optimised it, and for which machine."""
    text, target = rule.loop.program(level)
    return _compiler.optimised(_compiler.header(target) + text, target)


def assembly(rule, level):
    """Return the machine code of a rule's loop, in words."""
    module, machine = optimised(rule, level)
    return machine.emit_assembly(module)


@needs_llvm
@pytest.mark.skipif(target_of("v3").cpu != "x86-64-v3", reason="looks for code of x86-64")
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_loops_are_vector_code(name, level):
    code = assembly(getattr(rewritten, name), level)
    slowest = {*OPERATIONS[name]} - ({"sqrt"} if level == "base" else set())  # roots one by one
    for operation in slowest:
        for letter in "sd":
            packed = rf"\bv?{operation}p{letter}\b[^\n]*%{REGISTER[level]}"
            assert re.search(packed, code), f"{name}: no packed {operation}p{letter}"
    assert not re.search(r"\bvfn?m(add|sub)", code), f"{name} fuses"
    assert not re.search(r"\bv?cvt(ss2sd|sd2ss|ps2pd|pd2ps)\b", code), f"{name} converts"


@needs_llvm
@pytest.mark.skipif(target_of("v3").cpu != "x86-64-v3", reason="looks for code of x86-64")
def test_four_state_arrays_are_vector_code():
    """And nothing is checked at run time of the arrays, which do not overlap."""
    text = (
        "def four(p, g, a, b, c, d, c0, c1, c2, c3):\n"
        "    return p - fo.sqrt(d), a + g, b + a, c + b, d + c\n"
    )
    own = fo.rule(state=tuple("abcd"), scalars=numbers)(function_from(text))
    module, machine = optimised(own, LEVELS[-1])
    assert re.search(r"sqrtps\b[^\n]*%[xyz]mm", machine.emit_assembly(module))
    assert "memcheck" not in str(module)


PROGRAM = """
import sys
import numpy as np
import fastoptim as fo
sys.path.insert(0, {tests!r})
import rewritten
from fastoptim.rules import _compiler
made = []
make = _compiler.machine_code
_compiler.machine_code = lambda *given: made.append(given) or make(*given)
p = np.ones(5)
fo.optimizer(rewritten.adam)(p).step(np.ones(5))
print(len(made), p[0])
"""


def run(folder, **environment):
    """Return how many programs a fresh interpreter has compiled."""
    tests = os.path.dirname(__file__)
    done = python(PROGRAM.format(tests=tests), FASTOPTIM_CACHE_DIR=str(folder), **environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    count, value = done.stdout.split()
    assert float(value) == pytest.approx(0.999)
    return int(count)


def failing(error):
    """Return a function that raises an exception, or OSError with a number."""

    def fail(*_, **__):
        raise OSError(error, os.strerror(error)) if isinstance(error, int) else error("missing")

    return fail


@needs_llvm
class TestCache:
    def test_other_processes_compile_nothing(self, tmp_path):
        folder = tmp_path / "made" / "here"
        assert run(folder) == len(fo._levels.active)
        assert len(list(folder.iterdir())) == len(fo._levels.active)
        assert run(folder) == 0

    def test_one_level_that_is_asked_for(self, tmp_path):
        assert run(tmp_path, FASTOPTIM_ISA="base") == 1

    @pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "exchanged"])
    def test_a_damaged_file_is_not_run(self, tmp_path, damage):
        count = run(tmp_path)
        files = sorted(tmp_path.iterdir())
        contents = [file.read_bytes() for file in files]
        for file, content, other in zip(files, contents, [*contents[1:], b"x"], strict=True):
            flipped = bytearray(content)
            flipped[-1] ^= 1
            new = {"cut": content[:-1], "flipped": flipped, "empty": b"", "exchanged": other}
            file.write_bytes(new[damage])
        assert run(tmp_path) == count
        assert [file.read_bytes() for file in files] == contents
        assert run(tmp_path) == 0

    @pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
    def test_a_folder_that_others_can_write_to_is_not_believed(self, tmp_path):
        run(tmp_path)
        tmp_path.chmod(0o777)
        assert run(tmp_path) == len(fo._levels.active)

    @pytest.mark.skipif(not hasattr(os, "geteuid"), reason="users of POSIX")
    def test_a_folder_of_somebody_else_is_not_believed(self, tmp_path, monkeypatch):
        monkeypatch.setenv("FASTOPTIM_CACHE_DIR", str(tmp_path))
        assert _cache.cache_folder() == tmp_path
        monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
        assert _cache.cache_folder() is None
        assert _cache.kept("source", lambda: b"made") == b"made"
        assert list(tmp_path.iterdir()) == []

    def test_a_place_that_is_no_folder(self, tmp_path):
        file = tmp_path / "file"
        file.write_text("")
        assert run(file / "below") == len(fo._levels.active)

    def test_processes_at_once(self, tmp_path):
        """Each finds a whole file or none, whoever else is writing it, and leaves nothing else."""
        with ThreadPoolExecutor(4) as pool:
            counts = [*pool.map(run, [tmp_path] * 4)]
        assert max(counts) == len(fo._levels.active)
        assert {file.suffix for file in tmp_path.iterdir()} == {".o"}
        assert run(tmp_path) == 0

    @pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.ESTALE, errno.EACCES])
    def test_a_disk_that_takes_no_file(self, tmp_path, monkeypatch, error):
        monkeypatch.setenv("FASTOPTIM_CACHE_DIR", str(tmp_path))
        monkeypatch.setattr(_cache, "replace_file", failing(error))
        assert _cache.kept("source", lambda: b"made") == b"made"

    def test_a_file_that_cannot_be_read(self, tmp_path, monkeypatch):
        monkeypatch.setenv("FASTOPTIM_CACHE_DIR", str(tmp_path))
        assert _cache.kept("source", lambda: b"made") == b"made"
        monkeypatch.setattr(_cache.Path, "read_bytes", failing(errno.ESTALE))
        assert _cache.kept("source", lambda: b"anew") == b"anew"

    @pytest.mark.skipif(sys.platform != "linux", reason="the folders of Linux")
    @pytest.mark.parametrize("home", ["file", "file/below", None])
    def test_a_home_that_is_none(self, tmp_path, monkeypatch, home):
        (tmp_path / "file").write_text("")
        monkeypatch.delenv("FASTOPTIM_CACHE_DIR", raising=False)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr("pwd.getpwuid", failing(KeyError))
        if home is None:
            monkeypatch.delenv("HOME")
        else:
            monkeypatch.setenv("HOME", str(tmp_path / home))
        assert _cache.cache_folder() is None
        assert _cache.kept("source", lambda: b"made") == b"made"

    @pytest.mark.skipif(sys.platform != "linux", reason="the folders of Linux")
    def test_the_usual_folder(self, tmp_path, monkeypatch):
        monkeypatch.delenv("FASTOPTIM_CACHE_DIR", raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        assert _cache.cache_folder() == tmp_path / "cache" / "fastoptim"
        assert stat.S_IMODE((tmp_path / "cache" / "fastoptim").stat().st_mode) == 0o700
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert _cache.cache_folder() == tmp_path / ".cache" / "fastoptim"


def falling():
    """Return a new rule."""
    text = "def falling(p, g, c0, c1, c2, c3):\n    return p - c0 * g\n"
    return fo.rule(scalars=numbers)(function_from(text))


@needs_llvm
def test_compiled_when_an_optimizer_is_made(monkeypatch):
    own = falling()
    cls = fo.optimizer(own)
    assert own.loop._found == {}
    monkeypatch.setattr(_compiler, "addresses", lambda *_: pytest.fail("compiled"))
    cls(np.ones(3), backend="reference").step(np.ones(3))
    own(np.ones(3), np.ones(3), step=1)
    monkeypatch.undo()
    assert cls(np.ones(3)).backend == "compiled"
    assert own.loop._found.keys() == set(fo._levels.active)


@needs_llvm
@needs_fork
def test_a_child_of_fork_compiles_too(tmp_path):
    code = f"""
import os, sys
import numpy as np
import fastoptim as fo
sys.path.insert(0, {os.path.dirname(__file__)!r})
import rewritten
{FORK}
def step(rule):
    p = np.ones(100_000)
    fo.optimizer(rule)(p).step(p.copy())
    assert p[0] < 1
step(rewritten.lion)
assert fork(lambda: step(rewritten.lion)) == 0
assert fork(lambda: step(rewritten.adam)) == 0
"""
    done = python(code, FASTOPTIM_CACHE_DIR=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")


class TestWithoutTheExtra:
    @pytest.fixture(autouse=True)
    def _without(self, monkeypatch):
        monkeypatch.setattr(_own, "llvm", lambda: None)

    def test_steps_with_numpy_and_warns_once(self):
        cls = fo.optimizer(falling())
        p = np.ones(3)
        message = r'Falling: the rule falling .* pip install "fastoptim\[rules\]"'
        with pytest.warns(RuntimeWarning, match=message) as caught:
            opt = cls(p)
        assert caught[0].filename == __file__
        assert opt.backend == "reference"
        opt.step(np.ones(3))
        assert p.tolist() == [0.75] * 3
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            cls(p)
            fo.optimizer(falling())(p, backend="reference")
        with pytest.warns(RuntimeWarning, match="falling"):
            fo.optimizer(falling())(p)

    def test_cannot_be_compiled(self):
        message = r"backend: expected 'reference' .* pip install .*, found 'compiled'"
        with pytest.raises(ValueError, match=message):
            fo.optimizer(falling())(np.ones(3), backend="compiled")

    def test_a_warning_that_is_an_error_comes_again(self):
        cls = fo.optimizer(falling())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(2):
                with pytest.raises(RuntimeWarning):
                    cls(np.ones(3))
