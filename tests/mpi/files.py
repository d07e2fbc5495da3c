"""Files of several ranks: the bytes of one process, read by any number, whole or refused by all."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import numpy as np
from common import PATIENCE, RANK, SIZE, WORLD, assert_same, error_of, gradients, parameters, summed
from faults import assert_common, assert_unchanged, snapshot

import fastoptim as fo
from fastoptim.integrations.mpi import Sharded

LAST = SIZE - 1
CASES = [
    (fo.AdamW, {"lr": 0.1, "ema_decay": 0.5, "max_grad_norm": 1.0}),
    (fo.NAdam, {"lr": 0.1}),
]


def named(seed: int, size: int = 1):
    arrays = parameters(seed)
    arrays.append(np.ones((150 * size, 1000), np.float32))
    return {f"p{i}": p for i, p in enumerate(arrays)}


def made(cls, params, grads="local", **chosen):
    return Sharded(cls, params, WORLD, grads=grads, timeout=PATIENCE, wave_bytes=1 << 16, **chosen)


def bytes_and_worlds(folder: Path) -> None:
    """Save what one process saves, and go on from what any number of ranks has saved.

    The folder has what runs with other numbers of ranks have saved.
    """
    for number, (cls, chosen) in enumerate(CASES):
        ours, theirs = named(number), named(number)
        opt, one = made(cls, ours, **chosen), cls(theirs, **chosen)
        for step in range(2):
            grads = [gradients(step, rank, [*theirs.values()]) for rank in range(SIZE)]
            total = dict(zip(theirs, summed(grads, [*theirs.values()]), strict=True))
            opt.step(dict(zip(ours, grads[RANK], strict=True)))
            one.step(total)
        for params in (True, False):
            path = folder / f"{number}-{SIZE}-{params}"
            opt.save(path, params=params)
            if RANK == 0:
                one.save(f"{path}-one", params=params)
                assert path.read_bytes() == Path(f"{path}-one").read_bytes()
                os.unlink(f"{path}-one")
        WORLD.barrier()
        for saved in sorted(folder.glob(f"{number}-*-True")):
            first, second = named(7), named(7)
            again, alone = made(cls, first, "summed", **chosen), cls(second, **chosen)
            again.load(saved)
            alone.load(saved)
            assert_same(again, [*first.values()], alone, [*second.values()])
            again.step(total)
            alone.step(total)
            assert_same(again, [*first.values()], alone, [*second.values()])
            again.close()
        opt.load(folder / f"{number}-{SIZE}-False")
        assert_same(opt, [*ours.values()], one, [*theirs.values()])
        opt.close()


def each_its_own(folder: Path) -> None:
    params = named(RANK)
    opt = made(fo.Adam, params, "own")
    opt.step({key: np.ones_like(p) for key, p in params.items()})
    opt.save(folder / f"own-{RANK}")
    again = made(fo.Adam, named(5), "own")
    again.load(folder / f"own-{RANK}")
    assert again.steps == opt.steps
    if SIZE > 1:
        error = error_of(opt.save, folder / "own")
        assert_common(error, ValueError, "path: expected another one on each rank")
        assert not (folder / "own").exists()
    opt.close()
    again.close()


def damage_and_absence(folder: Path) -> None:
    """Refuse on all ranks what one of them sees of a file."""
    params = named(1)
    opt = made(fo.Adam, params)
    opt.step({key: np.ones_like(p) for key, p in params.items()})
    for who in {0, LAST}:
        own = folder / f"of-{RANK}"
        own.mkdir(exist_ok=True)
        os.chdir(own)
        opt.save(folder / "good")
        data = (folder / "good").read_bytes()
        Path("run").write_bytes(data)
        opt.load("run")
        before = snapshot([*params.values()], opt)
        for damaged in (
            data[: len(data) // 2],
            bytes(data[:-100_000]) + b"\x01" + data[-99_999:],
            data[:9] + b"x" + data[10:],
            None,
        ):
            if who == RANK:
                Path("run").unlink() if damaged is None else Path("run").write_bytes(damaged)
            error = error_of(opt.load, "run")
            kind = FileNotFoundError if damaged is None else ValueError
            assert_common(error, kind, f"rank {who}: ")
            assert_unchanged(before, [*params.values()], opt)
            Path("run").write_bytes(data)
        other = Sharded(fo.AdamW, named(1), WORLD, timeout=PATIENCE)
        assert_common(error_of(other.load, "run"), ValueError, "rank 0: run: optimizer")
        other.close()
        os.chdir("/")
    if SIZE > 1:
        error = error_of(opt.save, folder / f"x{RANK}")
        assert_common(error, ValueError, "rank 1: path: expected ")
    opt.close()


def full_disks(folder: Path) -> None:
    """Raise on all ranks if a file cannot be written, and keep the old one."""
    params = named(1, 4)
    opt = made(fo.Adam, params)
    opt.step({key: np.ones_like(p) for key, p in params.items()})
    opt.save(folder / "whole")
    before = (folder / "whole").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    opt.step({key: np.ones_like(p) for key, p in params.items()})
    for most in (0, 1 << 16, len(before) - 40):
        if RANK == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
        error = error_of(opt.save, folder / "whole")
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert_common(error, OSError, "rank 0: ", "whole")
        assert (folder / "whole").read_bytes() == before
    assert not [*folder.glob(".fastoptim-*")]
    error = error_of(opt.save, folder / "nowhere" / "file")
    assert_common(error, FileNotFoundError, "rank 0: ")
    opt.save(folder / "whole")
    assert (folder / "whole").read_bytes() != before or SIZE == 0
    opt.close()


def main(folder: Path) -> None:
    bytes_and_worlds(folder)
    each_its_own(folder)
    damage_and_absence(folder)
    full_disks(folder)
    print(f"rank {RANK} is done")


main(Path(sys.argv[1]))
