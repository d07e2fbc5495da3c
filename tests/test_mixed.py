"""Mixed: several rules in one optimizer, held to an optimizer for each of them."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo import DTYPES, OPTIMIZERS, gradients, same_bits

import fastoptim as fo
from fastoptim._stages import clip_factor

BACKENDS = ["compiled", "reference"]
CLASSES = st.lists(st.sampled_from(OPTIMIZERS), min_size=1, max_size=4)


def arrays(rng, dtype, count):
    return [rng.standard_normal(int(n)).astype(dtype) for n in rng.integers(0, 1500, count)]


def mixed_of(classes, params, backend, **options):
    groups = [{"optimizer": cls, "params": p} for cls, p in zip(classes, params, strict=True)]
    return fo.Mixed(groups, backend=backend, **options)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=40, deadline=None)
@given(classes=CLASSES, dtypes=st.lists(st.sampled_from(DTYPES), min_size=4, max_size=4))
def test_bits_of_separate_optimizers(backend, classes, dtypes):
    rng = np.random.default_rng(len(classes))
    params = [arrays(rng, dtype, 3) for dtype, _ in zip(dtypes, classes, strict=False)]
    others = copy.deepcopy(params)
    options = {"max_param_grad_norm": 2.0, "ema_decay": 0.9}
    opt = mixed_of(classes, params, backend, max_grad_norm=1.5, **options)
    alone = [cls(p, backend=backend, **options) for cls, p in zip(classes, others, strict=True)]
    for step in range(3):
        grads = [[g * 10 for g in gradients(rng, p)] for p in params]
        if step == 1:
            grads[0][0] = None
        opt.step(grads if len(grads) > 1 else grads[0])
        factor = clip_factor(opt.grad_norm, 1.5)
        for other, g in zip(alone, grads, strict=True):
            other.step([None if x is None else x for x in g], grad_scale=1 / factor)
    found = iter(opt.state.values())
    for other, p, q in zip(alone, params, others, strict=True):
        for a, b, state in zip(p, q, other.state.values(), strict=True):
            mine = next(found)
            close(a, b)
            assert mine.keys() == state.keys()
            for name in state:
                close(mine[name], state[name])


def close(a, b):
    """1 / (1 / factor) may round, and so may what is scaled by it."""
    tolerance = 1e-4 if a.dtype == np.float32 else 1e-11
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_without_a_factor(backend, dtype):
    """Every rule in one plan: the very bits of every rule in a plan to itself."""
    rng = np.random.default_rng(0)
    params = [arrays(rng, dtype, 2) for _ in OPTIMIZERS]
    others = copy.deepcopy(params)
    opt = mixed_of(OPTIMIZERS, params, backend)
    alone = [cls(p, backend=backend) for cls, p in zip(OPTIMIZERS, others, strict=True)]
    for _ in range(3):
        grads = [gradients(rng, p) for p in params]
        opt.step(grads)
        for other, g in zip(alone, grads, strict=True):
            other.step(g)
    found = iter(opt.state.values())
    for other, p, q in zip(alone, params, others, strict=True):
        for a, b, state in zip(p, q, other.state.values(), strict=True):
            assert same_bits(a, b), type(other)
            mine = next(found)
            assert all(same_bits(mine[name], state[name]) for name in state), type(other)
            assert mine.keys() == state.keys()


def pair(**options):
    table, dense = np.ones((20, 3)), np.ones(5, np.float32)
    groups = [
        {"optimizer": fo.Adagrad, "params": {"table": table}, "lr": 0.1},
        {"optimizer": fo.AdamW, "params": {"dense": dense}, "lr": 1e-3},
    ]
    return fo.Mixed(groups, **options), table, dense


def grads_of(k):
    return [{"table": np.full((20, 3), 0.1 * k)}, {"dense": np.full(5, -0.2 * k, np.float32)}]


def test_one_norm_over_everything():
    opt, _, _ = pair(max_grad_norm=1.0)
    opt.step([{"table": np.full((20, 3), 3.0)}, {"dense": np.full(5, 4.0, np.float32)}])
    assert opt.grad_norm == pytest.approx(math.sqrt(60 * 9 + 5 * 16))


def test_a_step_is_taken_by_all_or_none():
    opt, table, dense = pair(nonfinite="skip")
    opt.step([{"table": np.full((20, 3), np.nan)}, {"dense": np.ones(5, np.float32)}])
    assert opt.skipped_steps == 1
    assert (table == 1).all()
    assert (dense == 1).all()
    with pytest.raises(ValueError, match=r"grads\[1\]\['dense'\]: expected shape"):
        opt.step([{"table": np.ones((20, 3))}, {"dense": np.ones(4, np.float32)}])
    assert (table == 1).all()


@pytest.mark.parametrize("way", ["state dict", "file", "pickle", "deepcopy"])
def test_goes_on_with_the_same_bits(way, tmp_path):
    opt, table, dense = pair(max_grad_norm=1.0, ema_decay=0.5)
    for k in range(3):
        opt.step(grads_of(k))
    if way == "pickle":
        again = pickle.loads(pickle.dumps(opt))
    elif way == "deepcopy":
        again = copy.deepcopy(opt)
    else:
        again, other_table, other_dense = pair(max_grad_norm=0.5, ema_decay=0.5)
        if way == "file":
            opt.save(tmp_path / "run.safetensors")
            again.load(tmp_path / "run.safetensors")
        else:
            other_table[...], other_dense[...] = table, dense
            again.load_state_dict(opt.state_dict())
    opt.step(grads_of(7))
    again.step(grads_of(7))
    for group, other in zip(opt.param_groups, again.param_groups, strict=True):
        assert same_bits(group["params"][0], other["params"][0])
        assert group.rule is other.rule
    for key, state in opt.state.items():
        assert all(same_bits(state[name], again.state[key][name]) for name in state)


def test_a_state_of_other_rules_is_refused():
    opt, _, _ = pair()
    saved = opt.state_dict()
    assert [group["rule"] for group in saved["param_groups"]] == ["adagrad", "adamw"]
    saved["param_groups"][1]["rule"] = "adam"
    with pytest.raises(ValueError, match=r"\['rule'\]: expected 'adamw', found 'adam'"):
        opt.load_state_dict(saved)
    del saved["param_groups"][1]["rule"]
    with pytest.raises(ValueError, match="expected the key 'rule'"):
        opt.load_state_dict(saved)


def test_groups_in_another_order_are_found():
    opt, _, _ = pair()
    opt.step(grads_of(1))
    saved = opt.state_dict()
    saved["param_groups"].reverse()
    opt.load_state_dict(saved)


def test_hyperparameters():
    opt, _, _ = pair(weight_decay=0.25, l1=0.125)
    first, second = opt.param_groups
    assert (first["lr"], second["lr"]) == (0.1, 1e-3)
    assert (first["weight_decay"], second["weight_decay"]) == (0.25, 0.25)
    assert opt.l1 == 0.125
    opt.lr = 0.5
    assert (first["lr"], second["lr"], opt.lr) == (0.5, 0.5, 0.5)
    second["betas"] = (0.5, lambda t: 0.9)
    opt.step(grads_of(1))
    with pytest.raises(TypeError, match="Adagrad has no such argument"):
        first["betas"] = (0.5, 0.9)
    with pytest.raises(AttributeError, match="Mixed has no such hyperparameter"):
        opt.betas = (0.5, 0.9)
    assert repr(opt).count("lr=0.5") == 2


def test_a_hyperparameter_that_a_rule_of_ones_own_lacks():
    @fo.rule(scalars=lambda rate=0.1: (rate,))
    def fall(p, g, rate):
        return p - rate * g

    groups = [
        {"optimizer": fo.SGD, "params": np.ones(3), "lr": 0.25},
        {"optimizer": fo.optimizer(fall), "params": np.ones(3)},
    ]
    opt = fo.Mixed(groups, backend="reference")
    message = r"lr: opt\.param_groups\[1\] has no such hyperparameter; it has rate, "
    with pytest.raises(AttributeError, match=message):
        _ = opt.lr
    with pytest.raises(AttributeError, match=message):
        opt.lr = 0.5
    assert opt.param_groups[0]["lr"] == 0.25
    assert not hasattr(opt, "lr")
    opt.weight_decay = 0.5
    assert opt.weight_decay == 0.5


def test_group_added_later():
    opt, _, _ = pair()
    p = np.ones(3)
    opt.add_param_group({"optimizer": fo.Lion, "params": {"p": p}})
    opt.step([*grads_of(1), {"p": np.ones(3)}])
    assert opt.param_groups[2].rule is fo.reference.lion
    assert (p == 1 - 1e-4).all()
    with pytest.raises(ValueError, match=r"params\[3\]: expected the key 'optimizer'"):
        opt.add_param_group({"params": np.ones(3)})
    assert len(opt.param_groups) == 3


@pytest.mark.parametrize(
    ("params", "options", "error", "message"),
    [
        ([], {}, ValueError, "params: expected at least one param group, found none"),
        (np.ones(3), {}, TypeError, "params: expected a sequence of .* found ndarray"),
        ({"optimizer": fo.SGD}, {}, TypeError, "params: expected a sequence of param groups"),
        (3, {}, TypeError, "params: expected a sequence of param groups"),
        ([{"params": np.ones(3)}], {}, ValueError, r"params\[0\]: expected the key 'optimizer'"),
        (
            [{"optimizer": fo.SGD}],
            {},
            TypeError,
            "params: expected a param group, a mapping with the key 'params'",
        ),
        (
            [{"optimizer": "SGD", "params": np.ones(3)}],
            {},
            TypeError,
            r"\['optimizer'\]: expected a class of optimizers with one rule, .* found 'SGD': write "
            "the class itself, without quotes",
        ),
        (
            [{"optimizer": fo.reference.sgd, "params": np.ones(3)}],
            {},
            TypeError,
            r"\['optimizer'\]: expected a class .* found <rule sgd.*>: write its class SGD$",
        ),
        (
            [{"optimizer": fo.SGD(np.ones(3)), "params": np.ones(3)}],
            {},
            TypeError,
            r"\['optimizer'\]: expected a class .*: write its class SGD$",
        ),
        (
            [{"optimizer": fo.Mixed, "params": np.ones(3)}],
            {},
            TypeError,
            r"params\[0\]\['optimizer'\]: expected a class of optimizers with one rule",
        ),
        (
            [{"optimizer": fo.SGD, "params": np.ones(3), "betas": (0.5, 0.5)}],
            {},
            TypeError,
            "betas: SGD has no such argument; it has lr, momentum",
        ),
        (
            [{"optimizer": fo.SGD, "params": np.ones(3)}],
            {"lr": 0.1},
            TypeError,
            "lr: expected one in each param group",
        ),
        (
            [{"optimizer": fo.SGD, "params": np.ones(3)}],
            {"mask": np.ones(3, bool)},
            TypeError,
            "mask: expected one in each param group",
        ),
        (
            [{"optimizer": fo.SGD, "params": np.ones(3)}],
            {"l1": -1.0},
            ValueError,
            "l1: expected a finite number >= 0, found -1",
        ),
        (
            [{"optimizer": fo.SGD, "params": np.ones(3), "max_grad_norm": 1.0}],
            {},
            TypeError,
            "max_grad_norm: expected it for the optimizer as a whole",
        ),
    ],
)
def test_what_is_refused(params, options, error, message):
    with pytest.raises(error, match=message):
        fo.Mixed(params, **options)


def test_messages_name_the_classes_of_groups():
    groups = [
        {"optimizer": fo.SGD, "params": np.ones(3)},
        {"optimizer": fo.AdamW, "params": np.ones(2)},
    ]
    for opt in (fo.Mixed(groups), pickle.loads(pickle.dumps(fo.Mixed(groups)))):
        message = "^betas: SGD has no such argument; it has lr, momentum"
        with pytest.raises(TypeError, match=message):
            opt.param_groups[0]["betas"] = (0.5, 0.5)
        with pytest.raises(TypeError, match=message):
            opt.add_param_group({"optimizer": fo.SGD, "params": np.ones(4), "betas": (0.5, 0.5)})
        assert "\n  SGD: ParamGroup(" in repr(opt)
        opt.load_state_dict(opt.state_dict())
        opt.rebind([np.ones(3), np.ones(2)])
        with pytest.raises(TypeError, match=r"^momentum: AdamW has no such argument"):
            opt.param_groups[1].update(momentum=0.5)


def test_groups_of_one_class_are_named_by_it_too():
    with pytest.raises(TypeError, match=r"^betas: SGD has no such argument"):
        fo.SGD([{"params": np.ones(3), "betas": (0.5, 0.5)}])
