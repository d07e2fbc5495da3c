"""Numbers that a rule keeps of the steps that each parameter has taken."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from zoo import assert_same

import fastoptim as fo
from fastoptim import checkpoint
from fastoptim.reference import NonNegative, Rule, rule


def weighted(step, total, largest, lr: NonNegative = 0.5):
    """Return the share of this step's weight in all of them, and what is known of these."""
    largest = max(largest, lr)
    total = total + step * largest
    return (step * largest / total,), (total, largest)


@rule(weighted, numbers={"total": 0.0, "largest": 0.0})
def share(p, g, z, /, c):
    z += g
    p -= c * z


class Share(fo.Optimizer):
    rule = share


def shares(lrs):
    """Return what the scalar of each step is, worked out from all learning rates at once."""
    weights = [(t + 1) * max(lrs[: t + 1]) for t in range(len(lrs))]
    return [w / sum(weights[: t + 1]) for t, w in enumerate(weights)]


LRS = [0.5, 0.75, 0.25, 1.5, 0.125]


def schedule(t):
    return LRS[t]


def optimizer(params, **options):
    return Share(params, backend="reference", **options)


def walked(lrs):
    p = z = 0.0
    for c in shares(lrs):
        z += 1
        p -= c * z
    return p


def test_under_a_schedule():
    p = np.zeros(2)
    opt = optimizer(p, lr=schedule)
    for _ in LRS:
        opt.step(np.ones(2))
    assert p.tolist() == [walked(LRS)] * 2
    entry = opt.state_dict()["state"][0]
    assert entry["step"] == 5
    assert entry["largest"] == 1.5
    assert entry["total"] == sum((t + 1) * max(LRS[: t + 1]) for t in range(5))


def delayed(step, last, lr: NonNegative = 0.5):
    return (last,), (lr,)


@rule(delayed, starts={"last": "lr"}, numbers={"last": 0.0})
def later(p, g, /, lr):
    p -= lr * g


class Delayed(fo.Optimizer):
    """Each step has the learning rate of the one before; the first has its own."""

    rule = later


def test_that_starts_with_a_hyperparameter():
    groups = [{"params": np.zeros(2)}, {"params": np.zeros(2), "lr": 2.0}]
    opt = Delayed(groups, lr=1.0, backend="reference")
    assert [entry["last"] for entry in opt.state_dict()["state"].values()] == [1.0, 2.0]
    for lr in (1.0, 4.0, 8.0):
        opt.param_groups[0]["lr"] = lr
        opt.step([np.ones(2), np.ones(2)])
    assert [group["params"][0].tolist() for group in opt.param_groups] == [[-6.0] * 2] * 2


def test_of_each_parameter_by_the_steps_that_it_has_taken():
    """As its step count, they stand still where there is no gradient."""
    params = [np.zeros(2), np.zeros(3), np.zeros(1)]
    opt = optimizer(params, lr=0.5, ema_decay=0.5)
    taken = [[], [], []]
    for lr, missing in zip(LRS, (1, 0, None, 1, 2), strict=True):
        opt.lr = lr
        opt.step([None if i == missing else np.ones_like(p) for i, p in enumerate(params)])
        for i, lrs in enumerate(taken):
            if i != missing:
                lrs.append(lr)
    for p, lrs in zip(params, taken, strict=True):
        assert p.tolist() == [walked(lrs)] * p.size


WAYS = ["state dict", "file", "pickle", "deepcopy", "new group", "mask", "other arrays"]


@pytest.mark.parametrize("way", WAYS)
def test_goes_on_with_the_same_bits(way, tmp_path):
    params = {"a": np.zeros(2), "b": np.zeros(3)}
    opt = optimizer(params, lr=schedule)
    grads = {name: np.ones_like(p) for name, p in params.items()}
    opt.step(grads)
    opt.step({**grads, "b": None})
    again = opt
    if way == "pickle":
        again = pickle.loads(pickle.dumps(opt))
    elif way == "deepcopy":
        again = copy.deepcopy(opt)
    elif way in ("state dict", "file"):
        again = optimizer(copy.deepcopy(params), lr=schedule)
        if way == "file":
            opt.save(tmp_path / "run.safetensors")
            again.load(tmp_path / "run.safetensors")
        else:
            again.load_state_dict(opt.state_dict())
    elif way == "new group":
        opt.add_param_group({"params": {"c": np.zeros(1)}})
    elif way == "other arrays":
        opt.rebind({name: params[name].copy() for name in ("b", "a")})
    else:
        opt.param_groups[0]["mask"] = {"a": np.ones(2, bool), "b": None}
        assert opt.state
    more = ({"c": np.ones(1)},) if way == "new group" else ()
    again.step([grads, *more] if more else grads)
    found = dict(zip(again.steps, again.param_groups[0]["params"], strict=False))
    assert found["a"].tolist() == [walked(LRS[:3])] * 2
    assert found["b"].tolist() == [walked(LRS[:2])] * 3
    if more:
        assert again.param_groups[1]["params"][0].tolist() == [walked(LRS[:1])]


def test_an_error_leaves_them_as_they_were():
    p = np.zeros(2)
    opt = optimizer(p, lr=0.5)
    opt.step(np.ones(2))
    before = opt.state_dict()
    with pytest.raises(ValueError, match="grads: expected shape"):
        opt.step(np.ones(3))
    after = opt.state_dict()
    assert before["state"][0].keys() == after["state"][0].keys()
    assert before["state"][0]["total"] == after["state"][0]["total"]


def test_a_state_dict_must_have_them():
    opt = optimizer(np.zeros(2))
    saved = opt.state_dict()
    saved["state"][0]["total"] = "many"
    with pytest.raises(TypeError, match=r"\['total'\]: expected a finite number, found 'many'"):
        opt.load_state_dict(saved)
    del saved["state"][0]["total"]
    with pytest.raises(ValueError, match="expected the key 'total'"):
        opt.load_state_dict(saved)


@pytest.mark.parametrize("cls", [fo.ScheduleFreeSGD, fo.ScheduleFreeAdamW])
def test_a_state_without_all_of_them_is_refused(cls, tmp_path):
    p = np.ones(3)
    opt = cls(p, ema_decay=0.5)
    opt.step(np.ones(3))
    names = [*cls.rule.numbers]
    for gone in (*[[name] for name in names], names):
        saved = opt.state_dict()
        for name in gone:
            del saved["state"][0][name]
        message = rf"state_dict\['state'\]\[0\]: expected the key '{gone[0]}', found 'step'"
        before = opt.state_dict()
        with pytest.raises(ValueError, match=message):
            opt.load_state_dict(saved)
        assert opt.state_dict()["state"][0].keys() == before["state"][0].keys()
        path = str(tmp_path / "run.safetensors")
        checkpoint.write(path, saved, {}, lambda path: None)
        with pytest.raises(ValueError, match=f"run.safetensors: .*expected the key '{gone[0]}'"):
            opt.load(path)


def total_scalars(step, total, lr: NonNegative = 0.5):
    return (lr,), (total + lr,)


@rule(total_scalars, numbers={"total": 0.0})
def by_number(p, g, /, lr):
    p -= lr * g


@rule(lambda lr=0.5: (lr,))
def by_array(p, g, total, /, lr):
    total += g
    p -= lr * total


def class_of(own):
    return type("Of", (fo.Optimizer,), {"rule": own, "__module__": __name__})


def test_a_number_may_have_the_name_of_an_array_of_another_rule(tmp_path):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    make = lambda: fo.Mixed(  # noqa: E731
        [
            {"optimizer": class_of(by_number), "params": np.ones(3)},
            {"optimizer": class_of(by_array), "params": np.ones(2)},
        ],
        backend="reference",
    )
    opt, other = make(), make()
    opt.step([np.ones(3), np.ones(2)])
    opt.save(tmp_path / "run")
    other.load(tmp_path / "run")
    assert_same(opt, other)
    assert other.state_dict()["state"][0]["total"] == 0.5
    assert other.state[1]["total"].tolist() == [1.0, 1.0]


def test_other_names_are_refused_with_those_that_there_are():
    opt = optimizer(np.zeros(2))
    saved = opt.state_dict()
    saved["state"][0]["totals"] = 1.0
    with pytest.raises(ValueError, match=r"state named total, largest, z, .*found 'totals'"):
        opt.load_state_dict(saved)


def test_are_loaded_only_if_they_are_of_their_kind():
    """A sum of weights that is negative would divide by zero in a later step."""
    opt = fo.ScheduleFreeSGD(np.ones(3))
    opt.step(np.ones(3))
    saved = opt.state_dict()
    for name in opt.param_groups[0].rule.numbers:
        wrong = {0: {**saved["state"][0], name: -1.0}}
        message = rf"\['{name}'\]: expected a finite number >= 0, found -1"
        with pytest.raises(ValueError, match=message):
            opt.load_state_dict({**saved, "state": wrong})


def ema_beside(step, ema, lr: NonNegative = 0.5):
    return (lr,), (ema,)


def z_beside(step, z, lr: NonNegative = 0.5):
    return (lr,), (z,)


def step_beside(t, step, lr: NonNegative = 0.5):
    return (lr,), (step,)


@pytest.mark.parametrize("scalars", [ema_beside, z_beside, step_beside])
def test_are_refused_by_names_that_are_taken(scalars):
    """They are kept with the state arrays, and what they start with is found by name."""
    name = scalars.__name__.removesuffix("_beside")
    with pytest.raises(ValueError, match=f"share: expected names of numbers .*, found {name}"):
        Rule(share.update, scalars, numbers={name: 0.0})


def test_are_refused_where_the_signature_lacks_them():
    with pytest.raises(ValueError, match="share: expected scalars that take other behind the step"):
        Rule(share.update, weighted, numbers={"other": 0.0})
    with pytest.raises(ValueError, match="expected scalars that take no numbers behind the step"):
        Rule(share.update, weighted)


def test_a_function_has_nobody_to_keep_them():
    with pytest.raises(TypeError, match="share: expected a rule without numbers of the steps"):
        share(np.ones(2), np.ones(2), np.zeros(2), step=1)
