"""Faults on the first and the last rank, in each phase of a step: all ranks raise, none hangs."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from common import PATIENCE, RANK, SIZE, WORLD, error_of, gradients, parameters, same_bits, summed

import fastoptim as fo
from fastoptim.integrations.mpi import Sharded
from fastoptim.integrations.mpi._ranks import missing

LAST = SIZE - 1
MISSING = "grads[3]: expected "  # a gradient, or none, as on rank 0


def made(cls=fo.AdamW, grads="local", timeout=PATIENCE, **chosen):
    params = parameters(1)
    chosen = {"lr": 0.1, "max_grad_norm": 1.0, "ema_decay": 0.5} | chosen
    return params, Sharded(
        cls, params, WORLD, grads=grads, wave_bytes=1 << 14, timeout=timeout, **chosen
    )


def snapshot(params: list[Any], opt: Any) -> list[Any]:
    arrays = [a for entry in opt.state.values() for a in entry.values()]
    return [*(a.copy() for a in (*params, *arrays)), opt._plan.steps, opt._plan.numbers]


def assert_unchanged(before: list[Any], params: list[Any], opt: Any) -> None:
    for a, b in zip(before, snapshot(params, opt), strict=True):
        assert same_bits(a, b) if isinstance(a, np.ndarray) else a == b


def assert_common(error: BaseException, kind: type, *texts: str) -> None:
    """Assert that all ranks have an error of this type, and the same text with these parts."""
    found = WORLD.allgather((type(error).__name__, str(error)))
    assert len({*found}) == 1, found
    assert type(error) is kind, found
    for text in texts:
        assert text in str(error), (text, found)


class OddError(Exception):
    pass


def failing(t: int) -> float:
    if t > 0:
        raise OddError("no rate today")
    return 0.1


class Unreadable:
    def __array__(self, *_: Any, **__: Any) -> Any:
        raise OSError(5, "cannot be read")


def wrong_gradients(who: int, grads: list[Any]) -> list[tuple[list[Any], type, str]]:
    def other(i: int, g: Any) -> list[Any]:
        return [g if who == RANK and k == i else x for k, x in enumerate(grads)]

    nan = np.full_like(grads[3], np.nan)
    return [
        (other(3, np.ones(7, np.float32)), ValueError, f"rank {who}: grads[3]: expected"),
        (other(1, np.ones(3, np.int64)), TypeError, f"rank {who}: grads[1]: expected"),
        (other(1, np.ones(3)), TypeError, f"rank {who}: grads[1]: expected"),
        (other(3, Unreadable()), TypeError, f"rank {who}: grads[3]: expected a NumPy array"),
        (other(3, "text"), TypeError, f"rank {who}: grads[3]"),
        (other(3, None), ValueError, MISSING),
        (other(3, nan), FloatingPointError, f"rank {who}: grads[3]: expected finite numbers"),
        (grads[:-1] if who == RANK else grads, ValueError, f"rank {who}: grads: expected 7"),
    ]


def errors_before_the_agreement() -> None:
    """Whatever one rank cannot do, none does; and all go on from where they were."""
    for who in {0, LAST}:
        for mode in ("local", "summed", "own"):
            params, opt = made(grads=mode, nonfinite="raise")
            its = parameters(1)
            one = fo.AdamW(its, lr=0.1, max_grad_norm=1.0, ema_decay=0.5, nonfinite="raise")
            grads = [gradients(1, r, params, missing=False) for r in range(SIZE)]
            total = summed(grads, params)
            mine = grads[RANK] if mode == "local" else total
            opt.step(mine)
            before = snapshot(params, opt)
            for given, kind, text in wrong_gradients(who, mine):
                if text == MISSING and (mode == "own" or SIZE == 1):
                    continue  # ranks may have gradients of their own
                if mode == "summed" and kind is FloatingPointError:
                    continue  # all ranks are said to hold the same sum
                error = error_of(opt.step, given)
                assert_common(error, kind, text)
                assert_unchanged(before, params, opt)
            other_faults(who, mode, params, opt, mine, before)
            opt.step(mine)
            if mode == "local":
                one.step(total)
                one.step(total)
                for p, q in zip(params, its, strict=True):
                    assert same_bits(p, q)
            opt.close()


def other_faults(who: int, mode: str, params, opt, mine, before) -> None:
    def set_on_one(name: str, value: Any) -> None:
        if who == RANK:
            setattr(opt, name, value)

    set_on_one("lr", failing)
    assert_common(error_of(opt.step, mine), RuntimeError, f"rank {who}: OddError: no rate today")
    set_on_one("lr", 0.1)
    assert_unchanged(before, params, opt)
    if SIZE > 1:
        differing = [("max_grad_norm", 2.0, 1.0)]
        if mode != "own":
            differing += [("lr", 0.2, 0.1), ("lr", lambda t: 0.2, 0.1), ("weight_decay", 0.5, 0.01)]
        for name, value, old in differing:
            set_on_one(name, value)
            error = error_of(opt.step, mine)
            assert_common(error, ValueError, f"rank {who or 1}: {name}: expected ")
            set_on_one(name, old)
            assert_unchanged(before, params, opt)
        error = error_of(opt.step, mine, grad_scale=2.0 if who == RANK else 1.0)
        assert_common(error, ValueError, "grad_scale: expected ")
        error = error_of(lambda: opt.step(mine) if who == RANK else opt.state_dict())
        assert_common(error, RuntimeError, "expected a call of ")
    error = error_of(opt.step, mine, grad_scale="x" if who == RANK else 1.0)
    assert_common(error, TypeError, f"rank {who}: grad_scale: expected")
    params[4].flags.writeable = who != RANK
    error = error_of(opt.step, mine)
    assert_common(error, ValueError, f"rank {who}: params[4]: expected a writable array")
    params[4].flags.writeable = True
    if mode != "own":
        begin = opt._exchange.begin
        if who == RANK:
            opt._exchange.begin = lambda *_: [].pop()
        assert_common(error_of(opt.step, mine), IndexError, f"rank {who}: pop from empty")
        opt._exchange.begin = begin
    assert_unchanged(before, params, opt)


class Acting:
    """Does something on one rank, when it comes to a collective operation of this number."""

    def __init__(self, opt: Any, at: int, act: Callable[[], Any]) -> None:
        self.count, self.at, self.act, self.do = 0, at, act, opt._ranks._do
        opt._ranks._do = self

    def __call__(self, *arguments: Any) -> None:
        self.count += 1
        if self.count - 1 == self.at:
            self.act()
        self.do(*arguments)


def phases(mode: str) -> list[str]:
    """Return the collective operations of a step, in order."""
    params, opt = made(grads=mode)
    names: list[str] = []
    do = opt._ranks._do
    opt._ranks._do = lambda name, *rest: (names.append(name), do(name, *rest))
    opt.step(gradients(1, 0, params, missing=False))
    opt.close()
    return names


def raised(error: BaseException) -> Any:
    raise error


def errors_in_each_phase() -> None:
    """Once all have agreed, what stops one rank stops all, and none can go on."""
    for who in {0, LAST}:
        for mode in ("local", "summed", "own"):
            names = phases(mode)
            for at in {0, 1, len(names) // 2, len(names) - 1} & {*range(len(names))}:
                for error in (KeyboardInterrupt(), MemoryError("none left")):
                    params, opt = made(grads=mode)
                    before = snapshot(params, opt)
                    if who == RANK:
                        Acting(opt, at, lambda error=error: raised(error))
                    grads = gradients(1, 0, params, missing=False)
                    found = error_of(opt.step, grads)
                    if who == RANK:
                        assert found is error or found.__cause__ is error, repr(found)
                    else:
                        assert type(found) is RuntimeError, repr(found)
                        assert f"rank {who} has left: step has ended with" in str(found)
                    if at == 0 or (mode == "local" and names[at] == "Ialltoallv" and at < 4):
                        for a, b in zip(before, params, strict=False):
                            assert same_bits(a, b)
                    again = error_of(opt.step, grads)
                    assert "cannot go on" in str(again), again


def interrupts() -> None:
    """Ctrl-C on one rank, which waits for the others, ends the waiting of all."""
    for who in {0, LAST} if SIZE > 1 else ():
        params, opt = made()
        grads = gradients(1, RANK, params, missing=False)
        if who == RANK:
            signal.signal(signal.SIGALRM, signal.default_int_handler)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            assert type(error_of(opt.step, grads)) is KeyboardInterrupt
        else:
            time.sleep(0.5)
            assert "has left" in str(error_of(opt.step, grads))
        WORLD.barrier()


def one_that_comes_too_late() -> None:
    if SIZE > 1:
        params, opt = made(timeout=0.3)
        grads = gradients(1, RANK, params, missing=False)
        if RANK == LAST:
            time.sleep(1.0)
            assert "has left" in str(error_of(opt.step, grads))
        else:
            error = error_of(opt.step, grads)
            assert isinstance(error, (TimeoutError, RuntimeError)), error
            assert "timeout=0.3" in str(error)
        missing.clear()  # all have come in the end
        WORLD.barrier()


def end_of(what: str, who: int, at: int) -> None:
    """Let one rank end, or stop, in a phase; the others end by what becomes of that."""
    if what == "absent" and who == RANK:
        time.sleep(2 * 60)
    params, opt = made(timeout=3.0)
    grads = gradients(1, RANK, params, missing=False)
    opt.step(grads)
    if who == RANK:
        signals = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "term": signal.SIGTERM}
        if what in signals:
            Acting(opt, at, lambda: os.kill(os.getpid(), signals[what]))
        elif what == "raise":
            raise ValueError("not in a call")
        elif what == "exit":
            raise SystemExit(3)
        elif what == "return":
            return
    opt.step(grads)
    print("unexpected: a step without a rank")


def run_on() -> None:
    """Take steps until a signal comes."""
    params, opt = made()
    grads = gradients(1, RANK, params, missing=False)
    opt.step(grads)
    print("running", flush=True)
    while True:
        opt.step(grads)


if __name__ == "__main__":
    if sys.argv[1:2] == ["end"]:
        end_of(sys.argv[2], int(sys.argv[3]) % SIZE, int(sys.argv[4]))
    elif sys.argv[1:] == ["run"]:
        run_on()
    else:
        every = (
            errors_before_the_agreement,
            errors_in_each_phase,
            interrupts,
            one_that_comes_too_late,
        )
        for check in every:
            if not sys.argv[1:] or check.__name__ in sys.argv[1:]:
                check()
        print(f"rank {RANK} is done")
