"""A mask prunes exactly as many weights as asked, the smallest; nothing else decides."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from fastoptim import prune

DTYPES = [np.float16, np.float32, np.float64, ">f4"]
SPARSITIES = st.floats(0, 1)


def slowly(magnitudes, sparsity):
    """Return the mask by a stable sort."""
    kept = np.ones(magnitudes.size, bool)
    kept[np.argsort(magnitudes, kind="stable")[: round(sparsity * magnitudes.size)]] = False
    return kept


# Few values, so that there are ties, of either sign.
def arrays_of_ties(shapes=None):
    shapes = shapes or nps.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9)
    elements = st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0, -2.0, math.inf, -math.inf])
    return nps.arrays(st.sampled_from([np.float32, np.float64]), shapes, elements=elements)


@given(arrays_of_ties(), SPARSITIES)
def test_mask_of_an_array(array, sparsity):
    before = array.copy()
    mask = prune.magnitude(array, sparsity)
    assert (mask.dtype, mask.shape) == (np.bool_, array.shape)
    assert np.count_nonzero(~mask) == round(sparsity * array.size)
    assert mask.ravel().tolist() == slowly(np.abs(array).ravel(), sparsity).tolist()
    assert array.tobytes() == before.tobytes()


@given(st.lists(arrays_of_ties(), min_size=1, max_size=4), SPARSITIES)
def test_masks_have_one_threshold(arrays, sparsity):
    masks = prune.magnitude(arrays, sparsity)
    assert isinstance(masks, list)
    assert [mask.shape for mask in masks] == [array.shape for array in arrays]
    magnitudes = np.concatenate([np.abs(array).ravel() for array in arrays])
    kept = np.concatenate([mask.ravel() for mask in masks])
    assert kept.tolist() == slowly(magnitudes, sparsity).tolist()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sparsity", [0, 0.001, 0.25, 0.5, 0.9, 0.999, 1, np.float32(0.5)])
def test_mask_of_many_weights(dtype, sparsity):
    array = np.random.default_rng(1).standard_normal((123, 81)).astype(dtype)
    mask = prune.magnitude(array, sparsity)
    assert np.count_nonzero(~mask) == round(sparsity * array.size)
    if 0 < sparsity < 1:
        assert np.abs(array[~mask]).max() <= np.abs(array[mask]).min()


def test_mask_does_not_depend_on_the_layout():
    array = np.random.default_rng(1).integers(-3, 4, (6, 8)).astype(np.float32)
    expected = prune.magnitude(array, 0.4)
    wide = np.zeros((12, 16), np.float32)
    wide[::2, ::2] = array
    for same in (np.asfortranarray(array), wide[::2, ::2], array[::-1].copy()[::-1]):
        assert np.array_equal(prune.magnitude(same, 0.4), expected)


def test_containers():
    a, b = np.array([3.0, -1.0]), np.array([[2.0], [0.5]], np.float32)
    by_name = prune.magnitude({"a": a, 7: b}, 0.5)
    assert type(by_name) is dict
    assert {name: mask.tolist() for name, mask in by_name.items()} == {
        "a": [True, False],
        7: [[True], [False]],
    }
    for kind in (list, tuple):
        masks = prune.magnitude(kind([a, b]), 0.5)
        assert type(masks) is kind
        assert [mask.tolist() for mask in masks] == [[True, False], [[True], [False]]]


def test_float32_and_float64_are_compared_exactly():
    small, large = np.float32(0.1), np.float64(0.1)  # the float32 is above the float64
    assert small > large
    masks = prune.magnitude([np.array([small]), np.array([large])], 0.5)
    assert [mask.tolist() for mask in masks] == [[True], [False]]


@pytest.mark.parametrize("index", [(), (0,), (2, 1)])
def test_nan_is_refused(index):
    array = np.ones((3,) * len(index), np.float32)
    array[index] = math.nan
    where = str(index).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=rf"^arrays: expected numbers, found NaN at index {where}"):
        prune.magnitude(array, 0.5)
    with pytest.raises(ValueError, match=r"^arrays\['w'\]: expected numbers, found NaN"):
        prune.magnitude({"v": np.ones(2), "w": array}, 0.0)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (1.0, "arrays: expected an array, a sequence or a mapping of arrays, found float"),
        ("w", "arrays: expected an array, a sequence or a mapping of arrays, found str"),
        ([], "arrays: expected at least one array, found none"),
        ([[1.0]], r"arrays\['0.0'\]: expected a NumPy array, found float"),
        (np.arange(3), "arrays: expected floating-point numbers, found int64"),
        ([np.ones(2), np.ones(2, complex)], r"arrays\[1\]: .* found complex128"),
        (np.array([1.0], object), "arrays: expected floating-point numbers, found object"),
    ],
)
def test_what_is_no_array_of_weights(arrays, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        prune.magnitude(arrays, 0.5)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0001, 50, math.nan, math.inf, "0.5", None, True])
def test_what_is_no_sparsity(sparsity):
    with pytest.raises((TypeError, ValueError), match=r"^sparsity: expected a .*number.*, found "):
        prune.magnitude(np.ones(3), sparsity)
