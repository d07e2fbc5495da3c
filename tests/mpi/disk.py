"""State on disk, in a file of each rank: the bits of state in memory, checkpoints, and faults."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import sys
from pathlib import Path

from common import (
    PATIENCE,
    RANK,
    SIZE,
    WORLD,
    assert_same,
    error_of,
    gradients,
    parameters,
    same_bits,
    summed,
)
from faults import assert_common, assert_unchanged, snapshot

import fastoptim as fo
from fastoptim._engine import disk
from fastoptim.integrations.mpi import Sharded

LAST = SIZE - 1
READ, WRITE = 0, 1
LAST_WAVE = -1
CASES = [
    (fo.AdamW, {"lr": 0.1, "ema_decay": 0.5, "max_grad_norm": 1.0, "nonfinite": "skip"}),
    (fo.LAMB, {"lr": 0.1, "max_param_grad_norm": 0.5, "bounds": (-3.0, 3.0)}),
    (fo.NAdam, {"lr": lambda t: 0.1 / (t + 1), "weight_decay": 0.1, "backend": "reference"}),
    (fo.AdEMAMix, {"lr": 0.1, "ema_decay": 0.5}),
    (fo.Lion, {"lr": 0.1, "cautious": True}),
    (fo.SGD, {"lr": 0.1}),  # which has no state
    (fo.ScheduleFreeAdamW, {"lr": 0.1, "flush_denormals": True}),
]


def path_in(folder: Path) -> str:
    return str(folder / f"run-{RANK}.state")


def made(cls, params, path, grads="local", **chosen):
    """Return an optimizer with many small waves; those of the exchange alone would be larger."""
    return Sharded(
        cls,
        params,
        WORLD,
        grads=grads,
        timeout=PATIENCE,
        wave_bytes=1 << 20,
        state_path=path,
        **chosen,
    )


def bits_and_checkpoints(folder: Path) -> None:
    """Take steps, show averages and save files as one process with its state in memory does."""
    disk.set_wave_bytes(60_000)
    for number, (cls, chosen) in enumerate(CASES):
        for mode in ("local", "summed"):
            ours, theirs = parameters(number), parameters(number)
            opt, one = made(cls, ours, path_in(folder), mode, **chosen), cls(theirs, **chosen)
            steps = Steps(opt, ours, one, theirs, mode)
            steps.take(0, 1)
            save_and_compare(folder, opt, one)
            steps.take(2)
            opt.load(folder / "ours")  # what was saved before
            one.load(folder / "ours")
            steps.take(2, 3)
            opt.ema_decay = one.ema_decay = 0.75  # which may call for more state
            steps.take(4, 5)
            with opt.use_ema(), one.use_ema():
                for p, q in zip(ours, theirs, strict=True):
                    assert same_bits(p, q)
            compare_dicts(opt.state_dict(), one.state_dict())
            opt.load_state_dict(one.state_dict())
            steps.take(6)
            opt.save(folder / "ours")
            in_memory = parameters(9)
            again = made(cls, in_memory, None, mode, **chosen)
            again.load(folder / "ours")
            Steps(again, in_memory, one, theirs, mode).take(7)
            for each in (opt, again):
                each.close()
            assert not os.path.exists(path_in(folder))


class Steps:
    def __init__(self, opt, ours, one, theirs, mode) -> None:
        self.opt, self.ours, self.one, self.theirs, self.mode = opt, ours, one, theirs, mode

    def take(self, *seeds: int) -> None:
        for seed in seeds:
            grads = [gradients(seed, rank, self.theirs) for rank in range(SIZE)]
            total = summed(grads, self.theirs)
            self.opt.step(grads[RANK] if self.mode == "local" else total)
            self.one.step(total)
            assert_same(self.opt, self.ours, self.one, self.theirs)


def save_and_compare(folder: Path, opt, one) -> None:
    opt.save(folder / "ours")
    if RANK == 0:
        one.save(folder / "theirs")
        assert (folder / "ours").read_bytes() == (folder / "theirs").read_bytes()
    WORLD.barrier()


def compare_dicts(ours, theirs) -> None:
    assert ours.keys() == theirs.keys()
    for key, entry in theirs["state"].items():
        assert ours["state"][key].keys() == entry.keys()
        for name, value in entry.items():
            found = ours["state"][key][name]
            assert found == value if isinstance(value, (int, float)) else same_bits(found, value)


def each_its_own(folder: Path) -> None:
    ours, theirs = parameters(RANK), parameters(RANK)
    opt = made(fo.Adam, ours, path_in(folder), "own", ema_decay=0.5)
    one = made(fo.Adam, theirs, None, "own", ema_decay=0.5)
    for t in range(3):
        grads = gradients(t, RANK, ours)
        opt.step(grads)
        one.step(grads)
    compare_dicts(opt.state_dict(), one.state_dict())
    opt.save(folder / f"own-{RANK}")
    opt.load(folder / f"own-{RANK}")
    compare_dicts(opt.state_dict(), one.state_dict())
    opt.close()
    one.close()


def paths(folder: Path) -> None:
    """Refuse on all ranks what one of them cannot have as its file, and leave none behind."""
    if SIZE > 1:
        error = error_of(made, fo.Adam, parameters(1), folder / "one.state")
        assert_common(error, RuntimeError, "one.state: expected a file that no optimizer has")
        error = error_of(made, fo.Adam, parameters(1), path_in(folder) if RANK else None)
        assert_common(error, ValueError, "rank 1: state_path: expected None, as on rank 0, found")
    for who in {0, LAST}:
        path = folder / "nowhere" / "x.state" if who == RANK else path_in(folder)
        error = error_of(made, fo.Adam, parameters(1), path)
        assert_common(error, FileNotFoundError, f"rank {who}: ", "x.state")
        error = error_of(made, fo.Adam, parameters(1), 3 if who == RANK else path_in(folder))
        assert_common(error, TypeError, f"rank {who}: state_path: expected a path")
    WORLD.barrier()
    assert not [*folder.glob("*.state")]


def full_disks(folder: Path) -> None:
    """Without room on one rank, none has changed, and all go on."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for who in {0, LAST}:
        params = parameters(1)
        limit = (1 << 13, limits[1]) if who == RANK else limits
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        error = error_of(made, fo.Adam, params, path_in(folder))
        assert_common(error, OSError, f"rank {who}: ", "state_path: expected room for ")
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        opt = made(fo.Adam, params, path_in(folder))
        grads = gradients(1, RANK, params, missing=False)
        opt.step(grads)
        opt.save(folder / "good")
        before = snapshot(params, opt)
        opt.step(grads)
        after = snapshot(params, opt)
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        error = error_of(opt.load, folder / "good")
        assert_common(error, OSError, f"rank {who}: ", "state_path: expected room for ")
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert_unchanged(after, params, opt)
        opt.load(folder / "good")
        assert_unchanged(before, params, opt)
        opt.step(grads)
        assert_unchanged(after, params, opt)
        opt.close()


def errors_in_a_step(folder: Path) -> None:
    """End the optimizer on all ranks by what ends a step on one, and say which file it was."""
    disk.set_wave_bytes(60_000)
    for who in {0, LAST}:
        for mode in ("local", "summed", "own"):
            file = folder / (f"good-{RANK}" if mode == "own" else "good")
            for kind, number in ((READ, 1), (READ, 4), (WRITE, 1), (WRITE, LAST_WAVE)):
                end_by_fault(folder, file, who, mode, kind, number)
                params = parameters(1)
                opt = made(fo.Adam, params, path_in(folder), mode)
                opt.load(file)
                opt.step(gradients(1, RANK, params))
                opt.close()


def end_by_fault(folder: Path, file: Path, who: int, mode: str, kind: int, number: int) -> None:
    """Let the system fail on one rank, and see what becomes of all."""
    params = parameters(1)
    opt = made(fo.Adam, params, path_in(folder), mode)
    grads = gradients(1, RANK, params, missing=False)
    opt.step(grads)
    opt.save(file)
    fault = ctypes.CDLL(None).fo_fault  # of the library that the test preloads
    if who == RANK:
        waves = sum(map(bool, opt._home._last().pieces))
        assert waves > 1
        fault(kind, waves if number == LAST_WAVE else number, 1, errno.EIO)
    steps = 1 if kind == WRITE else 2  # what is read may be that of the next
    found = error_of(lambda: [opt.step(grads) for _ in range(steps)])
    if who == RANK:
        assert type(found) is OSError, repr(found)
        assert (found.errno, found.filename) == (errno.EIO, path_in(folder))
        fault(kind, 0, 0, 0)
    else:
        assert type(found) is RuntimeError, repr(found)
        assert f"rank {who} has left: step has ended with OSError" in str(found), repr(found)
    assert f"run-{who}.state" in str(found), repr(found)
    for call in (lambda: opt.step(grads), opt.state_dict, lambda: opt.save(file)):
        again = error_of(call)
        assert type(again) is RuntimeError, repr(again)
        assert "cannot go on" in str(again), again
        assert f"run-{who}.state" in str(again), again
    opt.close()
    assert not os.path.exists(path_in(folder))


def main(what: str, folder: Path) -> None:
    if what == "faults":
        errors_in_a_step(folder)
    else:
        for check in (bits_and_checkpoints, each_its_own, paths, full_disks):
            check(folder)
    print(f"rank {RANK} is done")


main(sys.argv[1], Path(sys.argv[2]))
