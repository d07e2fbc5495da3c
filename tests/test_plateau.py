"""`ReduceLROnPlateau` against torch and by hand; how its state is saved; refusals."""

from __future__ import annotations

import base64
import inspect
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastoptim as fo
from fastoptim.schedules import ReduceLROnPlateau, Step

PLATEAUS = [
    {},
    {"patience": 0},
    {"mode": "max", "patience": 2, "factor": 0.5},
    {"patience": 3, "cooldown": 4, "factor": 0.7, "threshold": 0.1},
    {"patience": 2, "threshold_mode": "abs", "threshold": 0.05, "cooldown": 1},
    {"mode": "max", "patience": 1, "threshold_mode": "abs", "threshold": 0.2},
    {"patience": 0, "min_lr": 0.01, "factor": 0.3},
    {"patience": 0, "min_lr": [0.05, 1e-3], "factor": 0.3},
    {"patience": 0, "eps": 0.02, "factor": 0.5},
    {"patience": 0, "eps": 0.125, "factor": 0.5},  # a change of 0.125 comes second
    {"patience": 1, "threshold": 1.0},
    {"patience": 1, "factor": 0.0},
]
# What torch has not.
OUR_PLATEAUS = [
    {"patience": 1, "threshold_mode": "rel_magnitude", "threshold": 0.1},
    {"mode": "max", "patience": 0, "threshold_mode": "rel_magnitude"},
]


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def two_groups():
    return fo.SGD([{"params": np.zeros(2), "lr": 0.5}, {"params": np.zeros(3), "lr": 0.1}])


def rates(optimizer):
    return [group["lr"] for group in optimizer.param_groups]


class TestTorch:
    def test_signature(self, torch):
        theirs = inspect.signature(torch.optim.lr_scheduler.ReduceLROnPlateau).parameters
        ours = inspect.signature(ReduceLROnPlateau).parameters
        assert [(n, p.default) for n, p in ours.items()] == [
            (n, p.default) for n, p in theirs.items()
        ]

    @pytest.mark.parametrize("options", PLATEAUS, ids=repr)
    @pytest.mark.parametrize("kind", ["noise", "plateau", "fall", "rise", "negative", "nan"])
    def test_steps(self, torch, options, kind):
        rng = np.random.default_rng(5)
        metrics = {
            "noise": rng.normal(size=80),
            "plateau": np.maximum(1.0 - 0.1 * np.arange(80), 0.3),
            "fall": 2.0 - 0.01 * np.arange(80),
            "rise": 1.0 + 0.3 * np.arange(80),
            "negative": -2.0 + 0.01 * np.arange(80),
            "nan": np.where(np.arange(80) % 7 > 3, np.nan, 1.0),
        }[kind]
        theirs = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
        theirs.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.1})
        ours = two_groups()
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, **options)
        plateau = ReduceLROnPlateau(ours, **options)
        for metric in metrics:
            scheduler.step(metric)
            plateau.step(metric)
            assert rates(ours) == [group["lr"] for group in theirs.param_groups]
            for name in ("best", "num_bad_epochs", "cooldown_counter"):
                assert getattr(plateau, name) == getattr(scheduler, name)


# From when this class stood in one file with the schedules: after metrics of 1 and 2.
PICKLE = """
gASVRQEAAAAAAACME2Zhc3RvcHRpbS5zY2hlZHVsZXOUjBFSZWR1Y2VMUk9uUGxhdGVhdZSTlCmBlH2UKIwJb3B0aW1pemVy
lIwFdHlwZXOUjA9TaW1wbGVOYW1lc3BhY2WUk5QpUpR9lIwMcGFyYW1fZ3JvdXBzlF2UfZSMAmxylEc/4AAAAAAAAHNhc2KM
BG1vZGWUjANtaW6UjAZmYWN0b3KURz+5mZmZmZmajAhwYXRpZW5jZZRLAYwJdGhyZXNob2xklEc/Gjbi6xxDLYwOdGhyZXNo
b2xkX21vZGWUjANyZWyUjAhjb29sZG93bpRLAIwGbWluX2xylEcAAAAAAAAAAIwDZXBzlEc+RXmO4jCMOowEYmVzdJRHP/AA
AAAAAACMDm51bV9iYWRfZXBvY2hzlEsBjBBjb29sZG93bl9jb3VudGVylEsAdWIu
"""


def test_pickle_of_the_first_version_loads():
    plateau = pickle.loads(base64.b64decode(PICKLE))
    assert (plateau.best, plateau.num_bad_epochs, plateau.patience) == (1.0, 1, 1)
    plateau.step(2.0)
    assert rates(plateau.optimizer) == [0.05]


VALID = {
    "optimizer": fo.SGD(np.zeros(2), lr=0.1),
    "mode": "min",
    "factor": 0.1,
    "patience": 2,
    "threshold": 1e-4,
    "threshold_mode": "rel",
    "cooldown": 1,
    "min_lr": 0.0,
    "eps": 1e-8,
}
WRONG_TYPES = ["text", 1j, object(), b"1", np.zeros(2)]
WRONG_VALUES = [
    {"optimizer": None},
    {"mode": "low"},
    {"factor": 1.0},
    {"factor": -0.1},
    {"patience": -1},
    {"threshold": -1e-4},
    {"threshold_mode": "part"},
    {"cooldown": 0.5},
    {"min_lr": -1},
    {"min_lr": [0.1, -1]},
    {"min_lr": [0.1, 0.1]},
    {"eps": math.nan},
]


class TestRefusals:
    @pytest.mark.parametrize("wrong", WRONG_VALUES)
    def test_values(self, wrong):
        (name,) = wrong
        with pytest.raises((TypeError, ValueError), match=rf"^{name}(\[\d\])?: expected .*found"):
            ReduceLROnPlateau(**{**VALID, **wrong})

    @pytest.mark.parametrize("name", VALID)
    def test_types(self, name):
        for wrong in WRONG_TYPES:
            with pytest.raises((TypeError, ValueError), match=rf"^{name}(\[\d\])?: expected .*"):
                ReduceLROnPlateau(**{**VALID, name: wrong})


# Beyond which goal a metric is better than the best, with a threshold of 0.5.
GOALS = [
    ("min", "abs", 2.0, 1.5),
    ("max", "abs", 2.0, 2.5),
    ("min", "abs", -2.0, -2.5),
    ("max", "abs", -2.0, -1.5),
    ("min", "rel", 2.0, 1.0),
    ("max", "rel", 2.0, 3.0),
    ("min", "rel", -2.0, -1.0),  # worse, as in torch
    ("max", "rel", -2.0, -3.0),
    ("min", "rel_magnitude", 2.0, 1.0),
    ("max", "rel_magnitude", 2.0, 3.0),
    ("min", "rel_magnitude", -2.0, -3.0),
    ("max", "rel_magnitude", -2.0, -1.0),
    ("min", "rel_magnitude", 0.0, 0.0),
    ("max", "rel_magnitude", 0.0, 0.0),
]


class TestPlateau:
    def test_by_hand(self):
        opt = fo.SGD(np.zeros(2), lr=0.8)
        plateau = ReduceLROnPlateau(opt, factor=0.5, patience=1, cooldown=2, min_lr=0.3)
        found = []
        # bad:            1    2    .    .    1    2
        for loss in [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5]:
            plateau.step(loss)
            found.append(opt.lr)
        assert found == [0.8, 0.8, 0.4, 0.4, 0.4, 0.4, 0.3, 0.3]
        assert plateau.best == 0.5

    @pytest.mark.parametrize(("eps", "lr"), [(0.25, 0.5), (np.nextafter(0.25, 0), 0.25)])
    def test_a_change_as_large_as_eps_is_not_made(self, eps, lr):
        opt = fo.SGD(np.zeros(2), lr=0.5)
        plateau = ReduceLROnPlateau(opt, factor=0.5, patience=0, eps=eps)
        plateau.step(1.0)
        plateau.step(1.0)
        assert opt.lr == lr

    @pytest.mark.parametrize(("mode", "threshold_mode", "best", "goal"), GOALS)
    def test_an_improvement_is_beyond_the_threshold(self, mode, threshold_mode, best, goal):
        plateau = ReduceLROnPlateau(
            two_groups(), mode=mode, threshold=0.5, threshold_mode=threshold_mode
        )
        plateau.step(best)
        plateau.step(goal)
        assert (plateau.best, plateau.num_bad_epochs) == (best, 1)
        beyond = np.nextafter(goal, -np.inf if mode == "min" else np.inf)
        plateau.step(beyond)
        assert (plateau.best, plateau.num_bad_epochs) == (beyond, 0)

    @pytest.mark.parametrize(("threshold_mode", "lr"), [("rel", 0.5), ("rel_magnitude", 0.125)])
    @pytest.mark.parametrize("mode", ["min", "max"])
    def test_a_negative_metric_that_gets_worse(self, mode, threshold_mode, lr):
        """With torch's rule the best metric gets worse, too, and the learning rate stays."""
        opt = fo.SGD(np.zeros(2), lr=0.5)
        plateau = ReduceLROnPlateau(
            opt, mode, factor=0.5, patience=2, threshold=0.1, threshold_mode=threshold_mode
        )
        worse = 1 if mode == "min" else -1
        for k in range(7):
            plateau.step(-10 + worse * 0.5 * k)
        assert opt.lr == lr
        assert plateau.best == (-10 if threshold_mode == "rel_magnitude" else -10 + worse * 3)

    @pytest.mark.parametrize("threshold", [0.0, 1e-4, 1.0, 3.0])
    @pytest.mark.parametrize("mode", ["min", "max"])
    def test_the_first_metric_is_the_best(self, mode, threshold):
        plateau = ReduceLROnPlateau(
            two_groups(), mode, threshold=threshold, threshold_mode="rel_magnitude"
        )
        plateau.step(-0.5)
        assert plateau.best == -0.5

    def test_other_hyperparameters_stay(self):
        opt = fo.SGD(np.zeros(2), lr=0.8, momentum=0.9)
        plateau = ReduceLROnPlateau(opt, patience=0, factor=0.5)
        plateau.step(1)
        plateau.step(1)
        assert (opt.lr, opt.momentum) == (0.4, 0.9)

    def test_after_the_optimizer_was_restored(self):
        opt = two_groups()
        plateau = ReduceLROnPlateau(opt, patience=0, factor=0.5)
        saved = opt.state_dict()
        plateau.step(1.0)
        opt.load_state_dict(saved)
        plateau.step(1.0)
        assert rates(opt) == [0.25, 0.05]

    def test_groups_added_later(self):
        opt = two_groups()
        one, each = (ReduceLROnPlateau(opt, patience=0, min_lr=m) for m in (0.2, [0.2, 0.01]))
        opt.add_param_group({"params": np.zeros(1), "lr": 1.0})
        one.step(1.0)
        one.step(1.0)
        assert rates(opt) == [0.2, 0.1, 0.2]
        each.step(1.0)
        before = each.state_dict()
        with pytest.raises(ValueError, match=r"^min_lr: expected 3 values"):
            each.step(1.0)
        assert each.state_dict() == before
        assert rates(opt) == [0.2, 0.1, 0.2]

    @pytest.mark.parametrize(
        "metric", [0.5, np.float32(0.5), np.array(0.5), 1, np.int64(1), np.True_]
    )
    def test_metrics(self, metric):
        plateau = ReduceLROnPlateau(two_groups())
        plateau.step(metric)
        assert plateau.best == float(metric)

    @pytest.mark.parametrize("metric", ["0.5", None, 1j, np.zeros(3), [0.5]])
    def test_wrong_metrics(self, metric):
        plateau = ReduceLROnPlateau(two_groups())
        before = plateau.state_dict()
        with pytest.raises(TypeError, match=r"^metric: expected a number, found"):
            plateau.step(metric)
        assert plateau.state_dict() == before

    def test_a_rate_that_is_no_number(self):
        class Other:
            param_groups = ({"lr": 0.5}, {"lr": Step(0.1, 7)})

        plateau = ReduceLROnPlateau(Other(), patience=0)
        plateau.step(1.0)
        before = plateau.state_dict()
        with pytest.raises(TypeError, match=r"^optimizer.param_groups\[1\]\['lr'\]: expected .*St"):
            plateau.step(1.0)
        assert plateau.state_dict() == before
        assert Other.param_groups[0]["lr"] == 0.5

    @settings(max_examples=50, deadline=None)
    @given(
        st.sampled_from(PLATEAUS + OUR_PLATEAUS),
        st.lists(st.floats(-2, 2), max_size=30),
        st.lists(st.floats(-2, 2), max_size=30),
    )
    def test_goes_on_from_a_saved_state(self, options, before, after):
        opt, other = two_groups(), two_groups()
        plateau = ReduceLROnPlateau(opt, **options)
        for metric in before:
            plateau.step(metric)
        restored = ReduceLROnPlateau(other)
        other.load_state_dict(opt.state_dict())
        restored.load_state_dict(pickle.loads(pickle.dumps(plateau.state_dict())))
        assert restored.state_dict() == plateau.state_dict()
        for metric in after:
            plateau.step(metric)
            restored.step(metric)
            assert rates(other) == rates(opt)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"mode": "low"},
            {"factor": 2.0},
            {"best": math.nan},
            {"best": "1"},
            {"num_bad_epochs": -1},
            {"cooldown_counter": 0.5},
            {"min_lr": [0.1]},
            {"other": 1},
        ],
    )
    def test_wrong_states(self, wrong):
        plateau = ReduceLROnPlateau(two_groups())
        plateau.step(0.5)
        before = plateau.state_dict()
        name = "state_dict" if "other" in wrong else next(iter(wrong))
        with pytest.raises((TypeError, ValueError), match=f"^{name}: expected .* found"):
            plateau.load_state_dict({**before, **wrong})
        for state in ({}, None, {k: v for k, v in before.items() if k != "best"}):
            with pytest.raises((TypeError, ValueError), match=r"^state_dict: expected"):
                plateau.load_state_dict(state)
        assert plateau.state_dict() == before
