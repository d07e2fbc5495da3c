"""Containers, groups, hyperparameters, state, its dictionary, copies and pickles."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from zoo import (
    CASE_IDS,
    CASES,
    DTYPES,
    OPTIMIZERS,
    arrays_of,
    assert_same,
    gradients,
    name_of,
    snapshot,
)

import fastoptim as fo

ONES = np.ones(3)


def ones(n=3):
    return np.ones(n)


def test_containers_give_the_same_step():
    single, listed, named = ones(), [ones(), ones(2)], {"w": ones(), "b": ones(2)}
    fo.Adam(single).step(ones())
    fo.Adam(listed).step((ones(), ones(2)))
    fo.Adam(named).step({"b": ones(2), "w": ones()})
    for p in (listed[0], named["w"]):
        assert np.array_equal(p, single)
    assert np.array_equal(listed[1], named["b"])


def test_generator_of_params_and_tuple_of_grads():
    params = [ones(), ones(2)]
    optimizer = fo.SGD(p for p in params)
    optimizer.step((ones(), ones(2)))
    assert params[0][0] == params[1][0] == 1 - 1e-3


@pytest.mark.parametrize(
    ("params", "grads", "error", "message"),
    [
        (
            [ones()],
            [ones(), ones()],
            ValueError,
            "grads: expected 1 arrays as params has (None to skip one), found 2",
        ),
        ([ones(), ones()], [ones()], ValueError, "grads: expected 2 arrays"),
        ([ones()], ones(), TypeError, "grads: expected a sequence as params is, found ndarray"),
        ([ones()], {"w": ones()}, TypeError, "grads: expected a sequence as params is, found dict"),
        ([ones()], None, TypeError, "grads: expected a sequence as params is, found NoneType"),
        ({"w": ones()}, [ones()], TypeError, "grads: expected a mapping as params is, found list"),
        ({"w": ones()}, {}, ValueError, "found a mapping without 'w'"),
        ({"w": ones()}, {"w": ones(), "b": 1}, ValueError, "with the unknown name 'b'"),
        (ones(), [ones()], TypeError, "grads: expected a NumPy array, found list"),
        (
            [{"params": ones()}, {"params": ones()}],
            [ones()],
            ValueError,
            "grads: expected a sequence of 2 containers, one for each param group, found 1",
        ),
        (
            [{"params": ones()}, {"params": [ones()]}],
            [ones(), [ones(2)]],
            ValueError,
            "grads[1][0]: expected shape (3,) as params[1][0] has, found (2,)",
        ),
    ],
)
def test_grads_in_the_wrong_container(params, grads, error, message):
    optimizer = fo.Adam(params)
    before = snapshot(optimizer)
    with pytest.raises(error) as caught:
        optimizer.step(grads)
    assert message in str(caught.value)
    assert snapshot(optimizer) == before


def test_none_skips_a_parameter_and_its_step_count():
    """A parameter that sits out three steps then takes its own first step, as torch has it."""
    late, alone = ones(), ones()
    optimizer = fo.Adam([ones(2), late], lr=0.1)
    for _ in range(3):
        optimizer.step([ones(2), None])
    assert np.array_equal(late, ONES)
    optimizer.step([ones(2), ones()])
    fo.Adam(alone, lr=0.1).step(ones())
    assert np.array_equal(late, alone)


def test_groups_have_their_own_hyperparameters():
    p, q = ones(), ones()
    optimizer = fo.SGD([{"params": p, "lr": 0.5}, {"params": {"w": q}}], lr=0.1)
    optimizer.step([ones(), {"w": ones()}])
    assert (p[0], q[0]) == (0.5, 0.9)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.1]
    assert list(optimizer.state) == [0, "w"]
    with pytest.raises(AttributeError, match="lr: the param groups differ"):
        _ = optimizer.lr
    optimizer.lr = 0.25
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


def test_add_param_group_keeps_state_and_steps():
    p, q, alone = ones(), ones(), ones()
    optimizer, single = fo.Adam([p], lr=0.1), fo.Adam(alone, lr=0.1)
    for _ in range(2):
        optimizer.step([ones()])
        single.step(ones())
    optimizer.add_param_group({"params": [q], "lr": 0.2})
    optimizer.step([[ones()], [ones()]])
    single.step(ones())
    assert np.array_equal(p, alone)
    assert q[0] == pytest.approx(0.8)
    before = snapshot(optimizer)
    for group in (
        {"params": [q]},
        {"params": [ones()], "lr": -1},
        {"lr": 1},
        [ones()],
        {"params": []},
    ):
        with pytest.raises((TypeError, ValueError), match=r"params\[|lr: "):
            optimizer.add_param_group(group)
        assert snapshot(optimizer) == before


def test_names_must_differ_over_groups():
    with pytest.raises(
        ValueError, match="params: expected names unique over all groups, found 'w' twice"
    ):
        fo.SGD([{"params": {"w": ones()}}, {"params": {"w": ones()}}])


# What each alone must be, tests/test_bad_input.py asks.
REFUSED_HYPERPARAMETERS = [
    (fo.Rprop, {"etas": (0.5, 0.9)}, ValueError, "etas: expected two numbers, 0 < first < 1 <"),
    (fo.Rprop, {"step_sizes": (2.0, 1.0)}, ValueError, "step_sizes: expected two numbers, low <="),
]


@pytest.mark.parametrize(
    ("cls", "kwargs", "error", "message"), REFUSED_HYPERPARAMETERS, ids=name_of
)
def test_hyperparameters_that_are_refused(cls, kwargs, error, message):
    with pytest.raises(error) as caught:
        cls(ones(), **kwargs)
    assert message in str(caught.value)
    (name, value), *_ = kwargs.items()
    with pytest.raises(error) as caught:
        cls([{"params": ones(), name: value}])
    assert message in str(caught.value)
    optimizer = cls(ones())
    before = snapshot(optimizer)
    for change in (
        lambda: setattr(optimizer, name, value),
        lambda: optimizer.param_groups[0].__setitem__(name, value),
        lambda: optimizer.param_groups[0].update({name: value}),
    ):
        with pytest.raises(error) as caught:
            change()
        assert message in str(caught.value)
        assert snapshot(optimizer) == before


def test_nesterov_needs_momentum_from_the_start_and_no_dampening():
    with pytest.raises(ValueError, match=r"^nesterov: expected momentum > 0 .*, found momentum=0"):
        fo.SGD(ones(), nesterov=True)
    with pytest.raises(ValueError, match=r"^nesterov: expected dampening = 0 .* dampening=0.5"):
        fo.SGD(ones(), momentum=0.9, nesterov=True, dampening=0.5)
    optimizer = fo.SGD(ones(), momentum=0.9, nesterov=True)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=r"^nesterov: expected dampening = 0 .* dampening=0.5"):
        optimizer.dampening = 0.5
    assert snapshot(optimizer) == before
    optimizer.momentum = 0
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step(ones())


def test_hyperparameters_are_attributes():
    p = ones()
    optimizer = fo.Adam(p, lr=np.float32(0.5), betas=[0.5, np.float64(0.75)])
    assert (optimizer.lr, optimizer.betas) == (0.5, (0.5, 0.75))
    assert type(optimizer.lr) is float
    optimizer.lr = 0
    optimizer.step(ones())
    assert np.array_equal(p, ONES)
    optimizer.lr = 0.1
    optimizer.step(ones())
    assert p[0] == pytest.approx(0.9)
    with pytest.raises(
        AttributeError, match="learning_rate: expected one of the hyperparameters of Adam"
    ):
        optimizer.learning_rate = 0.1
    with pytest.raises(AttributeError, match="no attribute 'momentum'"):
        _ = optimizer.momentum


def test_a_group_is_a_mapping():
    group = fo.SGD(ones(), lr=0.5).param_groups[0]
    assert dict(group) == {**group.hyper, "params": group["params"]}
    assert len(group) == len(dict(group))
    with pytest.raises(TypeError, match="params: a group's arrays stay"):
        group["params"] = [ones()]
    with pytest.raises(TypeError, match="lr: a hyperparameter can be changed, not deleted"):
        del group["lr"]
    with pytest.raises(TypeError, match="decay: sgd has no such argument; it has lr, momentum"):
        group["decay"] = 1
    assert "lr=0.5" in repr(group)


def test_repr_tells_the_class_and_the_hyperparameters():
    assert repr(fo.SGD([ones(), ones()], lr=0.5)).startswith("SGD(lr=0.5, momentum=0.0")
    assert "2 arrays, 6 elements" in repr(fo.SGD([ones(), ones()]))


def test_state_that_a_hyperparameter_calls_for_later():
    """Momentum switched on, off and on again: fresh, resting, resumed."""
    ours, reference = (fo.SGD(ones(), lr=0.1, backend=b) for b in ("compiled", "reference"))
    for momentum, held in ((0.0, False), (0.9, True), (0.0, True), (0.9, True)):
        for optimizer in (ours, reference):
            optimizer.momentum = momentum
            velocity = optimizer.state[0].get("v", ONES).copy()
            optimizer.step(ones())
            assert ("v" in optimizer.state[0]) == held
            if momentum == 0 and held:
                assert np.array_equal(optimizer.state[0]["v"], velocity)
    assert_same(ours, reference)
    assert ours._plan.steps == [4]


@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_state_called_for_later_exists_once_a_step_is_taken(backend):
    optimizer = fo.SGD([ones()], nonfinite="skip", backend=backend)
    optimizer.momentum = 0.9
    with pytest.raises(ValueError, match=r"grads\[0\]: expected shape"):
        optimizer.step([ones(4)])
    optimizer.step([np.full(3, np.nan)])
    assert optimizer.skipped_steps == 1
    assert dict(optimizer.state[0]) == {}
    optimizer.step([ones()])
    assert optimizer.state[0]["v"].tolist() == [1.0] * 3
    assert optimizer._plan.steps == [1]


def test_the_base_class_has_no_rule():
    with pytest.raises(TypeError, match="Optimizer: expected one of its subclasses, found"):
        fo.Optimizer([ones()])


def test_backend_from_the_environment(monkeypatch):
    monkeypatch.setenv("FASTOPTIM_BACKEND", "reference")
    assert fo.Adam(ones()).backend == "reference"
    assert fo.Adam(ones(), backend="compiled").backend == "compiled"
    monkeypatch.setenv("FASTOPTIM_BACKEND", "numpy")
    with pytest.raises(ValueError, match="FASTOPTIM_BACKEND: expected 'compiled' or 'reference'"):
        fo.Adam(ones())


def test_state_without_a_start_of_its_own_is_zero():
    optimizer = fo.Adagrad(
        [{"params": ones(), "initial_accumulator_value": 0.5}, {"params": ones(2)}]
    )
    assert [s["h"].tolist() for s in optimizer.state.values()] == [[0.5] * 3, [0.0] * 2]


class TestStateDict:
    @pytest.mark.parametrize("backend", ["compiled", "reference"])
    @pytest.mark.parametrize(("cls", "chosen"), CASES, ids=CASE_IDS)
    def test_resumed_run_has_the_same_bits(self, cls, chosen, backend):
        rng = np.random.default_rng(23)
        params = {
            f"{dtype.__name__} {order}": np.array(rng.standard_normal((5, 7)), dtype, order=order)
            for dtype in DTYPES
            for order in "CF"
        }
        grads = [
            dict(zip(params, gradients(rng, list(params.values())), strict=True)) for _ in range(8)
        ]
        grads[2]["float32 C"] = None
        whole = cls(copy.deepcopy(params), backend=backend, **chosen)
        first = cls(copy.deepcopy(params), backend=backend, **chosen)
        for g in grads[:4]:
            whole.step(g)
            first.step(g)
        saved = first.state_dict()
        now = dict(zip(params, first.param_groups[0]["params"], strict=True))
        second = cls(copy.deepcopy(now), lr=0.7, backend=backend)
        second.load_state_dict(saved)
        for g in grads[4:]:
            whole.step(g)
            second.step(g)
        assert_same(second, whole)

    def test_is_a_copy_of_arrays_and_plain_values(self):
        optimizer = fo.Adam({"w": ones()}, amsgrad=True)
        optimizer.step({"w": ones()})
        saved = optimizer.state_dict()
        assert saved["state"]["w"]["step"] == 1
        assert saved["param_groups"][0]["params"] == ["w"]
        kept = copy.deepcopy(saved)
        optimizer.step({"w": ones()})
        for name in ("m", "v", "v_max"):
            assert np.array_equal(saved["state"]["w"][name], kept["state"]["w"][name])
        optimizer.load_state_dict(saved)
        optimizer.state["w"]["m"][:] = 7
        assert np.array_equal(saved["state"]["w"]["m"], kept["state"]["w"]["m"])

    @pytest.mark.parametrize("cls", OPTIMIZERS, ids=name_of)
    def test_loading_checks_everything_before_it_changes_anything(self, cls):
        def trained():
            optimizer = cls([{"params": [ones(), ones(2)]}, {"params": {"w": ones(4)}}])
            optimizer.step([[ones(), ones(2)], {"w": ones(4)}])
            return optimizer

        optimizer = trained()
        saved = optimizer.state_dict()
        state_names = [name for name in saved["state"]["w"] if name != "step"]
        breaks = [
            (lambda d: d.pop("optimizer"), "expected the key 'optimizer'"),
            (lambda d: d.update(optimizer="Adam2"), "state_dict['optimizer']: expected"),
            (lambda d: d.update(format=99), "state_dict['format']: expected 1, found 99"),
            (lambda d: d.pop("state"), "state_dict: expected the key 'state'"),
            (lambda d: d.update(state=[]), "state_dict['state']: expected a mapping, found list"),
            (lambda d: d.update(param_groups=2), "expected a sequence, found int"),
            (lambda d: d.update(param_groups=[1, 2]), "expected a mapping, found int"),
            (lambda d: d["state"].update(w=3), "state_dict['state']['w']: expected a mapping"),
            (lambda d: d["state"].pop("w"), "state_dict['state']: keys"),
            (lambda d: d["state"].update(x={}), "state_dict['state']: keys"),
            (lambda d: d["state"]["w"].pop("step"), "expected the key 'step'"),
            (lambda d: d["state"]["w"].update(step=2**62), "whole number >= 0 and < 2**62, found"),
            (
                lambda d: d["state"]["w"].update(step=-1),
                "expected a whole number >= 0 and < 2**62, found -1",
            ),
            (
                lambda d: d["state"]["w"].update(step=1.5),
                "expected a whole number >= 0 and < 2**62, found 1.5",
            ),
            (lambda d: d["state"]["w"].update(q=ones(4)), "found 'q'"),
            (lambda d: d["param_groups"].pop(), "expected 2, found 1"),
            (lambda d: d["param_groups"][0].pop("lr"), "hyperparameters: expected"),
            (lambda d: d["param_groups"][1].update(lr=-1.0), "lr: expected a finite number >= 0"),
            (lambda d: d["param_groups"][1].update(extra=1), "hyperparameters: expected"),
            (lambda d: d["param_groups"][0].update(params=[1, 0]), "expected [0, 1], found [1, 0]"),
        ]
        for name in state_names:
            breaks += [
                (lambda d, n=name: d["state"]["w"].pop(n), f"expected the key '{name}'"),
                (lambda d, n=name: d["state"]["w"].update({n: ones(5)}), "shape: expected (4,)"),
                (
                    lambda d, n=name: d["state"]["w"].update({n: np.ones(4, "f4")}),
                    "dtype: expected",
                ),
                (
                    lambda d, n=name: d["state"]["w"].update({n: [1.0] * 4}),
                    "expected a NumPy array",
                ),
            ]
        before = snapshot(optimizer)
        for break_it, message in breaks:
            broken = copy.deepcopy(saved)
            break_it(broken)
            with pytest.raises((TypeError, ValueError)) as caught:
                optimizer.load_state_dict(broken)
            assert message in str(caught.value)
            assert snapshot(optimizer) == before
        optimizer.load_state_dict(saved)
        assert snapshot(optimizer) == before

    @pytest.mark.parametrize("wrong", [None, [], 1, "state"])
    def test_loading_something_else(self, wrong):
        with pytest.raises(TypeError, match="state_dict: expected a mapping"):
            fo.Adam(ones()).load_state_dict(wrong)


def pickled(value):
    return pickle.loads(pickle.dumps(value))


class Trainer:
    """Its optimizer refers to it, and both to the same parameters."""

    def __init__(self, params):
        self.base = 0.5
        self.params = params
        self.optimizer = fo.SGD(params, lr=self.lr, momentum=0.5)

    def lr(self, t):
        return self.base / (1 + t)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled], ids=["deepcopy", "pickle"])
class TestCopies:
    @pytest.mark.parametrize("backend", ["compiled", "reference"])
    @pytest.mark.parametrize(("cls", "chosen"), CASES, ids=CASE_IDS)
    def test_has_the_same_bits_and_shares_nothing(self, cls, chosen, backend, duplicate):
        rng = np.random.default_rng(29)
        layouts = [(0, 1, 2), (2, 1, 0)]
        if duplicate is copy.deepcopy or not cls.rule.trust:
            layouts.append((1, 0, 2))  # pickled in C order: norms may round otherwise
        params = [
            np.array(rng.standard_normal((3, 4, 5)).transpose(axes), dtype, order="K")
            for dtype in DTYPES
            for axes in layouts
        ]
        grads = [gradients(rng, params) for _ in range(6)]
        grads[1][0] = None
        mask = [rng.random(p.shape) < 0.7 for p in params[:-1]] + [None]
        optimizer = cls(params, backend=backend, ema_decay=0.9, mask=mask, **chosen)
        for g in grads[:3]:
            optimizer.step(g)
        before = snapshot(optimizer)
        twin = duplicate(optimizer)
        assert type(twin) is cls
        assert twin.backend == backend
        assert_same(twin, optimizer)
        for g in grads[3:]:
            twin.step(g)
        for (name, a), (_, b) in zip(arrays_of(twin), arrays_of(optimizer), strict=True):
            assert not np.shares_memory(a, b), name
        assert snapshot(optimizer) == before
        for g in grads[3:]:
            optimizer.step(g)
        assert_same(twin, optimizer)

    def test_carries_all_that_an_optimizer_is(self, duplicate):
        schedule = fo.schedules.Linear(0.5, total_iters=4)
        optimizer = fo.Adam(
            [{"params": {"w": ones()}, "lr": schedule}, {"params": ones(2), "bounds": (0, 9)}],
            betas=(0.5, 0.75),
            max_grad_norm=2.0,
            nonfinite="skip",
            backend="reference",
        )
        optimizer.step([{"w": ones()}, np.full(2, np.nan)])
        optimizer.step([{"w": ones()}, ones(2)])
        twin = duplicate(optimizer)
        assert repr(twin) == repr(optimizer)
        assert snapshot(twin) == snapshot(optimizer)
        assert (twin.skipped_steps, twin.grad_norm) == (1, optimizer.grad_norm)
        assert twin.backend == "reference"
        for each in (twin, optimizer):
            each.add_param_group({"params": ones(4)})
            each.nonfinite = "raise"
            each.param_groups[1]["lr"] = 0.25
            each.step([{"w": ones()}, ones(2), ones(4)])
        assert twin.param_groups[2]["betas"] == (0.5, 0.75)
        assert twin.param_groups[0]["lr"] == schedule
        assert_same(twin, optimizer)
        optimizer.nonfinite = "ignore"
        optimizer.betas = (0.25, 0.25)
        assert (twin.nonfinite, twin.betas) == ("raise", (0.5, 0.75))

    def test_arrays_copied_beside_it_stay_its_parameters(self, duplicate):
        params = {"w": ones(), "b": ones(2)}
        twins, optimizer = duplicate((params, fo.Adam(params, lr=0.5)))
        assert optimizer.param_groups[0]["params"][0] is twins["w"]
        optimizer.step({"w": ones(), "b": ones(2)})
        assert np.allclose(twins["w"], 0.5)
        assert np.array_equal(params["w"], ONES)

    def test_its_groups_and_schedulers_stay_its_own(self, duplicate):
        optimizer = fo.SGD([{"params": ones()}, {"params": ones()}], lr=1.0)
        group, plateau = optimizer.param_groups[1], fo.schedules.ReduceLROnPlateau(optimizer)
        twin, its_group, its_plateau = duplicate((optimizer, group, plateau))
        assert its_group is twin.param_groups[1]
        assert its_plateau.optimizer is twin
        its_group["lr"] = 0.5
        assert [g["lr"] for g in twin.param_groups] == [1.0, 0.5]
        assert group["lr"] == 1.0

    def test_in_an_object_that_its_schedule_refers_to(self, duplicate):
        trainer = Trainer(ones())
        trainer.optimizer.step(ones())
        twin = duplicate(trainer)
        for each in (trainer, twin):
            each.optimizer.step(ones())
        assert np.array_equal(twin.params, trainer.params)
        twin.base = 0.0
        assert (twin.optimizer.lr(0), trainer.optimizer.lr(0)) == (0.0, 0.5)

    def test_state_that_a_hyperparameter_has_called_for_since(self, duplicate):
        optimizer = fo.SGD(ones(), lr=0.1)
        optimizer.step(ones())
        optimizer.momentum = 0.5
        twin = duplicate(optimizer)
        for each in (twin, optimizer, twin, optimizer):
            each.step(ones())
        assert_same(twin, optimizer)

    def test_inside_of_use_ema(self, duplicate):
        optimizer = fo.SGD(ones(), ema_decay=0.5)
        with optimizer.use_ema(), pytest.raises(RuntimeError, match="copy or pickle: the param"):
            duplicate(optimizer)
        duplicate(optimizer)


class TestMoreOfCopies:
    def test_a_shallow_copy_is_refused(self):
        with pytest.raises(TypeError, match=r"copy.copy: expected copy.deepcopy for Adam"):
            copy.copy(fo.Adam(ones()))

    def test_a_rule_is_what_it_was(self):
        assert pickled(fo.reference.momentum) is fo.reference.momentum
        assert copy.deepcopy(fo.reference.sgd) is fo.reference.sgd

    def test_a_schedule_that_does_not_pickle(self):
        p = ones()
        optimizer = fo.SGD(p, lr=lambda t: 0.5)
        with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
            pickle.dumps(optimizer)
        optimizer.step(ones())
        copy.deepcopy(optimizer).step(ones())
        assert np.array_equal(p, ONES / 2)

    def test_memory_that_can_only_be_read(self):
        """As joblib, Dask and Ray hand large arrays to their workers."""
        optimizer = fo.Adam([ones(), ones(2)], mask=[ONES > 0, None], ema_decay=0.5)
        optimizer.step([ones(), ones(2)])
        buffers = []
        data = pickle.dumps(optimizer, protocol=5, buffer_callback=buffers.append)
        assert buffers
        twin = pickle.loads(data, buffers=[bytes(buffer) for buffer in buffers])
        assert not twin.param_groups[0]["params"][0].flags.writeable
        blocks = {id(m.base) for m in (arrays["m"] for arrays in twin.state.values())}
        assert len(blocks) == 1  # it is allocated as ever
        assert_same(twin, optimizer)
        before = snapshot(twin)
        with pytest.raises(ValueError, match=r"params\[0\]: expected a writable array"):
            twin.step([ones(), ones(2)])
        assert snapshot(twin) == before
        further = pickled(copy.deepcopy(twin))
        for each in (further, optimizer):
            each.step([ones(), ones(2)])
        assert_same(further, optimizer)
