"""Promise 2, where Ctrl-C comes at a bad moment: a call has happened, or it has not."""

from __future__ import annotations

import copy
import itertools
import sys
import threading
from typing import ClassVar

import numpy as np
import pytest
from fresh import output
from interrupts import interrupted
from zoo import arrays_of, name_of, snapshot

import fastoptim as fo

pytestmark = pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="not in the main thread"
)

OPTIONS = {"ema_decay": 0.5, "max_grad_norm": 1.0, "nonfinite": "skip"}
G = [[np.array([0.5, -2.0]), np.array([[3.0], [1.0]])], {"w": np.array([4.0])}]
BAD = [[np.array([np.nan, 1.0]), None], {"w": None}]


def make(backend, cls=fo.SGD, **options):
    params = [{"params": [np.ones(2), np.ones((2, 1))]}, {"params": {"w": np.ones(1)}, "lr": 0.5}]
    optimizer = cls(params, lr=0.25, backend=backend, **{**OPTIONS, **options})
    optimizer.step(G, grad_scale=2.0)
    return optimizer


def everything(optimizer):
    arrays, *rest = snapshot(optimizer)
    arrays = {name: data for name, data in arrays if any(data)}  # fresh state is as good as none
    return arrays, *rest, optimizer.skipped_steps, repr(optimizer.grad_norm), repr(optimizer)


def trained(optimizer):
    """Return what two further steps lead to, as someone sees it who knows the arrays."""
    container = [*G, np.ones(3)]
    for _ in range(2):
        optimizer.step(container[: len(optimizer.param_groups)])
    return {name: a.tobytes() for name, a in arrays_of(optimizer)}, optimizer._plan.steps


def setting(name, value):
    return lambda opt: lambda: setattr(opt, name, value)


def step_with_new_state(optimizer):
    optimizer.momentum = 0.5
    return lambda: optimizer.step(G)


def leave_ema(optimizer):
    def work():
        with optimizer.use_ema():
            pass

    return work


def leave_average(optimizer):
    def work():
        with optimizer.use_average():
            pass

    return work


def load(optimizer):
    other = make("compiled", momentum=0.75)
    other.step(BAD)
    other.nonfinite = "ignore"
    other.step(G)
    saved = other.state_dict()
    return lambda: optimizer.load_state_dict(saved)


# From an optimizer to what is interrupted; whatever that needs is made before.
CALLS = {
    "step": lambda opt: lambda: opt.step(G),
    "step that is skipped": lambda opt: lambda: opt.step(BAD),
    "step with new state": step_with_new_state,
    "hyperparameter": setting("momentum", 0.5),
    "hyperparameters of a group": lambda opt: (
        lambda: opt.param_groups[1].update(lr=0.125, momentum=0.5)
    ),
    "setting": setting("max_grad_norm", None),
    "add_param_group": lambda opt: lambda: opt.add_param_group({"params": np.ones(3)}),
    "load_state_dict": load,
    "use_ema": leave_ema,
    "use_average": leave_average,
    "state_dict": lambda opt: opt.state_dict,
    "deepcopy": lambda opt: lambda: copy.deepcopy(opt),
}
CASES = [
    (name, cls, backend)
    for name, cls, backend in itertools.product(
        CALLS, (fo.SGD, fo.LARS, fo.ScheduleFreeSGD), ("compiled", "reference")
    )
    if name.startswith("step")
    or (cls, backend) == (fo.ScheduleFreeSGD if name == "use_average" else fo.SGD, "compiled")
]


@pytest.mark.parametrize(("name", "cls", "backend"), CASES, ids=name_of)
def test_a_call_has_happened_or_has_not(name, cls, backend):
    work = CALLS[name]
    before, after = make(backend, cls), make(backend, cls)
    work(before)
    work(after)()
    states = [everything(before), everything(after)]
    futures = [trained(before), trained(after)]
    for n in itertools.count(1):
        optimizer = make(backend, cls)
        prepared = work(optimizer)
        with np.errstate():  # NumPy's own is not safe from interrupts
            found = interrupted(prepared, n)
        happened = states.index(everything(optimizer)) if found else 1
        assert everything(optimizer) == states[happened]
        assert trained(optimizer) == futures[happened]
        if not found:
            break
    assert n > 3


def gradients_to_clip():
    """Return arrays of both types, dense, strided and misaligned."""
    wide = np.full((3, 4), 2.0)
    misaligned = np.zeros(9, np.uint8)[1:].view(np.float64)
    misaligned[:] = 8.0
    return [np.array([3.0, -4.0], np.float32), wide[:, 1:3], None, misaligned, np.array(0.5)]


# Functions that write to arrays of the caller's, and those arrays.
FUNCTIONS = {
    "clip_grad_norm_": lambda arrays: fo.clip_grad_norm_(arrays, 1.0),
    "clip_grad_value_": lambda arrays: fo.clip_grad_value_(arrays, 0.25),
    "functional.adam": lambda arrays: fo.functional.adam(*arrays, step=1),
    "reference.adam": lambda arrays: fo.reference.adam(*arrays, step=1),
}
ARRAYS = {"functional.adam": lambda: np.ones((4, 3)), "reference.adam": lambda: np.ones((4, 3))}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_have_changed_all_arrays_or_none(name):
    def found(arrays):
        return [None if a is None else a.tobytes() for a in arrays]

    make_arrays = ARRAYS.get(name, gradients_to_clip)
    before, after = list(make_arrays()), list(make_arrays())
    FUNCTIONS[name](after)
    errors = np.geterr()
    for n in itertools.count(1):
        arrays = list(make_arrays())
        with np.errstate():
            over = not interrupted(lambda given=arrays: FUNCTIONS[name](given), n)
            assert np.geterr() == errors or name.startswith("reference")
        assert found(arrays) in (found(before), found(after))
        if over:
            break
    assert found(arrays) == found(after)
    assert n > 3


class WithThinc:
    """Steps of fastoptim's optimizer for thinc, of which one is interrupted."""

    order = "C"
    options: ClassVar = {}

    def __init__(self):
        pytest.importorskip("thinc")
        from fastoptim.integrations.thinc import Adam

        self.optimizer = Adam(0.1, **self.options)
        self.w = np.ones((2, 3), np.float32, order=self.order)
        self.gradient = np.zeros_like(self.w)

    def prepare(self):
        self.gradient[...] = 0.5

    def step(self):
        self.optimizer((0, "W"), self.w, self.gradient)

    def found(self):
        state = self.optimizer.mom1, self.optimizer.mom2, self.optimizer.averages
        arrays = [self.w, *(a for kept in state for a in kept.values())]
        assert (self.gradient == 0.5 * bool(self.gradient.any())).all()
        return [a.tobytes() for a in arrays], dict(self.optimizer.nr_update)


class WithThincInFortranOrder(WithThinc):
    order = "F"


class WithThincAndPenalty(WithThinc):
    options: ClassVar = {"L2": 0.1, "L2_is_weight_decay": False}


class WithSklearn:
    """The same for scikit-learn."""

    def __init__(self):
        pytest.importorskip("sklearn")
        from sklearn.neural_network._stochastic_optimizers import AdamOptimizer

        from fastoptim.integrations.sklearn import _Adam

        self.params = [np.ones((2, 2)), np.ones(2)]
        self.optimizer = _Adam.of(AdamOptimizer(self.params))

    def prepare(self):
        pass

    def step(self):
        self.optimizer.update_params(self.params, [np.full_like(p, 0.5) for p in self.params])

    def found(self):
        state = vars(self.optimizer)
        arrays = *self.params, *state["ms"], *state["vs"]
        return [a.tobytes() for a in arrays], state["t"], state["learning_rate"]


class WithTorch:
    """The same for torch."""

    name = "Adam"

    def __init__(self):
        torch = pytest.importorskip("torch")
        from fastoptim.integrations import torch as integration

        self.params = [torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)]
        self.optimizer = getattr(integration, self.name)(self.params, lr=0.1, ema_decay=0.5)

    def prepare(self):
        for p in self.params:
            p.grad = p.detach() * 0 + 0.5

    def step(self):
        self.optimizer.step()

    def found(self):
        state = self.optimizer.state_dict()["state"]
        arrays = *self.params, *(a for entries in state.values() for a in entries.values())
        return [a.detach().numpy().tobytes() for a in arrays]


class WithTorchAndNumbers(WithTorch):
    """The same, where torch's state has numbers beside the step counts."""

    name = "NAdam"


@pytest.mark.parametrize("steps_before", [0, 1])
@pytest.mark.parametrize(
    "library",
    [
        WithThinc,
        WithThincInFortranOrder,
        WithThincAndPenalty,
        WithSklearn,
        WithTorch,
        WithTorchAndNumbers,
    ],
    ids=name_of,
)
def test_steps_with_other_libraries_have_happened_or_have_not(library, steps_before):
    def client(steps):
        found = library()
        for _ in range(steps):
            found.prepare()
            found.step()
        found.prepare()
        return found

    expected = [client(steps_before + k).found() for k in range(3)]
    for n in itertools.count(1):
        ours = client(steps_before)
        with np.errstate():
            found = interrupted(ours.step, n)
        happened = expected.index(ours.found()) if found else 1
        ours.prepare()
        ours.step()
        assert ours.found() == expected[happened + 1]
        if not found:
            break
    assert n > 3


def test_a_torch_program_may_change_anything_after_an_interrupt():
    """The step has happened, but torch's state does not show all of it yet."""
    torch = pytest.importorskip("torch")
    seen = 0
    for n in itertools.count(1):
        ours = WithTorch()
        ours.prepare()
        first = ours.params[0]
        if not interrupted(ours.step, n):
            break
        happened = not bool((first == 1).all())
        seen += happened
        first.data = torch.zeros(2)
        added = torch.ones(2, requires_grad=True)
        added.grad = torch.ones(2)
        ours.optimizer.add_param_group({"params": [added]})
        ours.step()
        assert (first < 0).all()
        assert (added < 1).all()
        assert ours.optimizer.state[first]["step"] == 1 + happened
    assert seen > 3


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sends signals")
@pytest.mark.parametrize("cls", [fo.Adam, fo.LAMB], ids=name_of)
def test_interrupts_at_any_time_land_between_steps(cls):
    """After each, all arrays are those of a whole number of steps, and the next step goes on."""
    code = f"""
import os, random, signal, threading, time
import numpy as np
import fastoptim as fo
p, q = [np.ones(300_000, np.float32), np.ones(5)], [np.ones(300_000, np.float32), np.ones(5)]
g = [np.full_like(x, 0.5) for x in p]
options = dict(lr=lambda t: 0.01 / (1 + t), max_grad_norm=1.0, ema_decay=0.5)
ours, other = fo.{cls.__name__}(p, **options), fo.{cls.__name__}(q, **options)
start = time.perf_counter()
ours.step(g), other.step(g)
both = time.perf_counter() - start
signal.signal(signal.SIGINT, signal.default_int_handler)
ready, over = threading.Event(), threading.Event()
def interrupt():
    while not over.is_set():
        if ready.wait(0.1):
            time.sleep(random.random() * 2 * both)
            ready.clear()
            os.kill(os.getpid(), signal.SIGINT)
thread = threading.Thread(target=interrupt)
thread.start()
for _ in range(100):
    try:
        ready.set()
        while True:
            ours.step(g)
    except KeyboardInterrupt:
        pass
    while other._plan.steps[0] < ours._plan.steps[0]:
        other.step(g)
    assert ours._plan.steps == other._plan.steps
    for a, b in zip([*p, *ours.ema], [*q, *other.ema]):
        assert a.tobytes() == b.tobytes()
over.set()
thread.join()
print(ours._plan.steps[0] > 1)
"""
    assert output(code) == "True"
