"""State on disk where the disk fails, is full, or the process ends in the middle of a sweep."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import textwrap

import pytest
from checked_builds import CC, faults_in
from fresh import output, python

linux = pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which(CC), reason="needs Linux and a C compiler"
)
pytestmark = linux

# A program begins with two optimizers of equal parameters, and functions to compare them.
BEGIN = """
import ctypes, errno, gc, os, sys
import numpy as np, fastoptim as fo
from fastoptim._engine import disk, scratch
READ, WRITE, SYNC, SHORT, KILL = 0, 1, 2, -1, -2
path = sys.argv[1] if len(sys.argv) > 1 else {path!r}
if {cached}:
    scratch.DIRECT = 0
disk.set_wave_bytes(60_000)
WAVES = 17
def fault(*args):
    ctypes.CDLL(None).fo_fault(*args)
def made(where, **options):
    options = dict(lr=0.1, ema_decay=0.5) | options
    params = [np.linspace(-1, 1, 30_000), np.linspace(1, 2, 3_001)]
    return fo.Adam(params, **({{"state_path": where}} if where else {{}}), **options)
def grads(t):
    return [np.cos(t + np.arange(30_000.0)), np.sin(t + np.arange(3_001.0))]
def same(a, b):
    for key in a.state:
        for name in a.state[key]:
            assert np.array_equal(a.state[key][name], b.state[key][name]), (key, name)
    assert all(map(np.array_equal, a.param_groups[0]["params"], b.param_groups[0]["params"]))
def refused(*calls):
    for call in calls:
        try:
            call()
        except (RuntimeError, OSError) as error:
            assert path in str(error), error
            assert isinstance(error, RuntimeError), error
        else:
            raise AssertionError("expected an error")
def dead(opt):
    "Every call is refused, and another optimizer can have the file."
    refused(
        lambda: opt.step(grads(0)), lambda: opt.step(grads(0)), opt.state_dict,
        lambda: opt.state[0]["m"], lambda: opt.ema[0], lambda: opt.use_ema().__enter__(),
        lambda: opt.save(path + ".saved"),
    )
    other, like = made(path), made(None)
    for t in range(3):
        other.step(grads(t))
        like.step(grads(t))
    same(other, like)
def fresh(steps=2):
    ours, like = made(path), made(None)
    for t in range(steps):
        ours.step(grads(t))
        like.step(grads(t))
    return ours, like
def fails(number, call):
    "A call fails, and afterwards the optimizer is dead."
    try:
        call()
    except OSError as found:
        assert found.errno == number, found
        assert found.filename == path
        assert "state_path: " in str(found) and path in str(found)
        return str(found)
    raise AssertionError("expected an error")
def steps():
    for t in range(3):
        ours.step(grads(t))
ours, like = fresh()
"""


@pytest.fixture(scope="module")
def preload(tmp_path_factory):
    """Return the path of the library that makes faults."""
    return faults_in(tmp_path_factory.mktemp("faults"))


@pytest.fixture(params=[False, True], ids=["direct", "cached"])
def run(request, tmp_path, preload):
    """Run a program, of which this is the rest, and return what it prints."""

    def program(rest: str) -> str:
        begin = BEGIN.format(path=str(tmp_path / "run.state"), cached=request.param)
        return output(begin + textwrap.dedent(rest), LD_PRELOAD=preload, timeout=100)

    return program


def test_without_a_fault(run):
    """So that what the others find is due to theirs."""
    found = run("""
        assert ours._state[0]["m"].disk._ring is not None
        assert len(ours._state[0]["m"].disk.pieces) == WAVES
        ours.step(grads(2))
        like.step(grads(2))
        same(ours, like)
        print(ours.state_path == path)
    """)
    assert found == "True"


@pytest.mark.parametrize("kind", ["READ", "WRITE"])
def test_a_transfer_fails(run, kind):
    run(f"""
        for name, call in [("EIO", k) for k in (1, 2, 7, WAVES)] + [("ENOSPC", 7), ("EINVAL", 7)]:
            number = getattr(errno, name)
            fault({kind}, call, 1, number)
            assert os.strerror(number) in fails(number, steps)
            assert not os.path.exists(path)
            dead(ours)
            gc.collect()
            ours, like = fresh()
    """)


@pytest.mark.parametrize("kind", ["READ", "WRITE"])
def test_short_transfers_and_interrupted_ones(run, kind):
    run(f"""
        for error in (SHORT, errno.EINTR):
            fault({kind}, 1, 20, error)
            for t in range(3):
                ours.step(grads(t))
                like.step(grads(t))
        fault({kind}, 0, 0, 0)
        same(ours, like)
    """)


def test_what_the_cache_could_not_write(tmp_path, preload):
    """The system says so once: with the next try it would take the pages for written."""
    begin = BEGIN.format(path=str(tmp_path / "run.state"), cached=True)
    rest = """
fault(SYNC, 3, 1, errno.EIO)
assert "as state was written" in fails(errno.EIO, steps)
dead(ours)
"""
    output(begin + rest, LD_PRELOAD=preload, timeout=100)


@pytest.mark.parametrize("kind", ["READ", "WRITE"])
def test_a_fault_in_the_first_step_of_another_plan(run, kind):
    """Its step changes the parameters of the plan that it was to replace."""
    run(f"""
        for call in (3, 12):
            ours.param_groups[0]["mask"] = [np.ones(30_000, bool), None]
            fault({kind}, call, 1, errno.EIO)
            fails(errno.EIO, steps)
            dead(ours)
            gc.collect()
            ours, like = fresh()
    """)


@pytest.mark.parametrize("kind", ["READ", "WRITE"])
def test_a_fault_as_state_is_added(run, kind):
    run(f"""
        fault({kind}, 5, 1, errno.EIO)
        before = [p.copy() for p in ours.param_groups[0]["params"]]
        fails(errno.EIO, lambda: ours.add_param_group({{"params": [np.ones(5000)]}}))
        assert all(map(np.array_equal, before, ours.param_groups[0]["params"]))
        assert len(ours.param_groups) == 1
        dead(ours)
    """)


@pytest.mark.parametrize("kind", ["READ", "WRITE"])
def test_a_fault_as_averages_are_shown(run, kind):
    run(f"""
        def show():
            for _ in range(2):
                with ours.use_ema():
                    pass
        for call in (1, 9, WAVES + 5):  # the last as they are taken back
            fault({kind}, call, 1, errno.EIO)
            fails(errno.EIO, show)
            dead(ours)
            gc.collect()
            ours, like = fresh()
    """)


def test_somebody_cuts_the_file_short(run):
    run("""
        for size in (0, 4096, 100_000):
            os.truncate(path, size)
            assert "somebody has cut it short" in fails(errno.EIO, steps)
            dead(ours)
            gc.collect()
            ours, like = fresh()
    """)


def test_the_file_is_cut_short_between_a_read_and_a_write(run):
    """A write would make the file as long as before, with zeros in the place of state."""
    run("""
        def cut(t):
            if t == 2:
                os.truncate(path, 4096)  # when the first waves are read already
            return 0.1
        ours.lr = cut
        assert "somebody has cut it short" in fails(errno.EIO, steps)
        ours.lr = 0.1
        dead(ours)
    """)


@pytest.mark.parametrize("call", [1, 8, 17])
def test_a_process_is_killed_in_the_middle_of_a_sweep(tmp_path, preload, call):
    """What it has saved before is good, and its file is replaced."""
    pytest.importorskip("safetensors")
    begin = BEGIN.format(path=str(tmp_path / "run.state"), cached=False)
    killed = python(
        begin + f"ours.save(path + '.saved')\nfault(WRITE, {call}, 1, KILL)\nours.step(grads(2))\n",
        LD_PRELOAD=preload,
    )
    assert killed.returncode == -9, killed.stderr
    assert (tmp_path / "run.state").exists()
    output(
        begin
        + """
del ours
gc.collect()
again = made(path)
again.load(path + ".saved")
for t in range(2, 4):
    again.step(grads(t))
    like.step(grads(t))
same(again, like)
"""
    )


def test_a_limit_of_file_sizes(tmp_path):
    code = f"""
import errno, resource, numpy as np, fastoptim as fo
path = {str(tmp_path / "run.state")!r}
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
p = np.ones(100_000)
try:
    fo.Adam(p, state_path=path)
except OSError as error:
    assert error.errno == errno.EFBIG and error.filename == path
    assert "expected room for 1,60" in str(error), error
else:
    raise AssertionError
import gc, os
gc.collect()
assert not os.path.exists(path)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
opt = fo.Adam(p, state_path=path)
opt.step(np.ones(100_000))
before = opt.state_dict()
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
try:
    opt.step(np.ones(100_000))
except OSError as error:
    assert error.errno == errno.EFBIG and error.filename == path, error
else:
    raise AssertionError
try:
    opt.step(np.ones(100_000))
except RuntimeError as error:
    assert path in str(error)
"""
    output(code)


def in_small_file_system(code: str) -> subprocess.CompletedProcess:
    """Run code where /mnt is a file system of 4 MB, if users may have one here."""
    mount = "mount -t tmpfs -o size=4m none /mnt"
    probe = ["unshare", "-rm", "sh", "-c", mount]
    if not shutil.which("unshare") or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("users may not mount here")
    command = ["unshare", "-rm", "sh", "-c", f'{mount} && exec "$0" -c "$1"', sys.executable, code]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_a_full_disk():
    """It is an error before the first step, and room that was reserved is there later."""
    done = in_small_file_system("""
import errno, gc, os, numpy as np, fastoptim as fo
path = "/mnt/run.state"
try:
    fo.Adam(np.ones(1_000_000), state_path=path)
except OSError as error:
    assert error.errno == errno.ENOSPC and error.filename == path, error
    assert "state_path: expected room for 16,0" in str(error), error
    assert " free" in str(error)
gc.collect()
assert os.listdir("/mnt") == []
p, q = np.ones(100_000), np.ones(100_000)
ours, like = fo.Adam(p, state_path=path), fo.Adam(q)
with open("/mnt/rest", "wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(4096))
    except OSError as error:
        assert error.errno == errno.ENOSPC
for _ in range(3):
    ours.step(np.ones(100_000))
    like.step(np.ones(100_000))
before = ours.state_dict()["state"][0]
try:
    ours.add_param_group({"params": np.ones(100_000)})  # there is no room for old and new
except OSError as error:
    assert error.errno == errno.ENOSPC, error
else:
    raise AssertionError
ours.step(np.ones(100_000))
like.step(np.ones(100_000))
assert np.array_equal(p, q) and np.array_equal(ours.state[0]["v"], like.state[0]["v"])
os.unlink("/mnt/rest")
ours.add_param_group({"params": np.ones(1000)})
ours.step([np.ones(100_000), np.ones(1000)])
print("ok")
""")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ok\n"


def test_state_that_is_new_makes_room_for_what_is_loaded(tmp_path):
    """There would be no room for both; and if loading fails, the room is there again."""
    pytest.importorskip("safetensors")
    done = in_small_file_system(f"""
import errno, os, numpy as np, fastoptim as fo
from fastoptim import checkpoint
saved = {str(tmp_path / "saved")!r}
like = fo.Adam(np.ones(150_000))
like.step(np.arange(150_000.0))
like.save(saved)
p = np.ones(150_000)
ours = fo.Adam(p, state_path="/mnt/run.state")
real = checkpoint.Source.read
def fail(self, key, name, start, stop):
    if name == "v":
        raise OSError(errno.EIO, "as told")
    return real(self, key, name, start, stop)
checkpoint.Source.read = fail
held = None
try:
    ours.load(saved)
except OSError as error:
    held = error  # with all its frames, and what is in them
    assert error.strerror == "as told", error
checkpoint.Source.read = real
assert os.stat("/mnt/run.state").st_blocks * 512 > 2_400_000
assert not ours.state[0]["m"].any() and not ours.state[0]["v"].any()
other = fo.Adam(np.ones(150_000))
for opt in (ours, other):
    opt.step(np.arange(150_000.0))
assert np.array_equal(ours.state[0]["v"], other.state[0]["v"])
try:
    ours.load(saved)  # there is state that must stay if it fails
except OSError as error:
    assert error.errno == errno.ENOSPC, error
assert np.array_equal(ours.state[0]["v"], other.state[0]["v"])
del ours, held
ours = fo.Adam(p, state_path="/mnt/run.state")
ours.load(saved)
for opt in (ours, like):
    opt.step(np.arange(150_000.0))
assert np.array_equal(ours.state[0]["v"], like.state[0]["v"])
assert np.array_equal(p, like.param_groups[0]["params"][0])
print("ok")
""")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ok\n"


def test_a_file_system_that_reserves_no_room(tmp_path):
    """Zeros are written then."""
    code = f"""
import errno, os, numpy as np, fastoptim as fo
from fastoptim._engine import disk, scratch
def refuse(*_):
    raise OSError(errno.EOPNOTSUPP, "no")
os.posix_fallocate = refuse
scratch.punch = lambda *_: False
path = {str(tmp_path / "run.state")!r}
p, q = np.ones(100_000), np.ones(100_000)
ours, like = fo.SGD(p, lr=0.1, momentum=0.9, state_path=path), fo.SGD(q, lr=0.1, momentum=0.9)
assert os.stat(path).st_blocks * 512 >= 800_000
for k in range(8):
    for opt in (ours, like):
        opt.ema_decay = (None, 0.5)[k % 2]
        opt.step(np.ones(100_000))
assert np.array_equal(p, q) and np.array_equal(ours.state[0]["ema"], like.state[0]["ema"])
"""
    output(code)
    assert errno.EOPNOTSUPP
    assert not os.path.exists(tmp_path / "run.state")
