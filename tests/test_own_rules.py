"""Rules of the user's own, made with the public names of `fastoptim.reference`."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest

import fastoptim as fo
from fastoptim.reference import Rule, rule


def scalars(step, lr: fo.reference.NonNegative = 0.5):
    return (lr,)


@rule(scalars)
def fall(p, g, m, /, lr):
    m += g
    p -= lr * m


class Fall(fo.Optimizer):
    rule = fall


def optimizer(update, scalars=scalars, **options):
    """Return an optimizer of a rule of one's own, on one array of ones."""
    own = type("Own", (fo.Optimizer,), {"rule": Rule(update, scalars)})
    return own(np.ones(3), backend="reference", **options)


def test_runs_on_numpy_and_says_so():
    p = np.ones(3)
    with pytest.warns(RuntimeWarning, match="Fall: the rule fall has no compiled loop") as caught:
        opt = Fall(p, lr=1.0, ema_decay=0.5, max_grad_norm=10.0)
    assert caught[0].filename == __file__
    assert opt.backend == "reference"
    opt.step(np.ones(3))
    opt.step(np.ones(3))
    assert p.tolist() == [-2.0] * 3
    assert opt.state[0]["m"].tolist() == [2.0] * 3
    assert opt.ema.tolist() == [-0.75] * 3
    again = pickle.loads(pickle.dumps(opt))
    again.load_state_dict(opt.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Fall(p, backend="reference")
    with pytest.raises(ValueError, match="backend: expected 'reference' for the rule fall, which"):
        Fall(p, backend="compiled")


def test_has_no_loop_of_a_rule_with_the_same_name():
    """The loop of that name would reach for other state, and for scalars that are not there."""

    def adam(p, g, /, lr):
        p -= lr * g

    with pytest.warns(RuntimeWarning, match="no compiled loop"):
        opt = type("Own", (fo.Optimizer,), {"rule": Rule(adam, scalars)})(np.ones(3))
    opt.step(np.ones(3))
    assert opt.param_groups[0]["params"][0].tolist() == [0.5] * 3


def test_scalars_of_ones_own_keep_the_loop():
    own = type("Own", (fo.Optimizer,), {"rule": Rule(fo.reference.adagrad.update, three)})
    pair = [own(np.ones(3), backend=backend) for backend in ("compiled", "reference")]
    for opt in pair:
        opt.step(np.full(3, 2.0))
    assert pair[0].backend == "compiled"
    assert pair[0].param_groups[0]["params"][0].tolist() == [0.5] * 3
    assert pair[1].param_groups[0]["params"][0].tolist() == [0.5] * 3


def three(step, lr: fo.reference.NonNegative = 0.5):
    return lr, 0.0, 0.0


@pytest.mark.parametrize("count", [5, 6, 9])
def test_too_many_state_arrays(count):
    names = ", ".join(f"s{k}" for k in range(count))
    space = {}
    exec(f"def many(p, g, {names}, /, lr): pass", space)
    message = f"many: expected at most 4 arrays beside p and g, found {count}"
    with pytest.raises(ValueError, match=message):
        Rule(space["many"], scalars)


def test_too_many_scalars():
    names = ", ".join(f"c{k}" for k in range(17))
    space = {}
    exec(f"def many(p, g, /, {names}): pass", space)
    with pytest.raises(ValueError, match="many: expected at most 16 scalars, found 17"):
        Rule(space["many"], scalars)


def test_what_is_measured_takes_the_place_of_a_state_array():
    def many(p, g, a, b, c, d, u, /, lr, coefficient):
        pass

    with pytest.raises(ValueError, match="many: expected at most 4 arrays beside p and g, found 5"):
        Rule(many, scalars, rescale=lambda own, p_squares, u_squares, size: own)


def test_scalars_that_the_update_does_not_take():
    def two(p, g, /, lr, other):
        pass

    with pytest.raises(ValueError, match="two: expected 2 scalars, as its update takes, found 1"):
        optimizer(two)


def test_scalars_that_become_more_change_nothing():
    """The first step has been checked; what comes later is checked where it is taken over."""

    def growing(step, lr: fo.reference.NonNegative = 0.5):
        return (lr,) * (1 if step < 3 else 40)

    def one(p, g, /, lr):
        p -= lr * g

    opt = optimizer(one, growing)
    opt.step(np.ones(3))
    opt.step(np.ones(3))
    with pytest.raises(ValueError, match=r"scalars: expected 6, 4 and at most 16 of them, found"):
        opt.step(np.ones(3))
    assert opt.param_groups[0]["params"][0].tolist() == [0.0] * 3
    assert opt._plan.steps == [2]


def test_three_state_arrays_and_an_average():
    def three_arrays(p, g, a, b, c, /, lr):
        a += g
        b += a
        c += b
        p -= lr * c

    opt = optimizer(three_arrays, ema_decay=0.5)
    opt.step(np.ones(3))
    assert [opt.state[0][name][0] for name in "abc"] == [1.0] * 3
    assert opt.ema.tolist() == [0.75] * 3


def decayed_scalars(
    step, lr: fo.reference.NonNegative = 0.5, weight_decay: fo.reference.NonNegative = 0.0
):
    return 1 - lr * weight_decay, lr


def decayed(p, g, /, decay, lr):
    p[...] = decay * p - lr * g


@pytest.mark.parametrize("update", ["always", "by a flag", "by a flag that is off"])
def test_weight_decay_that_is_decoupled(update):
    """The rule decays p itself: from 1 to 1 - 0.5 * 0.2, and the gradient has no penalty."""

    def flagged_scalars(
        step,
        lr: fo.reference.NonNegative = 0.5,
        weight_decay: fo.reference.NonNegative = 0.0,
        apart: fo.reference.Switch = True,
    ):
        return 1 - lr * weight_decay if apart else 1.0, lr

    if update == "always":
        own, options = Rule(decayed, decayed_scalars, decoupled=True), {}
    else:
        own = Rule(decayed, flagged_scalars, decoupled="apart")
        options = {"apart": update == "by a flag"}
    cls = type("Own", (fo.Optimizer,), {"rule": own})
    opt = cls(np.ones(3), backend="reference", weight_decay=0.2, **options)
    opt.step(np.full(3, 0.1))
    expected = 1 - 0.5 * (0.1 + 0.2) if update.endswith("off") else 0.9 - 0.5 * 0.1
    assert opt.param_groups[0]["params"][0].tolist() == pytest.approx([expected] * 3)


@pytest.mark.parametrize(
    ("scalars", "update", "decoupled", "message"),
    [
        (
            decayed_scalars,
            decayed,
            False,
            "decayed: expected decoupled=True, or the name of a flag, with scalars that take "
            "weight_decay, found decoupled=False",
        ),
        (
            scalars,
            fall.update,
            True,
            "fall: expected scalars that take weight_decay with decoupled=T",
        ),
        (scalars, fall.update, "lr", "expected scalars that take weight_decay .*, found lr"),
        (decayed_scalars, decayed, "lr", "expected decoupled to be True, False, or the name of a"),
        (decayed_scalars, decayed, "apart", "of its scalars, found 'apart'"),
    ],
)
def test_weight_decay_that_would_be_taken_twice_or_never(scalars, update, decoupled, message):
    with pytest.raises(ValueError, match=message):
        Rule(update, scalars, decoupled=decoupled)


def test_an_update_that_moves_the_memory_of_its_parameter():
    """Arrays are looked at once more before the copies that it has updated are written back."""
    original = np.ones(3)

    def resizing(p, g, /, lr):
        p -= lr * g
        original.resize(100_000, refcheck=False)

    own = type("Resizing", (fo.Optimizer,), {"rule": Rule(resizing, scalars)})
    opt = own(original, backend="reference")
    with pytest.raises(ValueError, match="found an array resized since"):
        opt.step(np.ones(3))
    assert original[:3].tolist() == [1.0] * 3
