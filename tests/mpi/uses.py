"""All uses of Sharded, each held to what one process does."""

from __future__ import annotations

import copy
import os
import pickle
import sys
import warnings
from typing import Any

import numpy as np
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

import fastoptim as fo
from fastoptim.integrations.mpi import Sharded


def sharded(cls, params, grads="local", **chosen):
    chosen = {"wave_bytes": 1 << 14, "timeout": PATIENCE} | chosen
    return Sharded(cls, params, WORLD, grads=grads, **chosen)


def own() -> None:
    """Ranks with parameters of their own share the norm, and whether all gradients are finite."""
    shapes = [[(3 + rank,), (5000,)][: 1 + (rank % 2)] for rank in range(SIZE)]
    first = np.cumsum([0, *map(len, shapes)])
    for cls, chosen in [
        (fo.AdamW, {"max_grad_norm": 1.0, "ema_decay": 0.9}),
        (fo.LAMB, {"max_param_grad_norm": 1.0, "nonfinite": "skip"}),
        (fo.SGD, {"lr": 0.1}),
    ]:
        params = parameters(1, shapes[RANK])
        its = [p for of in shapes for p in parameters(1, of)]
        opt, one = sharded(cls, params, "own", **chosen), cls(its, **chosen)
        assert dict(opt.ranges) == {i: (0, p.size) for i, p in enumerate(params)}
        for step in range(4):
            given = [gradients(step + r, r, parameters(1, of)) for r, of in enumerate(shapes)]
            if step == 2 and "nonfinite" in chosen:
                given[-1][-1] = np.full_like(given[0][-1] if SIZE == 1 else its[-1], np.nan)
            opt.step(given[RANK])
            one.step([g for of in given for g in of])
            assert opt.grad_norm == one.grad_norm or np.isnan(opt.grad_norm)
            assert opt.skipped_steps == one.skipped_steps
            for i, p in enumerate(params):
                assert same_bits(p, its[first[RANK] + i]), (cls, step, i)
        opt.close()


def batches() -> None:
    """Four batches are added up in the same order by one rank, two ranks and four."""
    if 4 % SIZE:
        return
    each = 4 // SIZE
    for mode in ("local", "summed"):
        params, its = parameters(2), parameters(2)
        opt = sharded(fo.Adam, params, mode, average=mode == "local", lr=0.1, max_grad_norm=1.0)
        one = fo.Adam(its, lr=0.1, max_grad_norm=1.0)
        for step in range(3):
            leaves = [gradients(step, n, its) for n in range(4)]
            mine = leaves[RANK * each : (RANK + 1) * each] if mode == "local" else leaves
            for batch in mine[:-1]:
                before = [None if g is None else g.copy() for g in batch]
                opt.accumulate(batch)
                assert all(g is None or same_bits(g, b) for g, b in zip(batch, before, strict=True))
            opt.step(mine[-1])
            one.step(summed(leaves, its), grad_scale=4.0 if mode == "local" else 1.0)
            assert_same(opt, params, one, its)
        opt.close()


def batches_that_lack_some() -> None:
    """Keep the gradients of other batches where one has none, and where a step is refused."""
    p, q = [np.ones(5), np.ones(3)], [np.ones(5), np.ones(3)]
    opt, one = sharded(fo.SGD, p, lr=0.5), fo.SGD(q, lr=0.5)
    opt.accumulate([np.full(5, 2.0), None])
    error = error_of(opt.step, [None, np.ones(4)])
    assert "rank 0: grads[1]: expected shape" in str(error), error
    opt.step([None, None])
    one.step([np.full(5, 2.0 * SIZE), None])
    assert same_bits(p[0], q[0])
    assert same_bits(p[1], q[1])
    assert [*opt.steps.values()] == [1, 0]
    opt.close()


def skipping() -> None:
    """Skip a step on all ranks where one of them has a NaN, and forget its batches."""
    ours, theirs = parameters(11), parameters(11)
    chosen = {"nonfinite": "skip", "lr": 0.1}
    opt, one = sharded(fo.Adam, ours, **chosen), fo.Adam(theirs, **chosen)
    for step in range(3):
        grads = [gradients(step, rank, theirs, missing=False) for rank in range(SIZE)]
        if step == 1:
            grads[-1][5][7] = np.nan
            opt.accumulate(grads[RANK])
        opt.step(grads[RANK])
        one.step(summed(grads, theirs))
        assert_same(opt, ours, one, theirs)
    assert opt.skipped_steps == 1
    held = sys.getrefcount(grads[RANK][0])
    assert held <= 2, held  # nothing of a gradient is kept
    opt.close()


def few_elements() -> None:
    """Ranks without an element take part in all steps."""
    for shape in [(), (1,), (0,)]:
        p, q = np.ones(shape), np.ones(shape)
        opt = sharded(fo.LAMB, p, max_grad_norm=1.0, ema_decay=0.5)
        one = fo.LAMB(q, max_grad_norm=1.0, ema_decay=0.5)
        for step in range(3):
            opt.step(np.full(shape, float(step)))
            one.step(np.full(shape, float(step) * SIZE))
        assert_same(opt, [p], one, [q])
        opt.close()


class Net:
    def __init__(self, seed: int) -> None:
        self.w = parameters(seed)
        self.params = {"layers": [{"w": self.w[3], "b": self.w[1]}], "out": (self.w[4], self.w[6])}

    @staticmethod
    def contained(g: list[Any]) -> dict[str, Any]:
        return {"layers": [{"w": g[3], "b": g[1]}], "out": (g[4], g[6])}

    def leaves(self) -> list[Any]:
        return [self.w[3], self.w[1], self.w[4], self.w[6]]


def trees_and_schedules() -> None:
    """Containers within each other, and a learning rate that changes."""
    ours, theirs = Net(3), Net(3)
    schedule = fo.schedules.CosineAnnealing(0.1, T_max=10)
    opt = sharded(fo.NAdam, ours.params, lr=schedule)
    one = fo.NAdam(theirs.params, lr=schedule)
    for step in range(3):
        grads = [gradients(step, rank, theirs.w, missing=False) for rank in range(SIZE)]
        opt.step(Net.contained(grads[RANK]))
        one.step(Net.contained(summed(grads, theirs.w)))
        opt.lr, one.lr = 0.1, 0.1
    assert_same(opt, ours.leaves(), one, theirs.leaves())
    opt.close()


def groups_of_several_rules() -> None:
    """Step groups with rules and hyperparameters of their own, some without a gradient."""

    def made(w):
        return [
            {"optimizer": fo.SGD, "params": w[:3], "lr": 0.1},
            {"optimizer": fo.AdamW, "params": {"a": w[3], "b": w[4]}, "lr": 0.1, "mask": None},
            {"optimizer": fo.LARS, "params": w[5:], "lr": 0.1},
        ]

    ours, theirs = parameters(4), parameters(4)
    opt, one = (
        sharded(fo.Mixed, made(ours), max_grad_norm=1.0),
        fo.Mixed(made(theirs), max_grad_norm=1.0),
    )
    for step in range(4):
        if step == 2:
            for o in (opt, one):
                o.param_groups[1]["ema_decay"] = 0.5
                o.param_groups[1]["mask"] = {"a": theirs[3] > 0, "b": None}
        grads = [gradients(step, rank, theirs, missing=False) for rank in range(SIZE)]
        total = summed(grads, theirs)
        for o, g in ((opt, grads[RANK]), (one, total)):
            o.step([g[:3], {"a": g[3], "b": g[4]}, None if step == 1 else g[5:]])
        assert_same(opt, ours, one, theirs)
    opt.close()


def leaky_scalars(lr: float = 0.1, beta: float = 0.5) -> tuple[float, ...]:
    return lr, beta


@fo.rule(state=("m",), scalars=leaky_scalars)
def leaky(p, g, m, lr, beta):
    m = beta * m + g
    return p - lr * fo.where(m > 0, m, beta * m), m


def a_rule_of_ones_own() -> None:
    cls = fo.optimizer(leaky)
    ours, theirs = parameters(5), parameters(5)
    opt, one = sharded(cls, ours, lr=0.01), cls(theirs, lr=0.01)
    for step in range(2):
        grads = [gradients(step, rank, theirs) for rank in range(SIZE)]
        opt.step(grads[RANK])
        one.step(summed(grads, theirs))
    assert_same(opt, ours, one, theirs)
    opt.close()


def other_gradients() -> None:
    """float32 for float64, float64 for float32 if asked for, lists, numbers, other shapes."""
    p, q = [np.ones((3, 2)), np.ones(4, np.float32), np.ones(())], None
    q = [x.copy() for x in p]
    opt, one = sharded(fo.Adam, p, cast_grads=True), fo.Adam(q)
    rng = np.random.default_rng(7)
    a, b = rng.standard_normal((SIZE, 3, 2)).astype(np.float32), rng.standard_normal((SIZE, 4))
    opt.step([a[RANK].reshape(1, 3, 1, 2), b[RANK], 0.5])
    grads = [[x, y.astype(np.float32), np.array(0.5)] for x, y in zip(a, b, strict=True)]
    one.step(summed(grads, q))
    for x, y in zip(p, q, strict=True):
        assert same_bits(x, y)
    opt.close()


def the_backend_in_numpy() -> None:
    ours, theirs = parameters(6), parameters(6)
    opt = sharded(fo.LAMB, ours, backend="reference", max_grad_norm=1.0)
    one = fo.LAMB(theirs, max_grad_norm=1.0)
    for step in range(2):
        grads = [gradients(step, rank, theirs) for rank in range(SIZE)]
        opt.step(grads[RANK])
        one.step(summed(grads, theirs))
    assert_same(opt, ours, one, theirs)
    opt.close()


def averages() -> None:
    """All ranks see the averages, and what the parameters were comes back."""
    for cls, chosen, name in [
        (fo.SGD, {"lr": 0.1, "ema_decay": 0.5}, "use_ema"),
        (fo.ScheduleFreeAdamW, {"lr": 0.1}, "use_average"),
    ]:
        ours, theirs = parameters(8), parameters(8)
        opt, one = sharded(cls, ours, **chosen), cls(theirs, **chosen)
        for step in range(3):
            grads = [gradients(step, rank, theirs) for rank in range(SIZE)]
            opt.step(grads[RANK])
            one.step(summed(grads, theirs))
            with getattr(opt, name)(), getattr(one, name)():
                for p, q in zip(ours, theirs, strict=True):
                    assert same_bits(p, q)
                error = error_of(opt.step, grads[RANK])
                assert f"inside of {name}()" in str(error), error
            assert_same(opt, ours, one, theirs)
        try:
            with getattr(opt, name)():
                if RANK == SIZE - 1:
                    raise KeyError  # the others leave without it
        except KeyError:
            pass
        assert_same(opt, ours, one, theirs)
        opt.close()
    opt = sharded(fo.SGD, np.ones(3))
    error = error_of(opt.use_ema().__enter__)
    assert "rank 0: use_ema: expected an optimizer with ema_decay" in str(error), error
    opt.close()


def state_dicts() -> None:
    """They are those of one process, which goes on from ours, and we from its."""
    chosen = {"lr": 0.1, "ema_decay": 0.9, "amsgrad": True}
    ours, theirs = parameters(9), parameters(9)
    opt, one = sharded(fo.AdamW, ours, **chosen), fo.AdamW(theirs, **chosen)
    grads = [gradients(1, rank, theirs) for rank in range(SIZE)]
    for _ in range(2):
        opt.step(grads[RANK])
        one.step(summed(grads, theirs))
    found, expected = opt.state_dict(), one.state_dict()
    assert {k: v for k, v in found.items() if k != "state"} == {
        k: v for k, v in expected.items() if k != "state"
    }
    for key, entry in expected["state"].items():
        assert found["state"][key].keys() == entry.keys()
        for name, value in entry.items():
            assert same_bits(np.asarray(found["state"][key][name]), np.asarray(value))
    opt.close()
    again = sharded(fo.AdamW, ours, "summed", ema_decay=0.9, amsgrad=True)
    if SIZE > 1:
        entry = {**expected["state"][0], "step": 7 + RANK}
        differing = {**expected, "state": {**expected["state"], 0: entry}}
        error = error_of(again.load_state_dict, differing)
        assert "rank 1: steps: expected [7, " in str(error), error
        assert not any(again.steps.values())
    again.load_state_dict(expected)
    again.step(summed(grads, theirs))
    one.step(summed(grads, theirs))
    assert_same(again, ours, one, theirs)
    again.close()


def groups_added() -> None:
    ours, theirs = parameters(10), parameters(10)
    opt, one = sharded(fo.AdamW, ours[:4]), fo.AdamW(theirs[:4])
    for o, w in ((opt, ours), (one, theirs)):
        o.add_param_group({"params": w[4:], "lr": 0.5})
    grads = [gradients(1, rank, theirs) for rank in range(SIZE)]
    total = summed(grads, theirs)
    opt.step([grads[RANK][:4], grads[RANK][4:]])
    one.step([total[:4], total[4:]])
    assert_same(opt, ours, one, theirs)
    error = error_of(opt.add_param_group, {"params": np.ones(3)})
    assert "rank 0: add_param_group: expected a Sharded optimizer before" in str(error), error
    new = [p.copy(order="K") for p in ours]
    opt.rebind([new[:4], new[4:]])
    opt.step([grads[RANK][:4], grads[RANK][4:]])
    one.step([total[:4], total[4:]])
    assert_same(opt, new, one, theirs)
    turned = [np.ascontiguousarray(p) if p.ndim == 2 else p for p in new]
    error = error_of(opt.rebind, [turned[:4], turned[4:]])
    assert "strides" in str(error), error
    opt.close()


def parts_of_the_memory() -> None:
    """Hold a share of the state, and two buffers of a wave beside it."""
    n, wave = 1 << 20, 1 << 16
    for cls, arrays in ((fo.Adam, 2), (fo.Adagrad, 1)):
        opt = sharded(cls, [np.ones(n, np.float32), np.ones(77), np.ones(n // 3)], wave_bytes=wave)
        opt.step([np.ones(n, np.float32), np.ones(77), None])
        held = sum(a.nbytes for entry in opt.state.values() for a in entry.values())
        whole = arrays * (4 * n + 8 * 77 + 8 * (n // 3))
        assert abs(held - whole / SIZE) <= 0.01 * whole / SIZE, (held, whole)
        buffers = opt._exchange._sent.nbytes + opt._exchange._got.nbytes
        assert buffers <= 2 * wave, buffers
        assert not opt._exchange._held.nbytes
        opt.close()


class Counting:
    """Counts what goes through the calls of a communicator, to and from this rank."""

    def __init__(self, comm) -> None:
        self._comm, self.sent, self.got, self.rest = comm, 0, 0, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)

    def Ialltoallv(self, sent, got):  # noqa: N802
        self.sent += int(np.sum(sent[1][0]))
        self.got += int(np.sum(got[1][0]))
        assert sent[1][0][RANK] == got[1][0][RANK] == 0
        return self._comm.Ialltoallv(sent, got)

    def Iallgatherv(self, own, got):  # noqa: N802
        counts = got[1][0]
        self.sent += int(counts[RANK])  # by a ring, each rank sends all pieces but one
        self.got += int(np.sum(counts) - counts[RANK])
        return self._comm.Iallgatherv(own, got)

    def Iallgather(self, own, got):  # noqa: N802
        self.rest += got[0].nbytes
        return self._comm.Iallgather(own, got)


def traffic() -> None:
    """Gradients and parameters go to other ranks once each, but for what has no gradient."""
    shapes = [(1 << 18,), (300, 211), (5,)]
    for chosen in ({}, {"max_grad_norm": 1.0}):
        params = [np.ones(shape, np.float32) for shape in shapes]
        opt = sharded(fo.LAMB if chosen else fo.Adam, params, **chosen)
        opt.step([np.ones_like(p) for p in params])
        counting = opt._ranks._comm = Counting(opt._ranks._comm)
        opt.step([np.ones_like(p) for p in params])
        nbytes = sum(p.nbytes for p in params)
        everyone = WORLD.allreduce(np.array([counting.got, counting.sent, counting.rest]))
        expected = 2 * (SIZE - 1) * nbytes
        assert expected <= everyone[0] <= 1.002 * expected + 100 * SIZE, (everyone, expected)
        assert counting.rest <= 200 * SIZE
        assert counting.got <= 1.1 * expected / SIZE + 20000, (counting.got, expected / SIZE)
        before = counting.got
        opt.step([None, None, np.ones(5, np.float32)])
        assert counting.got - before < 1000 * SIZE or chosen
        opt.close()


def binding() -> None:
    """One warning, where a rank may use but one CPU of many."""
    allowed = os.sched_getaffinity(0)
    os.environ.pop("OMPI_COMM_WORLD_LOCAL_SIZE", None)
    os.environ.pop("MPI_LOCALNRANKS", None)
    os.sched_setaffinity(0, {min(allowed)})
    cpus, os.cpu_count = os.cpu_count, lambda: 64
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            sharded(fo.SGD, np.ones(3)).close()
            sharded(fo.SGD, np.ones(3)).close()
    finally:
        os.sched_setaffinity(0, allowed)
        os.cpu_count = cpus
    texts = [str(w.message) for w in caught if issubclass(w.category, RuntimeWarning)]
    assert len(texts) == (RANK == 0), texts
    assert not texts or "--bind-to none" in texts[0]


def refused() -> None:
    """Refuse on all ranks what one of them cannot do."""
    last = SIZE - 1

    def expect(wrong: type, text: str, call: Any, *arguments: Any, **chosen: Any) -> None:
        error = error_of(call, *arguments, **chosen)
        assert isinstance(error, wrong), repr(error)
        assert text in str(error), error

    for chosen, wrong, text in [
        ({"lr": -1.0 if last == RANK else 0.1}, ValueError, f"rank {last}: lr: expected"),
        ({"lr": 0.1, "beta": 1}, TypeError, "rank 0: beta: "),
        ({"grads": "all"}, ValueError, "rank 0: grads: expected 'local' or 'summed' or 'own'"),
        ({"average": 3}, TypeError, "rank 0: average: expected True or False"),
        ({"wave_bytes": 0}, ValueError, "rank 0: wave_bytes: expected a whole number >= 1"),
    ]:
        expect(wrong, text, sharded, fo.Adam, np.ones(3), **chosen)
    if SIZE > 1:
        for chosen, text in [
            (
                {"lr": 0.1 + (last == RANK)},
                f"rank {last}: lr: expected 0.1, as on rank 0, found 1.1",
            ),
            ({"max_grad_norm": 1.0 + RANK}, "rank 1: max_grad_norm: expected 1.0, as on rank 0"),
            ({"ema_decay": 0.5 if RANK else None}, "rank 1: ema_decay: expected None, as on"),
        ]:
            expect(ValueError, text, sharded, fo.Adam, np.ones(3), **chosen)
        for params, text in [
            (np.ones(3 + RANK), "rank 1: params: expected float64 of shape (3,), axes in memory"),
            ([np.ones(3) for _ in range(1 + RANK)], "rank 1: the number of parameters: expected 1"),
            (np.full(3, float(RANK)), "rank 1: params: expected elements with the checksum"),
            (np.ones(3, np.float32 if RANK else np.float64), "rank 1: params: expected float64"),
        ]:
            expect(ValueError, text, sharded, fo.Adam, params)
    text = "optimizer: expected a class of fastoptim"
    expect(TypeError, text, Sharded, 3, np.ones(3), WORLD)
    text = "comm: expected an mpi4py.MPI.Intracomm"
    expect(TypeError, text, Sharded, fo.SGD, np.ones(3), 7)
    for mode in ("local", "summed"):
        opt = sharded(fo.SGD, np.ones(3), grads=mode)
        text = "rank 0: grads: expected an array here, found Rows: write g = np.zeros_like(params)"
        expect(TypeError, text, opt.step, fo.Rows([1], np.ones(1)))
        opt.close()
    opt = sharded(fo.SGD, np.ones(3))
    expect(TypeError, "Sharded", pickle.dumps, opt)
    expect(TypeError, "", copy.deepcopy, opt)
    opt.close()
    expect(RuntimeError, "it was closed", opt.step, np.ones(3))


USES = [v for v in vars().values() if callable(v) and getattr(v, "__module__", "") == __name__]
USES = [use for use in USES if use not in (Counting, Net, sharded, leaky_scalars, leaky)]


def main(names: list[str]) -> None:
    for use in USES:
        if not names or use.__name__ in names:
            use()
    print(f"rank {RANK} is done")


main(sys.argv[1:])
