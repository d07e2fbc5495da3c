"""The programs in fastoptim.examples run, in seconds with these settings, and learn something."""

from __future__ import annotations

import pkgutil
from importlib import import_module

import numpy as np
import pytest
from peers import import_keras
from zoo import gradients

from fastoptim import examples
from fastoptim.examples import evolution, muon


def test_every_example_is_run_here():
    found = {module.name for module in pkgutil.iter_modules(examples.__path__)}
    assert {name for name in found if not name.startswith("mpi_")} == {
        "autograd_digits",
        "evolution",
        "hashed_text",
        "muon",
    }  # the others are run by tests/test_mpi.py, under mpiexec


class TestEvolution:
    example = evolution

    def test_finds_the_best_of_many_optima(self):
        start = self.example.rastrigin(np.full(10, 2.5))
        assert start < -200
        assert self.example.climb_rastrigin() > -0.1
        assert self.example.rastrigin(np.zeros(10)) == 0

    def test_holds_a_pole(self):
        size, before, after = self.example.balance(**self.example.SMALL)
        assert size == 104
        assert after > 90 > 20 > before

    def test_moves_a_million_parameters(self):
        settings = {**self.example.LARGE, "generations": 1, "pairs": 1}
        size, before, after = self.example.balance(**settings)
        assert size >= 1_000_000
        assert min(before, after) > 5

    def test_pole_falls_as_it_must(self):
        """Upright and still it stays so without a push; leaning, it falls to where it leans."""
        still = np.zeros((1, 4))
        assert not self.example.CartPole.motion(still, np.zeros(1)).any()
        leaning = np.array([[0, 0, 0.1, 0]])
        *_, bend = self.example.CartPole.motion(leaning, np.zeros(1))[0]
        assert bend == pytest.approx(1.57, abs=0.02)  # the equations, worked out by hand

    def test_says_how_far_it_is_and_what_it_finds(self, monkeypatch):
        monkeypatch.setattr(self.example, "LARGE", {**self.example.SMALL, "generations": 5})
        said = []
        self.example.main(said.append)
        starts = [
            *(f"Rastrigin, generation {n} of 600" for n in range(100, 601, 100)),
            "Rastrigin, 10 parameters",
            *(f"Pole, generation {n} of 30" for n in range(6, 31, 6)),
            "Pole on a cart, 104 parameters",
            *(f"Pole, generation {n} of 5" for n in range(1, 6)),
            "Pole on a cart, 104 parameters",
        ]
        assert [line.split(":")[0] for line in said] == starts
        first, *_, last = (float(line.split(": ")[1]) for line in said[:6])
        assert first < -5 < last, "the mean value of a generation"


class TestMuon:
    @pytest.mark.parametrize("shape", [(30, 50), (50, 30), (40, 40), (1, 7)])
    def test_makes_a_matrix_orthogonal(self, shape):
        x = np.random.default_rng(5).standard_normal(shape)
        u, s, vt = np.linalg.svd(x, full_matrices=False)
        found = u.T @ muon.orthogonal(x) @ vt.T
        large = s > 0.05 * np.linalg.norm(s)
        assert np.allclose(np.diag(found)[large], 1, atol=0.35)
        assert np.allclose(found, np.diag(np.diag(found)), atol=1e-10)

    @pytest.mark.parametrize("names", ["w", "b", "wb"])
    def test_takes_matrices_and_vectors_alone_and_together(self, names):
        shapes = {"w": (3, 4), "b": 4}
        params = {name: np.ones(shapes[name]) for name in names}
        muon.Muon(params, lr=0.1).step(
            {name: 1.0 + np.arange(p.size).reshape(p.shape) for name, p in params.items()}
        )
        assert all((p < 1).any() for p in params.values())

    def test_learns_faster_than_adamw(self):
        said = []
        muon.main(report=said.append)
        losses = [float(line.split("loss ")[1].split(",")[0]) for line in said]
        assert losses[1] < losses[0]

    def test_against_keras(self, monkeypatch):
        """Keras has norms, and roots of whole numbers, in float32: here the first are replaced."""
        keras = import_keras()
        torch = import_module("torch")
        exact = torch.linalg.matrix_norm
        monkeypatch.setattr(
            import_module("keras.src.ops"),
            "norm",
            lambda x, axis, keepdims: exact(x, keepdim=keepdims),
        )
        rng, lr = np.random.default_rng(6), 0.1
        ours = {"w": rng.standard_normal((9, 4)), "u": rng.standard_normal((3, 16))}
        theirs = {name: keras.Variable(p, dtype="float64") for name, p in ours.items()}
        optimizer = muon.Muon({**ours, "bias": np.zeros(2)}, lr=lr, weight_decay=0.25)
        peer = keras.optimizers.Muon(lr, weight_decay=0.25)
        for _ in range(25):
            grads = dict(zip(ours, gradients(rng, list(ours.values())), strict=True))
            optimizer.step({**grads, "bias": np.ones(2)})
            peer.apply([keras.ops.convert_to_tensor(grads[n]) for n in ours], [*theirs.values()])
        for name, p in ours.items():
            found = theirs[name].value.detach().numpy()
            np.testing.assert_allclose(p, found, rtol=1e-12, atol=1e-12)


def test_autograd_digits():
    peers = pytest.importorskip("autograd.misc.optimizers", reason="autograd is not installed")
    example = import_module("fastoptim.examples.autograd_digits")
    said = []
    found = example.main(epochs=11, report=said.append)
    assert found > 0.95
    assert found == example.main(epochs=11, optimize=peers.adam, report=said.append)
    assert len(said) == 6


def test_hashed_text():
    pytest.importorskip("sklearn")
    example = import_module("fastoptim.examples.hashed_text")
    said = []
    ours, theirs = example.main(report=said.append)
    assert len(said) == 3
    assert ours > theirs - 0.01
    assert ours > 0.8


def test_the_gradient_of_hashed_text():
    """Against differences of the loss."""
    pytest.importorskip("sklearn")
    sparse = pytest.importorskip("scipy.sparse")
    example = import_module("fastoptim.examples.hashed_text")
    rng = np.random.default_rng(0)
    x = sparse.csr_matrix(rng.random((5, 7)) * (rng.random((5, 7)) < 0.5))
    labels, table = rng.integers(0, 3, 5), rng.standard_normal((7, 3))

    def loss(table):
        scores = x @ table
        return np.mean(np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(5), labels])

    rows = example.gradient(x, labels, table)
    g = np.zeros_like(table)
    np.add.at(g, rows.indices, rows.values)
    for index in np.ndindex(table.shape):
        up, down = table.copy(), table.copy()
        up[index] += 1e-6
        down[index] -= 1e-6
        assert g[index] == pytest.approx((loss(up) - loss(down)) / 2e-6, abs=1e-8)
