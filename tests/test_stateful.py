"""Whatever is done to an optimizer, in whatever order, it has the bits of its reference."""

from __future__ import annotations

import copy
import pickle
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from zoo import DTYPES, OPTIMIZERS, assert_same, gradients, pairs, snapshot

import fastoptim as fo

SHAPES = [(), (0,), (3,), (33,), (4, 5), (600,)]
SEEDS = st.integers(0, 2**32 - 1)
ARRAYS = st.lists(
    st.tuples(st.sampled_from(SHAPES), st.sampled_from(DTYPES), st.sampled_from("CF")),
    min_size=1,
    max_size=3,
)
RATES = st.sampled_from([0.0, 1e-3, 0.1, 0.5])
SCHEDULES = st.sampled_from(
    [
        fo.schedules.CosineAnnealing(0.1, T_max=5),
        fo.schedules.WarmUp(fo.schedules.Exponential(0.1, gamma=0.9), warmup_steps=2),
    ]
)
BAD = ["shape", "dtype", "count", "shared", "lr", "unknown", "group", "state_dict", "scale", "file"]


class Pair(RuleBasedStateMachine):
    """An optimizer and its reference, to which the same is done."""

    @initialize(
        data=st.data(),
        cls=st.sampled_from(OPTIMIZERS),
        arrays=ARRAYS,
        seed=SEEDS,
        masked=st.booleans(),
    )
    def make(self, data, cls, arrays, seed, masked):
        rng = np.random.default_rng(seed)
        options = data.draw(st.sampled_from(pairs(cls)))
        options |= {"nonfinite": data.draw(st.sampled_from(["ignore", "raise", "skip"]))}
        options["lr"] = data.draw(st.one_of(RATES, SCHEDULES))
        params = parameters(rng, arrays)
        mask = [p > 0 for p in params] if masked else None
        self.pair = [
            cls(copies(params), mask=mask, backend=backend, **options)
            for backend in ("compiled", "reference")
        ]
        self.saved = None

    def both(self, action):
        """Do the same to both, which must end in the same way."""
        ends = []
        for optimizer in self.pair:
            before = snapshot(optimizer), optimizer.skipped_steps, repr(optimizer.grad_norm)
            try:
                ends.append(repr(action(optimizer)))
            except (TypeError, ValueError, RuntimeError, FloatingPointError) as error:
                ends.append((type(error), str(error)))
                after = snapshot(optimizer), optimizer.skipped_steps, repr(optimizer.grad_norm)
                assert after == before
        assert ends[0] == ends[1]
        return ends[0]

    def gradients(self, seed, skip=0.0):
        """Return fresh gradients, some of them None, in containers as the param groups are."""
        rng = np.random.default_rng(seed)
        groups = [
            [None if rng.random() < skip else g for g in gradients(rng, group["params"])]
            for group in self.pair[0].param_groups
        ]
        return groups[0] if len(groups) == 1 else groups

    @rule(seed=SEEDS, scale=st.sampled_from([1.0, 1.0, 4.0]))
    def step(self, seed, scale):
        grads = self.gradients(seed)
        self.both(lambda optimizer: optimizer.step(grads, grad_scale=scale))

    @rule(seed=SEEDS)
    def step_without_some(self, seed):
        grads = self.gradients(seed, skip=0.5)
        self.both(lambda optimizer: optimizer.step(grads))

    @rule(seed=SEEDS, value=st.sampled_from([np.nan, np.inf]))
    def step_over_something_that_is_not_finite(self, seed, value):
        grads = self.gradients(seed)
        first = grads if isinstance(grads[0], np.ndarray) else grads[0]
        if first[0].size:
            first[0][...] = value
        self.both(lambda optimizer: optimizer.step(grads))

    @rule(seed=SEEDS)
    def step_with_gradients_of_the_other_dtype(self, seed):
        """Float64 in float32 is rounded or refused, as the setting says."""
        grads = with_each(self.gradients(seed, skip=0.2), in_the_other_dtype)
        self.both(lambda optimizer: optimizer.step(grads))

    @rule(order=st.sampled_from("KCF"))
    def go_on_with_other_arrays(self, order):
        def go_on(optimizer):
            groups = [
                [p.copy(order=order) for p in group["params"]] for group in optimizer.param_groups
            ]
            optimizer.rebind(groups if len(groups) > 1 else groups[0])

        self.both(go_on)

    @rule(lr=st.one_of(RATES, SCHEDULES))
    def change_lr(self, lr):
        self.both(lambda optimizer: setattr(optimizer, "lr", lr))

    @rule(data=st.data())
    def change_another_hyperparameter(self, data):
        own = data.draw(st.sampled_from(pairs(type(self.pair[0]))))
        name = data.draw(st.sampled_from(sorted(own)))
        if data.draw(st.booleans()):
            self.both(lambda optimizer: setattr(optimizer, name, own[name]))
        elif name in self.pair[0].param_groups[-1]:
            self.both(lambda optimizer: optimizer.param_groups[-1].update({name: own[name]}))

    @precondition(lambda self: len(self.pair[0].param_groups) < 3)
    @rule(arrays=ARRAYS, seed=SEEDS, lr=RATES)
    def add_a_group(self, arrays, seed, lr):
        params = parameters(np.random.default_rng(seed), arrays)
        self.both(lambda opt: opt.add_param_group({"params": copies(params), "lr": lr}))

    @rule()
    def save(self):
        self.saved = [
            (copies(params_of(optimizer)), optimizer.state_dict()) for optimizer in self.pair
        ]

    @precondition(lambda self: self.saved)
    @rule(crossed=st.booleans())
    def load(self, crossed):
        """Go back to what was saved, each to its own or to the other's."""
        for optimizer, (params, state) in zip(
            self.pair, self.saved[::-1] if crossed else self.saved, strict=True
        ):
            if len(params) == len(params_of(optimizer)) and loads(optimizer, state):
                for p, kept in zip(params_of(optimizer), params, strict=True):
                    p[...] = kept

    @precondition(lambda self: find_spec("safetensors"))
    @rule()
    def save_to_a_file_and_load_it(self):
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder, "saved"))

            def there_and_back(optimizer):
                optimizer.save(path)
                scramble(optimizer)
                optimizer.load(path)

            for optimizer in self.pair:
                before = snapshot(optimizer)
                there_and_back(optimizer)
                assert snapshot(optimizer) == before

    @rule(
        how=st.sampled_from([copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]),
        which=st.integers(0, 1),
    )
    def copy(self, how, which):
        """Go on with a copy of one of the two."""
        self.pair[which] = how(self.pair[which])

    @rule()
    def look_at_the_average(self):
        def shown(optimizer):
            with optimizer.use_ema():
                return [p.tobytes() for p in params_of(optimizer)]

        self.both(shown)

    @rule(kind=st.sampled_from(BAD), seed=SEEDS)
    def fail(self, kind, seed):
        end = self.both(lambda optimizer: FAILURES[kind](optimizer, self.gradients(seed)))
        assert end != "None", kind

    @invariant()
    def never_differ_by_a_bit(self):
        if hasattr(self, "pair"):
            assert_same(*self.pair)
            assert [dict(g.hyper) for g in self.pair[0].param_groups] == [
                dict(g.hyper) for g in self.pair[1].param_groups
            ]


def parameters(rng, arrays):
    return [
        np.array(rng.standard_normal(shape), dtype, order=order) for shape, dtype, order in arrays
    ]


def copies(arrays):
    return [p.copy(order="K") for p in arrays]


def params_of(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


def loads(optimizer, state):
    """Load a state_dict, unless its hyperparameters leave out what a schedule gave; tell which."""
    before = snapshot(optimizer)
    try:
        optimizer.load_state_dict(state)
    except ValueError:
        assert snapshot(optimizer) == before
        return False
    return True


def scramble(optimizer):
    for arrays in optimizer.state.values():
        for array in arrays.values():
            array[...] = 7
    for p in params_of(optimizer):
        p[...] = -7


def with_last(grads, change):
    """Change the last gradient of all, and what is last is refused last."""
    if isinstance(grads[-1], list):
        return [*grads[:-1], with_last(grads[-1], change)]
    return [*grads[:-1], change(grads[-1])]


def with_each(grads, change):
    """Change each gradient of all that there are."""
    if isinstance(grads, list):
        return [with_each(g, change) for g in grads]
    return None if grads is None else change(grads)


def in_the_other_dtype(g):
    return g.astype(np.float64 if g.dtype == np.float32 else np.float32)


FAILURES = {
    "shape": lambda opt, g: opt.step(with_last(g, lambda x: np.ones((*x.shape, 2), x.dtype))),
    "dtype": lambda opt, g: opt.step(with_last(g, lambda x: x.astype(np.float16))),
    "count": lambda opt, g: opt.step([*g, None]),
    "shared": lambda opt, g: opt.step(
        with_last(g, lambda x: params_of(opt)[-1] if x.size else "none to share")
    ),
    "lr": lambda opt, g: setattr(opt, "lr", -1.0),
    "unknown": lambda opt, g: opt.param_groups[0].update({"lr": 0.3, "rate": 1.0}),
    "group": lambda opt, g: opt.add_param_group({"params": [np.ones(3), params_of(opt)[0], 1]}),
    "state_dict": lambda opt, g: opt.load_state_dict({**opt.state_dict(), "skipped_steps": -1}),
    "scale": lambda opt, g: opt.step(g, grad_scale=0),
    "file": lambda opt, g: opt.load(7),
}


def test_any_run_of_actions():
    run_state_machine_as_test(
        Pair,
        settings=settings(
            max_examples=100,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
