"""Checkpoints: the same bits in a new process, and the old file or the new one, whole."""

from __future__ import annotations

import collections
import copy
import errno
import hashlib
import itertools
import json
import math
import os
import random
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import traceback
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from fresh import needs_fork, output
from test_interrupts import interrupted
from zoo import PAIRS, assert_same, same_bits, snapshot

import fastoptim as fo
from fastoptim import _engine, checkpoint
from fastoptim._hyper import Hyper

safetensors = pytest.importorskip("safetensors.numpy", reason="needs safetensors")

TESTS = str(Path(__file__).parent)
posix = pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")


def adam(n=3, steps=2, dtype=np.float64, **hyper):
    """Return an optimizer that has taken steps, whose arrays differ in every element."""
    params = {"w": np.arange(2 * n, dtype=dtype).reshape(2, n), "b": np.ones(())}
    opt = fo.Adam(params, **{"ema_decay": 0.5, **hyper})
    for t in range(steps):
        opt.step({"w": np.sin(params["w"] + t), "b": np.array(0.1)})
    return opt


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "run.safetensors")


def rest_of(path):
    with safetensors.safe_open(path, "np") as file:
        return json.loads(file.metadata()["fastoptim"])


def arrays_in(path):
    arrays = safetensors.load_file(path)
    del arrays["sha256"]
    return arrays


def forge(path, rest=None, arrays=None, text=None, digest=None):
    """Write a file as its format is described, whatever is in it, with the library."""
    rest = rest_of(path) if rest is None else rest
    arrays = arrays_in(path) if arrays is None else arrays
    text = json.dumps(rest) if text is None else text
    kinds = {"float64": "F64", "float32": "F32", "float16": "F16", "int32": "I32", "bool": "BOOL"}
    specs = [[name, kinds[str(a.dtype)], list(a.shape)] for name, a in arrays.items()]
    specs.sort(key=lambda spec: (spec[1] != "F64", spec[0]))
    data = b"".join(arrays[name].tobytes() for name, _, _ in specs)
    found = hashlib.sha256(json.dumps([text, specs]).encode() + data).digest()
    found = np.frombuffer(found, np.uint8) if digest is None else digest
    safetensors.save_file({**arrays, "sha256": found}, path, {"fastoptim": text})


def assert_refused(opt, path, message=""):
    """Assert that a file is refused with an error that names it, and changes nothing."""
    before = snapshot(opt), opt.skipped_steps
    with pytest.raises(ValueError, match=f"^{re.escape(path)}: ") as caught:
        opt.load(path)
    assert message in str(caught.value)
    assert (snapshot(opt), opt.skipped_steps) == before


RESUME = """
def case(i):
    cls, chosen = PAIRS[i]
    rng = np.random.default_rng(i)
    shapes = {"c": (5, 7), "f": (7, 5), "0": (), "none": (0, 3), "long": (70,)}
    params = {
        f"{name} {dtype.__name__}": np.array(
            rng.standard_normal(shape), dtype, order="F" if name == "f" else "C"
        )
        for name, shape in shapes.items() for dtype in DTYPES
    }
    grads = [dict(zip(params, gradients(rng, list(params.values())))) for _ in range(8)]
    grads[1]["c float32"] = None
    if chosen["nonfinite"] == "skip":
        grads[2]["long float64"][0] = np.nan
    return cls, chosen, params, grads

def digest(opt):
    sha = hashlib.sha256(repr((opt._plan.steps, opt.skipped_steps)).encode())
    for name, array in arrays_of(opt):
        sha.update(name.encode() + array.tobytes())
    return sha.hexdigest()
"""


def test_a_run_in_a_new_process_has_the_same_bits(tmp_path):
    """Every class, with every option beside every other, in both dtypes and orders."""
    names = {"np": np, "hashlib": hashlib}
    exec("from zoo import *\n" + RESUME, names)
    expected = []
    for i in range(len(PAIRS)):
        cls, chosen, params, grads = names["case"](i)
        opt = cls(params, **chosen)
        for g in grads[:4]:
            opt.step(g)
        opt.save(tmp_path / str(i))
        for g in grads[4:]:
            opt.step(g)
        expected.append(names["digest"](opt))
    code = f"""
import sys; sys.path.insert(0, {TESTS!r})
import hashlib, numpy as np
from zoo import *
{RESUME}
for i in range(len(PAIRS)):
    cls, chosen, params, grads = case(i)
    opt = cls({{name: np.zeros_like(p) for name, p in params.items()}}, weight_decay=0.7)
    opt.load(str(i))
    for g in grads[4:]:
        opt.step(g)
    print(digest(opt))
"""
    assert output(code, cwd=tmp_path).split() == expected


def test_a_schedule_goes_on_where_it_was(path):
    def run(p, steps, opt=None):
        opt = opt or fo.SGD(p, lr=lambda t: 0.1 / (1 + t), momentum=0.9)
        for _ in range(steps):
            opt.step(p + 1)
        return opt

    whole = run(np.ones(3), 6)
    run(np.ones(3), 3).save(path)
    p = np.zeros(3)
    second = run(p, 0)
    second.load(path)
    run(p, 3, second)
    assert_same(second, whole)
    assert "lr" not in rest_of(path)["param_groups"][0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_other_readers_find_the_arrays(path, dtype):
    p = np.asfortranarray(np.arange(6, dtype=dtype).reshape(2, 3))
    opt = fo.Adam({"a/b": p, "é": np.ones((), np.float32)}, ema_decay=0.9)
    opt.step({"a/b": p + 1, "é": np.ones((), np.float32)})
    opt.save(path)
    found = safetensors.load_file(path)
    assert found.pop("sha256").shape == (32,)
    expected = {f"{name}/{key}": a for key, s in opt.state.items() for name, a in s.items()}
    expected |= {"p/a/b": p, "p/é": opt.param_groups[0]["params"][1]}
    assert found.keys() == expected.keys()
    assert all(same_bits(found[name], expected[name]) for name in found)
    header = int.from_bytes(Path(path).read_bytes()[:8], "little")
    assert header % 8 == 0  # then all arrays are aligned, the wider ones being first


def test_the_same_optimizer_gives_the_same_file(path):
    opt = adam()
    opt.save(path)
    first = Path(path).read_bytes()
    opt.save(path)
    assert Path(path).read_bytes() == first
    other = adam(steps=0)
    other.load(path)
    assert_same(other, opt)
    other.save(path)
    assert Path(path).read_bytes() == first


def test_the_format_as_it_is_described(path):
    opt, other = adam(), adam(steps=0)
    opt.save(path)
    forge(path)
    other.load(path)
    assert_same(other, opt)


class TestParameters:
    def test_they_are_written_into_the_optimizer_in_place(self, path):
        opt, other = adam(), adam(steps=0)
        arrays = other.param_groups[0]["params"]
        opt.save(path)
        other.load(path)
        assert_same(other, opt)
        assert all(a is b for a, b in zip(arrays, other.param_groups[0]["params"], strict=True))

    def test_they_are_left_out_where_asked(self, path):
        opt, other = adam(), adam(steps=0)
        opt.save(path, params=False)
        assert not any(name.startswith("p/") for name in arrays_in(path))
        params = [p.copy() for p in other.param_groups[0]["params"]]
        other.load(path)
        assert all(map(np.array_equal, params, other.param_groups[0]["params"]))
        assert same_bits(other.state["w"]["m"], opt.state["w"]["m"])
        with pytest.raises(TypeError, match="params: expected True or False, found 1"):
            opt.save(path, params=1)

    def test_one_that_is_read_only_by_now(self, path):
        adam().save(path)
        opt = adam(steps=0)
        opt.param_groups[0]["params"][1].flags.writeable = False
        assert_refused(opt, path, "params['b']: expected a writable array, found a read-only one")

    def test_not_while_they_hold_their_averages(self, path):
        opt = adam()
        opt.save(path)
        before = Path(path).read_bytes()
        with opt.use_ema():
            for call in (opt.save, opt.load):
                with pytest.raises(RuntimeError, match="the parameters hold their averages"):
                    call(path)
        assert Path(path).read_bytes() == before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_at_every_moment_of_loading(path):
    """Whenever it comes: everything is as it was, or as it was saved, and goes on."""
    saved = adam(steps=3, lr=0.5, nonfinite="skip")
    saved.step({"w": np.full((2, 3), np.nan), "b": np.ones(())})
    saved.save(path)
    new, found = (snapshot(saved), 1), []
    for n in itertools.count(1):
        opt = adam()
        old = snapshot(opt), 0
        cut_short = interrupted(partial(opt.load, path), n)
        found.append((snapshot(opt), opt.skipped_steps))
        opt.step({"w": None, "b": np.ones(())})
        if not cut_short:
            break
    assert found[0] == old
    assert found[-2] == new  # from where the last interrupts come
    assert all(state in (old, new) for state in found)
    assert len(found) > 100


class TestNames:
    def test_what_json_can_hold(self, path):
        keys = [
            "w",
            "",
            "e\u0301/\n",
            "__metadata__",
            7,
            2.5,
            -math.inf,
            None,
            ("a", (1, None)),
            (),
        ]

        def run(order):
            opt = fo.SGD({key: np.full(2, keys.index(key) + 1.0) for key in order}, momentum=0.9)
            opt.step({key: np.full(2, keys.index(key) + 1.0) for key in order})
            return opt

        opt = run(keys)
        opt.save(path)
        before = opt.state_dict()
        opt = fo.SGD({key: np.zeros(2) for key in keys}, momentum=0.9)
        opt.load(path)
        assert list(opt.state) == keys
        for key in keys:
            assert np.array_equal(opt.state[key]["v"], before["state"][key]["v"])

    @pytest.mark.parametrize(
        "key", [b"w", math.nan, frozenset({1}), ("a", b"b"), "\ud800", 1j, np.int64(3), dict]
    )
    def test_what_it_cannot_hold(self, path, key):
        opt = fo.SGD({key: np.ones(2)}, momentum=0.9)
        with pytest.raises(TypeError, match="params: expected names that JSON can hold"):
            opt.save(path)
        assert not os.path.exists(path)
        fo.SGD({"w": np.ones(2)}).save(path)

    def test_a_number_and_its_text(self, path):
        opt = fo.SGD([{"params": [np.ones(2)]}, {"params": {"0": np.ones(2)}}], momentum=0.9)
        with pytest.raises(ValueError, match="params: expected names that differ as text, found"):
            opt.save(path)

    def test_groups_and_names_in_another_order(self, path):
        def make(groups, lrs):
            return fo.Adam(
                [
                    {"params": {n: np.full(i + 1, 0.5) for n, i in group.items()}, "lr": lr}
                    for group, lr in zip(groups, lrs, strict=True)
                ]
            )

        opt = make([{"a": 0, "b": 1}, {"c": 2}], [0.1, 0.2])
        opt.step([{"a": np.full(1, 1.0), "b": np.full(2, 2.0)}, {"c": np.full(3, 3.0)}])
        opt.step([{"a": np.full(1, 1.0), "b": None}, {"c": None}])
        opt.save(path)
        other = make([{"c": 2}, {"b": 1, "a": 0}], [0.3, 0.4])
        other.load(path)
        assert list(other.state) == ["c", "b", "a"]
        assert [group["lr"] for group in other.param_groups] == [0.2, 0.1]
        assert other._plan.steps == [1, 1, 2]
        for key, arrays in other.state.items():
            for name, array in arrays.items():
                assert same_bits(array, opt.state[key][name])
        c, (b, a) = other.param_groups[0]["params"][0], other.param_groups[1]["params"]
        assert all(map(same_bits, (a, b, c), [p for g in opt.param_groups for p in g["params"]]))

    @pytest.mark.parametrize(
        ("groups", "message"),
        [
            ([["a", "b", "c"]], "expected groups of [['a', 'b', 'c']], found [['a', 'b'], ['c']]"),
            ([["a"], ["b", "c"]], "expected groups of [['a'], ['b', 'c']]"),
            ([["a", "b"], ["c"], ["d"]], "['d']]"),
            ([["a", "b"]], "expected groups of [['a', 'b']], found"),
            ([["a", "b"], ["x"]], "expected groups of [['a', 'b'], ['x']]"),
        ],
    )
    def test_other_groups_are_refused(self, path, groups, message):
        def make(groups):
            return fo.Adam([{"params": {name: np.ones(3) for name in group}} for group in groups])

        make([["a", "b"], ["c"]]).save(path)
        assert_refused(make(groups), path, message)


class TestLengthOfTheHeader:
    @pytest.mark.parametrize(
        "name", ["", "n", "\U0001f600", "\x01", '"', "\\", ("\U0001f600", '"'), (1, None), 10**80]
    )
    def test_it_has_room_for_any_names_and_numbers(self, path, name, monkeypatch):
        """What is saved can be loaded, whatever else the file of another optimizer may have."""
        monkeypatch.setattr("fastoptim.checkpoint.ROOM_OF_REST", 0)
        if isinstance(name, str):
            name *= 50_000

        def groups():
            shapes = {name: (1,) * 60, (name, 1): (1,), (name, 2): (1,)}
            return [{"params": {key: np.ones(shape)}} for key, shape in shapes.items()]

        opt = fo.RMSprop(groups(), ema_decay=1 / 3, bounds=(-1e300 / 3, 1e300 / 3), l1=1e-300 / 3)
        with opt._plan:
            opt._load({**opt._described(), "skipped_steps": 2**62 - 1})
        opt.save(path)
        fo.RMSprop(groups()).load(path)

    @pytest.mark.parametrize("function", ["replace_file", "_by_name"])
    def test_more_than_the_format_has_is_refused_before_anything_is_written(
        self, path, function, monkeypatch
    ):
        """For very many arrays even before their names are made, which takes a while."""
        opt = adam() if function == "replace_file" else fo.Adam([np.ones(1) for _ in range(10)])
        adam().save(path)
        before = Path(path).read_bytes()
        monkeypatch.setattr("fastoptim.checkpoint.LONGEST_HEADER", 1_000)
        monkeypatch.setattr(f"fastoptim.checkpoint.{function}", None)
        with pytest.raises(
            ValueError, match=r"^params: expected arrays whose names fit the 1,000 bytes"
        ):
            opt.save(path)
        assert Path(path).read_bytes() == before

    def test_the_longest_is_that_of_the_library(self, path):
        for more, reason in ((0, "invalid header length"), (1, "header too large")):
            header = (checkpoint.LONGEST_HEADER + more).to_bytes(8, "little")
            Path(path).write_bytes(header + b"{}")
            with pytest.raises(checkpoint._library().SafetensorError, match=reason):
                checkpoint._library().safe_open(path, "np")


def test_memory_in_which_it_saves(path):
    """Nothing that grows with the arrays, of whatever layout."""
    code = f"""
import resource
import numpy as np
import fastoptim as fo
params = [np.ones(4_000_000), np.ones((2_000, 1_000), order="F")]
opt = fo.Adam(params)
opt.step([np.ones_like(p) for p in params])
fo.Adam(np.ones(3)).save({path!r})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
opt.save({path!r})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    assert int(output(code)) < 20_000  # KiB (macOS: bytes), where the arrays are 140,000
    assert os.path.getsize(path) > 140_000_000


def test_paths(tmp_path):
    opt = adam()
    for path in (tmp_path / "a", str(tmp_path / "b"), os.fsencode(tmp_path / "c\udcff")):
        opt.save(path)
        opt.load(path)
    for call in (opt.save, opt.load):
        with pytest.raises(TypeError, match="path: expected a path, found int"):
            call(3)
        with pytest.raises(ValueError, match=": expected a file, found a folder or a device"):
            call(tmp_path)
    with pytest.raises(FileNotFoundError):
        opt.load(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        opt.save(tmp_path / "none" / "a")


class TestWithoutTheLibrary:
    MESSAGE = 'python -m pip install "fastoptim[checkpoint]"'

    def refused(self, path):
        opt = adam()
        for call in (opt.save, opt.load):
            with pytest.raises(ImportError) as caught:
                call(path)
            assert self.MESSAGE in str(caught.value)
            assert caught.value.name == "safetensors"
        opt.step({"w": None, "b": np.ones(())})
        return str(caught.value)

    def test_none(self, path, monkeypatch):
        adam().save(path)
        monkeypatch.setitem(sys.modules, "safetensors", None)
        assert "which is not installed" in self.refused(path)

    def test_too_old(self, path, monkeypatch):
        adam().save(path)
        monkeypatch.setattr("safetensors.__version__", "0.7.0rc1")
        assert "safetensors 0.8 or newer, found 0.7.0rc1" in self.refused(path)


def content(path):
    """Return the optimizer in a file, whole, and assert that nothing else is beside it."""
    assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]
    opt = adam(steps=0)
    opt.load(path)
    return snapshot(opt)


def plant(opt, **hyper):
    """Give the first group hyperparameters that nobody has checked."""
    group = opt.param_groups[0]
    unchecked = Hyper(opt.rule, {**group.hyper, **hyper})
    _engine.changes.change([(group, {"hyper": unchecked})])


class TestReplacing:
    @pytest.fixture
    def saved(self, path):
        """Return an optimizer that has been saved, and goes on."""
        opt = adam()
        opt.save(path)
        self.old = snapshot(opt)
        opt.step({"w": np.ones((2, 3)), "b": np.ones(())})
        self.new = snapshot(opt)
        return opt

    def test_it_is_on_the_disk_before_it_replaces_and_its_folder_after(
        self, path, saved, monkeypatch
    ):
        calls = []

        def watch(name):
            def call(*args):
                where = args[0]
                if isinstance(where, int):
                    where = "folder" if stat.S_ISDIR(os.fstat(where).st_mode) else "file"
                    if where == "file":
                        sizes.append(os.fstat(args[0]).st_size)
                calls.append((name, os.path.basename(where)[:11]))
                return real(*args)

            real, sizes = getattr(os, name), []
            monkeypatch.setattr(os, name, call)
            return sizes

        (sizes, _) = watch("fsync"), watch("replace")
        saved.save(path)
        expected = [("fsync", "file"), ("replace", ".fastoptim-"), ("fsync", "folder")]
        assert calls == expected
        assert sizes == [os.path.getsize(path)]
        assert content(path) == self.new

    @pytest.mark.parametrize(
        "name", ["open", "fsync", "replace", "stat", pytest.param("fchmod", marks=posix)]
    )
    @pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt])
    def test_a_call_of_the_system_fails(self, path, saved, monkeypatch, name, error):
        def fail(*args, **kwargs):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(type(error) if isinstance(error, OSError) else error) as caught:
                saved.save(path)
        if isinstance(error, OSError):
            assert caught.value.errno == errno.EIO
            if name != "stat":
                assert caught.value.filename == path
        assert content(path) == self.old
        saved.save(path)
        assert content(path) == self.new

    def test_a_file_system_that_cannot_sync_folders(self, path, saved, monkeypatch):
        def fsync(descriptor):
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "Invalid argument")

        monkeypatch.setattr(os, "fsync", fsync)
        saved.save(path)
        assert content(path) == self.new

    def test_what_the_library_cannot_read_replaces_nothing(self, path, saved, monkeypatch):
        monkeypatch.setattr("fastoptim.checkpoint._header", lambda text, specs: b"\x08" + bytes(15))
        with pytest.raises(ValueError, match="expected a safetensors file") as caught:
            saved.save(path)
        assert str(caught.value).startswith(path)
        assert content(path) == self.old

    @pytest.mark.parametrize(
        ("plant", "message"),
        [
            (lambda opt: opt._state["w"].pop("ema"), "['w']: expected the key 'ema', found 'step'"),
            (
                lambda opt: opt._state["b"].update(m=np.ones(1)),
                "'m/b': expected ['F64', []], found ['F64', [1]]",
            ),
            (lambda opt: opt._state["b"].update(x=np.ones(())), "found also 'x/b'"),
            (lambda opt: plant(opt, lr=-1.0), "lr: expected a finite number"),
            (lambda opt: plant(opt, n=1), "n: Adam has no such argument"),
            (
                lambda opt: opt._settings.update(nonfinite="stop"),
                "nonfinite: expected 'ignore'",
            ),
            (
                lambda opt: setattr(opt, "_skipped", -1),
                "['skipped_steps']: expected a whole number",
            ),
        ],
    )
    def test_what_load_would_refuse_replaces_nothing(self, path, saved, plant, message):
        """Whatever went wrong in the optimizer, the good file stays."""
        old = Path(path).read_bytes()
        plant(saved)
        with pytest.raises(ValueError, match=f"^{re.escape(path)}: ") as caught:
            saved.save(path)
        assert message in str(caught.value)
        assert Path(path).read_bytes() == old
        assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]

    def test_data_are_not_read_once_more(self, path, saved, monkeypatch):
        monkeypatch.setattr("fastoptim.checkpoint._arrays_in", None)
        saved.save(path)
        monkeypatch.undo()
        assert content(path) == self.new

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    def test_an_interrupt_at_every_moment(self, path, saved):
        """Whenever it comes: the old file or the new one, no other, and the optimizer goes on."""
        found = []
        old = Path(path).read_bytes()
        for n in itertools.count(1):
            overwrite(path, old)
            cut_short = interrupted(partial(saved.save, path), n)
            assert snapshot(saved) == self.new
            found.append(content(path))
            if not cut_short:
                break
        assert found[-1] == self.new
        assert all(state in (self.old, self.new) for state in found)
        assert found.count(self.old) > 100

    @posix
    def test_permissions(self, path, saved):
        def mode():
            return stat.S_IMODE(os.stat(path).st_mode)

        os.unlink(path)
        before = os.umask(0o027)
        try:
            saved.save(path)
            assert mode() == 0o640
            os.umask(0)
            os.unlink(path)
            saved.save(path)
            assert mode() == 0o666
            os.chmod(path, 0o600)  # the owner has closed it; a further save leaves it closed
            saved.save(path)
            assert mode() == 0o600
        finally:
            assert os.umask(before) == 0

    @posix
    def test_nobody_else_may_open_it_before_it_has_its_permissions(self, path, saved, monkeypatch):
        """Who opens it then could read what is written later."""
        modes, real = [], os.fchmod

        def fchmod(descriptor, mode):
            found = os.fstat(descriptor)
            modes.append((stat.S_IMODE(found.st_mode), found.st_size, mode))
            real(descriptor, mode)

        monkeypatch.setattr(os, "fchmod", fchmod)
        os.chmod(path, 0o640)
        before = os.umask(0)
        try:
            saved.save(path)
        finally:
            os.umask(before)
        assert modes == [(0o600, 0, 0o640)]
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o640

    @posix
    def test_a_link_stays_and_what_it_points_to_is_replaced(self, tmp_path, saved):
        for folder in ("there", "here"):
            (tmp_path / folder).mkdir()
        link, target = tmp_path / "here" / "link", tmp_path / "there" / "run"
        link.symlink_to("../there/run")
        for _ in range(2):  # first where nothing is yet
            saved.save(link)
            assert link.is_symlink()
            assert content(str(target)) == self.new
            assert os.listdir(tmp_path / "here") == ["link"]
            saved.load(link)

    @posix
    def test_what_is_no_file_is_left_alone(self, path):
        os.mkfifo(path)
        opt = adam()
        for call in (opt.save, opt.load):
            with pytest.raises(ValueError, match=": expected a file, found a folder or a device"):
                call(path)
        assert stat.S_ISFIFO(os.stat(path).st_mode)
        assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]


LIMITED = """
import os, sys
sys.path.insert(0, {tests!r})
from test_checkpoint import *
small, large = adam(), adam(30_000)
path = os.path.join({folder!r}, "run")
small.save(path)
before = snapshot(large)
{limit}
for _ in range(2):
    try:
        large.save(path)
    except OSError as error:
        print(errno.errorcode[error.errno], error.filename == path)
    assert content(path) == snapshot(small)
    assert snapshot(large) == before
small.step({{"w": np.ones((2, 3)), "b": np.ones(())}})
{again}
"""


@posix
def test_a_limit_of_the_size_of_files(tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    again = "small.save(path); assert content(path) == snapshot(small)"
    code = LIMITED.format(tests=TESTS, folder=str(tmp_path), limit=limit, again=again)
    assert output(code).split() == ["EFBIG", "True"] * 2


def test_a_full_disk(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "none", str(tmp_path)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system takes root")
    try:
        again = "small.save(path); assert content(path) == snapshot(small)"
        code = LIMITED.format(tests=TESTS, folder=str(tmp_path), limit="", again=again)
        assert output(code).split() == ["ENOSPC", "True"] * 2
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@posix
def test_a_read_only_folder():
    """Also for root, who gives up what lets it write there all the same."""
    with tempfile.TemporaryDirectory() as folder:  # that of tmp_path is closed to all but root
        limit = (
            f"os.chmod({folder!r}, 0o555)\nif os.geteuid() == 0: os.setgid(65534); os.setuid(65534)"
        )
        code = LIMITED.format(tests=TESTS, folder=folder, limit=limit, again="")
        assert output(code).split() == ["EACCES", "True"] * 2


# Who saves (user, group, further groups), and the file that is replaced: its owner, group and mode
# before and after.
OWNERS = [
    ((0, 0, []), (2001, 2000, 0o660), (2001, 2000, 0o660)),
    ((0, 0, []), (2001, 2000, 0o6751), (2001, 2000, 0o6751)),
    ((2001, 2001, [2000]), (2001, 2000, 0o660), (2001, 2000, 0o660)),
    # The file loses its group, of which who saves it is no member
    ((2001, 2001, []), (2001, 2000, 0o660), (2001, 2001, 0o600)),
    ((2001, 2001, []), (2001, 2000, 0o664), (2001, 2001, 0o644)),
    ((2001, 2001, []), (2001, 2000, 0o604), (2001, 2001, 0o600)),
    ((2001, 2001, []), (2001, 2000, 0o2775), (2001, 2001, 0o755)),
    # Another owner
    ((2002, 2002, [2000]), (2001, 2000, 0o660), (2002, 2000, 0o660)),
    ((2002, 2002, [2000]), (2001, 2000, 0o6770), (2002, 2000, 0o770)),
    ((2002, 2002, []), (2001, 2000, 0o646), (2002, 2002, 0o644)),
    ((2002, 2002, []), (2001, 2001, 0o4600), (2002, 2002, 0o600)),
]
SAVE_AS = """
import os, stat, sys
sys.path.insert(0, {tests!r})
from test_checkpoint import *
opt, path = adam(), os.path.join({folder!r}, "run")

def save_as(user, group, groups):
    os.setgroups(groups)
    os.setegid(group)
    os.seteuid(user)
    try:
        opt.save(path)
        opt.load(path)
    finally:
        os.seteuid(0)
        os.setegid(0)
    found = os.stat(path)
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)

def made(user, group, mode):
    if os.path.exists(path):
        os.unlink(path)
    opt.save(path)
    os.chown(path, user, group)
    os.chmod(path, mode)

os.umask(0o022)
os.chmod({folder!r}, 0o777)
"""
needs_root = pytest.mark.skipif(
    getattr(os, "geteuid", lambda: 1)() != 0, reason="saving as somebody else takes root"
)


@needs_root
def test_owner_and_group_stay_or_get_nothing_new():
    code = """
for who, before, after in OWNERS:
    made(*before)
    found = save_as(*who)
    assert found == after, (who, before, found)
"""
    with tempfile.TemporaryDirectory() as folder:
        output(SAVE_AS.format(tests=TESTS, folder=folder) + code)


@needs_root
def test_an_access_control_list_stays_or_leaves_the_file_to_its_owner():
    """With one, the group's bits of the mode are the limit of what it grants, not the group's."""
    code = """
import struct

def acl(owner, group, others, **users):
    entries = [(1, owner, 2**32 - 1), *((2, users[u], int(u[1:])) for u in users)]
    entries += [(4, group, 2**32 - 1), (16, 6, 2**32 - 1), (32, others, 2**32 - 1)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)

given = acl(6, 0, 4, _2003=6, _2004=0)
made(2001, 2000, 0o600)
try:
    os.setxattr(path, "system.posix_acl_access", given)
except OSError as error:
    print(error)
    sys.exit()
for who, ids in (((0, 0, []), (2001, 2000)), ((2002, 2002, [2000]), (2002, 2000))):
    assert save_as(*who) == (*ids, 0o664), who
    assert os.getxattr(path, "system.posix_acl_access") == given
assert save_as(2002, 2002, []) == (2002, 2002, 0o600)
assert "system.posix_acl_access" not in os.listxattr(path)

# A list of the folder, which a new file gets, and one that replaces a file without a list does not
os.setxattr(os.path.dirname(path), "system.posix_acl_default", given)
made(2001, 2000, 0o660)
os.removexattr(path, "system.posix_acl_access")
os.chmod(path, 0o660)
assert save_as(0, 0, []) == (2001, 2000, 0o660)
assert "system.posix_acl_access" not in os.listxattr(path)
print("kept")
"""
    with tempfile.TemporaryDirectory() as folder:
        found = output(SAVE_AS.format(tests=TESTS, folder=folder) + code)
    if found.strip() != "kept":
        pytest.skip(f"no access control lists here: {found}")


KILLS = """
import mmap, os, random, signal, sys, time
sys.path.insert(0, {tests!r})
from test_checkpoint import *
path = {path!r}
folder = os.path.dirname(path)
optimizers = [adam(20_000, steps) for steps in (2, 3)]
states = [snapshot(opt) for opt in optimizers]
optimizers[0].save(path)
probe = adam(20_000, steps=0)
start = time.perf_counter()
for _ in range(5):
    optimizers[0].save(path)
pause = (time.perf_counter() - start) / 5
rng, inside, before, partly, found = random.Random(1), 0, 0, 0, [0, 0]
saving = mmap.mmap(-1, 1)
for k in range(200):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, b"1")
        while True:
            k += 1
            for opt in optimizers[k % 2 :]:
                saving[0] = 1
                opt.save(path)
                saving[0] = 0
    os.read(reader, 1)
    time.sleep(rng.random() * 2 * pause)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(reader), os.close(writer)
    inside += saving[0]
    left = [name for name in os.listdir(folder) if name != os.path.basename(path)]
    assert len(left) <= 1, left
    for name in left:
        assert name.startswith(".fastoptim-")
        left = os.path.join(folder, name)
        before += 1
        partly += 0 < os.path.getsize(left) < os.path.getsize(path)
        os.unlink(left)
    probe.load(path)
    found[states.index(snapshot(probe))] += 1
print(inside, before, partly, *found)
"""


@needs_fork
def test_200_kills_leave_the_old_file_or_the_new_one(path):
    inside, before, partly, *found = map(int, output(KILLS.format(tests=TESTS, path=path)).split())
    print(f"{inside} in save, {before} before the new file replaced the old, {partly} half-written")
    assert sum(found) == 200
    assert min(found) > 20
    assert inside > 150
    assert before > 50
    assert partly > 0


def mutations(rng, data):
    """Yield damaged copies of a file: bits and bytes changed, pieces lost, doubled or added."""
    while True:
        found = bytearray(data)
        for _ in range(rng.choice([1, 1, 1, 2, 8])):
            i, j = sorted(rng.choices(range(len(data) + 1), k=2))
            # the header is where most is to be broken
            i, j = rng.choice([(i, j), (i % 700, j % 700), (i, i + rng.randrange(20))])
            kind = rng.choice([0, 0, 0, 0, 1, 1, 1, 2, 3, 4, 5, 5, 6, 7, 8])
            if kind == 0 and found:
                found[i % len(found)] ^= 1 << rng.randrange(8)
            elif kind == 1 and found:
                found[i % len(found)] = rng.choice(b'\0\xff "{}[],:0129-.eE\\u')
            elif kind == 2:
                del found[i:]
            elif kind == 3:
                del found[i:j]
            elif kind == 4:
                found[i:i] = rng.randbytes(rng.randrange(40))
            elif kind == 5:
                found[i:j] = bytes(max(j - i, 0))
            elif kind == 6:
                found[i:i] = found[i:j]
            elif kind == 7:
                sizes = rng.randrange(2 ** rng.randrange(1, 64)), max(len(found) - 8, 0), len(found)
                found[:8] = rng.choice(sizes).to_bytes(8, "little")
            else:
                found += rng.randbytes(rng.randrange(40))
        yield bytes(found)


def overwrite(path, data):
    """Put other bytes into a file; to truncate it first is ten times as slow on some systems."""
    with open(path, "r+b") as file:
        file.write(data)
        file.truncate()


def loads(opt, path):
    """Tell why a file was refused, which has changed nothing; None if it was loaded."""
    before = snapshot(opt), opt.skipped_steps
    try:
        opt.load(path)
    except ValueError as error:
        message = str(error)
    else:
        return None
    assert message.startswith(f"{path}: ")
    assert (snapshot(opt), opt.skipped_steps) == before
    return re.sub("found.*", "", message[len(path) + 2 :])


class TestDamagedFiles:
    @pytest.fixture
    def saved(self, path):
        """Return what is in the file at path."""
        opt = adam(amsgrad=True, bounds=(-math.inf, 50))
        opt.save(path)
        return snapshot(opt)

    def test_10_000_mutations(self, path):
        """Each gives a clean error and changes nothing, or loads what was saved."""
        opt, refused = adam(30, amsgrad=True, bounds=(-math.inf, 50)), collections.Counter()
        opt.save(path)
        data, saved = Path(path).read_bytes(), snapshot(opt)
        opt = adam(30, steps=0)
        for damaged in itertools.islice(mutations(random.Random(5), data), 10_000):
            overwrite(path, damaged)
            refused[message := loads(opt, path)] += 1
            if message is None:
                assert snapshot(opt) == saved
                opt = adam(30, steps=0)
        print(refused)
        assert 0 < refused[None] < 1_000
        assert len(refused) > 5

    def test_1_000_files_that_are_whole_but_wrong(self, path, saved):
        """With a hash that fits: an error that changes nothing, or an optimizer that goes on."""
        rng, rest, arrays = random.Random(6), rest_of(path), arrays_in(path)
        opt, refused = adam(steps=0), collections.Counter()
        for _ in range(1_000):
            spoiled = copy.deepcopy(rest)
            spoil(rng, spoiled)
            forge(path, spoiled, arrays)
            refused[message := loads(opt, path)] += 1
            if message is None:
                opt.step({"w": np.ones((2, 3)), "b": np.ones(())})
                opt.save(path)
                opt.load(path)
                opt = adam(steps=0)
        assert 0 < refused[None] < 500
        assert len(refused) > 20

    def test_every_length_it_could_be_cut_to(self, path, saved):
        opt = adam(steps=0)
        for length in reversed(range(os.path.getsize(path))):
            os.truncate(path, length)
            assert loads(opt, path) == "expected a safetensors file, "

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda a: a.pop("m/w"), "state_dict['state']['w']: expected the key 'm'"),
            (lambda a: a.pop("v_max/w"), "expected the key 'v_max'"),
            (lambda a: a.pop("ema/b"), "state_dict['state']['b']: expected the key 'ema'"),
            (lambda a: a.pop("p/b"), "expected 2 parameters or none, found 1"),
            (lambda a: a.update({"x/w": a["m/w"]}), "arrays of this optimizer, found also 'x/w'"),
            (lambda a: a.update({"m/x": a["m/w"]}), "arrays of this optimizer, found also 'm/x'"),
            (lambda a: a.update({"m": a["m/w"]}), "arrays of this optimizer, found also 'm'"),
            (
                lambda a: a.update({"m/w": a["m/w"].T.copy()}),
                "'m/w': expected ['F64', [2, 3]], found ['F64', [3, 2]]",
            ),
            (
                lambda a: a.update({"m/w": a["m/w"].astype("f4")}),
                "'m/w': expected ['F64', [2, 3]], found ['F32', [2, 3]]",
            ),
            (
                lambda a: a.update({"p/w": a["p/w"].astype("f2")}),
                "'p/w': expected ['F64', [2, 3]], found ['F16', [2, 3]]",
            ),
            (
                lambda a: a.update({"p/b": np.ones(1)}),
                "'p/b': expected ['F64', []], found ['F64', [1]]",
            ),
            (lambda a: a.update({"p/b": np.ones((), "i4")}), "found ['I32', []]"),
        ],
    )
    def test_arrays_that_do_not_fit(self, path, saved, change, message):
        arrays = arrays_in(path)
        change(arrays)
        forge(path, arrays=arrays)
        assert_refused(adam(steps=0), path, message)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "expected JSON in its metadata"),
            ("[" * 100_000, "expected JSON in its metadata"),
            ("[]", "expected a mapping in its metadata, found tuple"),
            ('{"version": 2}', "version: expected 1, found 2"),
            ('{"version": 1}', "optimizer: expected Adam, found None"),
            ('{"version": 1, "optimizer": "SGD"}', "optimizer: expected Adam, found 'SGD'"),
            (
                '{"version": 1, "optimizer": "Adam"}',
                "metadata: expected the key 'param_groups', found 'version', 'optimizer'",
            ),
        ],
    )
    def test_metadata_that_does_not_fit(self, path, saved, text, message):
        forge(path, text=text)
        assert_refused(adam(steps=0), path, message)

    def test_a_group_or_a_name_twice(self, path, saved):
        rest = rest_of(path)
        (group,), steps = rest["param_groups"], rest["steps"]
        for names in (["w", "b"], ["b", "w"], ["w"], ["w", "w"], []):
            again = {**group, "params": names}
            more = {"param_groups": [group, again], "steps": [*steps, *[7] * len(names)]}
            forge(path, {**rest, **more})
            assert_refused(adam(steps=0), path, "param_groups: expected groups of [['w', 'b']]")
        for names in (["w", "b", "w"], ["w", "w"]):
            more = {"param_groups": [{**group, "params": names}], "steps": [1] * len(names)}
            forge(path, {**rest, **more})
            assert_refused(adam(steps=0), path, "param_groups: expected groups of [['w', 'b']]")

    @pytest.mark.parametrize("steps", [None, 2, [2], [2, 2, 2], {"w": 2, "b": 2}, "22"])
    def test_step_counts_of_other_names(self, path, saved, steps):
        forge(path, {**rest_of(path), "steps": steps})
        assert_refused(adam(steps=0), path, "steps: expected one for each of 2 names, found ")

    def test_messages_are_short(self, path, saved):
        """Also what an exception quotes as its cause."""
        rest, arrays, long = rest_of(path), arrays_in(path), "n" * 300_000
        (group,) = rest["param_groups"]
        many = [f"name {i}" for i in range(20_000)]
        changes = [
            {"version": long},
            {"version": many},
            {"optimizer": long},
            {"format": many},
            {"steps": many},
            {"steps": [long, 2]},
            {"skipped_steps": long},
            {"settings": dict.fromkeys(many)},
            {"settings": {**rest["settings"], "nonfinite": long}},
            {"param_groups": many},
            {"param_groups": [dict.fromkeys(many)]},
            {"param_groups": [{**group, "params": many}]},
            {"param_groups": [{**group, "params": [long, "b"]}]},
            {"param_groups": [{**group, "lr": many}]},
            {"param_groups": [{**group, long: 1}]},
            {"param_groups": [{**group, **dict.fromkeys(many)}]},
        ]
        for change in changes:
            forge(path, {**rest, **change})
            self.assert_short(path)
        forge(path, rest, {**arrays, long: np.ones(3)})
        self.assert_short(path)
        header = {
            "__metadata__": {"fastoptim": json.dumps(rest)},
            "m/w": {"dtype": "U8", "shape": [1] * 9_000, "data_offsets": [0, 1]},
            "sha256": {"dtype": "U8", "shape": [32], "data_offsets": [1, 33]},
        }
        for kind in ("U8", long):
            header["m/w"]["dtype"] = kind
            text = json.dumps(header).encode()
            Path(path).write_bytes(len(text).to_bytes(8, "little") + text + bytes(33))
            self.assert_short(path)

    def assert_short(self, path):
        with pytest.raises(ValueError, match=f"^{re.escape(path)}: ") as caught:
            adam(steps=0).load(path)
        assert len(str(caught.value)) < 2_000
        assert all(len(part) < 3_000 for part in traceback.format_exception(caught.value))

    @pytest.mark.parametrize("digest", [np.zeros(32, "u1"), np.zeros(31, "u1"), np.zeros(32, "i1")])
    def test_another_hash(self, path, saved, digest):
        forge(path, digest=digest)
        message = "expected what was saved" if digest.nbytes == 32 else "expected an array 'sha256'"
        if digest.dtype == "i1":
            message = "expected an array 'sha256'"
        assert_refused(adam(steps=0), path, message)

    def test_another_safetensors_file(self, path):
        safetensors.save_file({"w": np.ones(3)}, path)
        assert_refused(adam(steps=0), path, "expected a checkpoint of fastoptim")

    @pytest.mark.parametrize("size", [0, 10**6, 99_999_999, 10**8 + 1, 2**40, 2**63, 2**64 - 1])
    def test_a_header_that_claims_any_size(self, path, size):
        with open(path, "wb") as file:
            file.write(size.to_bytes(8, "little") + b"{}" * 20)
        message = "safetensors file, found none" if size <= 10**6 else f"found one of {size:,}: "
        assert_refused(adam(steps=0), path, message)

    def test_a_header_of_many_times_what_the_optimizer_needs(self, path, saved):
        """It would take fifty times as much memory; it is refused before anything parses it."""
        forge(path, text="[" + "{}," * 1_000_000 + "{}]")
        assert_refused(adam(steps=0), path, "expected a checkpoint of this optimizer, whose header")
        with open(path, "rb") as file:
            assert int.from_bytes(file.read(8), "little") > 2_000_000

    def test_a_file_larger_than_the_memory(self, path, saved):
        """It has what its header claims, being empty from its header on."""
        size = 2**42
        header = {
            "__metadata__": {"fastoptim": json.dumps(rest_of(path))},
            "m/w": {"dtype": "F64", "shape": [size // 8], "data_offsets": [0, size]},
            "sha256": {"dtype": "U8", "shape": [32], "data_offsets": [size, size + 32]},
        }
        text = json.dumps(header).encode()
        with open(path, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(file.tell() + size + 32)
        assert_refused(
            adam(steps=0), path, "'m/w': expected ['F64', [2, 3]], found ['F64', [549755813888]]"
        )


WEIRD = [
    None,
    True,
    -1,
    0,
    0.5,
    1e308,
    math.inf,
    math.nan,
    2**70,
    10**400,
    "",
    "w",
    "lr",
    [],
    {},
    [[]],
    [0.9, 0.99],
    {"w": 1},
    ["w", "b"],
    [{}],
    [["w"]],
    "\ud800",
    [math.nan, 1],
    ["b", []],
]


def spoil(rng, tree):
    """Change, drop, double or add something somewhere in what JSON holds."""
    places = []

    def walk(node):
        for place in node if isinstance(node, dict) else range(len(node)):
            places.append((node, place))
            if isinstance(node[place], (dict, list)):
                walk(node[place])

    walk(tree)
    for _ in range(rng.choice([1, 1, 2])):
        node, place = rng.choice(places)
        kind = rng.randrange(5)
        if kind == 0 and len(node) > 0:
            del node[place if isinstance(node, dict) else rng.randrange(len(node))]
            return
        if kind == 1 and isinstance(node, dict):
            node[rng.choice(["w", "params", "", "ema", "step"])] = rng.choice(WEIRD)
        elif kind == 1:
            node.append(rng.choice(WEIRD))
            return
        else:
            node[place] = rng.choice(WEIRD)
