"""The demo's network is right, its trainings are comparable, and both backends give one result."""

from __future__ import annotations

import math

import numpy as np
import pytest

import fastoptim as fo
from fastoptim import demo

pytest.importorskip("mlxtend", reason="mlxtend is not installed (extra `demo`)")
pytest.importorskip("rich", reason="rich is not installed (extra `demo`)")
threadpoolctl = pytest.importorskip("threadpoolctl", reason="needs the extra `test`")

METHODS = ["SGD", "Momentum", "RMSprop", "Adagrad", "Adam"]


@pytest.fixture(scope="module")
def digits():
    return demo.load_digits()


@pytest.fixture(scope="module")
def results(digits):
    """Every training of the demo, once."""
    # On a busy machine, products this small take far longer on two threads than on one.
    with threadpoolctl.threadpool_limits(1):
        found = demo.compare(digits, demo.draw_batches(len(digits.x_train), demo.BATCHES))
    return {result.name: result for result in found}


@pytest.mark.parametrize("name", METHODS)
def test_accuracy_and_bits(results, name):
    result = results[name]
    assert result.accuracy >= 0.91  # 0.90 is promised
    assert result.identical
    assert result.numpy.losses == result.fastoptim.losses
    assert len(result.numpy.losses) == demo.BATCHES
    for training in (result.numpy, result.fastoptim):
        assert 0 < training.step_seconds < training.seconds


def test_methods(results):
    assert list(results) == METHODS


def test_a_difference_of_one_bit_shows(results):
    result = results["SGD"]
    changed = demo.Training(fo.SGD, 0.5, "compiled")
    for name, weights in result.numpy.weights.items():
        changed.weights[name][...] = weights
    same = demo.Result("SGD", 0.5, 0.0, result.numpy, changed)
    assert same.identical
    changed.weights["b2"][3] = np.nextafter(changed.weights["b2"][3], np.float32(np.inf))
    assert not same.identical


def test_training_again_gives_the_same_bits(digits):
    """Without this, a difference in the weights could be the BLAS's and not the optimizer's."""
    batches = demo.draw_batches(len(digits.x_train), 40)
    first, second = (demo.Training(fo.Adam, 0.001, "reference") for _ in range(2))
    first.run(digits, batches)
    second.run(digits, batches)
    assert first.losses == second.losses
    for name, weights in first.weights.items():
        assert weights.tobytes() == second.weights[name].tobytes()


def test_images(digits):
    assert digits.x_train.shape == (4000, 784)
    assert digits.x_test.shape == (1000, 784)
    for x, y in ((digits.x_train, digits.y_train), (digits.x_test, digits.y_test)):
        assert x.dtype == np.float32
        assert (x.min(), x.max()) == (0, 1)
        assert len(x) == len(y)
        assert set(y) == set(range(10))
    train = {x.tobytes() for x in digits.x_train}
    assert not train & {x.tobytes() for x in digits.x_test}, "held out"


def test_start():
    weights = demo.start_weights()
    assert {name: w.shape for name, w in weights.items()} == {
        "W1": (784, 128),
        "b1": (128,),
        "W2": (128, 10),
        "b2": (10,),
    }
    assert all(w.dtype == np.float32 for w in weights.values())
    assert np.std(weights["W1"]) == pytest.approx(math.sqrt(2 / 784), rel=0.01)
    assert np.std(weights["W2"]) == pytest.approx(math.sqrt(2 / 128), rel=0.05)
    for name, again in demo.start_weights().items():
        assert weights[name].tobytes() == again.tobytes()


@pytest.mark.parametrize("images", [1, 70, 4000, 60_000])
def test_batches_go_through_all_images_before_one_returns(images):
    batches = demo.draw_batches(images, 60)
    assert batches.shape == (60, demo.BATCH)
    for epoch in np.split(batches.ravel(), range(images, batches.size, images)):
        assert len(set(epoch)) == len(epoch)
        assert set(epoch) <= set(range(images))
    assert np.array_equal(batches, demo.draw_batches(images, 60))


def test_loss_by_hand():
    """With weights of zero every digit has the probability 0.1."""
    weights = {name: np.zeros_like(w) for name, w in demo.start_weights().items()}
    x, y = np.ones((4, 784), np.float32), np.array([0, 1, 2, 2])
    loss, gradients = demo.loss_and_gradients(weights, x, y)
    assert loss == pytest.approx(math.log(10), rel=1e-6)
    shares = np.array([0.25, 0.25, 0.5, 0, 0, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(gradients["b2"], 0.1 - shares, rtol=1e-6)


def test_loss_of_huge_logits_is_finite():
    weights = {name: 1e4 * w for name, w in demo.start_weights().items()}
    x, y = np.ones((4, 784), np.float32), np.arange(4)
    loss, gradients = demo.loss_and_gradients(weights, x, y)
    assert math.isfinite(loss)
    assert all(np.isfinite(g).all() for g in gradients.values())


@pytest.mark.parametrize("name", ["W1", "b1", "W2", "b2"])
def test_backward_pass_against_finite_differences(name):
    rng = np.random.default_rng(1)
    weights = {key: w.astype(np.float64) for key, w in demo.start_weights().items()}
    x, y = rng.random((5, 784)), rng.integers(0, 10, 5)
    _, gradients = demo.loss_and_gradients(weights, x, y)
    h = 1e-6
    for index in rng.choice(weights[name].size, 10, replace=False):
        w, at = weights[name], np.unravel_index(index, weights[name].shape)
        value, sides = w[at], []
        for side in (value + h, value - h):
            w[at] = side
            sides.append(demo.loss_and_gradients(weights, x, y)[0])
        w[at] = value
        slope = (sides[0] - sides[1]) / (2 * h)
        assert gradients[name][at] == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_gradients_are_like_the_weights():
    weights = demo.start_weights()
    _, gradients = demo.loss_and_gradients(weights, np.ones((3, 784), np.float32), np.arange(3))
    for name, w in weights.items():
        assert gradients[name].dtype == w.dtype
        assert gradients[name].shape == w.shape
