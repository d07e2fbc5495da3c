"""Checkpoints range by range: the same bytes, without holding the arrays in memory."""

from __future__ import annotations

import os
import tracemalloc

import numpy as np
import pytest
from zoo import same_bits

import fastoptim as fo
from fastoptim import checkpoint
from fastoptim._engine.arrays import flat

pytest.importorskip("safetensors", reason="needs safetensors")


class Recorded:
    """An array that is only read in ranges, and what was read of it."""

    def __init__(self, array, reads):
        self._array, self._reads = array, reads
        self.shape, self.dtype, self.strides = array.shape, array.dtype, array.strides

    def read(self, start, stop):
        assert 0 <= start < stop <= self._array.size
        self._reads.append((id(self._array), start, stop))
        return flat(self._array)[start:stop].copy()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "run.safetensors")


def optimizer(large=300_001):
    """Return an optimizer with state, whose parameters have all kinds of layouts."""
    rng = np.random.default_rng(1)
    shapes = {"c": (70, 61), "f": (61, 70), "t": (9, 31, 17), "one": (), "none": (0, 3)}
    params = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    params["f"] = np.asfortranarray(params["f"].astype(np.float32))
    params["t"] = params["t"].transpose(1, 2, 0)
    params["long"] = rng.standard_normal(large).astype(np.float32)
    opt = fo.Adam(params, ema_decay=0.5)
    opt.step({name: rng.standard_normal(p.shape).astype(p.dtype) for name, p in params.items()})
    return opt


def ranged(opt, reads):
    """Return what is written of an optimizer, with arrays that are read in ranges."""
    saved = opt._described()
    saved["state"] = {
        key: {n: Recorded(x, reads) if isinstance(x, np.ndarray) else x for n, x in item.items()}
        for key, item in saved["state"].items()
    }
    return saved


def opened(opt, path):
    return checkpoint.source(path, opt._described(), opt._params(), opt._state_names())


@pytest.mark.parametrize("params", [True, False])
def test_the_file_is_the_same_byte_for_byte(path, params):
    opt, reads = optimizer(), []
    opt.save(path, params=params)
    with open(path, "rb") as file:
        whole = file.read()
    saved, own = ranged(opt, reads), opt._params() if params else {}
    checkpoint.write(path, saved, own, lambda file: None)
    with open(path, "rb") as file:
        assert file.read() == whole
    expected = [
        (id(array._array), *piece)
        for array in checkpoint.in_file_order(saved, own).values()
        if not isinstance(array, np.ndarray)
        for piece in checkpoint.pieces(array)
    ]
    assert reads == expected
    assert max(stop - start for _, start, stop in reads) <= checkpoint.CHUNK
    assert sum(stop - start for _, start, stop in reads) == sum(
        a.size for item in opt.state.values() for a in item.values()
    )


def test_any_range_of_any_array_is_read(path):
    opt, rng = optimizer(), np.random.default_rng(2)
    opt.save(path)
    other = optimizer()
    with opened(other, path) as source:
        assert source.has_params
        source.check()
        found, _ = other._accepted(source.saved)
        assert found.steps == opt._plan.steps
        for key, p in opt._params().items():
            for name, array in {**opt.state[key], "p": p}.items():
                for _ in range(5):
                    start, stop = sorted(rng.integers(0, p.size + 1, 2))
                    part = source.read(key, name, start, stop)
                    assert part.flags.owndata
                    assert same_bits(part, flat(array)[start:stop])
                assert same_bits(source.read(key, name, 0, p.size), flat(array))
    opt.save(path, params=False)
    with opened(other, path) as source:
        assert not source.has_params


def test_what_does_not_fit_is_refused_before_anything_is_read(path):
    optimizer(5000).save(path)
    with pytest.raises(ValueError, match="long"), opened(optimizer(5001), path):
        pass


@pytest.mark.parametrize("place", ["first", "middle", "digest"])
def test_a_flipped_bit_is_found(path, place):
    opt = optimizer()
    opt.save(path)
    with open(path, "r+b") as file:
        header = 8 + int.from_bytes(file.read(8), "little")
        size = os.path.getsize(path)
        at = {"first": header, "middle": (header + size) // 2, "digest": size - 1}[place]
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 4]))
    with opened(opt, path) as source, pytest.raises(ValueError, match="damaged"):
        source.check()


@pytest.mark.parametrize("call", ["check", "read"])
def test_a_file_that_changes_meanwhile_is_refused(path, call):
    opt = optimizer()
    opt.save(path)
    with opened(opt, path) as source:
        source.check()
        with open(path, "r+b") as file:
            file.seek(-100, os.SEEK_END)
            file.write(b"x")
        os.utime(path, ns=(1, 1))
        with pytest.raises(ValueError, match="nobody writes to"):
            source.check() if call == "check" else source.read("long", "p", 0, 5)
        with open(path, "r+b") as file:
            file.truncate(os.path.getsize(path) - 40)
        with pytest.raises(ValueError, match=r"damaged|nobody writes to"):
            source.check() if call == "check" else source.read("t", "p", 0, 5)


def test_neither_the_file_nor_an_array_is_held_in_memory(path):
    """Arrays of 12 MB each, some bytes of which are in memory at a time."""
    opt, reads = optimizer(3_000_000), []
    saved, params = ranged(opt, reads), opt._params()
    tracemalloc.start()
    try:
        checkpoint.write(path, saved, params, lambda file: None)
        with opened(opt, path) as source:
            source.check()
            for start in range(0, 3_000_000, 100_000):
                source.read("long", "m", start, start + 100_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert os.path.getsize(path) > 45e6
    assert peak < 5e6
