"""Initial weights have the distribution of the papers and of torch, and come from the generator."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest

from fastoptim import init

DTYPES = [np.float32, np.float64]
LAYOUTS = ["out_in", "in_out"]
UNIFORM = [init.xavier_uniform, init.kaiming_uniform]
NORMAL = [init.xavier_normal, init.kaiming_normal]
DRAWS = [*UNIFORM, *NORMAL]
SHAPES = [(300, 200), (40, 20, 8, 5), (7, 5, 2, 3, 200), (1, 40_000)]


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="torch is not installed")


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def name_of(item):
    return getattr(item, "__name__", str(item))


def in_layout(shape, layout):
    """Return the shape of weights that are (outputs, inputs, *kernel) in another layout."""
    outputs, inputs, *kernel = shape
    return shape if layout == "out_in" else (*kernel, inputs, outputs)


# Against torch


@pytest.mark.parametrize("nonlinearity", [*init.GAINS, "leaky_relu"])
def test_gain_is_torch_s(torch, nonlinearity):
    assert init.calculate_gain(nonlinearity) == pytest.approx(
        torch.nn.init.calculate_gain(nonlinearity), rel=1e-15
    )


@pytest.mark.parametrize("slope", [0, 0.2, 1.0, -3.0, 1e9])
def test_gain_of_leaky_relu_is_torch_s(torch, slope):
    expected = torch.nn.init.calculate_gain("leaky_relu", slope)
    assert init.calculate_gain("leaky_relu", slope) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("draw", "options"),
    [
        (init.xavier_uniform, {}),
        (init.xavier_uniform, {"gain": 5 / 3}),
        (init.xavier_normal, {}),
        (init.xavier_normal, {"gain": 0.5}),
        (init.kaiming_uniform, {}),
        (init.kaiming_uniform, {"mode": "fan_out", "nonlinearity": "tanh"}),
        (init.kaiming_normal, {"a": 0.7}),
        (init.kaiming_normal, {"mode": "fan_out", "nonlinearity": "relu"}),
    ],
    ids=name_of,
)
def test_spread_is_torch_s(torch, rng, draw, options, shape, layout):
    ours = draw(in_layout(shape, layout), np.float64, rng, layout=layout, **options)
    theirs = torch.empty(shape, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    getattr(torch.nn.init, f"{draw.__name__}_")(theirs, generator=generator, **options)
    # 40,000 or more numbers: their standard deviation is off by 0.4 % at the most
    assert ours.std() == pytest.approx(theirs.numpy().std(), rel=0.015)
    if draw in UNIFORM:
        assert np.abs(ours).max() == pytest.approx(theirs.abs().max().item(), rel=0.002)


def test_defaults_are_torch_s(torch):
    for draw in DRAWS:
        theirs = inspect.signature(getattr(torch.nn.init, f"{draw.__name__}_")).parameters
        ours = inspect.signature(draw).parameters
        for name in set(ours) & set(theirs):
            assert ours[name].default == theirs[name].default
        assert set(theirs) - set(ours) == {"tensor", "generator"}


# Against the formulas


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("layout", "fan_in", "fan_out"), [("out_in", 20 * 40, 30 * 40), ("in_out", 10 * 40, 600 * 40)]
)
def test_fans_and_bounds(rng, dtype, layout, fan_in, fan_out):
    # in one layout 30 outputs, 20 inputs and a kernel of 4 x 10, in the other the last two axes
    shape = (30, 20, 4, 10) if layout == "out_in" else (4, 10, 10, 600)
    bounds = {
        init.xavier_uniform: math.sqrt(6 / (fan_in + fan_out)),
        init.kaiming_uniform: math.sqrt(2) * math.sqrt(3 / fan_in),
    }
    for draw, bound in bounds.items():
        weights = draw(shape, dtype, rng, layout=layout)
        assert np.abs(weights).max() <= dtype(bound)
        assert weights.max() > 0.999 * bound
        assert weights.min() < -0.999 * bound
        assert abs(weights.mean()) < 0.02 * bound


@pytest.mark.parametrize("dtype", DTYPES)
def test_normal_is_normal(rng, dtype):
    shape = (200, 500)
    for draw, std in ((init.xavier_normal, math.sqrt(2 / 700)), (init.kaiming_normal, 0.0632456)):
        z = draw(shape, dtype, rng) / std
        assert abs(z.mean()) < 0.02
        assert z.std() == pytest.approx(1, rel=0.01)
        for sigmas, share in ((1, 0.6827), (2, 0.9545), (3, 0.9973)):
            assert np.mean(np.abs(z) < sigmas) == pytest.approx(share, abs=0.005)


def test_xavier_does_not_see_the_layout():
    one, other = (
        init.xavier_normal((3, 4), np.float64, np.random.default_rng(1), layout=layout)
        for layout in LAYOUTS
    )
    assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("draw", DRAWS, ids=name_of)
def test_gain_of_zero_and_a_slope_that_overflows_when_squared(draw, rng):
    zero = {"gain": 0} if draw.__name__.startswith("xavier") else {"a": 1e200}
    assert np.abs(draw((3, 4), np.float64, rng, **zero)).max() < 1e-190


# What comes back


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("draw", DRAWS, ids=name_of)
def test_same_seed_same_bits(draw, dtype):
    first, second = (draw((5, 3, 2), dtype, np.random.default_rng(7)) for _ in range(2))
    assert first.tobytes() == second.tobytes()
    assert first.tobytes() != draw((5, 3, 2), dtype, np.random.default_rng(8)).tobytes()
    assert (first.dtype, first.shape) == (dtype, (5, 3, 2))
    assert first.flags.c_contiguous
    assert first.flags.writeable
    assert first.flags.owndata


@pytest.mark.parametrize("draw", DRAWS, ids=name_of)
def test_the_generator_goes_on(draw, rng):
    assert not np.array_equal(draw((4, 4), np.float32, rng), draw((4, 4), np.float32, rng))


@pytest.mark.parametrize("draw", DRAWS, ids=name_of)
def test_float32_is_drawn_as_float32(draw):
    """A cast of float64 numbers would take twice as many random bits."""
    ours, theirs = np.random.default_rng(1), np.random.default_rng(1)
    draw((10, 7), np.float32, ours)
    kind = theirs.random if draw in UNIFORM else theirs.standard_normal
    kind((10, 7), np.float32)
    assert ours.bit_generator.state == theirs.bit_generator.state


@pytest.mark.parametrize("dtype", ["float32", "f4", np.dtype(np.float32)], ids=repr)
@pytest.mark.parametrize("shape", [[2, 3], (np.int64(2), 3), np.array([2, 3])], ids=repr)
def test_what_numpy_takes(dtype, shape, rng):
    weights = init.kaiming_uniform(shape, dtype, rng)
    assert (weights.dtype, weights.shape) == (np.float32, (2, 3))


@pytest.mark.parametrize("function", [init.calculate_gain, *DRAWS], ids=name_of)
def test_docstring_describes_every_argument(function):
    doc = inspect.getdoc(function)
    for name in inspect.signature(function).parameters:
        assert f"\n{name} : " in doc
