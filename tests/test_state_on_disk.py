"""State on disk: the bits of state in memory, whatever is asked of the optimizer, and its file."""

from __future__ import annotations

import copy
import errno
import gc
import os
import pickle
import stat
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from fresh import FORK, needs_fork, output, python
from zoo import DTYPES, PAIR_IDS, PAIRS, assert_same, gradients, same_bits

import fastoptim as fo
from fastoptim import checkpoint
from fastoptim._engine import disk, scratch

BACKENDS = ["compiled", "reference"]
WAVE = 60_000  # bytes, so that arrays of some thousand elements are cut


@pytest.fixture(autouse=True)
def small_waves():
    before = disk.set_wave_bytes(WAVE)
    yield
    disk.set_wave_bytes(before)


@pytest.fixture(params=["direct", "cached"])
def path(request, tmp_path, monkeypatch):
    """Return a path for state, past the page cache (where the file system can) and through it."""
    if request.param == "cached":
        monkeypatch.setattr(scratch, "DIRECT", 0)
    return tmp_path / "run.state"


def ugly(dtype) -> list[np.ndarray]:
    """Return arrays of all kinds of sizes and layouts, with values of all kinds."""
    rng = np.random.default_rng(1)
    found = [
        rng.standard_normal((300, 71)),
        np.asfortranarray(rng.standard_normal((90, 111))),
        rng.standard_normal(()),
        rng.standard_normal((0, 3)),
        rng.standard_normal((5, 7, 9)).transpose(1, 0, 2),
        rng.standard_normal(2048),
        rng.standard_normal(8191),
    ]
    found[0].flat[:6] = [np.nan, 0.0, -0.0, np.inf, 5e-324, 1e-40]
    return [p.astype(dtype, order="K") for p in found]


def pair(cls, path, dtype=np.float32, params=ugly, **options):
    """Return two optimizers of equal parameters, with state on disk and in memory."""
    return (
        cls(params(dtype), state_path=path, **options),
        cls(params(dtype), **options),
    )


def step(*optimizers, skip=(), seed=0):
    grads = gradients(np.random.default_rng(seed), optimizers[0].param_groups[0]["params"])
    grads = [None if i in skip else g for i, g in enumerate(grads)]
    for opt in optimizers:
        opt.step(grads)


def stepped(*optimizers, steps=3):
    for t in range(steps):
        step(*optimizers, seed=t, skip=(1, 4) if t == 1 else ())
    return optimizers


class TestBits:
    """They are those of state in memory, which the tests of bits hold to the references."""

    @pytest.mark.parametrize(("cls", "options"), PAIRS, ids=PAIR_IDS)
    def test_every_rule_and_option(self, cls, options, tmp_path):
        for dtype, backend in zip(DTYPES, BACKENDS, strict=True):
            ours, other = pair(cls, tmp_path / "s", dtype, backend=backend, **options)
            stepped(ours, other)
            assert_same(ours, other)
            del ours  # whose path is that of the next
            gc.collect()

    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_past_the_cache_and_through_it(self, path, dtype, backend):
        ours, other = pair(fo.LAMB, path, dtype, backend=backend, ema_decay=0.9, max_grad_norm=1.0)
        stepped(ours, other)
        assert_same(ours, other)

    @pytest.mark.parametrize("threads", [1, 2, 3])
    def test_any_number_of_threads(self, tmp_path, threads):
        disk.set_wave_bytes(1 << 20)

        def params(dtype):
            return [np.linspace(-1, 1, 300_001, dtype=dtype)]

        with fo.num_threads(threads):
            ours, other = stepped(*pair(fo.Adam, tmp_path / "s", np.float32, params))
        assert_same(ours, other)

    def test_masks_and_schedules(self, tmp_path):
        def masks():
            return [np.arange(p.size).reshape(p.shape) % 3 > 0 for p in ugly(np.float64)]

        decay = fo.schedules.CosineAnnealing(0.1, 10)
        ours, other = stepped(
            *pair(fo.AdamW, tmp_path / "s", np.float64, lr=decay, mask=masks(), ema_decay=0.5)
        )
        assert_same(ours, other)
        for opt in (ours, other):
            opt.param_groups[0]["mask"] = None
        stepped(ours, other)
        assert_same(ours, other)

    def test_gradients_of_any_layout_and_type(self, tmp_path):
        ours, other = pair(fo.Adam, tmp_path / "s", cast_grads=True)
        rng = np.random.default_rng(3)
        for t in range(3):
            grads = [rng.standard_normal(p.shape[::-1]).T for p in ugly(np.float32)]
            grads[0] = grads[0][::-1] if t else grads[0]
            ours.step(grads)
            other.step(grads)
        assert_same(ours, other)

    def test_many_small_arrays(self, path):
        def params(dtype):
            return [np.full(3 + n % 50, n, dtype) for n in range(2000)]

        ours, other = stepped(*pair(fo.Adam, path, np.float32, params))
        assert_same(ours, other)

    def test_parameters_and_gradients_in_files(self, tmp_path):
        """All three may be larger than memory."""
        p = np.memmap(tmp_path / "p", np.float32, "w+", shape=(100, 301))
        g = np.memmap(tmp_path / "g", np.float32, "w+", shape=(100, 301))
        p[...] = np.linspace(-1, 1, p.size).reshape(p.shape)
        q = np.array(p)
        ours, other = fo.Adam(p, state_path=tmp_path / "s"), fo.Adam(q)
        for _ in range(3):
            g[...] = 0.3 * p
            ours.step(g)
            other.step(np.array(g))
        assert same_bits(np.array(p), q)

    def test_a_rule_of_ones_own(self, tmp_path):
        def scalars(step: int, lr: float = 0.5):
            return (lr,)

        @fo.rule(state=("m",), scalars=scalars)
        def mine(p, g, m, lr):
            m = m + g * g
            return p - lr * g / (fo.sqrt(m) + lr), m

        ours, other = stepped(*pair(fo.optimizer(mine), tmp_path / "s", backend="reference"))
        assert_same(ours, other)

    def test_several_rules_in_one(self, path):
        def made(**options):
            table, dense, rest = ugly(np.float32)[:3]
            groups = [
                {"optimizer": fo.Adagrad, "params": [table], "initial_accumulator_value": 0.25},
                {"optimizer": fo.SGD, "params": [dense], "lr": 0.1},
                {"optimizer": fo.ScheduleFreeAdamW, "params": [rest], "ema_decay": 0.5},
            ]
            return fo.Mixed(groups, max_grad_norm=2.0, **options)

        ours, other = made(state_path=path), made()
        for t in range(3):
            grads = gradients(np.random.default_rng(t), ugly(np.float32)[:3])
            for opt in (ours, other):
                opt.step([[g] for g in grads])
        assert_same(ours, other)

    def test_no_state_at_all(self, path):
        ours, other = stepped(*pair(fo.SGD, path, lr=0.1))
        assert_same(ours, other)
        ours, other = fo.Adam(np.zeros(0), state_path=f"{path}2"), fo.Adam(np.zeros(0))
        for opt in (ours, other):
            opt.step(np.zeros(0))
        assert_same(ours, other)


class TestLife:
    """Whatever is asked of an optimizer, beside steps."""

    def test_state_that_is_needed_later(self, path):
        ours, other = stepped(*pair(fo.SGD, path, lr=0.1))
        for name, value in (("momentum", 0.9), ("ema_decay", 0.5), ("momentum", 0.0)):
            for opt in (ours, other):
                setattr(opt, name, value)
            stepped(ours, other)
            assert_same(ours, other)
        for opt in (ours, other):
            opt.ema_decay = None
            opt.momentum = 0.9  # whose state was kept
        stepped(ours, other)
        assert_same(ours, other)

    def test_room_in_the_file_does_not_grow(self, path):
        """Each call for other state makes a new part of the file, and gives the old one back."""
        ours, _ = stepped(*pair(fo.SGD, path, lr=0.1, momentum=0.9))
        sizes = []
        for k in range(6):
            ours.ema_decay = None if k % 2 else 0.5
            step(ours)
            sizes.append(os.stat(path).st_blocks)
        assert sizes[0] >= sizes[2] >= sizes[4]
        assert sizes[1] >= sizes[3] >= sizes[5]

    def test_what_state_starts_with_before_the_first_step(self, path):
        """It is what the hyperparameters said when it was made."""
        ours, other = pair(fo.Adagrad, path)
        for opt in (ours, other):
            opt.initial_accumulator_value = 0.25
            opt.ema_decay = 0.5
            opt.add_param_group({"params": [np.ones(3000)]})
        for key in range(8):
            assert same_bits(ours.state[key]["h"], other.state[key]["h"])

    def test_added_groups(self, path):
        ours, other = stepped(*pair(fo.Adam, path, ema_decay=0.5))
        for opt in (ours, other):
            opt.add_param_group({"params": [np.ones(3000)], "lr": 0.5})
            opt.step([ugly(np.float32), [np.ones(3000)]])
        assert_same(ours, other)

    def test_other_arrays(self, path):
        ours, other = stepped(*pair(fo.Adam, path, ema_decay=0.5))
        for turned in (False, True):
            for opt in (ours, other):
                params = ugly(np.float32)
                if turned:
                    params[0] = np.asfortranarray(params[0])
                    params[1] = np.ascontiguousarray(params[1])
                opt.rebind(params)
            stepped(ours, other)
            assert_same(ours, other)

    def test_names_in_another_order(self, path):
        def made(**options):
            return fo.Adam({"a": np.ones(5000), "b": np.ones(3)}, **options)

        ours, other = made(state_path=path), made()
        for opt in (ours, other):
            opt.step({"a": np.arange(5000.0), "b": np.ones(3)})
            opt.rebind({"b": np.ones(3), "a": np.ones(5000)})
            opt.step({"a": np.arange(5000.0), "b": np.ones(3)})
        for key in "ab":
            for name in "mv":
                assert same_bits(ours.state[key][name], other.state[key][name])

    def test_state_dicts(self, path):
        ours, other = stepped(*pair(fo.Adam, path, ema_decay=0.5, amsgrad=True))
        saved, wanted = ours.state_dict(), other.state_dict()
        for key, arrays in wanted["state"].items():
            for name, value in arrays.items():
                found = saved["state"][key][name]
                if isinstance(value, np.ndarray):
                    assert found.flags.writeable
                    assert found.strides == value.strides
                assert np.array_equal(found, value, equal_nan=True)
        fresh = fo.Adam(ugly(np.float32), ema_decay=0.5, amsgrad=True)
        fresh.load_state_dict(saved)
        ours.load_state_dict(wanted)
        for opt in (other, fresh, ours):
            for p, q in zip(opt.param_groups[0]["params"], ugly(np.float32), strict=True):
                p[...] = q
            step(opt)
        assert_same(ours, other)
        assert_same(fresh, other)

    def test_a_state_dict_that_does_not_fit_changes_nothing(self, path):
        ours, other = stepped(*pair(fo.Adam, path))
        saved = other.state_dict()
        saved["state"][6]["v"] = np.ones(3, np.float32)
        with pytest.raises(ValueError, match="shape"):
            ours.load_state_dict(saved)
        assert_same(ours, other)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_averages_take_the_place_of_parameters(self, path, backend):
        ours, other = stepped(*pair(fo.Adam, path, ema_decay=0.5, backend=backend))
        self.compare_averages(ours.use_ema, other.use_ema, ours, other)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_averages_of_a_schedule_free_rule(self, path, backend):
        ours, other = stepped(*pair(fo.ScheduleFreeAdamW, path, backend=backend, lr=0.1))
        self.compare_averages(ours.use_average, other.use_average, ours, other)

    @staticmethod
    def compare_averages(our_average, other_average, ours, other):
        params = [opt.param_groups[0]["params"] for opt in (ours, other)]
        with our_average(), other_average():
            assert all(map(same_bits, *params))
            with pytest.raises(RuntimeError, match="step: the parameters hold their averages"):
                step(ours)
            with pytest.raises(RuntimeError, match="state: the parameters hold their averages"):
                _ = ours.state
        assert_same(ours, other)
        stepped(ours, other)
        assert_same(ours, other)

    def test_the_average_before_the_first_step(self, path):
        ours, other = pair(fo.Adam, path, ema_decay=0.5, bounds=(-0.5, 0.5))
        assert all(map(same_bits, ours.ema, other.ema))
        with ours.use_ema(), other.use_ema():
            assert all(map(same_bits, *(o.param_groups[0]["params"] for o in (ours, other))))
        stepped(ours, other)
        assert_same(ours, other)
        assert all(map(same_bits, ours.ema, other.ema))

    def test_state_that_is_shown_cannot_be_written_to(self, path):
        """Nor would what is written reach the file: to say so is better than to lose it."""
        ours, other = stepped(*pair(fo.Adam, path))
        shown = ours.state[0]
        assert list(shown) == ["m", "v"]
        assert len(shown) == 2
        with pytest.raises(ValueError, match="read-only"):
            shown["m"][0] = 1.0
        with pytest.raises(KeyError):
            shown["w"]
        assert same_bits(shown["m"], other.state[0]["m"])

    @pytest.mark.parametrize("take", [copy.copy, copy.deepcopy, pickle.dumps])
    def test_no_copies(self, path, take):
        ours, _ = pair(fo.Adam, path)
        with pytest.raises(
            TypeError, match=r"expected (copy.deepcopy|an optimizer with its state)"
        ):
            take(ours)
        with pytest.raises(TypeError, match="save it, and load the checkpoint into another"):
            copy.deepcopy(ours)

    def test_a_refused_step_changes_nothing(self, path):
        ours, other = stepped(*pair(fo.Adam, path, nonfinite="raise"))
        grads = ugly(np.float32)
        with pytest.raises(FloatingPointError):
            ours.step(grads)
        with pytest.raises(ValueError, match="grads"):
            ours.step(grads[:-1])
        assert_same(ours, other)
        grads = [np.ones_like(p) for p in grads]
        ours.step(grads)
        other.step(grads)
        assert_same(ours, other)

    def test_another_thread(self, path):
        ours, _ = pair(fo.Adam, path)
        errors = []

        def schedule(t):
            def use():
                try:
                    _ = ours.state[0]["m"]
                except RuntimeError as error:
                    errors.append(str(error))

            thread = threading.Thread(target=use)
            thread.start()
            thread.join()
            return 0.1

        ours.lr = schedule
        errors.clear()
        step(ours)
        assert len(errors) == 1
        assert "in use already, in another thread" in errors[0]

    def test_two_optimizers_in_two_threads(self, path):
        pairs = [pair(fo.Adam, f"{path}{k}", ema_decay=0.5) for k in range(2)]
        threads = [threading.Thread(target=stepped, args=(ours,)) for ours, _ in pairs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for ours, other in pairs:
            stepped(other)
            assert_same(ours, other)

    def test_what_a_step_reads_and_writes(self, path):
        """Each byte of state once, and read once more for a trust ratio."""
        for cls, reads in ((fo.Adam, 1), (fo.LAMB, 2)):
            p, g = np.ones((2, 100_000), np.float32)
            ours = cls(p, state_path=f"{path}{reads}")
            ours.step(g)
            before = moved(ours)
            for _ in range(10):
                ours.step(g)
            read, written = (b - a for a, b in zip(before, moved(ours), strict=True))
            size = 10 * 2 * p.nbytes
            assert size <= written <= 1.05 * size
            ahead = 2 * disk.BUFFERS * WAVE  # of the next sweep
            assert reads * size - ahead <= read <= 1.05 * reads * size + ahead

    def test_it_says_where_its_state_is(self, path):
        ours, other = pair(fo.Adam, path)
        assert ours.state_path == str(path)
        assert other.state_path is None
        assert f"state_path={str(path)!r}" in repr(ours)
        assert "state_path" not in repr(other)


def moved(opt) -> tuple[int, int]:
    return opt._state[0]["m"].disk.moved


class TestFile:
    def test_it_says_what_it_is(self, path):
        opt = fo.Adam(np.ones(10_000), state_path=path)
        text = path.read_bytes()[:4096]
        assert text.startswith(b"fastoptim scratch, version 1\n")
        assert b"It is no checkpoint" in text
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.stat().st_size >= 4096 + 2 * 80_000  # the room is reserved
        assert opt.state_path == str(path)

    @pytest.mark.skipif(not hasattr(os, "preadv"), reason="needs preadv")
    @pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP])
    def test_a_file_system_that_cannot_do_without_the_cache(self, tmp_path, monkeypatch, number):
        """Some refuse the flag, others what is done with it."""

        def refuse(*_):
            raise OSError(number, "not here")

        with monkeypatch.context() as patched:
            patched.setattr(os, "preadv", refuse)
            ours, other = pair(fo.Adam, tmp_path / "s")
        assert not ours._home._scratch.direct
        stepped(ours, other)
        assert_same(ours, other)

    def test_it_goes_with_the_optimizer(self, path):
        opt = fo.Adam(np.ones(10), state_path=path)
        assert path.exists()
        del opt
        gc.collect()
        assert not path.exists()

    def test_it_goes_if_the_constructor_raises(self, path):
        p = np.ones(10)
        with pytest.raises(ValueError, match="memory"):
            fo.Adam([p, p[:5]], state_path=path)
        gc.collect()
        assert not path.exists()
        with pytest.raises(ValueError, match="lr"):
            fo.Adam(p, lr=-1, state_path=path)
        assert not path.exists()

    def test_it_goes_with_the_process(self, path):
        code = f"""
import numpy as np, fastoptim as fo
opt = fo.Adam(np.ones(10), state_path={str(path)!r})
opt.step(np.ones(10))
"""
        assert python(code).returncode == 0
        assert not path.exists()

    def test_what_a_killed_process_has_left_is_replaced(self, path):
        code = f"""
import os, signal, numpy as np, fastoptim as fo
opt = fo.Adam(np.ones(10_000), state_path={str(path)!r})
opt.step(np.ones(10_000))
os.kill(os.getpid(), signal.SIGKILL)
"""
        assert python(code).returncode != 0
        assert path.exists()
        opt = fo.Adam(np.ones(5), state_path=path)
        assert np.array_equal(opt.state[0]["m"], np.zeros(5))

    @pytest.mark.parametrize("text", [b"", b"precious", b"fastoptim scratch", bytes(5000)])
    def test_any_other_file_is_left_as_it_is(self, path, text):
        path.write_bytes(text)
        with pytest.raises(
            ValueError, match=r"expected no file, or scratch of fastoptim, found an"
        ):
            fo.Adam(np.ones(5), state_path=path)
        assert path.read_bytes() == text

    def test_a_checkpoint_is_left_as_it_is(self, path):
        pytest.importorskip("safetensors")
        other = fo.Adam(np.ones(5))
        other.save(path)
        with pytest.raises(ValueError, match=r"\(a checkpoint is loaded by load\)"):
            fo.Adam(np.ones(5), state_path=path)
        other.load(path)

    def test_a_folder_and_a_device(self, tmp_path):
        for wrong in (tmp_path, os.devnull):
            with pytest.raises(ValueError, match="expected a file, found a folder or a device"):
                fo.Adam(np.ones(5), state_path=wrong)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
    def test_a_pipe_does_not_hang(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ValueError, match="expected a file, found a folder or a device"):
            fo.Adam(np.ones(5), state_path=tmp_path / "pipe")

    def test_no_such_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError) as found:
            fo.Adam(np.ones(5), state_path=tmp_path / "none" / "s")
        assert found.value.filename == str(tmp_path / "none" / "s")

    @pytest.mark.parametrize("wrong", [5, 0.5, True, object()])
    def test_what_is_no_path(self, wrong):
        with pytest.raises(TypeError, match="state_path: expected a path or None, found"):
            fo.Adam(np.ones(5), state_path=wrong)

    def test_bytes_are_a_path(self, path):
        assert fo.Adam(np.ones(5), state_path=os.fsencode(path)).state_path == str(path)

    def test_a_link_is_followed(self, path, tmp_path):
        link = tmp_path / "link"
        link.symlink_to(path)
        opt = fo.Adam(np.ones(5), state_path=link)
        assert path.exists()
        del opt
        gc.collect()
        assert link.is_symlink()
        assert not path.exists()

    def test_the_folder_of_the_process_may_change(self, path, monkeypatch):
        monkeypatch.chdir(path.parent)
        opt = fo.Adam(np.ones(5), state_path=path.name)
        monkeypatch.chdir("/")
        opt.step(np.ones(5))
        del opt
        gc.collect()
        assert not path.exists()

    def test_two_optimizers_need_two_files(self, path):
        ours = fo.Adam(np.ones(5000), state_path=path)
        ours.step(np.ones(5000))
        before = np.array(ours.state[0]["m"])
        with pytest.raises(
            RuntimeError, match="another optimizer uses, here or in another process"
        ):
            fo.Adam(np.ones(5), state_path=path)
        code = f"""
import numpy as np, fastoptim as fo
try:
    fo.Adam(np.ones(5), state_path={str(path)!r})
except RuntimeError as error:
    print(error)
"""
        assert "another optimizer uses" in output(code)
        assert same_bits(ours.state[0]["m"], before)

    def test_a_file_that_was_removed_is_good_for_its_optimizer(self, path):
        ours, other = stepped(*pair(fo.Adam, path))
        path.unlink()
        path.write_text("another's")
        stepped(ours, other)
        assert_same(ours, other)
        del ours
        gc.collect()
        assert path.read_text() == "another's"

    @needs_fork
    def test_a_child_leaves_the_file_to_its_parent(self, path):
        code = f"""
import gc, os, sys, numpy as np, fastoptim as fo
{FORK}
opt = fo.Adam(np.ones(300_000), state_path={str(path)!r})
opt.step(np.ones(300_000))
def work():
    global opt
    for call in (
        lambda: opt.step(np.ones(300_000)),
        lambda: opt.state[0]["m"],
        opt.state_dict,
        lambda: opt.load_state_dict(saved),
        lambda: setattr(opt, "ema_decay", 0.5) or opt.ema,
    ):
        try:
            call()
        except RuntimeError as error:
            assert "found a child of fork()" in str(error), error
        else:
            raise AssertionError("expected an error")
    own = fo.Adam(np.ones(5), state_path={str(path)!r} + ".child")
    own.step(np.ones(5))
    del opt
    gc.collect()
saved = opt.state_dict()
for _ in range(5):
    assert fork(work) == 0
    opt.step(np.ones(300_000))
    assert (opt.state[0]["v"] > 0).all()
assert fork(lambda: sys.exit(0)) == 1  # whose finalizers run
assert os.path.exists({str(path)!r})
print(opt.steps[0])
"""
        assert output(code) == "6"

    def test_nobody_starts_a_thread_before_the_first_step(self, path):
        code = f"""
import os, numpy as np, fastoptim as fo
count = lambda: len(os.listdir("/proc/self/task"))
first = count()
opt = fo.Adam(np.ones(300_000), state_path={str(path)!r})
made = count()
with fo.num_threads(1):
    opt.step(np.ones(300_000))
stepped = count()
del opt
print(made - first, stepped - first, count() - first)
"""
        if not os.path.exists("/proc/self/task"):
            pytest.skip("needs /proc")
        assert output(code) == "0 2 0"


class TestMemory:
    @pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
    def test_only_the_buffers_are_in_memory(self, tmp_path):
        """State of 256 MB: what a process takes at the most grows by some buffers."""
        code = f"""
import numpy as np, fastoptim as fo
def peak():
    return int(next(x for x in open("/proc/self/status") if x.startswith("VmHWM")).split()[1]) << 10
small = fo.Adam(np.ones(1 << 20, np.float32), state_path={str(tmp_path / "small")!r})
small.step(np.ones(1 << 20, np.float32))
del small
shared = np.ones(1 << 20, np.float32)
params = [np.zeros(1 << 20, np.float32) for _ in range(32)]
for q in params:
    q[...] = 1
before = peak()
opt = fo.Adam(params, state_path={str(tmp_path / "s")!r})
for _ in range(2):
    opt.step([shared] * 32)
saw = opt.state[5]["m"]
print(peak() - before)
"""
        assert int(output(code)) < 40 << 20


class TestInterrupts:
    @pytest.mark.parametrize("options", ["", ", max_grad_norm=1.0, ema_decay=0.5"])
    def test_a_step_comes_to_its_end(self, path, options):
        """Ctrl-C at any moment finds a step that was taken, or one that was not begun."""
        code = f"""
import os, random, signal, threading, time
import numpy as np, fastoptim as fo
from fastoptim._engine import disk
disk.set_wave_bytes(60_000)
def made(**more):
    return fo.LAMB([np.linspace(-1, 1, 60_000), np.ones(50)], lr=0.1{options}, **more)
ours, like = made(state_path={str(path)!r}), made()
grads = [np.cos(np.arange(60_000.0)), np.ones(50)]
begun, over, interrupts = False, False, 0
def interrupt():
    while not over:
        time.sleep(0.03 * random.random())
        if begun:
            os.kill(os.getpid(), signal.SIGINT)
thread = threading.Thread(target=interrupt)
taken = 0
ours.step(grads)
like.step(grads)
thread.start()
while taken < 60 or interrupts < 20:
    try:
        begun = True
        taken += 1
        ours.step(grads)
        if ours.ema is not None:
            with ours.use_ema():
                pass
    except KeyboardInterrupt:
        interrupts += 1
while True:
    try:
        begun, over = False, True
        thread.join()
        break
    except KeyboardInterrupt:
        pass
for _ in range(ours.steps[0] - 1):
    like.step(grads)
for key in range(2):
    for name, array in like.state[key].items():
        assert np.array_equal(ours.state[key][name], array), (key, name)
    assert np.array_equal(ours.param_groups[0]["params"][key], like.param_groups[0]["params"][key])
print(ours.steps[0] > 1)
"""
        assert output(code) == "True"


@pytest.fixture(scope="module")
def checkpoints():
    return pytest.importorskip("safetensors", reason="needs the extra checkpoint")


@pytest.mark.usefixtures("checkpoints")
class TestCheckpoints:
    @pytest.mark.parametrize("options", [{}, {"ema_decay": 0.5, "amsgrad": True}], ids=["", "more"])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_files_are_those_of_state_in_memory(self, path, tmp_path, dtype, options):
        ours, other = stepped(*pair(fo.Adam, path, dtype, **options))
        for params in (True, False):
            ours.save(tmp_path / "ours", params=params)
            other.save(tmp_path / "other", params=params)
            assert (tmp_path / "ours").read_bytes() == (tmp_path / "other").read_bytes()

    @pytest.mark.parametrize("params", [True, False])
    def test_they_load_in_either(self, path, tmp_path, params):
        options = {"ema_decay": 0.5, "lr": 0.25}
        _, saved = stepped(*pair(fo.Adam, path, **options))
        saved.save(tmp_path / "saved", params=params)
        ours, other = pair(fo.Adam, f"{path}2", ema_decay=0.5)
        for opt in (ours, other):
            opt.load(tmp_path / "saved")
            assert opt.lr == 0.25
        assert_same(ours, other)
        stepped(ours, other)
        assert_same(ours, other)
        ours.save(tmp_path / "again")
        other.load(tmp_path / "again")
        stepped(ours, other)
        assert_same(ours, other)

    def test_a_schedule_free_rule_and_several_rules(self, path, tmp_path):
        def made(**options):
            table, dense, rest = ugly(np.float64)[:3]
            groups = [
                {"optimizer": fo.Adagrad, "params": {"a": table}},
                {"optimizer": fo.ScheduleFreeAdamW, "params": {"b": dense, "c": rest}},
            ]
            return fo.Mixed(groups, **options)

        def take(*optimizers):
            a, b, c = gradients(np.random.default_rng(1), ugly(np.float64)[:3])
            for opt in optimizers:
                opt.step([{"a": a}, {"b": b, "c": c}])

        ours, other = made(state_path=path), made()
        take(ours, other)
        ours.save(tmp_path / "saved")
        again = made(state_path=f"{path}2")
        again.load(tmp_path / "saved")
        take(again, other)
        assert_same(again, other)

    @pytest.mark.parametrize("place", [10, 0.5, -100])
    def test_a_damaged_one_changes_nothing(self, path, tmp_path, place):
        ours, other = stepped(*pair(fo.Adam, path))
        file = tmp_path / "saved"
        other.save(file)
        stepped(ours, other)
        text = bytearray(file.read_bytes())
        text[int(place * len(text)) if isinstance(place, float) else place] ^= 1
        file.write_bytes(text)
        with pytest.raises(ValueError, match="saved"):
            ours.load(file)
        assert_same(ours, other)
        stepped(ours, other)
        assert_same(ours, other)

    def test_of_another_optimizer(self, path, tmp_path):
        ours, other = stepped(*pair(fo.Adam, path))
        fo.SGD(ugly(np.float32), lr=1).save(tmp_path / "saved")
        with pytest.raises(ValueError, match="SGD"):
            ours.load(tmp_path / "saved")
        assert_same(ours, other)

    def test_parameters_that_can_only_be_read(self, path, tmp_path):
        ours, other = stepped(*pair(fo.Adam, path))
        other.save(tmp_path / "saved")
        stepped(ours, other)
        p = ours.param_groups[0]["params"][2]
        p.flags.writeable = False
        with pytest.raises(ValueError, match=r"params\[2\]: expected a writable array"):
            ours.load(tmp_path / "saved")
        p.flags.writeable = True
        assert_same(ours, other)

    def test_what_ends_in_the_middle_ends_the_optimizer(self, path, tmp_path, monkeypatch):
        """Parameters are written one range after the other, once all state is in its place."""
        ours, other = stepped(*pair(fo.Adam, path))
        other.save(tmp_path / "saved")
        stepped(ours, other)
        real = checkpoint.Source.read

        def read(self, key, name, start, stop):
            if (key, name) == (1, checkpoint.PARAM):
                raise OSError(5, "the disk of the checkpoint")
            return real(self, key, name, start, stop)

        monkeypatch.setattr(checkpoint.Source, "read", read)
        with pytest.raises(OSError, match="the disk of the checkpoint"):
            ours.load(tmp_path / "saved")
        for call in (lambda: step(ours), ours.state_dict, lambda: ours.load(tmp_path / "saved")):
            with pytest.raises(RuntimeError, match=r"cannot go on.*the disk of the checkpoint"):
                call()

    @pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
    def test_neither_saving_nor_loading_holds_the_state(self, tmp_path):
        code = f"""
import numpy as np, fastoptim as fo
def peak():
    return int(next(x for x in open("/proc/self/status") if x.startswith("VmHWM")).split()[1]) << 10
params = [np.full(1 << 22, 1, np.float32) for _ in range(4)]
g = np.ones(1 << 22, np.float32)
opt = fo.Adam(params, state_path={str(tmp_path / "s")!r})
opt.step([g] * 4)
fo.Adam(np.ones(1)).save({str(tmp_path / "warm")!r})
before = peak()
opt.save({str(tmp_path / "saved")!r})
opt.load({str(tmp_path / "saved")!r})
print(peak() - before)
opt.step([g] * 4)
print(opt.steps[0])
"""
        grown, steps = output(code).split()
        assert int(grown) < 24 << 20  # of 128 MB
        assert steps == "2"


@pytest.mark.skipif(sys.platform != "linux", reason="needs control groups")
def test_state_of_four_times_the_limit_of_a_control_group(tmp_path):
    """Parameters and gradients are in files as well: nothing but buffers has to be in memory."""
    limit, elements = 96 << 20, 48 << 20  # bytes, and of float32, of which Adam has two
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    folder = Path("/sys/fs/cgroup", *([] if unified else ["memory"]), f"fastoptim-{os.getpid()}")
    try:
        folder.mkdir()
        file = folder / ("memory.max" if unified else "memory.limit_in_bytes")
        file.write_text(str(limit))
    except OSError as error:
        if folder.exists():
            folder.rmdir()
        pytest.skip(f"no control group can be made here: {error}")
    code = f"""
import os
open({str(folder / "cgroup.procs")!r}, "w").write(str(os.getpid()))
import numpy as np, fastoptim as fo
def mapped(name):
    return np.memmap({str(tmp_path)!r} + "/" + name, np.float32, "w+", shape={elements})
p, g = mapped("p"), mapped("g")
opt = fo.Adam(p, state_path={str(tmp_path / "s")!r})
g[::4096] = 1
opt.step(g)
opt.step(g)
print(p[0] < 0, p[1] == 0)
"""
    try:
        assert output(code) == "True True"
    finally:
        folder.rmdir()
