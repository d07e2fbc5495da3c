"""The optimizers for torch's tensors: torch's results, torch's state, and refusals."""

from __future__ import annotations

import contextlib
import copy
import doctest
import gc
import inspect
import io
import itertools
import math
import pickle
import re
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fresh import output, python

import fastoptim as fo

torch = pytest.importorskip("torch", reason="torch is not installed")

from fastoptim._mirror import Places  # noqa: E402
from fastoptim.bench.clients import torch as clients  # noqa: E402
from fastoptim.integrations import torch as integration  # noqa: E402
from fastoptim.integrations.torch import (  # noqa: E402
    SGD,
    Adam,
    AdamW,
    Lion,
    RMSprop,
    optimizer_of,
)

TEXT = (Path(__file__).parents[1] / "LICENSE").read_bytes()
CLIP, DECAY = 0.1, 0.9

CASES = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    ("SGD", {"lr": 1e-3, "momentum": 0.9, "nesterov": True, "maximize": True}),
    ("RMSprop", {"lr": 1e-3}),
    ("RMSprop", {"lr": 1e-3, "momentum": 0.5, "centered": True, "weight_decay": 0.01}),
    ("Adagrad", {"lr": 0.02, "lr_decay": 0.1, "initial_accumulator_value": 0.1}),
    ("Adam", {"lr": 2e-3, "weight_decay": 0.01}),
    ("Adam", {"lr": 2e-3, "amsgrad": True, "betas": (0.8, 0.9), "decoupled_weight_decay": True}),
    ("AdamW", {"lr": 2e-3, "weight_decay": 0.1}),
    ("AdamW", {"lr": 2e-3, "eps": 1e-4, "maximize": True}),
    ("Adadelta", {"lr": 0.5, "rho": 0.8}),
    ("Adadelta", {"lr": 0.1, "eps": 1e-4, "weight_decay": 0.01, "maximize": True}),
    ("Adamax", {"lr": 2e-3}),
    ("Adamax", {"lr": 1e-3, "betas": (0.8, 0.9), "weight_decay": 0.01}),
    ("NAdam", {"lr": 2e-3, "momentum_decay": 0.1}),
    ("NAdam", {"lr": 1e-3, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("RAdam", {"lr": 1e-3, "betas": (0.8, 0.9), "maximize": True}),
    ("RAdam", {"lr": 2e-3, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("Rprop", {"lr": 1e-3, "step_sizes": (1e-6, 0.01)}),
    ("ASGD", {"lr": 0.05, "weight_decay": 0.01}),
    ("ASGD", {"lr": 0.1, "lambd": 0.01, "alpha": 0.5, "t0": 7.0}),
]
NAMES = [*dict.fromkeys(name for name, _ in CASES)]
NEW = [getattr(integration, name) for name in NAMES[5:]]
every_name = pytest.mark.parametrize("name", NAMES)
every_case = pytest.mark.parametrize(("name", "kwargs"), CASES, ids=str)


class Transformer(torch.nn.Module):
    """A language model of bytes: embeddings, two layers of attention, a tied head.

    Without biases: the gradient of those of the keys is nothing but rounding.
    """

    def __init__(self, width=16, length=12):
        super().__init__()
        self.bytes = torch.nn.Embedding(128, width)
        self.places = torch.nn.Parameter(0.1 * torch.randn(length, width))
        layer = torch.nn.TransformerEncoderLayer(width, 2, 32, 0, batch_first=True, bias=False)
        self.layers = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.unused = torch.nn.Parameter(torch.ones(3))

    def forward(self, x):
        hidden = self.layers(self.bytes(x) + self.places)
        return self.scale * hidden @ self.bytes.weight.T

    def loss(self, batch, length=12):
        starts = np.random.default_rng(batch).integers(0, len(TEXT) - length - 1, 8)
        text = torch.tensor([list(TEXT[s : s + length + 1]) for s in starts])
        logits = self(text[:, :-1])
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten())


def twins(dtype=torch.float64):
    torch.manual_seed(3)
    model = Transformer().to(dtype)
    return model, copy.deepcopy(model)


def backward(model, batch):
    model.zero_grad()
    loss = model.loss(batch)
    loss.backward()
    return loss.item()


def train(model, optimizer, batches):
    for batch in batches:
        backward(model, batch)
        optimizer.step()


def assert_close(ours, theirs, tolerance=1e-9):
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance, msg=name)


def assert_states_close(ours, theirs, tolerance=1e-9):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    # torch's Adagrad has state before the first step
    stepped = {k: entries for k, entries in theirs["state"].items() if entries.get("step") != 0}
    assert ours["state"].keys() >= stepped.keys()
    for key, entries in stepped.items():
        assert ours["state"][key].keys() == entries.keys()
        for name, value in entries.items():
            found = ours["state"][key][name]
            assert found.stride() == value.stride()
            torch.testing.assert_close(found, value, rtol=tolerance, atol=tolerance)


def small(cls=Adam, **kwargs):
    """Return two parameters with gradients and their optimizer."""
    rng = torch.Generator().manual_seed(5)
    params = [torch.nn.Parameter(torch.randn(s, generator=rng)) for s in ((3, 4), (5,))]
    give_gradients(params)
    return params, cls(params, **kwargs)


def give_gradients(params, seed=7):
    rng = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=rng, dtype=p.dtype)


def values(params):
    return [p.detach().clone() for p in params]


def assert_equal(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


SCHEDULES = torch.optim.lr_scheduler
ONE_CYCLE = {"final_div_factor": 1e30, "base_momentum": 0.0}
# Schedules of n steps or periods that go to zero, and the steps to take beside n; whether many end
# below zero.
TO_ZERO = {
    "lambda": (lambda o, n: SCHEDULES.LambdaLR(o, lambda t: 1 - t * (1 / n)), 0, False),
    "multiplicative": (lambda o, n: SCHEDULES.MultiplicativeLR(o, lambda t: 0.0), 1, False),
    "step": (lambda o, n: SCHEDULES.StepLR(o, n, gamma=0.0), 2, False),
    "multistep": (lambda o, n: SCHEDULES.MultiStepLR(o, [n, n + 1], gamma=0.0), 2, False),
    "linear": (lambda o, n: SCHEDULES.LinearLR(o, end_factor=0.0, total_iters=n), 2, True),
    "exponential": (lambda o, n: SCHEDULES.ExponentialLR(o, 1e-30), 2, False),
    "polynomial": (lambda o, n: SCHEDULES.PolynomialLR(o, n, 0.9), 2, False),
    "cosine": (lambda o, n: SCHEDULES.CosineAnnealingLR(o, n), 60, False),
    "restarts": (lambda o, n: SCHEDULES.CosineAnnealingWarmRestarts(o, n), 60, False),
    "cyclic": (lambda o, n: SCHEDULES.CyclicLR(o, 0, 0.1, n, base_momentum=0.0), 60, False),
    "one cycle": (lambda o, n: SCHEDULES.OneCycleLR(o, 0.1, n + 3, **ONE_CYCLE), 2, False),
    "one cycle, linear": (
        lambda o, n: SCHEDULES.OneCycleLR(o, 0.1, n + 3, anneal_strategy="linear", **ONE_CYCLE),
        2,
        False,
    ),
    "sequential": (
        lambda o, n: SCHEDULES.SequentialLR(
            o, [SCHEDULES.ConstantLR(o, 0.5), SCHEDULES.LinearLR(o, 0.3, 0.0, n)], [3]
        ),
        5,
        True,
    ),
    "chained": (
        lambda o, n: SCHEDULES.ChainedScheduler(
            [SCHEDULES.LinearLR(o, end_factor=0.0, total_iters=n), SCHEDULES.ExponentialLR(o, 1.01)]
        ),
        2,
        True,
    ),
    "plateau": (lambda o, n: SCHEDULES.ReduceLROnPlateau(o, factor=0.0, patience=n), 4, False),
    "average": (lambda o, n: torch.optim.swa_utils.SWALR(o, 0.0, n), 2, False),
}


def run_schedule(make, n, rest, tensor):
    """Go down a slope beside torch, with a learning rate that is scheduled; return its last."""
    found = []
    for library in (integration, torch.optim):
        p, path = torch.nn.Parameter(torch.ones(2, dtype=torch.float64)), []
        lr = torch.tensor(0.1, dtype=torch.float64) if tensor else 0.1
        optimizer = library.SGD([p], lr, momentum=0.9)
        schedule = make(optimizer, n)
        for _ in range(n + rest):
            p.grad = p.detach().clone()
            optimizer.step()
            schedule.step(*[1.0] * isinstance(schedule, SCHEDULES.ReduceLROnPlateau))
            path.append(p.detach().clone())
        found.append(path)
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-15)
    return float(optimizer.param_groups[0]["lr"])


class TestTransformer:
    @every_case
    def test_torch_for_50_steps(self, name, kwargs):
        ours, theirs = twins()
        optimizer = getattr(integration, name)(ours.parameters(), **kwargs)
        peer = getattr(torch.optim, name)(theirs.parameters(), **kwargs)
        start = values(ours.parameters())
        train(ours, optimizer, range(50))
        train(theirs, peer, range(50))
        assert_close(ours, theirs)
        assert_states_close(optimizer, peer)
        for p, q in zip(ours.parameters(), start, strict=True):
            assert torch.equal(p, q) if p is ours.unused else (p - q).abs().max() > 1e-3

    @every_name
    @pytest.mark.parametrize(
        ("dtype", "tolerance"), [(torch.float32, 2e-3), (torch.float64, 1e-9)], ids=str
    )
    def test_clipping_and_averaging_in_one_pass(self, name, dtype, tolerance):
        if name == "Rprop" and dtype == torch.float32:
            pytest.skip("a sign that rounding turns makes another step of the same length")
        ours, theirs = twins(dtype)
        optimizer = getattr(integration, name)(
            ours.parameters(), 1e-3, max_grad_norm=CLIP, ema_decay=DECAY
        )
        peer = getattr(torch.optim, name)(theirs.parameters(), 1e-3)
        averages = copy.deepcopy(theirs)
        for batch in range(50):
            backward(ours, batch)
            given = values(p.grad for p in ours.parameters() if p.grad is not None)
            optimizer.step()
            assert_equal((p.grad for p in ours.parameters() if p.grad is not None), given)
            backward(theirs, batch)
            norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), CLIP)
            peer.step()
            with torch.no_grad():
                torch._foreach_lerp_(
                    list(averages.parameters()), list(theirs.parameters()), 1 - DECAY
                )
            torch.testing.assert_close(
                optimizer.grad_norm, norm.item(), rtol=tolerance, atol=tolerance
            )
            assert norm > CLIP
        assert_close(ours, theirs, tolerance)
        last = values(ours.parameters())
        with optimizer.use_ema():
            assert_close(ours, averages, tolerance)
            assert backward(ours, 0) != backward(theirs, 0)
        assert_equal(values(ours.parameters()), last)

    def test_lion(self):
        ours, twin = twins()
        optimizer = Lion(ours.parameters(), lr=1e-3, weight_decay=0.1)
        used = [p for p in twin.parameters() if p is not twin.unused]
        peer = fo.Lion([p.detach().numpy() for p in used], lr=1e-3, weight_decay=0.1)
        for batch in range(20):
            backward(ours, batch)
            optimizer.step()
            backward(twin, batch)
            peer.step([p.grad.numpy() for p in used])
        assert_close(ours, twin, 0)
        resumed = Lion(twin.parameters())
        resumed.load_state_dict(optimizer.state_dict())
        train(ours, optimizer, range(3))
        train(twin, resumed, range(3))
        assert_close(ours, twin, 0)


# Another value of each argument of torch's.
OTHERS = {
    "alpha": 0.5,
    "amsgrad": True,
    "betas": (0.8, 0.9),
    "centered": True,
    "dampening": 0.3,
    "decoupled_weight_decay": True,
    "eps": 1e-3,
    "etas": (0.4, 1.3),
    "initial_accumulator_value": 0.1,
    "lambd": 0.01,
    "lr_decay": 0.1,
    "maximize": True,
    "momentum": 0.9,
    "momentum_decay": 0.1,
    "nesterov": True,
    "rho": 0.5,
    "step_sizes": (1e-4, 0.02),
    "t0": 5.0,
    "weight_decay": 0.1,
}
CHANGED = {"lr": 0.02, "betas": (0.7, 0.95), "momentum_decay": 0.2, "lambd": 0.02}  # meanwhile


def combinations(name):
    """Yield all combinations of the options of a class of torch that go together."""
    known = inspect.signature(getattr(torch.optim, name)).parameters
    chosen = [option for option in OTHERS if option in known]
    for switched in itertools.product([False, True], repeat=len(chosen)):
        options = {o: OTHERS[o] for o, on in zip(chosen, switched, strict=True) if on}
        idle = "dampening" in options or "momentum" not in options
        if not ("nesterov" in options and idle):
            yield options


def assert_exact(ours, theirs, what):
    """Assert that tensors differ by no more than the roundings of a few operations."""
    torch.testing.assert_close(
        ours, theirs, rtol=1e-12, atol=1e-12 * theirs.abs().max().item(), msg=f"{what}: {ours}"
    )


@every_name
@pytest.mark.parametrize("scalars", [torch.float32, torch.float64], ids=str)
def test_every_combination_of_options_goes_where_torch_goes(name, scalars):
    """In double precision, with hyperparameters that change and gradients that come and go."""
    torch.set_default_dtype(scalars)  # the type of the numbers in torch's state
    try:
        for options in combinations(name):
            go_along(name, options)
    finally:
        torch.set_default_dtype(torch.float32)


def go_along(name, options):
    rng = torch.Generator().manual_seed(2)
    start = [torch.randn(s, generator=rng, dtype=torch.float64) for s in ((3, 4), (5,), ())]
    both = [[torch.nn.Parameter(p.clone()) for p in start] for _ in range(2)]
    lr = 1.0 if name == "Adadelta" else 0.01
    optimizers = [
        getattr(library, name)(
            [{"params": params[:2], "lr": lr}, {"params": params[2:]}], **options
        )
        for library, params in zip((integration, torch.optim), both, strict=True)
    ]
    for t in range(25):
        for i in range(len(start)):
            g = torch.randn(start[i].shape, generator=rng, dtype=torch.float64)
            g *= 10.0 ** torch.randint(-6, 3, g.shape, generator=rng)
            g[torch.rand(g.shape, generator=rng) < 0.2] = 0
            absent = (i == 1 and t < 5) or (i == 2 and t % 4 == 3)
            for params in both:
                params[i].grad = None if absent else g.clone()
        for o in optimizers:
            if t in (3, 11):  # once before the second parameter comes
                known = o.param_groups[0]
                known.update({k: v for k, v in CHANGED.items() if k in known and t == 11})
                known["lr"] = lr / t
            o.step()
    ours, theirs = optimizers
    for i, (p, q) in enumerate(zip(*both, strict=True)):
        assert_exact(p.detach(), q.detach(), (name, options, i))
        assert (p - start[i]).abs().max() > 1e-6
        assert ours.state[p].keys() == {k for k, v in theirs.state[q].items() if v is not None}
        for key, value in ours.state[p].items():
            assert value.dtype == theirs.state[q][key].dtype
            assert_exact(value, theirs.state[q][key], (name, options, i, key))


class TestState:
    @every_case
    def test_goes_from_torch_to_fastoptim_and_back(self, name, kwargs):
        """Beside one that goes from torch to torch, which changes the type of numbers there."""
        mine, peer = getattr(integration, name), getattr(torch.optim, name)
        found = []
        for model, classes in zip(twins(), [(peer, mine, peer), (peer, peer, peer)], strict=True):
            optimizer = peer(model.parameters(), **kwargs)
            for part, cls in enumerate(classes):
                saved = optimizer.state_dict()
                optimizer = cls(model.parameters())
                optimizer.load_state_dict(saved)
                train(model, optimizer, range(5 * part, 5 * part + 5))
            found.append((model, optimizer))
        (ours, first), (theirs, second) = found
        assert_close(ours, theirs)
        assert_states_close(first, second)

    @every_case
    @pytest.mark.parametrize("scalars", [torch.float32, torch.float64, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_goes_on_from_torch_as_torch_does(self, name, kwargs, dtype, scalars):
        """Numbers have the parameter's type then, and torch makes new ones in its default type."""
        mine, peer = getattr(integration, name), getattr(torch.optim, name)
        rng = torch.Generator().manual_seed(4)
        start = [torch.randn(s, generator=rng).to(dtype) for s in ((3, 4), (5,), ())]
        grads = [[torch.randn(p.shape, generator=rng).to(dtype) for p in start] for _ in range(12)]
        found = []
        torch.set_default_dtype(scalars)
        try:
            for classes in ((peer, mine), (peer, peer)):
                params, saved = [torch.nn.Parameter(p.clone()) for p in start], None
                for part, cls in enumerate(classes):
                    optimizer = cls(params, **kwargs)
                    if saved is not None:
                        optimizer.load_state_dict(saved)
                    for of_step in grads[4 * part : 4 + 8 * part]:
                        for p, g in zip(params, of_step, strict=True):
                            p.grad = g
                        optimizer.step()
                    saved = copy.deepcopy(optimizer.state_dict())
                found.append((params, optimizer))
        finally:
            torch.set_default_dtype(torch.float32)
        (ours, first), (theirs, second) = found
        tolerance = 1e-12 if dtype == torch.float64 else 1e-5
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)
            for key, value in second.state[q].items():
                if value is not None:
                    torch.testing.assert_close(
                        first.state[p][key], value, rtol=tolerance, atol=tolerance
                    )

    @every_name
    def test_an_optimizer_that_has_not_stepped(self, name):
        ours, theirs = twins()
        optimizer = getattr(integration, name)(ours.parameters())
        assert not optimizer.state_dict()["state"]
        peer = getattr(torch.optim, name)(theirs.parameters())
        peer.load_state_dict(optimizer.state_dict())
        optimizer.load_state_dict(getattr(torch.optim, name)(theirs.parameters()).state_dict())
        train(ours, optimizer, range(3))
        train(theirs, peer, range(3))
        assert_close(ours, theirs)

    @pytest.mark.parametrize("way", ["file", "pickle", "deepcopy"])
    @pytest.mark.parametrize("cls", [SGD, *NEW], ids=lambda cls: cls.__name__)
    def test_resumes_with_the_same_bits(self, cls, way):
        kwargs = {"momentum": 0.9} if cls is SGD else {}
        params, optimizer = small(cls, lr=0.1, max_grad_norm=0.1, ema_decay=0.9, **kwargs)
        optimizer.step()
        if way == "file":
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            file.seek(0)
            again = copy.deepcopy(params)
            resumed = cls(again, max_grad_norm=0.1)
            resumed.load_state_dict(torch.load(file, weights_only=True))
        else:
            copied = copy.deepcopy if way == "deepcopy" else lambda o: pickle.loads(pickle.dumps(o))
            resumed = copied(optimizer)
            again = resumed.param_groups[0]["params"]
            assert resumed.max_grad_norm == 0.1
        for _ in range(3):
            give_gradients(params)
            give_gradients(again)
            optimizer.step()
            resumed.step()
        assert_equal(again, params)
        for p, q in zip(params, again, strict=True):
            assert torch.equal(resumed.state[q]["ema"], optimizer.state[p]["ema"])
            assert resumed.state[q]["ema"].data_ptr() != optimizer.state[p]["ema"].data_ptr()

    def test_of_torch_leaves_options_that_torch_has_not(self):
        params, optimizer = small(ema_decay=0.5)
        other = torch.nn.Parameter(torch.zeros(2))
        optimizer.add_param_group({"params": [other], "ema_decay": 0.75})
        peer = torch.optim.Adam([{"params": params}, {"params": [other], "lr": 0.5}])
        optimizer.load_state_dict(peer.state_dict())
        assert [group["ema_decay"] for group in optimizer.param_groups] == [0.5, 0.75]
        assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 0.5]

    def test_what_was_loaded_is_copied(self):
        params, optimizer = small()
        optimizer.step()
        other = Adam(copy.deepcopy(params))
        other.load_state_dict(optimizer.state_dict())
        loaded = values(s["exp_avg"] for s in other.state.values())
        optimizer.step()
        assert_equal([s["exp_avg"] for s in other.state.values()], loaded)

    def test_a_file_holds_the_state_of_stepped_parameters_only(self):
        frozen = torch.nn.Parameter(torch.zeros(1_000_000))
        p = torch.nn.Parameter(torch.zeros(10))
        optimizer = Adam([frozen, p])
        p.grad = torch.ones(10)
        optimizer.step()
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        assert len(file.getvalue()) < 10_000

    def test_is_the_memory_that_steps_write(self):
        params, optimizer = small(amsgrad=True)
        optimizer.step()
        before = {p: {n: v.data_ptr() for n, v in optimizer.state[p].items()} for p in params}
        shown = {p: optimizer.state[p]["exp_avg"] for p in params}
        start = values(shown.values())
        optimizer.step()
        after = {p: {n: v.data_ptr() for n, v in optimizer.state[p].items()} for p in params}
        assert after == before
        assert not any(map(torch.equal, shown.values(), start))

    def test_that_somebody_changes(self):
        """In place, by another tensor, by none: a peer of torch's is changed in the same way."""
        ours, optimizer = small()
        theirs = copy.deepcopy(ours)
        peer = torch.optim.Adam(theirs)

        def step():
            for params, o in ((ours, optimizer), (theirs, peer)):
                give_gradients(params)
                o.step()
            for p, q in zip(ours, theirs, strict=True):
                torch.testing.assert_close(p, q)
                torch.testing.assert_close(optimizer.state[p], peer.state[q])

        step()
        for params, o in ((ours, optimizer), (theirs, peer)):
            o.state[params[0]]["exp_avg"].mul_(10)
            o.state[params[1]]["step"].fill_(20)
        step()
        for params, o in ((ours, optimizer), (theirs, peer)):
            o.state[params[0]]["exp_avg_sq"] = torch.full((3, 4), 5.0)
        step()
        for params, o in ((ours, optimizer), (theirs, peer)):
            o.state[params[1]]["exp_avg"].data = torch.full((5,), 2.0)
        step()
        for params, o in ((ours, optimizer), (theirs, peer)):
            del o.state[params[0]]
        step()
        for o in (optimizer, peer):
            o.state.clear()
        step()
        assert optimizer.state[ours[1]]["step"] == 1

    @pytest.mark.parametrize("cls", [Adam, SGD, RMSprop])
    def test_that_somebody_puts_there_is_used_where_it_is(self, cls):
        params, optimizer = small(cls, lr=0.1, momentum=0.9) if cls is not Adam else small()
        names = {Adam: ["exp_avg", "exp_avg_sq"], SGD: ["momentum_buffer"]}
        names = names.get(cls, ["square_avg", "momentum_buffer"])
        given = {}
        for p in params:
            for name in names:
                optimizer.state[p][name] = given[p, name] = torch.zeros_like(p)
            if cls is not SGD:
                optimizer.state[p]["step"] = given[p, "step"] = torch.zeros((), dtype=torch.int64)
        for t in range(1, 4):
            optimizer.step()
            for (p, name), tensor in given.items():
                assert optimizer.state[p][name] is tensor
                assert tensor.abs().sum() > 0
                assert name != "step" or tensor == t
        params, twin = small(cls, lr=0.1, momentum=0.9) if cls is not Adam else small()
        for _ in range(3 + (cls is SGD)):  # there the buffer of zeros was no first one
            twin.step()
        if cls is not SGD:
            assert_equal(params, optimizer.param_groups[0]["params"])

    def test_that_is_shared_later_stays_shared(self):
        params, optimizer = small()
        optimizer.step()
        tensors = [v for p in params for v in optimizer.state[p].values()]
        for tensor in tensors:
            tensor.share_memory_()
        start = values(tensors)
        optimizer.step()
        assert all(tensor.is_shared() for tensor in tensors)
        assert [v for p in params for v in optimizer.state[p].values()] == tensors
        assert not any(map(torch.equal, tensors, start))
        twins, twin = small()
        for _ in range(2):
            twin.step()
        assert_equal(params, twins)

    def test_in_another_layout_is_copied_unless_it_is_shared(self):
        params, optimizer = small()
        optimizer.step()
        other = optimizer.state[params[0]]["exp_avg"].T.contiguous().T
        optimizer.state[params[0]]["exp_avg"] = other
        optimizer.step()
        assert optimizer.state[params[0]]["exp_avg"].stride() == params[0].stride()
        other.share_memory_()
        optimizer.state[params[0]]["exp_avg"] = other
        before = values(params)
        message = r"^state\[0\]\['exp_avg'\]: expected the memory layout .*processes share"
        with pytest.raises(ValueError, match=message):
            optimizer.step()
        assert_equal(params, before)

    def test_that_is_one_tensor_twice_is_refused(self):
        params, optimizer = small()
        optimizer.step()
        optimizer.state[params[0]]["exp_avg_sq"] = optimizer.state[params[0]]["exp_avg"]
        with pytest.raises(ValueError, match=r"^state\[0\]\['v'\]: .* memory shared with"):
            optimizer.step()

    def test_counts_that_another_process_moves_on(self):
        """As does a tensor of the same memory; nothing is made anew for that."""
        params, optimizer = small()
        theirs = copy.deepcopy(params)
        peer = torch.optim.Adam(theirs)
        for ps, o in ((params, optimizer), (theirs, peer)):
            give_gradients(ps)
            o.step()
        link = optimizer._link
        for k in range(3):
            for ps, o in ((params, optimizer), (theirs, peer)):
                for p in ps:
                    o.state[p]["step"] += k
                give_gradients(ps, k)
                o.step()
        torch.testing.assert_close(params, theirs)
        assert optimizer.state[params[0]]["step"] == peer.state[theirs[0]]["step"] == 7
        assert optimizer._link is link

    @pytest.mark.parametrize("step", [2.0**24 - 2, 2.0**24, 3e7])
    @pytest.mark.parametrize("name", ["Adam", "Adagrad", "RMSprop", "NAdam", "ASGD"])
    def test_more_steps_than_float32_counts(self, name, step):
        """They stay where torch's stay, as does a learning rate that decays with them."""
        kwargs = {"betas": (0.9, 1 - 1e-9)} if name in ("Adam", "NAdam") else {}
        kwargs |= {"lr_decay": 0.1} if name == "Adagrad" else {}
        params, optimizer = small(getattr(integration, name), lr=0.1, **kwargs)
        theirs = copy.deepcopy(params)
        peer = getattr(torch.optim, name)(theirs, lr=0.1, **kwargs)
        made = []
        for o, ps in ((optimizer, params), (peer, theirs)):
            give_gradients(ps)
            o.step()
            for p in ps:
                o.state[p]["step"].fill_(step)
            for k in range(4):
                give_gradients(ps, k)
                o.step()
                made.append(getattr(o, "_link", None))
                loss = ps[0].square().sum()
                o.state_dict()
                loss.backward()  # nothing has been written to since
        torch.testing.assert_close(params, theirs)
        for p, q in zip(params, theirs, strict=True):
            assert optimizer.state[p]["step"] == peer.state[q]["step"]
        assert len(set(made[:4])) == 1

    def test_a_gradient_that_comes_late(self):
        params, optimizer = small(weight_decay=0.1)
        late = params[1].grad
        params[1].grad = None
        optimizer.step()
        assert list(optimizer.state) == params[:1]
        params[1].grad = late
        optimizer.step()
        assert [optimizer.state[p]["step"].item() for p in params] == [2, 1]
        params[0].grad = None
        optimizer.step()
        assert [optimizer.state[p]["step"].item() for p in params] == [2, 2]

    @pytest.mark.parametrize("name", ["Rprop", "ASGD"])
    def test_that_starts_with_a_learning_rate_starts_with_that_of_its_first_step(self, name):
        params, optimizer = small(getattr(integration, name), lr=0.1)
        theirs = copy.deepcopy(params)
        peer = getattr(torch.optim, name)(theirs, lr=0.1)
        for t in range(4):
            for ps, o in ((params, optimizer), (theirs, peer)):
                o.param_groups[0]["lr"] = 0.5 / (1 + t)
                give_gradients(ps, t)
                if t < 2:
                    ps[1].grad = None
                o.step()
        torch.testing.assert_close(params, theirs)
        for p, q in zip(params, theirs, strict=True):
            torch.testing.assert_close(optimizer.state[p], peer.state[q])

    @pytest.mark.parametrize("switched", [{"amsgrad": True}, {"ema_decay": 0.5}], ids=str)
    def test_an_option_that_is_switched_on(self, switched):
        params, optimizer = small()
        optimizer.step()
        optimizer.param_groups[0].update(switched)
        optimizer.step()
        name = {"amsgrad": "max_exp_avg_sq", "ema_decay": "ema"}[next(iter(switched))]
        assert all(optimizer.state[p][name].abs().sum() > 0 for p in params)
        assert [optimizer.state[p]["step"].item() for p in params] == [2, 2]

    def test_momentum_that_is_switched_on_starts_with_the_gradient(self):
        ours, optimizer = small(SGD, lr=0.1, dampening=0.5)
        theirs = copy.deepcopy(ours)
        peer = torch.optim.SGD(theirs, lr=0.1, dampening=0.5)
        for momentum in (0, 0, 0.9, 0.9):
            for params, o in ((ours, optimizer), (theirs, peer)):
                give_gradients(params)
                o.param_groups[0]["momentum"] = momentum
                o.step()
        torch.testing.assert_close(ours, theirs)

    def test_of_another_optimizer_is_refused(self):
        params, optimizer = small()
        other = SGD(params, momentum=0.9)
        other.step()
        before = optimizer.state_dict()
        with pytest.raises(ValueError, match=r"state\[0\]\['step'\]: expected it beside"):
            optimizer.load_state_dict(other.state_dict())
        assert optimizer.state_dict() == before

    @pytest.mark.parametrize(
        ("name", "value", "error", "message"),
        [
            ("exp_avg", torch.zeros(4, 3), ValueError, r"expected shape .*3, 4.*, found .*4, 3"),
            ("exp_avg", "no", TypeError, "expected a tensor, found str"),
            ("step", torch.tensor(-1.0), ValueError, "expected a whole number >= 0 .*found -1"),
            ("step", torch.tensor(1.5), TypeError, "expected a whole number >= 0 .*found 1.5"),
        ],
    )
    def test_that_does_not_fit_is_refused(self, name, value, error, message):
        _, optimizer = small(lr=0.1)
        optimizer.step()
        saved = copy.deepcopy(optimizer.state_dict())
        saved["state"][0][name] = value
        saved["param_groups"][0]["lr"] = 0.5
        before = optimizer.state_dict()
        with pytest.raises(error, match=rf"state\[0\]\['{name}'\]: {message}"):
            optimizer.load_state_dict(saved)
        assert optimizer.param_groups[0]["lr"] == 0.1
        assert optimizer.state_dict()["state"][0].keys() == before["state"][0].keys()
        optimizer.step()


class TestParameters:
    def test_are_updated_where_they_are(self):
        params, optimizer = small()
        places = [p.data_ptr() for p in params]
        kept = params[0].detach()
        before = kept.clone()
        optimizer.step()
        assert [p.data_ptr() for p in params] == places
        assert not torch.equal(kept, before)

    def test_in_any_dense_order(self):
        torch.manual_seed(1)
        ours = torch.nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)
        theirs = copy.deepcopy(ours)
        optimizer = Adam(ours.parameters(), lr=0.1)
        peer = torch.optim.Adam(theirs.parameters(), lr=0.1)
        for format_ in (torch.channels_last, torch.contiguous_format):
            for model, o in ((ours, optimizer), (theirs, peer)):
                model.to(memory_format=format_)  # also with state of the other
                model.zero_grad()
                model(torch.ones(1, 3, 5, 5)).square().sum().backward()
                o.step()
        assert_close(ours, theirs, 1e-6)

    def test_gradients_in_any_layout(self):
        params, optimizer = small(SGD, lr=1.0)
        before = params[0].detach().clone()
        params[0].grad = torch.arange(12.0).reshape(4, 3).T
        params[1].grad = torch.ones(()).expand(5)
        optimizer.step()
        assert torch.equal(params[0], before - torch.arange(12.0).reshape(4, 3).T)

    def test_whose_data_is_another_tensor(self):
        params, optimizer = small(SGD, lr=1.0, momentum=0.5)
        optimizer.step()
        velocity = optimizer.state[params[0]]["momentum_buffer"].clone()
        old = params[0].data
        kept = old.clone()
        params[0].data = torch.zeros(3, 4)
        params[0].grad = torch.ones(3, 4)
        optimizer.step()
        assert torch.equal(params[0], -(0.5 * velocity + 1))
        assert torch.equal(old, kept)

    def test_whose_data_is_the_same_memory_in_another_order(self):
        square = torch.arange(9.0).reshape(3, 3)
        ours, theirs = (torch.nn.Parameter(square.clone()) for _ in range(2))
        optimizer = SGD([ours], lr=1.0, momentum=0.5)
        peer = torch.optim.SGD([theirs], lr=1.0, momentum=0.5)
        for p, o in ((ours, optimizer), (theirs, peer)):
            p.grad = square**2
            o.step()
            p.data = p.data.T
            p.grad = square.clone()
            o.step()
        assert torch.equal(ours, theirs)

    def test_model_that_loads_its_own_state(self):
        model, other = twins()
        optimizer = AdamW(model.parameters())
        train(model, optimizer, range(2))
        model.load_state_dict(other.state_dict())
        assert_close(model, other, 0)
        train(model, optimizer, range(2))
        assert (model.scale - other.scale).abs() > 0

    def test_average_starts_with_what_the_first_step_finds(self):
        params, optimizer = small(SGD, lr=1.0, ema_decay=0.5)
        with torch.no_grad():
            params[0].fill_(4.0)  # such as the weights of a checkpoint
        params[0].grad.fill_(2.0)
        optimizer.step()
        assert torch.equal(optimizer.state[params[0]]["ema"], torch.full((3, 4), 3.0))

    def test_dtype_that_changes(self):
        model = torch.nn.Linear(3, 2)
        optimizer = Adam(model.parameters())
        model.double()
        give_gradients(model.parameters())
        optimizer.step()
        assert optimizer.state[model.weight]["exp_avg"].dtype == torch.float64
        model.float()
        give_gradients(model.parameters())
        before = values(model.parameters())
        message = r"state\[0\]\['exp_avg'\]: expected dtype torch.float32 .*found torch.float64"
        with pytest.raises(ValueError, match=message):
            optimizer.step()
        assert_equal(model.parameters(), before)

    @pytest.mark.parametrize(
        ("tensor", "error", "message"),
        [
            (torch.zeros(3, dtype=torch.float16), TypeError, "found torch.float16"),
            (torch.zeros(3, dtype=torch.bfloat16), TypeError, "found torch.bfloat16"),
            (torch.zeros(3, dtype=torch.complex64), TypeError, "found torch.complex64"),
            (torch.zeros(3, device="meta"), TypeError, "on meta"),
            (torch.zeros(3, 3).to_sparse(), TypeError, "found torch.float32, torch.sparse_coo"),
            (torch.zeros(4, 4)[:, ::2], ValueError, "expected a dense array"),
            (torch.zeros(1).expand(3), ValueError, "expected a dense array"),
        ],
        ids=str,
    )
    def test_that_are_refused_by_name(self, tensor, error, message):
        fine = torch.nn.Parameter(torch.zeros(2))
        with pytest.raises(error, match=rf"^params\['layer.weight'\]: .*{message}"):
            Adam([("bias", fine), ("layer.weight", tensor.requires_grad_())])
        optimizer = Adam([fine])
        with pytest.raises(error, match=message):
            optimizer.add_param_group({"params": [tensor]})
        assert len(optimizer.param_groups) == 1
        fine.grad = torch.ones(2)
        optimizer.step()

    def test_that_share_memory_are_refused(self):
        base = torch.zeros(10)
        with pytest.raises(ValueError, match=r"params\[1\]: expected .* memory shared with params"):
            Adam([torch.nn.Parameter(base[:6]), torch.nn.Parameter(base[5:])])

    def test_names_that_are_not_unique(self):
        params = [("w", torch.nn.Parameter(torch.zeros(2))) for _ in range(2)]
        for _, p in params:
            p.grad = torch.ones(2)
        optimizer = SGD(params, lr=1.0)
        optimizer.step()
        assert [p.tolist() for _, p in params] == [[-1, -1], [-1, -1]]

    def test_gradients_that_stand_for_minus_their_memory(self):
        found = []
        for library in (integration, torch.optim):
            p = torch.nn.Parameter(torch.arange(1.0, 5.0))
            optimizer = library.SGD([p], lr=0.1, momentum=0.9)
            for _ in range(2):
                z = torch.complex(torch.ones(4), p)
                (grad,) = torch.autograd.grad((z.conj().imag * p).sum(), p)
                conjugate = torch.complex(torch.ones(4), grad).conj()
                p.grad = conjugate.imag
                assert p.grad.is_neg()
                optimizer.step()
                assert p.grad.is_neg()
            found.append(p)
        torch.testing.assert_close(*found)

    def test_a_parameter_that_stands_for_minus_its_memory_is_refused(self):
        p = torch.complex(torch.ones(2), torch.ones(2)).conj().imag
        with pytest.raises(TypeError, match=r"^params\[0\]: .*with the negative bit"):
            SGD([p.requires_grad_()])

    @pytest.mark.parametrize("cls", [SGD, Adam])
    def test_storages_can_be_resized_after_a_step(self, cls):
        params, optimizer = small(cls, lr=0.1)
        optimizer.step()
        for p in params:
            assert p.untyped_storage().resizable()
            assert p.grad.untyped_storage().resizable()
        before = params[0].detach().clone()
        size = params[0].untyped_storage().nbytes()
        params[0].untyped_storage().resize_(0)
        with pytest.raises(TypeError, match=r"^params\[0\]: expected a dense tensor"):
            optimizer.step()
        params[0].untyped_storage().resize_(size)
        with torch.no_grad():
            params[0].copy_(before)
        optimizer.step()
        assert not torch.equal(params[0], before)

    def test_memory_that_moves_while_averages_are_in_use(self):
        params, optimizer = small(ema_decay=0.5, nonfinite="skip")
        twins, twin = small(ema_decay=0.5)
        for o in (optimizer, twin):
            o.step()
        with optimizer.use_ema(), twin.use_ema():
            assert_equal(params, twins)
            params[0].share_memory_()
            params[1].data = params[1].detach().clone()
        assert_equal(params, twins)
        for o in (optimizer, twin):
            o.step()
        assert_equal(params, twins)
        with optimizer.use_ema(), twin.use_ema():
            assert_equal(params, twins)

    def test_memory_that_moves_while_the_average_of_a_rule_is_in_use(self):
        both = [small(optimizer_of(fo.ScheduleFreeAdamW), lr=0.1, nonfinite="skip") for _ in "ab"]
        (params, optimizer), (twins, twin) = both
        for o in (optimizer, twin, optimizer, twin):
            o.step()
        with optimizer.use_average(), twin.use_average():
            params[0].share_memory_()
            first, second = params[1].detach().clone(), params[1].detach()
            params[1].data = first
            second.untyped_storage().resize_(0)  # nobody may write there
            assert_equal(params, twins)
        assert_equal(params, twins)
        for o in (optimizer, twin):
            o.step()
        assert_equal(params, twins)
        with optimizer.use_average(), twin.use_average():
            assert_equal(params, twins)

    def test_gradients_that_are_refused(self):
        optimizer = SGD([w := torch.nn.Parameter(torch.zeros(3, 2))], lr=0.1)
        w.grad = torch.ones(3, 2).to_sparse()  # of which both axes are sparse
        with pytest.raises(TypeError, match=r"^grads\[0\]: .*found .*torch.sparse_coo"):
            optimizer.step()
        params, optimizer = small()
        before = values(params)
        params[1].grad = params[1].detach()
        with pytest.raises(ValueError, match=r"grads\[1\]: .* memory shared with params\[1\]"):
            optimizer.step()
        assert_equal(params, before)
        assert not optimizer.state

    def test_a_stale_graph_is_noticed(self):
        params, optimizer = small(ema_decay=0.5)
        loss = params[0].square().sum()
        optimizer.step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
        with optimizer.use_ema():
            loss = params[0].square().sum()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@pytest.mark.parametrize(
    "cls", [fo.ScheduleFreeSGD, fo.ScheduleFreeAdamW], ids=lambda cls: cls.__name__
)
class TestScheduleFree:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_parameters_hold_the_average_and_come_back_with_the_same_bits(self, cls, dtype):
        """As the class has it for arrays, from before the first step on, and from a file."""
        ugly = [0.0, -0.0, math.inf, math.nan, 1e-310, 3.0]
        starts = [torch.tensor(ugly), torch.tensor(2.0), torch.ones(0), torch.ones(3, 4).T]
        params = [torch.nn.Parameter(p.to(dtype)) for p in starts]
        arrays = [p.detach().numpy().copy(order="K") for p in params]
        options = {"lr": 0.1, "warmup_steps": 3, "bounds": (-5.0, 1.5)}
        optimizer, peer = optimizer_of(cls)(params, **options), cls(arrays, **options)
        for t in range(5):
            before = [p.detach().numpy().tobytes() for p in params]
            versions = [p._version for p in params]
            with optimizer.use_average(), peer.use_average():
                for p, array in zip(params, arrays, strict=True):
                    np.testing.assert_array_equal(p.detach().numpy(), array)
                assert t < 2 or [p.detach().numpy().tobytes() for p in params] != before
            assert [p.detach().numpy().tobytes() for p in params] == before
            assert all(p._version > v for p, v in zip(params, versions, strict=True))
            give_gradients(params, t)
            params[3].grad = None if t < 2 else params[3].grad
            optimizer.step()
            with np.errstate(invalid="ignore"):
                peer.step([None if p.grad is None else p.grad.numpy() for p in params])
            if t == 2:
                saved = copy.deepcopy(optimizer.state_dict())
                optimizer = optimizer_of(cls)(params)
                optimizer.load_state_dict(saved)

    @pytest.mark.parametrize("looks", [False, True])
    def test_starts_from_weights_that_are_loaded_before_the_first_step(self, cls, looks):
        model = torch.nn.Linear(3, 2)
        optimizer = optimizer_of(cls)(model.parameters(), lr=0.1)
        if looks:
            with optimizer.use_average():
                pass
        model.load_state_dict({name: p + 1 for name, p in model.state_dict().items()})
        arrays = [p.detach().numpy().copy() for p in model.parameters()]
        peer = cls(arrays, lr=0.1)
        for t in range(3):
            give_gradients(model.parameters(), t)
            optimizer.step()
            peer.step([p.grad.numpy() for p in model.parameters()])
        for p, array, state in zip(model.parameters(), arrays, peer.state.values(), strict=True):
            np.testing.assert_array_equal(p.detach().numpy(), array)
            np.testing.assert_array_equal(optimizer.state[p]["z"].numpy(), state["z"])

    def test_what_would_read_or_write_the_average_is_refused(self, cls):
        params, optimizer = small(optimizer_of(cls), ema_decay=0.5)
        optimizer.step()
        before = values(params)
        message = r"the parameters hold their averages, inside of use_average\(\)"
        with contextlib.suppress(KeyError), optimizer.use_average():
            for what, call in {
                "step": optimizer.step,
                "state_dict": optimizer.state_dict,
                "use_ema": lambda: optimizer.use_ema().__enter__(),
                "use_average": lambda: optimizer.use_average().__enter__(),
            }.items():
                with pytest.raises(RuntimeError, match=f"^{what}: {message}"):
                    call()
            raise KeyError
        assert_equal(params, before)

    def test_momentum_zero_is_refused_where_the_average_is_asked_for(self, cls):
        zero = {"momentum": 0.0} if cls is fo.ScheduleFreeSGD else {"betas": (0.0, 0.9)}
        params, optimizer = small(optimizer_of(cls), **zero)
        optimizer.step()
        before = values(params)
        with pytest.raises(ValueError, match=r"^use_average: expected .* > 0, found 0.0"):
            optimizer.use_average().__enter__()
        assert_equal(params, before)
        optimizer.step()


def test_other_rules_have_no_average_to_use():
    message = "^use_average: expected an optimizer with a Schedule-Free rule, found Adam$"
    with pytest.raises(RuntimeError, match=message):
        small(ema_decay=0.5)[1].use_average().__enter__()


class TestGroups:
    def test_have_options_of_their_own(self):
        ours, theirs = twins()

        def grouped(model):
            first, *rest = model.parameters()
            return [
                {"params": [first], "lr": 0.1, "betas": (0.5, 0.6)},
                {"params": []},
                {"params": rest, "weight_decay": 0.3},
            ]

        optimizer, peer = Adam(grouped(ours), lr=0.01), torch.optim.Adam(grouped(theirs), lr=0.01)
        train(ours, optimizer, range(3))
        train(theirs, peer, range(3))
        for model, o in ((ours, optimizer), (theirs, peer)):
            o.param_groups[2]["params"].remove(model.scale)
            o.add_param_group({"params": [model.scale], "lr": 0.5})
        train(ours, optimizer, range(3, 6))
        train(theirs, peer, range(3, 6))
        assert_close(ours, theirs)
        assert_states_close(optimizer, peer)

    def test_of_which_there_are_many_cost_each_the_same(self, monkeypatch):
        """Each group is looked at once, and all of them together not more than once."""
        made = []
        add = Places.add
        monkeypatch.setattr(Places, "add", lambda self, p: made.append(p) or add(self, p))
        tensors = [torch.nn.Parameter(torch.zeros(2)) for _ in range(60)]
        optimizer = Adam([{"params": [p]} for p in tensors[:40]])
        for p in tensors[40:]:
            optimizer.add_param_group({"params": [p]})
        assert sum(len(p) for p in made) <= 61
        again = pickle.loads(pickle.dumps(optimizer))
        made.clear()
        for _ in range(20):
            again.add_param_group({"params": [torch.nn.Parameter(torch.zeros(2))]})
        assert sum(len(p) for p in made) <= 20 + 61

    def test_that_share_memory_are_refused(self):
        base = torch.zeros(10)
        first, second, third = (torch.nn.Parameter(base[a:b]) for a, b in ((0, 4), (6, 10), (3, 7)))
        with pytest.raises(ValueError, match=r"^params.*: expected .* memory shared with params"):
            SGD([{"params": [p]} for p in (first, second, third)])
        optimizer = SGD([{"params": [first]}, {"params": [second]}], lr=1.0)
        for copied in (optimizer, pickle.loads(pickle.dumps(optimizer))):
            kept = copied.param_groups[1]["params"][0]
            for shared in (kept.data, kept.data[1:2]):
                with pytest.raises(ValueError, match=r"^params.*: .* memory shared with params"):
                    copied.add_param_group({"params": [torch.nn.Parameter(shared)]})
            assert len(copied.param_groups) == 2
        second.data = torch.zeros(4)  # so that its old memory is free
        first.data = torch.zeros(4)
        optimizer.add_param_group({"params": [third]})
        for p in (first, second, third):
            p.grad = torch.ones(4)
        optimizer.step()
        assert third.tolist() == [-1, -1, -1, -1]

    def test_state_of_tensors_that_are_in_no_group_any_more(self):
        """As after a model was moved, and its new tensors put into the groups."""
        (first, *_), optimizer = small(Adam)
        optimizer.step()
        new = torch.nn.Parameter(first.detach().clone())
        optimizer.param_groups[0]["params"][0] = new
        new.grad = torch.ones_like(new)
        optimizer.step()
        with pytest.raises(
            ValueError, match=r"^state: .* found that of 1 tensors that are there no"
        ):
            optimizer.state_dict()
        del optimizer.state[first]
        assert optimizer.state_dict()["state"].keys() == {0, 1}

    def test_a_border_that_moves(self):
        params, optimizer = small(SGD, lr=1.0)
        optimizer.param_groups[0]["params"].pop()
        optimizer.add_param_group({"params": [params[1]], "lr": 0.0})
        extra = torch.nn.Parameter(torch.zeros(2))
        extra.grad = torch.ones(2)
        optimizer.add_param_group({"params": [extra], "lr": 0.0})
        optimizer.step()
        assert torch.equal(extra, torch.zeros(2))
        first, second, _ = optimizer.param_groups
        second["params"].clear()
        first["params"].append(params[1])
        before = params[1].detach().clone()
        optimizer.step()
        assert torch.equal(params[1], before - params[1].grad)

    @pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1, dtype=torch.float64)], ids=repr)
    def test_schedulers_of_torch(self, lr):
        ours, theirs = twins()
        optimizer = SGD(ours.parameters(), lr=copy.deepcopy(lr), momentum=0.5)
        peer = torch.optim.SGD(theirs.parameters(), lr=copy.deepcopy(lr), momentum=0.5)
        schedules = torch.optim.lr_scheduler
        for model, o in ((ours, optimizer), (theirs, peer)):
            warm = schedules.LinearLR(o, 0.1, total_iters=4)
            cosine = schedules.CosineAnnealingLR(o, 6)
            both = schedules.SequentialLR(o, [warm, cosine], [4])
            for batch in range(10):
                train(model, o, [batch])
                both.step()
        assert_close(ours, theirs)

    @pytest.mark.parametrize("nesterov", [False, True])
    def test_momentum_that_passes_through_zero(self, nesterov):
        found = []
        for library in (integration, torch.optim):
            p = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
            o = library.SGD([p], lr=0.1, momentum=0.9, nesterov=nesterov)
            cycle = SCHEDULES.CyclicLR(o, 0.0, 0.1, 3, base_momentum=0.0, max_momentum=0.9)
            for t in range(15):
                p.grad = p.detach() ** 2 + t
                o.step()
                cycle.step()
                o.load_state_dict(o.state_dict())
            found.append(p)
        torch.testing.assert_close(*found, rtol=1e-12, atol=0)

    @pytest.mark.parametrize("name", ["AdamW", "NAdam"])
    def test_a_momentum_that_cycles(self, name):
        ours, theirs = twins()
        for model, library in ((ours, integration), (theirs, torch.optim)):
            o = getattr(library, name)(model.parameters(), lr=0.1)
            cycle = torch.optim.lr_scheduler.OneCycleLR(o, 0.01, total_steps=8)
            for batch in range(8):
                train(model, o, [batch])
                cycle.step()
        assert_close(ours, theirs)

    @pytest.mark.parametrize("tensor", [False, True])
    @pytest.mark.parametrize("kind", [k for k, (_, _, below) in TO_ZERO.items() if below])
    def test_schedules_that_end_a_rounding_error_below_zero(self, kind, tensor):
        make, rest, _ = TO_ZERO[kind]
        below = [run_schedule(make, n, rest, tensor) < 0 for n in range(1, 40)]
        assert sum(below) > 8

    @pytest.mark.parametrize("kind", [k for k, (_, _, below) in TO_ZERO.items() if not below])
    def test_schedules_that_end_at_zero(self, kind):
        make, rest, _ = TO_ZERO[kind]
        for n in (1, 2, 3, 7, 10, 49):
            run_schedule(make, n, rest, tensor=False)

    @pytest.mark.parametrize(
        ("name", "value", "rounding"),
        [
            ("lr", 0.1, 1e-17),
            ("lr", 1e-3, 1e-18),
            ("lr", torch.tensor(0.1), 1e-8),
            ("lr", torch.tensor(1e-3, dtype=torch.float64), 1e-18),
            ("betas", (0.9, 0.999), 1e-16),
        ],
        ids=str,
    )
    def test_hyperparameters_a_rounding_error_below_zero_are_zero(self, name, value, rounding):
        def set_to(group, x):
            if name == "betas":
                group["betas"] = (x, 0.999)
            elif isinstance(value, torch.Tensor):
                group["lr"].fill_(x)
            else:
                group["lr"] = x

        found = []
        for x in (-rounding, 0.0):
            params, optimizer = small(**{name: copy.deepcopy(value)})
            if name == "lr":
                torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
            optimizer.step()
            set_to(optimizer.param_groups[0], x)
            give_gradients(params, 8)
            optimizer.step()
            optimizer = pickle.loads(pickle.dumps(optimizer))
            params = optimizer.param_groups[0]["params"]
            give_gradients(params, 9)
            optimizer.step()
            found.append(params)
        assert_equal(*found)
        before = values(params)
        for factor in (1e-8, 1e-3, 1) if name == "betas" else (1e-3, 0.1, 1):
            x = -factor * (float(value) if name == "lr" else 1)
            set_to(optimizer.param_groups[0], x)
            with pytest.raises(ValueError, match=f"^{name}: expected .* found .*-"):
                optimizer.step()
            assert_equal(params, before)

    def test_momentum_a_rounding_error_below_zero_is_zero(self):
        params, optimizer = small(SGD, lr=1.0, momentum=0.9)
        optimizer.param_groups[0]["momentum"] = -1e-17
        before = values(params)
        for _ in range(2):
            optimizer.step()
        assert_equal(params, [q - p.grad - p.grad for p, q in zip(params, before, strict=True)])
        optimizer.param_groups[0]["momentum"] = -1e-3
        with pytest.raises(ValueError, match=r"^momentum: expected .* >= 0, found -0.001"):
            optimizer.step()

    @pytest.mark.parametrize(
        ("kwargs", "error", "message"),
        [
            ({"lr": -1}, ValueError, "lr: expected a finite number >= 0, found -1"),
            ({"lr": torch.ones(2)}, ValueError, r"lr: expected .* one element, found .*\(2,\)"),
            ({"lr": lambda t: 0.1}, TypeError, "lr: expected a number, found a function"),
            ({"betas": (1.0, 0.9)}, ValueError, "betas: expected two values"),
            ({"ema_decay": 1}, ValueError, "ema_decay: expected"),
            ({"max_grad_norm": -1}, ValueError, "max_grad_norm: expected"),
            ({"momentum": 0.9}, TypeError, "momentum: adam has no such argument"),
            ({"capturable": True}, ValueError, "capturable: expected False, found True"),
            ({"differentiable": True}, ValueError, "differentiable: expected False, found True"),
        ],
        ids=str,
    )
    def test_options_that_are_refused(self, kwargs, error, message):
        params = [torch.nn.Parameter(torch.zeros(2))]
        with pytest.raises(error, match=message):
            Adam(params, **kwargs)
        if "m" not in next(iter(kwargs))[:1]:
            optimizer = Adam(params)
            with pytest.raises(error, match=message):
                optimizer.add_param_group(
                    {"params": [torch.nn.Parameter(torch.zeros(1))], **kwargs}
                )
            assert len(optimizer.param_groups) == 1
            optimizer.param_groups[0].update(kwargs)
            params[0].grad = torch.ones(2)
            with pytest.raises(error, match=message):
                optimizer.step()
            assert params[0].tolist() == [0, 0]

    def test_flags_that_choose_among_implementations(self):
        params, optimizer = small(foreach=True)
        optimizer.step()
        _, fused = small(fused=True)
        fused.step()
        assert_equal(params, fused.param_groups[0]["params"])

    def test_max_grad_norm_is_of_the_whole_optimizer(self):
        params, optimizer = small(SGD, lr=1.0)
        norm = torch.cat([p.grad.flatten() for p in params]).norm().item()
        optimizer.max_grad_norm = norm / 2
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))]})
        before = values(params)
        optimizer.step()
        for p, q in zip(params, before, strict=True):
            torch.testing.assert_close(p.detach(), q - p.grad / 2)
        assert optimizer.grad_norm == pytest.approx(norm)

    def test_adam_w_loads_from_adam_and_still_decouples(self):
        _, optimizer = small(AdamW, weight_decay=0.1)
        optimizer.load_state_dict(small(weight_decay=0.1)[1].state_dict())
        assert optimizer.param_groups[0]["decoupled_weight_decay"] is True


class TestStep:
    def test_closure_is_differentiated_also_without_gradients(self):
        params, optimizer = small(SGD, lr=0.1)

        def closure():
            optimizer.zero_grad()
            loss = params[0].square().sum()
            loss.backward()
            return loss

        with torch.no_grad():
            losses = [optimizer.step(closure).item() for _ in range(3)]
        assert losses[0] > losses[1] > losses[2]

    def test_hooks(self):
        params, optimizer = small(SGD, lr=1.0)
        seen = []
        optimizer.register_step_pre_hook(lambda o, *_: seen.append(params[0][0, 0].item()))
        optimizer.register_step_post_hook(lambda o, *_: seen.append(params[0][0, 0].item()))
        optimizer.step()
        assert seen[0] - seen[1] == pytest.approx(params[0].grad[0, 0].item())
        optimizer.register_state_dict_post_hook(lambda o, d: {**d, "more": 1})
        assert optimizer.state_dict()["more"] == 1
        optimizer.register_load_state_dict_pre_hook(lambda o, d: seen.append("load"))
        optimizer.load_state_dict(optimizer.state_dict())
        assert seen[-1] == "load"

    @pytest.mark.parametrize("set_to_none", [True, False])
    def test_zero_grad(self, set_to_none):
        params, optimizer = small()
        optimizer.zero_grad(set_to_none=set_to_none)
        before = values(params)
        optimizer.step()
        assert_equal(params, before)
        assert bool(optimizer.state) is not set_to_none

    def test_grad_scale_divides_the_gradients(self):
        params, optimizer = small(SGD, lr=1.0)
        before = values(params)
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(0.0)
        optimizer.step()
        assert_equal(params, [q - p.grad / 4 for p, q in zip(params, before, strict=True)])

    def test_grad_scaler(self):
        ours, theirs = twins(torch.float32)
        scalers = [torch.amp.GradScaler("cpu", init_scale=1024.0) for _ in range(2)]
        optimizer = AdamW(ours.parameters(), max_grad_norm=CLIP)
        peer = torch.optim.AdamW(theirs.parameters())
        for batch in range(6):
            for model, o, scaler in zip((ours, theirs), (optimizer, peer), scalers, strict=True):
                model.zero_grad()
                scaler.scale(model.loss(batch)).backward()
                if batch == 3:
                    model.scale.grad.fill_(torch.inf)
                if o is peer:
                    scaler.unscale_(peer)
                    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
                scaler.step(o)
                scaler.update()
        assert_close(ours, theirs, 1e-4)
        assert scalers[0].get_scale() == scalers[1].get_scale() == 512
        assert optimizer.state[ours.scale]["step"] == peer.state[theirs.scale]["step"] == 5

    @pytest.mark.parametrize("unscaled", [True, False])
    def test_grad_scaler_without_gradients(self, unscaled):
        """As torch's fused optimizers, which take the scale, too, have it."""
        params, optimizer = small(SGD, lr=1.0)
        theirs = copy.deepcopy(params)
        peer = torch.optim.SGD(theirs, lr=1.0, fused=True)
        for p, q in zip(params, theirs, strict=True):
            p.grad = q.grad = None
        for o in (optimizer, peer):
            scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
            scaler.scale(torch.ones(()))
            if unscaled:
                scaler.unscale_(o)
            assert scaler.step(o) is None
        assert_equal(params, theirs)

    def test_grad_scaler_of_two_optimizers_one_of_them_without_gradients(self):
        params, optimizer = small(SGD, lr=1.0)
        idle = SGD([torch.nn.Parameter(torch.ones(2))], lr=1.0)
        before = values(params)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1)
        scaler.scale(torch.ones(()))
        scaler.step(idle)
        scaler.step(optimizer)
        scaler.update()
        assert scaler.get_scale() == 8
        assert idle.param_groups[0]["params"][0].tolist() == [1, 1]
        assert_equal(params, [q - p.grad / 4 for p, q in zip(params, before, strict=True)])

    def test_gradients_that_are_not_finite(self):
        params, optimizer = small(nonfinite="skip")
        params[1].grad[2] = torch.nan
        before = values(params)
        optimizer.step()
        assert_equal(params, before)
        assert optimizer.skipped_steps == 1
        assert not optimizer.state
        optimizer.nonfinite = "raise"
        with pytest.raises(FloatingPointError, match=r"grads\[1\]: expected finite"):
            optimizer.step()
        assert not optimizer.state
        give_gradients(params)
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
        optimizer.step()
        assert optimizer.skipped_steps == 1

    def test_average_that_is_in_use(self):
        params, optimizer = small(ema_decay=0.5)
        optimizer.step()
        saved, last = copy.deepcopy(optimizer.state_dict()), values(params)
        with optimizer.use_ema():
            assert not any(map(torch.equal, params, last))
            for what, call in {
                "step": optimizer.step,
                "state_dict": optimizer.state_dict,
                "load_state_dict": lambda: optimizer.load_state_dict(saved),
                "add_param_group": lambda: optimizer.add_param_group({"params": []}),
                "copy or pickle": lambda: copy.deepcopy(optimizer),
                "use_ema": lambda: optimizer.use_ema().__enter__(),
            }.items():
                with pytest.raises(RuntimeError, match=f"^{what}: the parameters hold"):
                    call()
        assert_equal(params, last)
        with contextlib.suppress(KeyError), optimizer.use_ema():
            raise KeyError
        assert_equal(params, last)
        with pytest.raises(RuntimeError, match="use_ema: expected an optimizer with ema_decay"):
            small()[1].use_ema().__enter__()

    def test_compiled(self):
        params, optimizer = small()
        twin, plain = small()
        compiled = torch.compile(optimizer.step, backend="eager")
        for _ in range(3):
            compiled()
            plain.step()
        assert_equal(params, twin)

    def test_other_options_of_the_pass(self):
        params, optimizer = small(SGD, lr=1.0, max_grad_value=0.1, l1=0.01, bounds=(-0.5, 0.5))
        optimizer.step()
        assert max(p.abs().max() for p in params) == 0.5


PROCESSES = """
import sys
import torch
import torch.multiprocessing as mp
from fastoptim.integrations import torch as integration

def work(params, optimizer, turns, me, steps):
    torch.set_num_threads(1)
    for step in range(steps):
        assert turns[me].acquire(timeout=60)
        for p in params:
            p.grad = p.detach() + me + step
        optimizer.step()
        turns[(me + 1) % len(turns)].release()

def train(library, name, how, start, n=2, steps=3):
    context = mp.get_context(start)
    params = [torch.ones(s, dtype=torch.float64, requires_grad=True) for s in ((3, 2), (4,))]
    for p in params:
        p.share_memory_()
    optimizer = getattr(library, name)(params, lr=0.01)
    if how == "method":
        optimizer.share_memory()
    elif how == "given":
        for p in params:
            state = optimizer.state[p]
            state["step"] = torch.zeros(()).share_memory_()
            for key in ("exp_avg", "exp_avg_sq"):
                state[key] = torch.zeros_like(p).share_memory_()
    else:
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
        for p in params:
            p.grad = None
            for value in optimizer.state[p].values():
                value.share_memory_()
    turns = [context.Semaphore(int(me == 0)) for me in range(n)]
    workers = [
        context.Process(target=work, args=(params, optimizer, turns, me, steps)) for me in range(n)
    ]
    for w in workers:
        w.start()
    for w in workers:
        w.join(100)
        assert w.exitcode == 0, w.exitcode
    return [p.detach() for p in params] + [v for p in params for v in optimizer.state[p].values()]

if __name__ == "__main__":
    torch.set_num_threads(1)
    found, expected = (train(x, *sys.argv[1:]) for x in (integration, torch.optim))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert all(tensor.is_shared() for tensor in found) or sys.argv[2] == "method"
"""


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.parametrize(
    ("name", "how"),
    [("Adam", "given"), ("AdamW", "later"), ("NAdam", "later"), ("Adagrad", "method")],
)
def test_processes_that_share_an_optimizer_go_where_torch_goes(name, how, start, tmp_path):
    if start not in torch.multiprocessing.get_all_start_methods():
        pytest.skip(f"no {start} here")
    (tmp_path / "shared.py").write_text(PROCESSES)
    code = f"""
import subprocess, sys
sys.exit(subprocess.call([sys.executable, "shared.py", {name!r}, {how!r}, {start!r}]))
"""
    root = str(Path(integration.__file__).parents[3])
    done = python(code, cwd=tmp_path, PYTHONPATH=root)
    assert done.returncode == 0, done.stderr


def test_adagrad_shares_its_sums_before_the_first_step():
    params, optimizer = small(integration.Adagrad, initial_accumulator_value=0.5)
    optimizer.share_memory()
    sums = [optimizer.state[p]["sum"] for p in params]
    assert all(s.is_shared() and (s == 0.5).all() for s in sums)
    assert all(optimizer.state[p]["step"] == 0 for p in params)
    peer = torch.optim.Adagrad(copy.deepcopy(params))
    peer.load_state_dict(optimizer.state_dict())
    optimizer.step()
    assert [optimizer.state[p]["sum"] for p in params] == sums
    assert all(s.is_shared() and (s > 0.5).any() for s in sums)
    integration.Adagrad([{"params": []}]).share_memory()


class TestWhatPeopleReportedOfTorch:
    def test_adagrad_whose_groups_grow(self):
        params, optimizer = small(integration.Adagrad, lr=0.1)
        optimizer.share_memory()
        optimizer.step()
        added = torch.nn.Parameter(torch.ones(2))
        optimizer.add_param_group({"params": [added]})
        give_gradients([*params, added])
        optimizer.step()
        assert optimizer.state[added]["step"] == 1
        assert not torch.equal(added, torch.ones(2))

    def test_no_cycle_keeps_an_optimizer_alive(self):
        _, optimizer = small(ema_decay=0.5)
        optimizer.step()
        gone = weakref.ref(optimizer)
        gc.disable()
        try:
            del optimizer
            assert gone() is None
        finally:
            gc.enable()

    def test_model_and_optimizer_copied_together_belong_together(self):
        model, _ = twins()
        optimizer = AdamW(model.parameters(), lr=0.1)
        schedule = SCHEDULES.OneCycleLR(optimizer, 0.1, total_steps=9)
        train(model, optimizer, range(2))
        schedule.step()
        other, copied = copy.deepcopy((model, optimizer))
        train(other, copied, [2])
        assert (model.scale - other.scale).abs() > 0
        train(model, optimizer, [2])
        assert_close(model, other, 0)

    def test_a_count_with_an_axis(self):
        """As programs of the first years of shared optimizers have it."""
        params, optimizer = small()
        twin_params, twin = small()
        for p in params:
            zeros = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[p].update(step=torch.zeros(1).share_memory_(), **zeros)
        for o in (optimizer, twin, optimizer, twin):
            o.step()
        assert_equal(params, twin_params)
        assert [optimizer.state[p]["step"].tolist() for p in params] == [[2.0], [2.0]]


def _fall_scalars(lr: fo.reference.NonNegative = 0.5):
    return (lr,)


@fo.reference.rule(_fall_scalars)
def fall(p, g, m, /, lr):
    m += g
    p -= lr * m


class Fall(fo.Optimizer):
    """An optimizer of one's own."""

    rule = fall


def _weighted_scalars(step, weight, lr: fo.reference.NonNegative = 0.5):
    weight = weight + lr**2 / 3
    return (lr / weight,), (weight,)


class Weighted(fo.Optimizer):
    """One whose rule keeps a number of its steps, which float32 would round."""

    rule = fo.reference.Rule(fall.update, _weighted_scalars, numbers={"weight": 0.1})


class Wide(fo.LAMB):
    """One with defaults of its own."""

    def __init__(self, params, lr=0.5, **options):
        super().__init__(params, lr, eps=0.25, max_grad_norm=1.0, l1=0.01, **options)


def falling(p, g, lr):
    return p - lr * g


class Lamb(optimizer_of(fo.LAMB)):
    """A subclass of one that was made."""


# The classes that torch has not.
MADE = [Fall, Weighted] + [
    cls for cls in map(vars(fo.optimizers).get, fo.optimizers.__all__) if cls.__name__ not in NAMES
]
every_made = pytest.mark.parametrize("cls", MADE, ids=lambda cls: cls.__name__)


@pytest.mark.filterwarnings("ignore:.* the rule fall has no compiled loop")
class TestOptimizerOf:
    @every_made
    def test_takes_the_steps_of_the_class(self, cls):
        """Bit for bit, beside options, a late gradient, a scheduler, a file and copies."""
        params, optimizer = small(
            optimizer_of(cls), lr=0.1, weight_decay=0.01, max_grad_norm=2.0, ema_decay=0.5
        )
        arrays = [p.detach().numpy().copy() for p in params]
        peer = cls(arrays, lr=0.1, weight_decay=0.01, max_grad_norm=2.0, ema_decay=0.5)
        schedule = SCHEDULES.ExponentialLR(optimizer, 0.5)
        for t in range(6):
            give_gradients(params, t)
            if t == 1:
                params[1].grad = None
            optimizer.step()
            peer.step([None if p.grad is None else p.grad.numpy() for p in params])
            schedule.step()
            peer.lr *= 0.5
            if t == 2:
                file = io.BytesIO()
                torch.save(optimizer.state_dict(), file)
                file.seek(0)
                optimizer = optimizer_of(cls)(params, max_grad_norm=2.0)
                optimizer.load_state_dict(torch.load(file, weights_only=True))
                schedule.optimizer = optimizer
            if t == 4:
                params, optimizer = pickle.loads(pickle.dumps((params, optimizer)))
                params, optimizer = copy.deepcopy((params, optimizer))
                schedule.optimizer = optimizer
        names = optimizer_of(cls).names
        numbers = cls.rule.numbers
        saved = peer.state_dict()["state"]
        for i, (p, array, state) in enumerate(
            zip(params, arrays, peer.state.values(), strict=True)
        ):
            np.testing.assert_array_equal(p.detach().numpy(), array)
            found = optimizer.state[p]
            assert found.keys() == {"step", *numbers, *(names[name] for name in state)}
            assert all(found[name] == saved[i][name] != numbers[name] for name in numbers)
            for name, expected in state.items():
                np.testing.assert_array_equal(found[names[name]].numpy(), expected)
        assert [optimizer.state[p]["step"].item() for p in params] == [*peer.steps.values()]
        assert optimizer.grad_norm == peer.grad_norm

    @pytest.mark.parametrize(
        ("value", "error", "message"),
        [
            (None, ValueError, "expected it beside .*, found none"),
            (1j, TypeError, "expected a finite number, found 1j"),
            (math.inf, ValueError, "expected a finite number, found inf"),
        ],
    )
    def test_a_number_that_does_not_fit_is_refused(self, value, error, message):
        _, optimizer = small(optimizer_of(Weighted))
        optimizer.step()
        saved = copy.deepcopy(optimizer.state_dict())
        saved["state"][0]["weight"] = value
        with pytest.raises(error, match=rf"state\[0\]\['weight'\]: {message}"):
            optimizer.load_state_dict(saved)

    @pytest.mark.parametrize(
        ("value", "error", "message"),
        [
            (math.nan, ValueError, "expected a finite number >= 0, found nan"),
            (-1.0, ValueError, "expected a finite number >= 0, found -1"),
            ("x", TypeError, "expected a finite number >= 0, found 'x'"),
            (True, TypeError, "expected a finite number >= 0, found True"),
            (None, ValueError, "expected it beside .*, found none"),
            ("gone", ValueError, "expected it beside .*, found none"),
        ],
    )
    @pytest.mark.parametrize(
        ("cls", "name"),
        [
            (optimizer_of(fo.ScheduleFreeSGD), "weight_sum"),
            (optimizer_of(fo.ScheduleFreeAdamW), "lr_max"),
            (integration.ASGD, "mu"),
            (integration.NAdam, "mu_product"),
        ],
        ids=lambda x: getattr(x, "__name__", x),
    )
    def test_a_number_that_was_changed_is_refused_by_the_next_step(
        self, cls, name, value, error, message
    ):
        params, optimizer = small(cls)
        optimizer.step()
        entries = optimizer.state[params[0]]
        kept = entries[name]
        number = kept.clone() if isinstance(kept, torch.Tensor) else kept
        if value == "gone":
            del entries[name]
        elif isinstance(value, float) and isinstance(kept, torch.Tensor):
            kept.fill_(value)
        else:
            entries[name] = value
        before, steps = values(params), [s["step"].clone() for s in optimizer.state.values()]
        for _ in range(2):
            with pytest.raises(error, match=rf"state\[0\]\['{name}'\]: {message}"):
                optimizer.step()
            assert_equal(params, before)
            assert [s["step"] for s in optimizer.state.values()] == steps
        entries[name] = number
        optimizer.step()

    def test_a_number_of_a_wrong_kind_in_a_tensor_is_not_loaded(self):
        _, optimizer = small(integration.NAdam)
        optimizer.step()
        saved = copy.deepcopy(optimizer.state_dict())
        saved["state"][0]["mu_product"].fill_(math.nan)
        with pytest.raises(ValueError, match=r"state\[0\]\['mu_product'\]: .* found nan"):
            optimizer.load_state_dict(saved)

    def test_one_class_for_each(self):
        assert optimizer_of(fo.LAMB) is optimizer_of(fo.LAMB)
        assert optimizer_of(fo.LARS) is not optimizer_of(fo.LAMB)
        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(optimizer_of, [type("New", (fo.SGD,), {})] * 50))) == 1
        for name in set(integration.__all__) - {"optimizer_of"}:
            assert optimizer_of(getattr(fo, name)) is getattr(integration, name)

    @pytest.mark.parametrize("cls", [fo.LAMB, Wide, fo.Adam], ids=lambda cls: cls.__name__)
    def test_the_class_pickles(self, cls):
        made = optimizer_of(cls)
        assert pickle.loads(pickle.dumps(made)) is copy.deepcopy(made) is made
        assert made.__name__ == cls.__name__
        _, optimizer = small(made)
        assert type(pickle.loads(pickle.dumps(optimizer))) is made
        assert repr(optimizer).startswith(cls.__name__)

    def test_a_subclass_pickles_as_itself(self):
        assert pickle.loads(pickle.dumps(Lamb)) is Lamb
        assert type(pickle.loads(pickle.dumps(small(Lamb)[1]))) is Lamb

    def test_arguments_are_those_of_the_class(self):
        lr = torch.tensor(0.25)
        params, optimizer = small(optimizer_of(fo.LAMB), lr=lr, foreach=True)
        assert optimizer.param_groups[0]["lr"] is lr
        (group,) = optimizer_of(fo.LAMB)(params, 0.5, (0.8, 0.9), weight_decay=0.1).param_groups
        assert (group["lr"], group["betas"], group["weight_decay"]) == (0.5, (0.8, 0.9), 0.1)
        assert group["decoupled_weight_decay"] is True
        lr.fill_(0.0)
        before = values(params)
        optimizer.step()
        assert_equal(params, before)

    def test_defaults_are_those_of_the_class(self):
        params, optimizer = small(optimizer_of(Wide))
        (group,) = optimizer.param_groups
        assert (group["lr"], group["eps"], group["l1"]) == (0.5, 0.25, 0.01)
        assert optimizer.max_grad_norm == 1.0
        arrays = [p.detach().numpy().copy() for p in params]
        peer = Wide(arrays)
        optimizer.step()
        peer.step([p.grad.numpy() for p in params])
        for p, array in zip(params, arrays, strict=True):
            np.testing.assert_array_equal(p.detach().numpy(), array)

    @pytest.mark.parametrize(
        ("args", "kwargs", "error", "message"),
        [
            ((), {"lr": -1}, ValueError, "lr: expected a finite number >= 0, found -1"),
            ((), {"lr": lambda t: 0.1}, TypeError, "lr: expected a number, found a function"),
            ((), {"lr": torch.ones(2)}, ValueError, "lr: expected .* one element"),
            ((0.1,), {"lr": 0.1}, TypeError, "lr"),
            ((0.1, (0.9, 0.9), 1e-8, 0.0, 1), {}, TypeError, "too many positional arguments"),
            ((), {"momentum": 0.9}, TypeError, "momentum: LAMB has no such argument"),
            ((), {"mask": None}, TypeError, "mask: LAMB for torch has no such argument"),
            ((), {"backend": "reference"}, TypeError, "backend: LAMB for torch has no such"),
            ((), {"capturable": True}, ValueError, "capturable: expected False, found True"),
            ((), {"nonfinite": "no"}, ValueError, "nonfinite: expected"),
        ],
        ids=str,
    )
    def test_arguments_that_are_refused(self, args, kwargs, error, message):
        with pytest.raises(error, match=message):
            optimizer_of(fo.LAMB)([torch.nn.Parameter(torch.zeros(2))], *args, **kwargs)

    @pytest.mark.parametrize(
        "cls", [fo.Optimizer, fo.Mixed, Adam, fo.reference.lamb, "LAMB", None], ids=str
    )
    def test_what_is_no_class_of_optimizers_is_refused(self, cls):
        with pytest.raises(TypeError, match=r"^cls: expected a class of optimizers"):
            optimizer_of(cls)

    def test_what_to_write_instead_of_a_rule(self):
        own = fo.rule(scalars=lambda lr=0.1: (lr,))(falling)
        for wrong, how in {
            fo.reference.lamb: "write its class LAMB",
            own: r"write fastoptim.optimizer\(rule\)",
            "LAMB": "write the class itself",
        }.items():
            with pytest.raises(TypeError, match=f"^cls: expected a class .*: {how}"):
                optimizer_of(wrong)
        assert optimizer_of(fo.optimizer(own)).method.rule is own


class TestImport:
    def test_without_torch(self):
        code = "import sys; sys.modules['torch'] = None; import fastoptim.integrations.torch"
        done = python(code)
        assert done.returncode == 1
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("ImportError: fastoptim.integrations.torch needs torch")
        assert '"fastoptim[torch]"' in last

    def test_of_fastoptim_alone(self):
        code = "import sys, fastoptim; print('fastoptim.integrations' in sys.modules)"
        assert output(code) == "False"

    def test_examples_in_docstrings(self):
        found = doctest.testmod(integration)
        assert found.failed == 0
        assert found.attempted > 20


def test_rmsprop_state_of_an_old_torch_counts_with_integers():
    params, optimizer = small(RMSprop)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    for entries in saved["state"].values():
        entries["step"] = 7
    optimizer.load_state_dict(saved)
    optimizer.step()
    assert optimizer.state[params[0]]["step"] == 8


@pytest.mark.parametrize("name", ["NAdam", "ASGD"])
def test_state_of_an_old_torch_has_numbers_in_place_of_tensors(name):
    params, optimizer = small(getattr(integration, name))
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    for entries in saved["state"].values():
        entries.update({k: v.item() for k, v in entries.items() if v.ndim == 0})
    twins = copy.deepcopy(params)
    peer = getattr(torch.optim, name)(twins)
    for ps, o in ((params, optimizer), (twins, peer)):
        o.load_state_dict(copy.deepcopy(saved))
        give_gradients(ps)
        o.step()
    torch.testing.assert_close(params, twins)
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(optimizer.state[p], peer.state[q])


def test_every_rule_that_torch_has_is_here():
    assert {name for name in fo.optimizers.__all__ if hasattr(torch.optim, name)} == set(NAMES)
    assert set(integration.__all__) == {*NAMES, "Lion", "optimizer_of"}


@every_name
def test_signature_is_torchs(name):
    """The same names, in the same order, with the same defaults."""
    theirs = inspect.signature(getattr(torch.optim, name)).parameters
    *ours, extras = inspect.signature(getattr(integration, name)).parameters.values()
    assert extras.kind is extras.VAR_KEYWORD
    assert [(p.name, p.kind, p.default) for p in ours] == [
        (p.name, p.kind, p.default) for p in theirs.values()
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="knows torch for Linux")
@pytest.mark.parametrize("first", ["torch", "fastoptim"])
def test_steps_run_on_the_workers_that_torch_keeps_awake(first):
    code = f"""
import {first}, torch, fastoptim
from fastoptim import _engine
before = _engine.threads.workers()
import fastoptim.integrations.torch
print(before, _engine.threads.workers(), sep=", ")
"""
    assert output(code) == "fastoptim's own, OpenMP's"


class TestBenchmark:
    MODEL = clients.Model(layers=1, width=16, batch=2, steps=6, heads=2, length=8)

    def test_both_learn_the_same(self):
        (_, expected), (_, found) = (clients.train(who, self.MODEL) for who in clients.UPDATES)
        torch.testing.assert_close(found, expected, rtol=clients.TOLERANCE, atol=0)
        assert found[0] > found[-1]

    def test_each_part_is_timed_in_a_process_of_its_own(self):
        part, loss = clients._run("fastoptim", self.MODEL, part=0)
        assert 0 < part < 60
        assert len(loss) == self.MODEL.steps
        (first, second) = clients.clients(quick=True)
        assert [str(c) for c in (first, second)] == [
            "torch, transformer, 0.33M, optimizer",
            "torch, transformer, 0.33M, whole step",
        ]
        assert all(len(c.model) <= 36 for c in clients.clients(quick=False))

    def test_sizes_are_what_they_are_called(self):
        for model in (clients.SMALL, clients.LARGE):
            d = model.width
            size = model.layers * (12 * d * d + 13 * d) + 2 * model.tokens * d + model.tokens
            (name,) = {
                re.search(r"([0-9.]+)M", c.model)[1]
                for c in clients.clients(quick=False)
                if c.before.args[1] is model
            }
            assert size / 1e6 == pytest.approx(float(name), rel=0.05)


class TestAverage:
    @pytest.mark.parametrize("cls", [Adam, SGD], ids=lambda cls: cls.__name__)
    def test_of_parameters_without_gradients_is_that_of_averaged_model(self, cls):
        """The program changes one itself, as a codebook; another is frozen."""
        torch.manual_seed(1)
        model = torch.nn.ParameterDict(
            {name: torch.nn.Parameter(torch.randn(3)) for name in ("stepped", "codebook", "frozen")}
        )
        model["codebook"].requires_grad_(False)
        model["frozen"].requires_grad_(False)
        optimizer = cls(model.values(), lr=0.1, ema_decay=0.75)
        average = torch.optim.swa_utils.AveragedModel(
            model, avg_fn=lambda e, p, n: 0.75 * e + 0.25 * p
        )
        average.update_parameters(model)  # starts as the parameters are before the first step
        for k in range(4):
            optimizer.zero_grad()
            model["stepped"].square().sum().backward()
            with torch.no_grad():
                model["codebook"] += k
            optimizer.step()
            average.update_parameters(model)
            if k == 1:  # what was learnt of parameters that took no step is part of the state
                again = cls(model.values(), lr=0.1, ema_decay=0.75)
                again.load_state_dict(optimizer.state_dict())
                optimizer = again
        with optimizer.use_ema():
            for name, p in model.items():
                torch.testing.assert_close(p, average.module[name])

    @pytest.mark.parametrize("name", ["Adam", "SGD", "NAdam", "Rprop", "ASGD"])
    def test_of_parameters_without_gradients_does_not_keep_torch_from_going_on(self, name):
        params, optimizer = small(getattr(integration, name), lr=0.1, ema_decay=0.5)
        params[1].grad = None
        optimizer.step()
        assert torch.equal(optimizer.state[params[1]]["ema"], params[1])
        peers = [torch.nn.Parameter(p.detach().clone()) for p in params]
        peer = getattr(torch.optim, name)(peers, lr=0.1)
        peer.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # torch would share it
        for of in (params, peers):
            give_gradients(of, seed=11)
        for o in (optimizer, peer):
            o.step()
        for p, q in zip(params, peers, strict=True):
            torch.testing.assert_close(p, q)

    def test_starts_from_weights_that_are_loaded_before_the_first_step(self):
        model = torch.nn.Linear(3, 2)
        optimizer = SGD(model.parameters(), lr=0.0, ema_decay=0.5)
        with optimizer.use_ema():
            pass
        model.load_state_dict({name: p + 1 for name, p in model.state_dict().items()})
        loaded = values(model.parameters())
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        with optimizer.use_ema():
            assert_equal(model.parameters(), loaded)

    def test_starts_anew_when_it_was_off_for_a_step(self):
        params, optimizer = small(SGD, lr=1.0, ema_decay=0.5)
        optimizer.step()
        group = optimizer.param_groups[0]
        group["ema_decay"] = None
        with pytest.raises(RuntimeError, match="use_ema: expected an optimizer with ema_decay"):
            optimizer.use_ema().__enter__()
        assert all("ema" in optimizer.state[p] for p in params)
        optimizer.step()
        assert not any("ema" in optimizer.state[p] for p in params)
        group["ema_decay"] = 0.5
        now = values(params)
        with optimizer.use_ema():
            assert_equal(params, now)
        optimizer.step()
        for p, before in zip(params, now, strict=True):
            torch.testing.assert_close(optimizer.state[p]["ema"], 0.5 * before + 0.5 * p)

    def test_stays_within_the_bounds(self):
        params, optimizer = small(SGD, lr=0.1, bounds=(0.0, math.inf), ema_decay=0.9)
        for _ in range(3):
            with optimizer.use_ema():
                assert all((p >= 0).all() for p in params)
            optimizer.step()


def bags(dtype, count=2, width=5):
    """Return embedding bags with sparse gradients that begin alike."""
    torch.manual_seed(5)
    first = torch.nn.EmbeddingBag(60, width, sparse=True, dtype=dtype)
    others = [torch.nn.EmbeddingBag(60, width, sparse=True, dtype=dtype) for _ in range(count - 1)]
    for other in others:
        other.load_state_dict(first.state_dict())
    return first, *others


def train_bags(bags, optimizers, steps=25, coalesced=False):
    """Train on words of which some come several times, and some never."""
    torch.manual_seed(6)
    for _ in range(steps):
        words = torch.randint(0, 50, (8, 4))
        for bag, optimizer in zip(bags, optimizers, strict=True):
            optimizer.zero_grad()
            bag(words).square().sum().backward()
            assert not bag.weight.grad.is_coalesced()
            if coalesced:
                bag.weight.grad = bag.weight.grad.coalesce()
            optimizer.step()


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
class TestSparseGradients:
    @pytest.mark.parametrize("coalesced", [False, True])
    def test_the_steps_of_torch(self, coalesced):
        for ours, theirs in [
            (
                lambda w: optimizer_of(fo.Adam)(w, lr=0.01, lazy=True, eps_hat=True),
                lambda w: torch.optim.SparseAdam(w, lr=0.01),
            ),
            (lambda w: integration.Adagrad(w, lr=0.1), lambda w: torch.optim.Adagrad(w, lr=0.1)),
            (lambda w: SGD(w, lr=0.01), lambda w: torch.optim.SGD(w, lr=0.01)),
        ]:
            a, b = bags(torch.float64)
            before = a.weight.detach().clone()
            train_bags((a, b), (ours([a.weight]), theirs([b.weight])), coalesced=coalesced)
            assert_close(a, b, 1e-12)
            assert torch.equal(a.weight[50:], before[50:])

    def test_the_bits_of_arrays(self):
        a, b = bags(torch.float32)
        optimizer = Adam([a.weight], lr=0.01, lazy=True, max_grad_norm=1.0)
        table = b.weight.detach().numpy().copy()
        opt = fo.Adam(table, lr=0.01, lazy=True, max_grad_norm=1.0)
        for _ in range(5):
            optimizer.zero_grad()
            a(torch.randint(0, 50, (8, 4))).square().sum().backward()
            g = a.weight.grad
            opt.step(fo.Rows(g._indices()[0].numpy(), g._values().numpy()))
            optimizer.step()
        assert a.weight.detach().numpy().tobytes() == table.tobytes()
        assert optimizer.grad_norm == opt.grad_norm

    def test_rules_that_move_other_rows_ask_for_lazy(self):
        (a,) = bags(torch.float32, 1)
        optimizer = Adam(a.named_parameters())
        a(torch.tensor([[1, 2]])).sum().backward()
        before = values(a.parameters())
        with pytest.raises(TypeError, match=r"^grads\['weight'\]: .*set lazy=True"):
            optimizer.step()
        assert_equal(a.parameters(), before)
        optimizer.param_groups[0]["lazy"] = True
        optimizer.step()

    def test_state_dicts_have_it(self):
        a, b = bags(torch.float32)
        optimizer, other = Adam([a.weight], lazy=True), Adam([b.weight])
        train_bags((a,), (optimizer,), 3)
        other.load_state_dict(optimizer.state_dict())
        b.load_state_dict(a.state_dict())
        train_bags((a, b), (optimizer, other), 3)
        assert_equal([a.weight], [b.weight])
