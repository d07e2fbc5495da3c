"""Containers, groups, hyperparameters, state, its dictionary, copies and pickles."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import math
import pickle
import warnings

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
    same_bits,
    snapshot,
)

import fastoptim as fo
from fastoptim._optimizer import Options
from fastoptim._settings import SETTINGS

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


class CountedName(str):
    """A name that counts how often any is compared."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other):
        CountedName.compared += 1
        return str(self) == str(other)


def test_an_unknown_name_among_many_is_found_in_one_pass():
    names = [CountedName(i) for i in range(1_000)]
    optimizer = fo.SGD({name: ones(1) for name in names})
    CountedName.compared = 0
    grads = dict.fromkeys([*map(CountedName, range(1_000)), CountedName("x" * 1_000)])
    with pytest.raises(ValueError, match="with the unknown name 'x") as caught:
        optimizer.step(grads)
    assert 0 < CountedName.compared < 20_000
    assert len(str(caught.value)) < 500


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
    with pytest.raises(AttributeError, match="learning_rate: Adam has no such hyperparameter"):
        optimizer.learning_rate = 0.1
    with pytest.raises(AttributeError, match="no attribute 'momentum'"):
        _ = optimizer.momentum


def test_a_group_is_a_mapping():
    group = fo.SGD(ones(), lr=0.5).param_groups[0]
    assert dict(group) == {**group.hyper, "params": group["params"], "mask": None}
    assert len(group) == len(dict(group))
    with pytest.raises(TypeError, match="params: a group's arrays stay"):
        group["params"] = [ones()]
    with pytest.raises(TypeError, match="lr: a hyperparameter can be changed, not deleted"):
        del group["lr"]
    with pytest.raises(TypeError, match=r"^decay: SGD has no such argument.*; it has lr, mom"):
        group["decay"] = 1
    assert "lr=0.5" in repr(group)


def fixed_rate(t):
    return 0.1


class TestRepr:
    """What differs from the defaults, and how much there is; never what is as everywhere."""

    @pytest.fixture(autouse=True)
    def compiled(self, monkeypatch):
        monkeypatch.delenv("FASTOPTIM_BACKEND", raising=False)

    def test_defaults(self):
        assert repr(fo.SGD([ones(), ones()])) == "SGD(2 arrays, 6 elements)"
        assert repr(fo.AdamW(np.ones(()))) == "AdamW(1 array, 1 element)"

    def test_hyperparameters_and_schedules(self):
        opt = fo.Adam(np.ones(2000), lr=0.5, betas=[0.5, 0.999], amsgrad=True)
        assert (
            repr(opt) == "Adam(lr=0.5, betas=(0.5, 0.999), amsgrad=True; 1 array, 2,000 elements)"
        )
        opt = fo.SGD(ones(), lr=fo.schedules.Constant(0.001, factor=1.0))
        assert repr(opt).startswith("SGD(lr=Constant(base=0.001, factor=1.0, total_iters=5); ")
        assert f"lr={fixed_rate!r}" in repr(fo.SGD(ones(), lr=fixed_rate))

    def test_what_concerns_all_gradients(self):
        opt = fo.SGD(ones(), max_grad_norm=1.0, nonfinite="skip", backend="reference")
        expected = "max_grad_norm=1.0, nonfinite='skip', backend='reference'"
        assert repr(opt) == f"SGD({expected}; 1 array, 3 elements)"
        opt.max_grad_norm = None
        opt.flush_denormals = True
        expected = "nonfinite='skip', flush_denormals=True, backend='reference'"
        assert repr(opt) == f"SGD({expected}; 1 array, 3 elements)"

    def test_mask(self):
        opt = fo.SGD([ones(), ones()], mask=[None, ones() > 0])
        assert repr(opt) == "SGD(2 arrays (1 masked), 6 elements)"

    def test_groups(self):
        opt = fo.SGD([{"params": ones(), "lr": 0.5}, {"params": [ones()]}], max_grad_norm=1.0)
        assert repr(opt) == (
            "SGD(max_grad_norm=1.0; 2 groups:\n"
            "  ParamGroup(lr=0.5; 1 array, 3 elements)\n"
            "  ParamGroup(1 array, 3 elements)\n"
            ")"
        )
        assert repr(opt.param_groups[0]) == "ParamGroup(lr=0.5; 1 array, 3 elements)"


def test_steps_are_counted_for_each_parameter(tmp_path):
    opt = fo.Adam({"w": ones(), "b": ones()}, nonfinite="skip")
    assert opt.steps == {"w": 0, "b": 0}
    opt.step({"w": ones(), "b": ones()})
    opt.step({"w": ones(), "b": None})
    assert opt.steps == {"w": 2, "b": 1}
    opt.step({"w": ones() * np.nan, "b": ones()})
    assert (opt.steps, opt.skipped_steps) == ({"w": 2, "b": 1}, 1)
    with pytest.raises(TypeError, match="does not support item assignment"):
        opt.steps["w"] = 3
    with pytest.raises(AttributeError, match="steps"):
        opt.steps = {}
    saved = opt.state_dict()
    assert {key: entry["step"] for key, entry in saved["state"].items()} == opt.steps
    assert list(opt.steps) == list(opt.state)
    other = fo.Adam({"w": ones(), "b": ones()})
    other.load_state_dict(saved)
    twins = [other, copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))]
    if importlib.util.find_spec("safetensors"):
        opt.save(tmp_path / "run")
        twins.append(fo.Adam({"w": ones(), "b": ones()}))
        twins[-1].load(tmp_path / "run")
    for twin in twins:
        assert twin.steps == {"w": 2, "b": 1}
    opt.add_param_group({"params": ones()})
    assert opt.steps == {"w": 2, "b": 1, 2: 0}


class Logged(fo.Adam):
    """A class of a program's own, with attributes of its own, before and after ours are there."""

    def __init__(self, params, **options):
        self.name = "a run"
        super().__init__(params, **options)
        self.history = []
        self.first = self.param_groups[0]["params"][0]

    def step(self, grads, **options):
        super().step(grads, **options)
        self.history.append(max(self.steps.values()))


class TestAttributes:
    def test_a_misspelt_hyperparameter_is_refused(self):
        for cls in OPTIMIZERS:
            opt = cls(ones())
            with pytest.raises(AttributeError) as caught:
                opt.lrr = 1
            start = (
                f"lrr: {cls.__name__} has no such hyperparameter (did you mean lr?); it has lr, "
            )
            assert str(caught.value).startswith(start)
            for name in (*cls.rule.kinds, *SETTINGS):
                assert name in str(caught.value)
            assert not hasattr(opt, "lrr")

    def test_those_of_a_subclass_are_its_own(self):
        opt = Logged([ones()], lr=0.5)
        opt.step([ones()])
        opt.lrr = 1
        opt.lr = 0.25
        with pytest.raises(ValueError, match="lr: expected"):
            opt.lr = -1
        for twin in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
            twin.step([ones()])
            assert (twin.history, opt.history) == ([1, 2], [1])
            assert (twin.name, twin.lrr, twin.lr) == ("a run", 1, 0.25)
            assert twin.first is twin.param_groups[0]["params"][0]
            assert twin.first is not opt.first

    def test_a_subclass_may_override_a_hyperparameter(self):
        class Rounded(fo.Adam):
            @property
            def lr(self):
                return round(self.param_groups[0]["lr"], 2)

        assert Rounded(ones(), lr=0.123).lr == 0.12


@pytest.mark.parametrize("cls", OPTIMIZERS, ids=name_of)
def test_an_unknown_argument_is_told_all_there_are(cls):
    with pytest.raises(TypeError) as caught:
        cls(ones(), max_grad_norms=1.0)
    message = str(caught.value)
    hint = "(did you mean max_grad_norm?)"
    start = f"max_grad_norms: {cls.__name__} has no such argument {hint}; it has "
    assert message.startswith(start)
    known = message.removeprefix(start).split(", ")
    assert known == [*cls.rule.kinds, *SETTINGS, "mask", "backend", "state_path"]
    for name in known:
        assert name in inspect.signature(cls).parameters or name in Options.__annotations__


def test_what_concerns_all_gradients_is_no_groups_own():
    message = "max_grad_norm: expected it for the optimizer as a whole, found it in a group"
    with pytest.raises(TypeError, match=message):
        fo.Adam([{"params": ones(), "max_grad_norm": 1.0}])
    opt = fo.Adam(ones())
    with pytest.raises(TypeError, match=message):
        opt.param_groups[0]["max_grad_norm"] = 1.0


def test_an_unknown_argument_that_resembles_none():
    with pytest.raises(TypeError, match="learning_rate: Adam has no such argument; it has lr, bet"):
        fo.Adam(ones(), learning_rate=0.1)
    with pytest.raises(TypeError, match=r"lrr: Adam has no such argument \(did you mean lr\?\)"):
        fo.Adam([{"params": ones(), "lrr": 0.1}])


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
def test_state_called_for_later_is_shown_as_a_step_will_find_it(backend):
    optimizer = fo.SGD([ones()], nonfinite="skip", backend=backend)
    optimizer.momentum = 0.9
    with pytest.raises(ValueError, match=r"grads\[0\]: expected shape"):
        optimizer.step([ones(4)])
    optimizer.step([np.full(3, np.nan)])
    assert optimizer.skipped_steps == 1
    assert optimizer.state[0]["v"].tolist() == [0.0] * 3
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
        state_names = cls.rule.state_for(cls.rule.defaults)
        breaks = [
            (lambda d: d.pop("optimizer"), "expected the key 'optimizer'"),
            (lambda d: d.update(optimizer="Adam2"), "state_dict['optimizer']: expected"),
            (lambda d: d.update(format=99), "state_dict['format']: expected 1, found 99"),
            (lambda d: d.pop("state"), "state_dict: expected the key 'state'"),
            (lambda d: d.update(state=[]), "state_dict['state']: expected a mapping, found list"),
            (lambda d: d.update(param_groups=2), "expected a sequence, found int"),
            (lambda d: d.update(param_groups=[1, 2]), "expected a mapping, found int"),
            (lambda d: d["state"].update(w=3), "state_dict['state']['w']: expected a mapping"),
            (lambda d: d["state"].pop("w"), "found a mapping without 'w'"),
            (lambda d: d["state"].update(x={}), "found a mapping with the unknown name 'x'"),
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
            (
                lambda d: d["param_groups"].pop(),
                "state_dict['param_groups']: expected groups of [[0, 1], ['w']], found [[0, 1]]",
            ),
            (lambda d: d["param_groups"][0].pop("lr"), "found a mapping without 'lr'"),
            (lambda d: d["param_groups"][1].update(lr=-1.0), "lr: expected a finite number >"),
            (lambda d: d["param_groups"][1].update(extra=1), "with the unknown name 'extra'"),
            (lambda d: d["param_groups"][0].update(params=[1, 1]), "found [[1, 1], ['w']]"),
            (lambda d: d["param_groups"][0].update(params="w"), "found ['w', ['w']]"),
            (lambda d: d["param_groups"].append(d["param_groups"][0]), "['w'], [0, 1]]"),
        ]
        for name in cls.rule.numbers:
            breaks += [
                (lambda d, n=name: d["state"]["w"].pop(n), f"expected the key '{name}'"),
                (lambda d, n=name: d["state"]["w"].update({n: math.inf}), "a finite number"),
                (lambda d, n=name: d["state"]["w"].update({n: ones(4)}), "a finite number"),
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

    def test_names_and_groups_in_another_order(self):
        """As `load` takes them: groups by their names, and these in any order, also as a tuple."""

        def trained(groups):
            params = {"a": ones(1), "b": ones(2), ("c", 1): ones(3)}
            opt = fo.Adam(
                [{"params": {n: params[n] for n in names}, "lr": lr} for names, lr in groups],
                ema_decay=0.5,
            )
            opt.step([{n: ones(len(params[n])) for n in names} for names, _ in groups])
            return opt

        first = trained([(["a", "b"], 0.1), ([("c", 1)], 0.2)])
        first.step([{"a": ones(1), "b": None}, {("c", 1): None}])
        second = trained([([("c", 1)], 0.3), (["b", "a"], 0.4)])
        saved = first.state_dict()
        saved["param_groups"][0]["params"] = tuple(saved["param_groups"][0]["params"])
        saved["state"] = {
            key: dict(reversed(arrays.items())) for key, arrays in reversed(saved["state"].items())
        }
        second.load_state_dict(saved)
        assert list(second.state) == [("c", 1), "b", "a"]
        assert [group["lr"] for group in second.param_groups] == [0.2, 0.1]
        assert second._plan.steps == [1, 1, 2]
        for key, arrays in second.state.items():
            assert list(arrays) == list(first.state[key])
            for name, array in arrays.items():
                assert same_bits(array, first.state[key][name])
        first.load_state_dict(second.state_dict())
        assert first.state_dict()["param_groups"][0]["params"] == ["a", "b"]

    def test_lists_go_by_numbers_in_any_order(self):
        opt = fo.SGD([ones(1), ones(2)], momentum=0.9)
        opt.step([ones(1), None])
        saved = opt.state_dict()
        saved["param_groups"][0]["params"] = [1, 0]
        saved["state"] = {key: saved["state"][key] for key in (1, 0)}
        opt.load_state_dict(saved)
        assert list(opt.state) == [0, 1]
        assert opt._plan.steps == [1, 0]

    def test_messages_about_many_names_are_short(self):
        opt = fo.SGD({f"name {i}": ones(1) for i in range(5_000)}, momentum=0.9)
        saved = opt.state_dict()
        state, (group,) = saved["state"], saved["param_groups"]
        breaks = [
            {"param_groups": [{**group, "params": group["params"][1:]}]},
            {"param_groups": [group] * 5_000},
            {"param_groups": [{**group, **dict.fromkeys(state)}]},
            {"param_groups": [dict.fromkeys(state)]},
            {"param_groups": [{**group, "n" * 5_000: 1}]},
            {"settings": dict.fromkeys(state)},
            {"state": {**state, "n" * 5_000: 1}},
            {"state": {**state, "name 1": dict.fromkeys(state)}},
            {"state": {**state, "name 1": {**state["name 1"], "n" * 5_000: 1}}},
            {"format": 10**4_000},
            {"optimizer": "n" * 5_000},
        ]
        for broken in breaks:
            with pytest.raises((TypeError, ValueError)) as caught:
                opt.load_state_dict({**saved, **broken})
            assert len(str(caught.value)) < 2_000

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
        if duplicate is copy.deepcopy or not cls.rule.initial.measured:
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


def saved_by_every_way(optimizer, tmp_path):
    """Yield optimizers that have been given what this one describes of itself."""
    params = [p.copy() for p in optimizer.param_groups[0]["params"]]
    for way in ("state_dict", "itself", "file", "deepcopy"):
        other = type(optimizer)(params)
        if way == "state_dict":
            other.load_state_dict(optimizer.state_dict())
        elif way == "itself":
            other = copy.deepcopy(optimizer)
            other.load_state_dict(other.state_dict())
        elif way == "file":
            pytest.importorskip("safetensors", reason="safetensors is not installed")
            optimizer.save(tmp_path / "saved")
            other.load(tmp_path / "saved")
        else:
            other = copy.deepcopy(optimizer)
        yield way, other


@pytest.mark.parametrize(
    ("cls", "name", "value", "state"),
    [
        (fo.Adam, "ema_decay", 0.9, "ema"),
        (fo.Adam, "amsgrad", True, "v_max"),
        (fo.SGD, "momentum", 0.9, "v"),
        (fo.RMSprop, "momentum", 0.9, "b"),
        (fo.RMSprop, "centered", True, "g_avg"),
    ],
)
@pytest.mark.parametrize("steps", [0, 2])
def test_what_is_switched_on_is_saved_before_the_next_step(
    tmp_path, cls, name, value, state, steps
):
    """A later step goes on from this state, so it is what is shown, described and saved."""
    optimizer = cls([np.arange(3.0)])
    for _ in range(steps):
        optimizer.step([np.ones(3)])
    setattr(optimizer, name, value)
    for _, other in saved_by_every_way(optimizer, tmp_path):
        assert state in other.state[0]
        assert_same(other, optimizer)
        assert getattr(other, name) == value
    twin = copy.deepcopy(optimizer)
    for o in (optimizer, twin):
        o.step([np.full(3, 0.5)])
    assert_same(twin, optimizer)


def test_average_that_is_switched_on_is_there_at_once():
    p = np.ones(2)
    optimizer = fo.SGD(p, lr=1.0)
    optimizer.step(np.ones(2))
    optimizer.ema_decay = 0.5
    assert optimizer.ema.tolist() == [0.0, 0.0]
    with optimizer.use_ema():
        assert p.tolist() == [0.0, 0.0]
    optimizer.step(-np.ones(2))
    assert optimizer.ema.tolist() == [0.5, 0.5]


def test_state_that_starts_from_a_hyperparameter_starts_from_its_first_value():
    """A schedule's value before the first step, not the one that comes after it."""
    rates = [0.25, 4.0, 16.0]
    for backend in ("compiled", "reference"):
        rprop = fo.Rprop(np.ones(2), lr=lambda t: rates[t], backend=backend)
        assert rprop.state[0]["step_size"].tolist() == [0.25, 0.25]
        adagrad = fo.Adagrad(
            np.ones(2), initial_accumulator_value=lambda t: rates[t], backend=backend
        )
        assert adagrad.state[0]["h"].tolist() == [0.25, 0.25]
        adagrad.step(np.ones(2))
        assert adagrad.state[0]["h"].tolist() == [1.25, 1.25]


def test_state_whose_start_float32_cannot_hold_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = fo.Adagrad(np.ones(2, np.float32), initial_accumulator_value=1e300)
        assert np.isinf(optimizer.state[0]["h"]).all()
        copy.deepcopy(optimizer)


class Meddling(dict):
    """Gradients that call a function when the first of them is read, as another thread might."""

    def __init__(self, grads, call):
        super().__init__(grads)
        self.call = call

    def __getitem__(self, name):
        call, self.call = self.call, None
        if call is not None:
            call()
        return super().__getitem__(name)


def test_parameters_in_another_order_before_the_gradients_are_used():
    a, b = np.zeros(2), np.zeros(2)
    opt = fo.SGD({"a": a, "b": b}, lr=1.0)
    grads = {"a": np.ones(2), "b": np.full(2, 10.0)}
    with pytest.raises(RuntimeError, match="call it again"):
        opt.step(Meddling(grads, lambda: opt.rebind({"b": b, "a": a})))
    assert not a.any()
    assert not b.any()
    opt.step(grads)
    assert (a.tolist(), b.tolist()) == ([-1.0] * 2, [-10.0] * 2)


@pytest.mark.parametrize("what", ["mask", "ema_decay", "amsgrad"])
def test_what_is_set_while_a_step_makes_a_plan_waits_for_the_next(what):
    """A schedule stands for the other thread that sets it."""
    value = np.array([True, False]) if what == "mask" else {"ema_decay": 0.5, "amsgrad": True}[what]
    waiting = []

    def rate(t):
        if waiting:
            waiting.pop()
            opt.param_groups[0][what] = value
        return 0.1

    p = np.ones(2)
    opt = fo.Adam(p, lr=rate)
    opt.param_groups[0]["mask"] = None  # so that the next step makes a plan
    waiting.append(what)
    opt.step(np.ones(2))
    opt.step(np.ones(2))
    assert not waiting
    if what == "mask":
        assert p[1] == 0
    else:
        assert {"ema_decay": "ema", "amsgrad": "v_max"}[what] in opt.state[0]
        opt.load_state_dict(opt.state_dict())


@pytest.mark.parametrize("cls", [fo.SGD, fo.Mixed])
def test_none_for_all_of_a_group(cls):
    p, q = np.zeros(2), np.zeros(3)
    groups = [{"params": [p]}, {"params": {"w": q}}]
    if cls is fo.Mixed:
        groups = [{"optimizer": fo.SGD, **group} for group in groups]
    opt = cls(groups)
    opt.lr = 1.0
    opt.step([None, {"w": np.ones(3)}])
    opt.step([[np.ones(2)], None])
    assert (p.tolist(), q.tolist()) == ([-1.0] * 2, [-1.0] * 3)
    assert [*opt.steps.values()] == [1, 1]
