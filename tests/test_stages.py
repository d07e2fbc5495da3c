"""What every optimizer does around its rule: clipping, penalties, bounds, masks, averages."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from zoo import (
    DTYPES,
    LEVELS,
    OPTIMIZERS,
    SIZES,
    assert_same,
    engine,
    gradients,
    name_of,
    snapshot,
)

import fastoptim as fo

BACKENDS = ["compiled", "reference"]


def step(g, p=1.0, **kwargs):
    """Return the gradient that SGD saw, from a step with learning rate 1."""
    seen = {}
    for backend in BACKENDS:
        params = np.array([p])
        fo.SGD(params, lr=1.0, backend=backend, **kwargs).step(np.array([g]))
        seen[backend] = p - params[0]
    np.testing.assert_array_equal(seen["compiled"], seen["reference"])
    return seen["compiled"]


def test_by_hand():
    assert step(0.5, max_grad_value=0.25) == 0.25
    assert step(-0.5, max_grad_value=0.25) == -0.25
    assert step(0.125, max_grad_value=0.25) == 0.125
    assert step(0.5, max_grad_value=0) == 0
    assert step(0.5, p=2.0, l1=0.25) == 0.75
    assert step(0.5, p=-2.0, l1=0.25) == 0.25
    assert step(0.5, p=0.0, l1=0.25) == 0.5
    # elastic net: 0.5 + 0.25 * 2 + 0.25
    assert step(0.5, p=2.0, l1=0.25, weight_decay=0.25) == 1.25
    # the loss is maximised, but the penalties still pull towards zero
    assert step(0.5, p=2.0, l1=0.25, weight_decay=0.25, maximize=True) == 0.25
    # clipping is of the gradient alone
    assert step(8.0, p=2.0, max_grad_value=1.0, weight_decay=2.0) == 5.0


def test_nan_in_the_gradient_passes_the_clipping():
    assert np.isnan(step(np.nan, max_grad_value=1.0))


@pytest.mark.parametrize("cls", OPTIMIZERS, ids=name_of)
def test_every_class_takes_every_option(cls):
    p = np.array([1.0, -1.0])
    optimizer = cls(p, l1=0.1, max_grad_value=0.5, maximize=True)
    optimizer.step(np.array([3.0, 0.1]))
    assert np.isfinite(p).all()
    optimizer.l1 = 0.0
    optimizer.max_grad_value = None
    assert optimizer.max_grad_value is None


def test_gradients_stay_as_they_are():
    g = np.array([3.0, -4.0])
    fo.Adam(np.ones(2), max_grad_value=0.5, l1=0.1, weight_decay=0.1).step(g)
    assert g.tolist() == [3.0, -4.0]


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"l1": -0.1}, ValueError, "l1: expected a finite number >= 0, found -0.1"),
        ({"l1": None}, TypeError, "l1: expected a finite number >= 0, found None"),
        (
            {"max_grad_value": -1},
            ValueError,
            "max_grad_value: expected a finite number >= 0, or None",
        ),
        (
            {"max_grad_value": "1"},
            TypeError,
            "max_grad_value: expected a finite number >= 0, or None",
        ),
        (
            {"max_grad_norms": 1.0},
            TypeError,
            "max_grad_norms: Adam has no such argument (did you mean max_grad_norm?); it has lr, ",
        ),
    ],
)
def test_refused(kwargs, error, message):
    with pytest.raises(error) as caught:
        fo.Adam(np.ones(2), **kwargs)
    assert message in str(caught.value)


def trained(cls, params, steps, backend="compiled", grad_scale=1.0, **kwargs):
    optimizer = cls([p.copy(order="K") for p in params], backend=backend, **kwargs)
    for grads in steps:
        optimizer.step(grads, grad_scale=grad_scale)
    return optimizer


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("cls", OPTIMIZERS, ids=name_of)
def test_everything_at_once_has_the_bits_of_the_reference(cls, dtype):
    rng = np.random.default_rng(3)
    params = [rng.standard_normal(n).astype(dtype) for n in SIZES]
    params.append(np.asfortranarray(rng.standard_normal((70, 130)).astype(dtype)))
    mask = [rng.random(p.shape) < 0.7 for p in params]
    mask[5] = None
    steps = [gradients(rng, params) for _ in range(6)]
    for grads in steps:
        grads[-1] = np.ascontiguousarray(grads[-1])
    steps[2][7] = None
    steps[3][30] = np.full_like(steps[3][30], np.nan)
    kwargs = {
        "l1": 0.01,
        "weight_decay": 0.1,
        "max_grad_value": 0.3,
        "max_grad_norm": 2.0,
        "bounds": (-1.0, 0.9),
        "mask": mask,
        "ema_decay": 0.8,
        "nonfinite": "skip",
        "grad_scale": 3.0,
    }
    reference = trained(cls, params, steps, "reference", **kwargs)
    assert reference.skipped_steps == 1
    for level in LEVELS:
        for threads in (1, 2, 3):
            with engine(level, threads):
                assert_same(trained(cls, params, steps, **kwargs), reference)
    for p, m in zip(reference.param_groups[0]["params"], mask, strict=True):
        assert m is None or not p[~m].any()
        assert p.size == 0 or (p.min() >= -1.0 and p.max() <= 0.9)


class TestNorm:
    def test_is_that_of_all_gradients_before_clipping(self):
        optimizer = fo.SGD([np.zeros(2), np.zeros(())], lr=1.0, max_grad_norm=6.5)
        assert optimizer.grad_norm is None
        optimizer.step([np.array([3.0, 4.0]), np.array(12.0)])
        assert optimizer.grad_norm == 13.0
        p, q = optimizer.param_groups[0]["params"]
        np.testing.assert_allclose(p, [-1.5, -2.0], rtol=1e-6)
        np.testing.assert_allclose(q, -6.0, rtol=1e-6)
        optimizer.step([np.array([3.0, 4.0]), None])
        assert optimizer.grad_norm == 5.0
        np.testing.assert_allclose(p, [-4.5, -6.0], rtol=1e-6)

    def test_is_that_of_the_scaled_gradients(self):
        optimizer = fo.SGD(np.zeros(2), lr=1.0, max_grad_norm=100.0)
        optimizer.step(np.array([30.0, 40.0]), grad_scale=10)
        assert optimizer.grad_norm == pytest.approx(5.0)

    @pytest.mark.parametrize("threads", [1, 2, 3])
    @pytest.mark.parametrize("level", LEVELS)
    def test_does_not_depend_on_threads_or_level(self, level, threads):
        rng = np.random.default_rng(9)
        params = [
            np.zeros(n, t) for n, t in ((100_003, np.float32), (5_000, np.float64), (3, "f4"))
        ]
        grads = gradients(rng, params)
        with engine("base", 1):
            expected = trained(fo.SGD, params, [grads], max_grad_norm=1.0)
        with engine(level, threads):
            ours = trained(fo.SGD, params, [grads], max_grad_norm=1.0)
        assert_same(ours, expected)
        flat = np.concatenate([g.astype(np.longdouble) for g in grads])
        assert ours.grad_norm == pytest.approx(float(np.sqrt(np.sum(flat * flat))), rel=1e-14)

    def test_of_squares_that_overflow(self):
        optimizer = fo.SGD(np.zeros(2), lr=1.0, max_grad_norm=1.0, nonfinite="raise")
        optimizer.step(np.array([3e200, 4e200]))
        assert optimizer.grad_norm == pytest.approx(5e200)
        np.testing.assert_allclose(optimizer.param_groups[0]["params"][0], [-0.6, -0.8])

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_of_squares_that_vanish(self, backend):
        optimizer = fo.SGD(np.zeros(2), max_grad_norm=1.0, backend=backend)
        optimizer.step(np.array([3e-200, 4e-200]))
        assert optimizer.grad_norm == pytest.approx(5e-200, rel=1e-15)
        optimizer.step(np.zeros(2))
        assert optimizer.grad_norm == 0

    def test_against_torch(self):
        torch = pytest.importorskip("torch", reason="torch is not installed (extra `torch`)")
        rng = np.random.default_rng(4)
        ours = [rng.standard_normal((30, 4)), rng.standard_normal(7)]
        theirs = [torch.nn.Parameter(torch.from_numpy(p.copy())) for p in ours]
        a = fo.AdamW(ours, lr=0.01, max_grad_norm=0.5)
        b = torch.optim.AdamW(theirs, lr=0.01)
        for t in range(25):
            grads = [rng.standard_normal(p.shape) * 0.02 * t for p in ours]
            for p, g in zip(theirs, grads, strict=True):
                p.grad = torch.from_numpy(g.copy())
            norm = torch.nn.utils.clip_grad_norm_(theirs, 0.5)
            b.step()
            a.step(grads)
            assert a.grad_norm == pytest.approx(float(norm), rel=1e-13)
        for p, q in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(p, q.detach().numpy(), rtol=1e-12)


class TestNonfinite:
    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_skip_leaves_everything_and_counts(self, value, backend):
        optimizer = fo.Adam(
            [np.ones(3), np.ones(2)], nonfinite="skip", backend=backend, ema_decay=0.5
        )
        optimizer.step([np.ones(3), np.ones(2)])
        before = snapshot(optimizer)
        optimizer.step([np.ones(3), np.array([1.0, value])])
        assert snapshot(optimizer) == before
        assert optimizer.skipped_steps == 1
        optimizer.step([np.ones(3), np.ones(2)])
        assert optimizer._plan.steps == [2, 2]

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_raise_names_the_parameter(self, backend):
        optimizer = fo.Adam({"w": np.ones(3), "b": np.ones(2)}, nonfinite="raise", backend=backend)
        before = snapshot(optimizer)
        with pytest.raises(
            FloatingPointError, match=r"grads\['b'\]: expected finite numbers, found"
        ):
            optimizer.step({"w": np.ones(3), "b": np.array([np.nan, 1.0])})
        assert snapshot(optimizer) == before
        assert optimizer.skipped_steps == 0

    def test_ignore(self):
        p = np.ones(2)
        fo.SGD(p, lr=1.0).step(np.array([np.inf, 1.0]))
        assert p.tolist() == [-np.inf, 0.0]


class TestAverage:
    def test_by_hand(self):
        p = np.array([1.0])
        optimizer = fo.SGD(p, lr=1.0, ema_decay=0.5)
        assert optimizer.ema is not p
        assert optimizer.ema.tolist() == [1.0]
        optimizer.step(np.array([1.0]))  # p = 0
        assert optimizer.ema.tolist() == [0.5]
        optimizer.step(np.array([-2.0]))  # p = 2
        assert optimizer.ema.tolist() == [1.25]

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_keeps_the_decay_of_what_it_was(self, backend):
        """Not the other part: with a decay of one half the two could change places."""
        p, q = np.array([8.0]), np.array([4.0])
        optimizer = fo.SGD([p, q], lr=8.0, ema_decay=0.75, backend=backend)
        optimizer.step([np.ones(1), None])  # p = 0
        assert [e.tolist() for e in optimizer.ema] == [[6.0], [4.0]]
        q[...] = 0.0
        optimizer.step([-np.ones(1), None])  # p = 8
        assert [e.tolist() for e in optimizer.ema] == [[6.5], [3.0]]

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_is_where_bounds_and_mask_let_the_parameters_be(self, backend):
        p, q = np.array([-1.0, 3.0, 0.1]), np.array([5.0, 7.0])
        optimizer = fo.SGD(
            [
                {"params": p, "bounds": (0.1, 2.0)},
                {"params": q, "mask": np.array([True, False])},
            ],
            lr=0.0,
            ema_decay=0.9,
            backend=backend,
        )
        for _ in range(3):
            with optimizer.use_ema():
                assert p.tolist() == [0.1, 2.0, 0.1]  # 0.9 * 0.1 + (1 - 0.9) * 0.1 is below 0.1
                assert q.tolist() == [5.0, 0.0]
            optimizer.step([np.ones(3), np.ones(2)])

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_follows_bounds_and_masks_that_are_set_later(self, backend):
        p = np.array([-4.0, 4.0])
        optimizer = fo.SGD(p, lr=0.0, ema_decay=0.5, backend=backend)
        optimizer.step(np.ones(2))
        optimizer.bounds = (-1.0, np.inf)
        optimizer.step(np.ones(2))
        assert optimizer.ema.tolist() == [-1.0, 4.0]
        optimizer.param_groups[0]["mask"] = np.array([True, False])
        optimizer.step(np.ones(2))
        assert optimizer.ema.tolist() == [-1.0, 0.0]

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_follows_a_parameter_without_a_gradient(self, backend):
        """As AveragedModel of torch does: the program may change the parameter itself."""
        p, q = np.array([1.0]), np.array([8.0, -8.0])
        optimizer = fo.Adam(
            [p, q], ema_decay=0.5, bounds=(-4.0, 9.0), max_grad_norm=1.0, backend=backend
        )
        optimizer.step([np.ones(1), None])
        assert optimizer.ema[1].tolist() == [8.0, -4.0]
        assert q.tolist() == [8.0, -8.0]  # which None leaves as it is, bounds or not
        q[...] = [2.0, 2.0]
        optimizer.step([np.ones(1), None])
        assert optimizer.ema[1].tolist() == [5.0, -1.0]
        optimizer.step([None, None])
        assert optimizer.ema[1].tolist() == [3.5, 0.5]
        assert q.tolist() == [2.0, 2.0]
        assert [a.tolist() for a in optimizer.state[1].values()][:2] == [[0.0, 0.0]] * 2
        assert optimizer._plan.steps == [2, 0]

    @pytest.mark.parametrize("threads", [1, 2])
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_without_a_gradient_has_the_bits_of_the_reference(self, dtype, threads):
        rng = np.random.default_rng(3)
        starts = [rng.standard_normal(n).astype(dtype) for n in (40_001, 513, 0, 7)]
        masks = [None, rng.random(513) < 0.5, None, None]
        pair = [
            fo.AdamW(
                [p.copy() for p in starts],
                ema_decay=fo.schedules.Linear(0.9, end_factor=0.5, total_iters=3),
                bounds=(-1.0, 1.5),
                mask=masks,
                backend=backend,
            )
            for backend in BACKENDS
        ]
        with engine(threads=threads):
            for skipped in ((0, 1, 2), (), (1, 3), (0, 1, 2, 3)):
                grads = [rng.standard_normal(p.shape).astype(dtype) for p in starts]
                grads = [None if i in skipped else g for i, g in enumerate(grads)]
                for optimizer in pair:
                    optimizer.step(grads)
                assert_same(*pair)

    def test_of_a_step_that_is_not_taken_stays(self):
        p, q = np.ones(2), np.zeros(2)
        optimizer = fo.SGD([p, q], lr=1.0, ema_decay=0.5, nonfinite="skip")
        optimizer.step([np.ones(2), None])
        q[...] = 4.0
        optimizer.step([np.full(2, np.nan), None])
        assert optimizer.ema[1].tolist() == [0.0, 0.0]

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_starts_with_the_first_step(self, backend):
        """Weights that are loaded before it are where the average starts, looked at or not."""
        p = np.zeros(2)
        optimizer = fo.SGD(p, lr=1.0, ema_decay=0.5, bounds=(-9.0, 3.0), backend=backend)
        with optimizer.use_ema():
            assert p.tolist() == [0.0, 0.0]
        p[...] = [4.0, 2.0]
        assert optimizer.ema.tolist() == [3.0, 2.0]
        p[...] = [2.0, 4.0]
        with pytest.raises(ValueError, match="shape"):
            optimizer.step(np.ones(3))
        assert optimizer.state_dict()["state"][0]["ema"].tolist() == [2.0, 3.0]
        duplicate = copy.deepcopy(optimizer)
        for o in (duplicate, optimizer):
            o.param_groups[0]["params"][0][...] = [2.0, 2.0]
            o.step(np.array([2.0, -1.0]))
            assert o.ema.tolist() == [1.0, 2.5]
            o.param_groups[0]["params"][0][...] = 1.0  # from now on it goes its own way
            assert o.ema.tolist() == [1.0, 2.5]

    def test_of_a_group_added_later_starts_with_its_first_step(self):
        p, q = np.ones(1), np.ones(1)
        optimizer = fo.SGD(p, lr=1.0, ema_decay=0.5)
        optimizer.step(np.ones(1))
        optimizer.add_param_group({"params": q})
        p[...], q[...] = 8.0, 8.0
        assert [e.tolist() for e in optimizer.ema] == [[0.5], [8.0]]

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_starts_anew_when_it_was_off_for_a_step(self, backend):
        p = np.array([4.0])
        optimizer = fo.SGD(p, lr=1.0, ema_decay=0.5, backend=backend)
        optimizer.step(np.ones(1))
        optimizer.ema_decay = None
        optimizer.ema_decay = 0.5  # no step was taken without it
        assert optimizer.ema.tolist() == [3.5]
        optimizer.ema_decay = None
        optimizer.step(np.ones(1))
        assert "ema" not in optimizer.state[0]
        optimizer.ema_decay = 0.5
        assert optimizer.ema.tolist() == [2.0]
        optimizer.step(np.ones(1))
        assert optimizer.ema.tolist() == [1.5]

    def test_of_one_group_switched_on_later(self):
        p, q = np.ones(1), np.full(1, 2.0)
        optimizer = fo.SGD([{"params": [p]}, {"params": [q]}], lr=1.0)
        optimizer.step([[np.ones(1)], [np.ones(1)]])
        optimizer.param_groups[1]["ema_decay"] = 0.5
        assert optimizer.ema[0] == [None]
        assert optimizer.ema[1][0].tolist() == [1.0]
        with optimizer.use_ema():
            assert (p.tolist(), q.tolist()) == ([0.0], [1.0])

    def test_has_the_containers_of_the_parameters(self):
        assert fo.SGD(np.ones(2)).ema is None
        assert list(fo.SGD({"w": np.ones(2)}, ema_decay=0.5).ema) == ["w"]
        assert len(fo.SGD([np.ones(2), np.ones(3)], ema_decay=0.5).ema) == 2
        groups = [{"params": np.ones(2), "ema_decay": 0.5}, {"params": [np.ones(3)]}]
        first, second = fo.SGD(groups).ema
        assert first.shape == (2,)
        assert second == [None]

    def test_swaps_and_swaps_back_also_when_the_body_raises(self):
        p = np.array([1.0, 3.0])
        optimizer = fo.SGD([p], lr=1.0, ema_decay=0.5)
        optimizer.step([np.ones(2)])
        seen = []
        with pytest.raises(ZeroDivisionError), optimizer.use_ema():
            seen.append(p.tolist()) or 1 / 0
        assert seen == [[0.5, 2.5]]
        assert p.tolist() == [0.0, 2.0]
        assert optimizer.ema[0].tolist() == [0.5, 2.5]

    def test_swaps_only_the_groups_that_have_one(self):
        p, q = np.array([1.0, 3.0]), np.ones(2)
        optimizer = fo.SGD([{"params": p, "ema_decay": 0.5}, {"params": q}], lr=1.0)
        optimizer.step([np.ones(2), np.ones(2)])
        with optimizer.use_ema():
            assert p.tolist() == [0.5, 2.5]
            assert q.tolist() == [0.0, 0.0]
        assert p.tolist() == [0.0, 2.0]
        assert q.tolist() == [0.0, 0.0]

    def test_no_step_and_no_second_swap_inside(self):
        optimizer = fo.SGD(np.ones(2), ema_decay=0.5)
        saved = optimizer.state_dict()
        with optimizer.use_ema():
            before = snapshot(optimizer)
            with pytest.raises(RuntimeError, match="step: the parameters hold their averages"):
                optimizer.step(np.ones(2))
            with (
                pytest.raises(RuntimeError, match="use_ema: the parameters hold"),
                optimizer.use_ema(),
            ):
                pass
            for call in (
                optimizer.state_dict,
                lambda: optimizer.load_state_dict(saved),
                lambda: optimizer.add_param_group({"params": np.ones(2)}),
            ):
                with pytest.raises(RuntimeError, match="the parameters hold their averages"):
                    call()
            assert snapshot(optimizer) == before
        optimizer.step(np.ones(2))
        with (
            pytest.raises(RuntimeError, match="use_ema: expected an optimizer with ema_decay"),
            fo.SGD(np.ones(2)).use_ema(),
        ):
            pass

    def test_is_saved_and_restored(self):
        def optimizer(p):
            return fo.Adam(p, ema_decay=0.9, max_grad_norm=1.0, nonfinite="skip")

        p = np.ones(3)
        whole = optimizer(p)
        for _ in range(3):
            whole.step(np.ones(3))
        whole.step(np.full(3, np.nan))
        q = p.copy()
        resumed = fo.Adam(q)
        resumed.load_state_dict(whole.state_dict())
        assert (resumed.max_grad_norm, resumed.nonfinite, resumed.skipped_steps) == (1.0, "skip", 1)
        for o in (whole, resumed):
            o.step(np.full(3, 0.5))
        assert_same(resumed, whole)


class TestMask:
    def test_is_read_and_changed_whole(self):
        p = {"w": np.ones((2, 2), order="F"), "b": np.ones(2)}
        optimizer = fo.SGD(p, lr=1.0)
        group = optimizer.param_groups[0]
        assert group["mask"] is None
        grads = {name: np.zeros_like(a) for name, a in p.items()}
        mask = np.array([[True, False], [True, True]])
        group["mask"] = {"w": mask, "b": None}
        mask[...] = False  # it was copied
        assert group["mask"]["w"].tolist() == [[True, False], [True, True]]
        assert group["mask"]["b"] is None
        with pytest.raises(ValueError, match="read-only"):
            group["mask"]["w"][...] = False
        optimizer.step(grads)
        assert p["w"].tolist() == [[1.0, 0.0], [1.0, 1.0]]
        with pytest.raises(ValueError, match=r"mask\['b'\]: expected shape \(2,\)"):
            group.update(lr=0.5, mask={"w": None, "b": np.ones(3, bool)})
        with pytest.raises(ValueError, match="lr"):
            group.update(lr=-0.5, mask=None)
        assert (group["lr"], group["mask"]["w"].sum()) == (1.0, 3)
        group["mask"] = None
        assert group["mask"] is None
        p["w"][...] = 1.0
        optimizer.step(grads)
        assert p["w"].all()

    @pytest.mark.parametrize("name", ["masks", "mask", "lr", "hyper", "scalars", "container"])
    def test_attributes_of_a_group_are_refused(self, name):
        """One that is set beside the items would be ignored, or found by the engine."""
        group = fo.SGD(np.ones(2), mask=np.array([True, False])).param_groups[0]
        with pytest.raises(AttributeError, match=f"{name}: expected an item, as in group"):
            setattr(group, name, [])

    def test_pruned_weights_stay_zero(self):
        p = np.ones((2, 3))
        mask = np.array([[True, False, True], [False, True, True]])
        optimizer = fo.Adam([p, np.ones(2)], mask=[mask, None], lr=0.1)
        mask[:] = True  # it was copied
        for _ in range(3):
            optimizer.step([np.ones((2, 3)), np.ones(2)])
        assert (p == 0).tolist() == [[False, True, False], [True, False, False]]

    def test_in_groups(self):
        p, q = np.ones(2), np.ones(2)
        groups = [{"params": p, "mask": np.array([True, False])}, {"params": q}]
        fo.SGD(groups, lr=0.5).step([np.ones(2), np.ones(2)])
        assert (p.tolist(), q.tolist()) == ([0.5, 0.0], [0.5, 0.5])
        with pytest.raises(TypeError, match="mask: expected a mask in each param group"):
            fo.SGD(groups, mask=np.array([True, False]))

    @pytest.mark.parametrize(
        ("mask", "error", "message"),
        [
            (np.ones(2), TypeError, "mask[0]: expected an array of bool, found float64"),
            (np.ones(3, bool), ValueError, "mask[0]: expected shape (2,) as its parameter has"),
        ],
    )
    def test_refused(self, mask, error, message):
        with pytest.raises(error) as caught:
            fo.SGD([np.ones(2)], mask=[mask])
        assert message in str(caught.value)
        with pytest.raises(ValueError, match="mask: expected 1 arrays"):
            fo.SGD([np.ones(2)], mask=[None, None])


def test_bounds_by_hand():
    p = np.array([0.0, 0.0, 0.0, np.nan])
    fo.SGD(p, lr=1.0, bounds=(-1, np.inf)).step(np.array([5.0, 0.5, -5.0, 0.0]))
    np.testing.assert_array_equal(p, [-1.0, -0.5, 5.0, np.nan])


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"bounds": (1, 0)}, ValueError, "bounds: expected two numbers, low <= high, or None"),
        ({"bounds": (np.nan, 0)}, ValueError, "bounds: expected two numbers"),
        ({"bounds": 1.0}, TypeError, "bounds: expected two numbers"),
        ({"ema_decay": 1.0}, ValueError, "ema_decay: expected a number in [0, 1), or None"),
        (
            {"max_grad_norm": -1.0},
            ValueError,
            "max_grad_norm: expected a finite number >= 0, or None",
        ),
        ({"nonfinite": "warn"}, ValueError, "nonfinite: expected 'ignore' or 'raise' or 'skip'"),
    ],
)
def test_settings_refused(kwargs, error, message):
    optimizer = fo.Adam(np.ones(2))
    (name, value), *_ = kwargs.items()
    for call in (lambda: fo.Adam(np.ones(2), **kwargs), lambda: setattr(optimizer, name, value)):
        before = snapshot(optimizer)
        with pytest.raises(error) as caught:
            call()
        assert message in str(caught.value)
        assert snapshot(optimizer) == before


@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_what_few_elements_that_take_a_cautious_step_are_multiplied_by(backend):
    """Over the share of those that take it, and so by no more than 1,000."""
    for size, factor in ((100, 50.0), (4000, 1000.0)):
        p, g = np.zeros(size), np.full(size, -1.0)
        opt = fo.SGD(p, lr=1.0, momentum=0.5, cautious=True, backend=backend)
        opt.step(np.ones(size))  # all step; the velocity is 1
        p[:] = 0
        g[:] = -0.25  # against a velocity of 0.25
        g[:2] = 1.0
        opt.step(g)
        assert p[2:].tolist() == [0.0] * (size - 2)
        np.testing.assert_allclose(p[:2], -1.5 * factor, rtol=1e-12)
