"""Rules and flavours against the libraries that use them; Keras's formulas are written out here."""

from __future__ import annotations

from operator import attrgetter

import numpy as np
import pytest
from peers import import_from_timm, import_keras
from zoo import OPTIMIZERS, gradients, name_of

import fastoptim as fo


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(17)
    p = rng.standard_normal(300)
    return p, [gradients(rng, [p])[0] for _ in range(25)]


def assert_peers(problem, optimizer, theirs):
    """Assert that an optimizer arrives where a function of the same start and gradients does."""
    start, grads = problem
    p = optimizer.param_groups[0]["params"][0]
    p[...] = start
    for g in grads:
        optimizer.step(g)
    np.testing.assert_allclose(p, theirs(start.copy(), grads), rtol=1e-12, atol=1e-12)
    assert np.median(np.abs(p - start)) > 1e-4


@pytest.fixture
def optax():
    optax = pytest.importorskip("optax", reason="optax is not installed")
    with pytest.importorskip("jax").enable_x64(True):
        yield optax


def rising(t):
    return 0.9 + 0.004 * t


def growing(t):
    return 0.25 * t


DECAYED = {"weight_decay": 0.3}
CENTERED = {"centered": True}
INSIDE = {"eps_inside": True}
OPTAX = [
    # ours, what we call it, optax's name, what it calls that
    (fo.Lion, {}, "lion", {"weight_decay": 0.0}),
    (fo.Lion, DECAYED, "lion", DECAYED),
    (fo.Lion, {"betas": (0.5, 0.75)}, "lion", {"b1": 0.5, "b2": 0.75, "weight_decay": 0.0}),
    (fo.AdaBelief, {}, "adabelief", {}),
    (fo.AdaBelief, {"betas": (0.5, 0.75)}, "adabelief", {"b1": 0.5, "b2": 0.75}),
    (fo.AdaBelief, {"eps": 1e-3, "eps_root": 1e-2}, "adabelief", {"eps": 1e-3, "eps_root": 1e-2}),
    (fo.LAMB, {}, "lamb", {}),
    (
        fo.LAMB,
        {**DECAYED, "betas": (0.5, 0.75), "eps": 1e-3},
        "lamb",
        {**DECAYED, "b1": 0.5, "b2": 0.75, "eps": 1e-3},
    ),
    (fo.LARS, {}, "lars", {}),
    (
        fo.LARS,
        {**DECAYED, "nesterov": True, "momentum": 0.5, "trust_coefficient": 0.1},
        "lars",
        {**DECAYED, "nesterov": True, "momentum": 0.5, "trust_coefficient": 0.1},
    ),
    (fo.Yogi, {}, "yogi", {}),
    (fo.Yogi, {"betas": (0.5, 0.75), "eps": 1e-8}, "yogi", {"b1": 0.5, "b2": 0.75, "eps": 1e-8}),
    (fo.AdEMAMix, {}, "contrib.ademamix", {}),
    (
        fo.AdEMAMix,
        {**DECAYED, "betas": (0.5, 0.75, 0.9), "alpha": 2.0, "eps": 1e-3},
        "contrib.ademamix",
        {**DECAYED, "b1": 0.5, "b2": 0.75, "b3": 0.9, "alpha": 2.0, "eps": 1e-3},
    ),
    (
        fo.AdEMAMix,
        {"betas": (0.9, 0.999, rising), "alpha": growing},
        "contrib.ademamix",
        {"b3": rising, "alpha": growing},
    ),
    (fo.ADOPT, {}, "contrib.adopt", {}),
    (
        fo.ADOPT,
        {"betas": (0.5, 0.75), "eps": 1e-3},
        "contrib.adopt",
        {"b1": 0.5, "b2": 0.75, "eps": 1e-3},
    ),
    (fo.RMSprop, INSIDE, "rmsprop", {"decay": 0.99}),
    (fo.RMSprop, {**INSIDE, "eps": 1e-2}, "rmsprop", {"decay": 0.99, "eps": 1e-2}),
    (fo.RMSprop, INSIDE | CENTERED, "rmsprop", {"decay": 0.99} | CENTERED),
    (fo.RMSprop, {**INSIDE, "momentum": 0.9}, "rmsprop", {"decay": 0.99, "momentum": 0.9}),
    (fo.RMSprop, {}, "rmsprop", {"decay": 0.99, "eps_in_sqrt": False}),
    (
        fo.Adagrad,
        {**INSIDE, "eps": 1e-7, "initial_accumulator_value": 0.1},
        "adagrad",
        {},
    ),
]


def test_every_rule_that_optax_has_and_torch_has_not_is_compared(optax):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    missing = [
        cls.__name__
        for cls in OPTIMIZERS
        if any(hasattr(module, cls.__name__.lower()) for module in (optax, optax.contrib))
        and not hasattr(torch.optim, cls.__name__)
        and cls not in [row[0] for row in OPTAX]
        and cls is not fo.Adan  # of another formula there; held to torch-optimi's
    ]
    assert missing == [], f"tests/test_peers.py, OPTAX: expected rows of {missing}"


@pytest.mark.parametrize(("cls", "ours", "name", "kwargs"), OPTAX, ids=lambda v: str(v))
def test_against_optax(cls, ours, name, kwargs, problem, optax):
    def theirs(p, grads):
        rule = attrgetter(name)(optax)(0.01, **kwargs)
        state = rule.init(p)
        for g in grads:
            updates, state = rule.update(g, state, p)
            p = optax.apply_updates(p, updates)
        assert p.dtype == np.float64
        return p

    assert_peers(problem, cls(np.zeros(300), lr=0.01, **ours), theirs)


OPTIMI = [
    (fo.StableAdamW, {}),
    (fo.StableAdamW, {**DECAYED, "betas": (0.5, 0.75), "eps": 1e-3}),
    (fo.Adan, {"eps": 1e-6, "weight_decay": 0.02}),
    (fo.Adan, {**DECAYED, "betas": (0.5, 0.75, 0.9), "eps": 1e-3}),
]


def with_torch(method, lr=0.01, at_the_end=lambda optimizer: None, **kwargs):
    """Return a function that steps with an optimizer of torch's kind."""
    torch = pytest.importorskip("torch", reason="torch is not installed")

    def theirs(p, grads):
        tensor = torch.nn.Parameter(torch.from_numpy(p))
        optimizer = method([tensor], lr=lr, **kwargs)
        getattr(optimizer, "train", bool)()  # which schedulefree's have
        for g in grads:
            tensor.grad = torch.from_numpy(g.copy())
            optimizer.step()
        at_the_end(optimizer)
        return tensor.detach().numpy()

    return theirs


@pytest.mark.parametrize(("cls", "kwargs"), OPTIMI, ids=lambda v: str(v))
def test_against_optimi(cls, kwargs, problem):
    optimi = pytest.importorskip("optimi", reason="torch-optimi is not installed")
    theirs = with_torch(getattr(optimi, cls.__name__), **kwargs)
    assert_peers(problem, cls(np.zeros(300), lr=0.01, **kwargs), theirs)


SCHEDULE_FREE = [
    {},
    DECAYED,
    {"warmup_steps": 10},
    {"r": 1.0, "weight_lr_power": 1.0, "warmup_steps": 30, **DECAYED},
]


@pytest.mark.parametrize("kwargs", SCHEDULE_FREE, ids=str)
@pytest.mark.parametrize("cls", [fo.ScheduleFreeSGD, fo.ScheduleFreeAdamW], ids=name_of)
def test_against_schedulefree(cls, kwargs, problem):
    """Where gradients are taken, and where the result is evaluated."""
    schedulefree = pytest.importorskip("schedulefree", reason="schedulefree is not installed")
    name = {"ScheduleFreeSGD": "SGDScheduleFree", "ScheduleFreeAdamW": "AdamWScheduleFree"}
    method = getattr(schedulefree, name[cls.__name__])
    optimizer = cls(np.zeros(300), lr=0.01, **kwargs)
    assert_peers(problem, optimizer, with_torch(method, **kwargs))
    evaluated = with_torch(method, at_the_end=method.eval, **kwargs)(problem[0].copy(), problem[1])
    (p,) = optimizer.param_groups[0]["params"]
    with optimizer.use_average():
        np.testing.assert_allclose(p, evaluated, rtol=1e-12, atol=1e-12)


CAUTIOUS = [
    (fo.Adam, {}, "adamw", "AdamWLegacy", {"weight_decay": 0.0}),
    (fo.AdamW, DECAYED, "adamw", "AdamWLegacy", DECAYED),
    (fo.Adam, {"amsgrad": True}, "adamw", "AdamWLegacy", {"weight_decay": 0.0, "amsgrad": True}),
    (fo.Lion, DECAYED, "lion", "Lion", DECAYED),
    (fo.SGD, {"momentum": 0.9}, "sgdw", "SGDW", {"momentum": 0.9}),
    (
        fo.SGD,
        {"momentum": 0.9, "nesterov": True},
        "sgdw",
        "SGDW",
        {"momentum": 0.9, "nesterov": True},
    ),
    (
        fo.SGD,
        {"momentum": 0.9, "dampening": 0.5},
        "sgdw",
        "SGDW",
        {"momentum": 0.9, "dampening": 0.5},
    ),
]


@pytest.mark.parametrize(("cls", "ours", "module", "name", "kwargs"), CAUTIOUS, ids=str)
def test_cautious_against_timm(cls, ours, module, name, kwargs, problem):
    method = getattr(import_from_timm(module), name)
    optimizer = cls(np.zeros(300), lr=0.01, cautious=True, **ours)
    theirs = with_torch(method, caution=True, foreach=False, **kwargs)
    assert_peers(problem, optimizer, theirs)


@pytest.fixture
def sklearn():
    name = "sklearn.neural_network._stochastic_optimizers"
    return pytest.importorskip(name, reason="scikit-learn is not installed")


SKLEARN = [
    (fo.Adam, {"eps_hat": True}, "AdamOptimizer", {}),
    (fo.Adam, {"eps_hat": True, "eps": 0.1}, "AdamOptimizer", {"epsilon": 0.1}),
    (fo.Momentum, {"form": "heavy_ball", "nesterov": True}, "SGDOptimizer", {}),
    (fo.Momentum, {"form": "heavy_ball"}, "SGDOptimizer", {"nesterov": False}),
]


@pytest.mark.parametrize(("cls", "ours", "name", "kwargs"), SKLEARN, ids=lambda v: str(v))
def test_against_scikit_learn(cls, ours, name, kwargs, problem, sklearn):
    def theirs(p, grads):
        rule = getattr(sklearn, name)([p], 0.01, **kwargs)
        for g in grads:
            rule.update_params([p], [g])
        return p

    assert_peers(problem, cls(np.zeros(300), lr=0.01, **ours), theirs)


def keras_sgd(p, grads, lr=0.01, momentum=0.9):
    v = np.zeros_like(p)
    for g in grads:
        v = v * momentum - g * lr
        p = p + v * momentum - g * lr
    return p


def keras_rmsprop(p, grads, lr=0.01, rho=0.9, eps=1e-7, centered=False):
    v, average = np.zeros_like(p), np.zeros_like(p)
    for g in grads:
        v = v * rho + g**2 * (1 - rho)
        average = average * rho + g * (1 - rho)
        p = p - lr * g / np.sqrt((v - average**2 if centered else v) + eps)
    return p


def keras_adagrad(p, grads, lr=0.01, eps=1e-7):
    h = np.full_like(p, 0.1)
    for g in grads:
        h = h + g**2
        p = p - lr * g / np.sqrt(h + eps)
    return p


def keras_adam(p, grads, lr=0.01, b1=0.9, b2=0.999, eps=1e-7, decay=0.0, amsgrad=False):
    m, v, v_max = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(grads, start=1):
        p = p - p * decay * lr
        m = m + (g - m) * (1 - b1)
        v = v + (g**2 - v) * (1 - b2)
        v_max = np.maximum(v_max, v)
        rate = lr * np.sqrt(1 - b2**t) / (1 - b1**t)
        p = p - m * rate / (np.sqrt(v_max if amsgrad else v) + eps)
    return p


FTRL = [
    {},
    {"beta": 1.0, "l2_regularization_strength": 0.5, "initial_accumulator_value": 0.0},
    {"l1_regularization_strength": 5.0},
]


@pytest.mark.parametrize("kwargs", FTRL, ids=str)
def test_ftrl_against_keras(kwargs, problem):
    keras = import_keras()
    lr = 0.1

    def theirs(p, grads):
        variable = keras.Variable(p, dtype="float64")
        optimizer = keras.optimizers.Ftrl(lr, **kwargs)
        for g in grads:
            optimizer.apply([keras.ops.convert_to_tensor(g)], [variable])
        return variable.value.detach().numpy()

    optimizer = fo.FTRL(np.zeros(300), lr=lr, **kwargs)
    assert_peers(problem, optimizer, theirs)
    p = optimizer.param_groups[0]["params"][0]
    assert np.array_equal(p == 0, theirs(problem[0].copy(), problem[1]) == 0)
    assert (p == 0).any() == ("l1_regularization_strength" in kwargs)


HAT = {"eps_hat": True, "eps": 1e-7}
KERAS = [
    (fo.Momentum, {"form": "heavy_ball", "nesterov": True}, keras_sgd, {}),
    (fo.RMSprop, {**INSIDE, "alpha": 0.9, "eps": 1e-7}, keras_rmsprop, {}),
    (fo.RMSprop, {**INSIDE, "alpha": 0.9, "eps": 1e-7} | CENTERED, keras_rmsprop, CENTERED),
    (
        fo.Adagrad,
        {**INSIDE, "eps": 1e-7, "initial_accumulator_value": 0.1},
        keras_adagrad,
        {},
    ),
    (fo.Adam, HAT, keras_adam, {}),
    (fo.Adam, HAT | {"amsgrad": True}, keras_adam, {"amsgrad": True}),
    (fo.AdamW, HAT | {"weight_decay": 0.3}, keras_adam, {"decay": 0.3}),
]


@pytest.mark.parametrize(("cls", "ours", "theirs", "kwargs"), KERAS, ids=lambda v: str(v))
def test_against_keras(cls, ours, theirs, kwargs, problem):
    optimizer = cls(np.zeros(300), lr=0.01, **ours)
    assert_peers(problem, optimizer, lambda p, grads: theirs(p, grads, **kwargs))


def test_a_learning_rate_that_changes(problem, sklearn):
    """It is inside the velocity: a step before the change keeps the length that it had."""
    start, grads = problem
    ours, theirs = start.copy(), start.copy()
    optimizer = fo.Momentum(ours, form="heavy_ball", nesterov=True)
    peer = sklearn.SGDOptimizer([theirs])
    for t, g in enumerate(grads, start=1):
        optimizer.lr = peer.learning_rate = 0.1 / t
        optimizer.step(g)
        peer.update_params([theirs], [g])
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)
