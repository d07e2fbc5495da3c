"""Parameters and state in files, across a crash; arrays of more than 2**31 elements."""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from zoo import same_bits

import fastoptim as fo

SHAPE, STEPS, CRASH = (30, 7), 12, 5
NAMES = ("p", "m", "v")
CHILD = """
import sys, time
import numpy as np
import fastoptim as fo
shape, folder = (30, 7), sys.argv[1]
p, m, v = (np.memmap(f"{folder}/{name}", np.float32, "r+", shape=shape) for name in "pmv")
for t in range(1, 6):
    g = np.random.default_rng(t).standard_normal(shape).astype(np.float32)
    fo.functional.adam(p, g, m, v, step=t, lr=0.1)
print("stepped", flush=True)
time.sleep(60)
"""


def mapped(folder, mode="r+"):
    return [np.memmap(folder / name, np.float32, mode, shape=SHAPE) for name in NAMES]


def gradient(t):
    return np.random.default_rng(t).standard_normal(SHAPE).astype(np.float32)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_run_in_mapped_files_goes_on_after_a_crash(tmp_path):
    start = gradient(0)
    arrays = mapped(tmp_path, "w+")
    arrays[0][:] = start
    for array in arrays:
        array.flush()
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline() == "stepped\n"
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    assert child.returncode == -signal.SIGKILL

    expected = [start.copy(), np.zeros_like(start), np.zeros_like(start)]
    for t in range(1, CRASH + 1):
        fo.reference.adam(expected[0], gradient(t), *expected[1:], step=t, lr=0.1)
    for name, array in zip(NAMES, expected, strict=True):
        assert same_bits(np.fromfile(tmp_path / name, np.float32).reshape(SHAPE), array)

    p, m, v = mapped(tmp_path)
    for t in range(CRASH + 1, STEPS + 1):
        fo.functional.adam(p, gradient(t), m, v, step=t, lr=0.1)
        fo.reference.adam(expected[0], gradient(t), *expected[1:], step=t, lr=0.1)
    for array, other in zip((p, m, v), expected, strict=True):
        assert same_bits(np.asarray(array), other)


def test_optimizer_of_a_mapped_file(tmp_path):
    """State that was saved goes on with parameters read back from their file."""
    file = tmp_path / "p"
    p, q = np.memmap(file, np.float64, "w+", shape=SHAPE), gradient(0).astype(np.float64)
    p[:] = q
    first, whole = fo.AdamW({"w": p}, ema_decay=0.9), fo.AdamW({"w": q}, ema_decay=0.9)
    for t in range(CRASH):
        first.step({"w": gradient(t).astype(np.float64)})
        whole.step({"w": gradient(t).astype(np.float64)})
    p.flush()
    second = fo.AdamW({"w": np.memmap(file, np.float64, "r+", shape=SHAPE)}, ema_decay=0.9)
    second.load_state_dict(first.state_dict())
    for t in range(CRASH, STEPS):
        for optimizer in (second, whole):
            optimizer.step({"w": gradient(t).astype(np.float64)})
    assert same_bits(np.fromfile(file).reshape(SHAPE), q)
    assert same_bits(second.ema["w"], whole.ema["w"])


@pytest.mark.parametrize("mode", ["r", "c"])
def test_mapped_modes(tmp_path, mode):
    """A file that can only be read is refused; copy on write changes the memory alone."""
    np.ones(3).tofile(tmp_path / "p")
    p = np.memmap(tmp_path / "p", np.float64, mode, shape=3)
    if mode == "r":
        with pytest.raises(ValueError, match="params: expected a writable array"):
            fo.SGD(p)
    else:
        fo.SGD(p, lr=0.5).step(np.ones(3))
        assert p.tolist() == [0.5] * 3
    assert np.fromfile(tmp_path / "p").tolist() == [1.0] * 3


# More elements than 2**31, in a few pages of memory

HUGE = 2**31 + 7
BLOCK = 1 << 24  # bytes
MEMORY = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if os.name == "posix" else 0


class Folded:
    """Arrays of float32 in which all blocks of memory are one: the same pages, mapped often.

    One takes 16 MB, and 8 GB of addresses. A step changes each element once for every block.
    """

    def __init__(self):
        self.libc = ctypes.CDLL(None)
        self.libc.mmap.restype = ctypes.c_void_p
        self.libc.mmap.argtypes = (
            *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int),
            ctypes.c_int64,
        )
        self.libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        self.starts = []

    def array(self):
        blocks = -(-HUGE * 4 // BLOCK)
        nothing, alone = 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        start = self.map(None, BLOCK * blocks, nothing, alone, -1)
        self.starts.append((start, BLOCK * blocks))
        both, here = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | MAP_FIXED
        file = os.memfd_create("folded")
        os.ftruncate(file, BLOCK)
        for k in range(blocks):
            self.map(start + k * BLOCK, BLOCK, both, here, file)
        os.close(file)
        return np.frombuffer((ctypes.c_float * HUGE).from_address(start), np.float32)

    def map(self, *arguments):
        start = self.libc.mmap(*arguments, 0)
        if start == ctypes.c_void_p(-1).value:
            pytest.skip("no 8 GB of addresses here")
        return start

    def close(self):
        for start, length in self.starts:
            self.libc.munmap(start, length)


MAP_FIXED = 0x10  # of Linux, which Python does not name


@pytest.fixture
def folded():
    if not hasattr(os, "memfd_create") or sys.maxsize < 2**33:
        pytest.skip("no memfd_create, or addresses of 32 bits")
    arrays = Folded()
    yield arrays.array
    arrays.close()


@pytest.mark.parametrize("layout", ["dense", "broadcast"])
def test_step_over_more_elements_than_2_31(folded, layout):
    """Each element is changed as often as its block is mapped, however the gradient is read."""
    p, one = folded(), np.float32(1)
    if layout == "dense":
        g = folded()
        g[: BLOCK // 4] = one
    else:
        g = np.broadcast_to(one, HUGE)
    optimizer = fo.SGD(p, lr=1.0)
    with fo.num_threads(1):  # two would change one element at a time
        optimizer.step(g)
    whole, rest = divmod(HUGE, BLOCK // 4)
    assert (p[:rest] == -whole - 1).all()
    assert (p[rest : BLOCK // 4] == -whole).all()


@pytest.mark.skipif(MEMORY < 10 * 2**30, reason="8 GB are asked for, though not touched")
def test_norm_of_more_elements_than_2_31():
    g = np.broadcast_to(np.float32(0.5), HUGE)
    assert fo.global_norm([g]) == math.sqrt(HUGE) / 2


def test_more_elements_than_2_31_are_refused_as_others_are(tmp_path):
    """A sparse file: nobody reads its pages."""
    p = np.memmap(tmp_path / "p", np.float32, "w+", shape=HUGE)
    optimizer = fo.SGD([p, np.ones(3, np.float32)])
    cases = [
        (np.broadcast_to(np.float32(1), HUGE - 1), ValueError, "expected shape"),
        (np.broadcast_to(np.float64(1), HUGE), TypeError, "expected dtype float32"),
        (p, ValueError, "expected memory apart from all parameters and state"),
        (p[::-1], ValueError, "expected memory apart from all parameters and state"),
    ]
    for g, error, message in cases:
        with pytest.raises(error, match=rf"^grads\[0\]: {message}"):
            optimizer.step([g, np.ones(3, np.float32)])
    with pytest.raises(ValueError, match=r"^params\[1\]: .* found memory shared with params\[0\]"):
        fo.SGD([p, p[-3:]])
    for wrong in (p[::2], p[::-1]):
        with pytest.raises(ValueError, match=r"^params: expected a dense array"):
            fo.SGD(wrong)
    assert optimizer._plan.steps == [0, 0]
    assert not p[:3].any()
    assert not p[-3:].any()
