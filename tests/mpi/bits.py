"""The bits of one process, for every rule, option and layout, whatever the number of ranks."""

from __future__ import annotations

import sys

from common import PATIENCE, RANK, SIZE, WORLD, assert_same, cases, gradients, parameters, summed

from fastoptim.integrations.mpi import Sharded


def check(name: str, cls, chosen: dict, mode: str, seed: int) -> None:
    params, its = parameters(seed), parameters(seed)
    opt = Sharded(cls, params, WORLD, grads=mode, wave_bytes=1 << 15, timeout=PATIENCE, **chosen)
    one = cls(its, **chosen)
    for step in range(3):
        grads = [gradients(seed + step, rank, its) for rank in range(SIZE)]
        total = summed(grads, its)
        opt.step(grads[RANK] if mode == "local" else total, grad_scale=2.0)
        one.step(total, grad_scale=2.0)
        assert_same(opt, params, one, its)
    opt.close()


def main(part: int, parts: int) -> None:
    for seed, (name, cls, chosen) in enumerate(cases()):
        if seed % parts == part:
            mode = ("local", "summed")[seed // parts % 2]
            try:
                check(name, cls, chosen, mode, seed)
            except Exception as error:
                raise AssertionError(f"{name} {mode} {seed}") from error
    print(f"rank {RANK} is done")


main(*map(int, sys.argv[1:]))
