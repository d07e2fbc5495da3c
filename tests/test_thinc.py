"""thinc's optimizers in one pass: the same steps, arguments and attributes, in thinc and spaCy."""

from __future__ import annotations

import copy
import doctest
import gc
import inspect
import itertools
import pickle
import re
import weakref
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
from fresh import output, python
from test_arrays import GRADIENT_LAYOUTS, LAYOUTS
from test_zeroing import WRITABLE
from zoo import DTYPES, LEVELS, SIZES, engine, name_of, same_bits

thinc = pytest.importorskip("thinc.api", reason="the extra thinc is not installed")

from thinc import optimizers as thinc_optimizers  # noqa: E402
from thinc.tests import test_optimizers as thinc_tests  # noqa: E402

from fastoptim.integrations import thinc as ours  # noqa: E402

KEY = (3, "W")
DECAY, PENALTY = {"L2": 0.1}, {"L2": 0.1, "L2_is_weight_decay": False}
RULES = {"Adam": {}, "RAdam": {"use_radam": True}, "SGD": {"beta1": 0.0, "beta2": 0.0}}
OPTIONS = {
    "plain": {"grad_clip": 0.0, "use_averages": False},
    "defaults": {},
    "decay": DECAY,
    "penalty": PENALTY,
    "penalty, no clipping": PENALTY | {"grad_clip": 0.0},
    "other constants": {"eps": 1e-4, "grad_clip": 0.3},
}
CASES = [
    pytest.param(rule | options, id=f"{name}-{chosen}")
    for (name, rule), (chosen, options) in itertools.product(RULES.items(), OPTIONS.items())
]
STATE = ("mom1", "mom2", "averages")
thinc_9 = pytest.mark.skipif(
    not hasattr(thinc, "Schedule"), reason="before thinc 9 schedules are generators"
)


def gradients(seed, steps, shape, dtype=np.float32):
    """Return gradients of which clipping to a norm of 1 changes some and leaves others."""
    rng = np.random.default_rng(seed)
    scales = rng.choice([0.1, 10.0], steps) / np.sqrt(max(1, np.prod(shape)))
    return [(s * rng.standard_normal(shape)).astype(dtype) for s in scales]


def train(optimizer, weights, steps, **kwargs):
    """Take a step for each gradient; return the weights after each."""
    found = []
    for g in steps:
        weights, zeros = optimizer(KEY, weights, g.copy(), **kwargs)
        assert not zeros.any()
        found.append(weights.copy())
        optimizer.step_schedules()
    return found


def state_of(optimizer):
    """Return all state by attribute and key, and the step counts."""
    arrays = {
        (name, key): array.copy()
        for name in STATE
        for key, array in (getattr(optimizer, name) or {}).items()
    }
    return arrays, {key: t for key, t in optimizer.nr_update.items() if t}


def assert_close(found, expected, tolerance=1e-5):
    """Assert equality to float32 rounding, of the largest element."""
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max(initial=1e-30))


def assert_same_state(optimizer, expected):
    (arrays, steps), (others, other_steps) = state_of(optimizer), state_of(expected)
    assert steps == other_steps
    assert arrays.keys() == others.keys()
    # thinc rounds beta2 to float32 before it is subtracted from 1, which leaves five digits
    assert_close(arrays.values(), others.values(), 2e-5)


def own_names(cls):
    return {name for name in vars(cls) if not name.startswith("__")}


def test_no_name_of_thincs_is_hidden():
    hidden = own_names(ours.Optimizer) & own_names(thinc_optimizers.Optimizer)
    assert hidden == {"step_schedules"}


SCHEDULES = {
    "constant_then": lambda: thinc.constant_then(0.1, 3, thinc.decaying(0.05, 0.1)),
    "constant": lambda: thinc.constant(0.1),
    "decaying": lambda: thinc.decaying(0.1, 0.5),
    "compounding": lambda: thinc.compounding(0.1, 0.3, 1.2),
    "slanted_triangular": lambda: thinc.slanted_triangular(0.1, 20, cut_frac=0.3),
    "warmup_linear": lambda: thinc.warmup_linear(0.1, 3, 10),
    "cyclic_triangular": lambda: thinc.cyclic_triangular(0.01, 0.1, 4),
}


class TestLikeThinc:
    @pytest.mark.parametrize("lr_scale", [1.0, 0.3])
    @pytest.mark.parametrize("kwargs", CASES)
    def test_50_steps(self, kwargs, lr_scale):
        start = np.random.default_rng(1).standard_normal((7, 129)).astype("f")
        steps = gradients(2, 50, start.shape)
        mine, expected = ours.Optimizer(0.01, **kwargs), thinc.Optimizer(0.01, **kwargs)
        found = train(mine, start.copy(), steps, lr_scale=lr_scale)
        assert_close(found, train(expected, start.copy(), steps, lr_scale=lr_scale))
        assert_same_state(mine, expected)

    @pytest.mark.parametrize("rule", RULES)
    def test_schedules(self, rule):
        start, steps = np.ones(5, "f"), gradients(3, 20, 5)

        def optimizer(cls):
            rates, clips = (0.1 / (t + 1) for t in itertools.count()), [0.2, 0.0, 5.0]
            extra = {} if rule == "SGD" else {"beta2": [0.9, 0.99, 0.999]}
            return cls(rates, L2=[0.1, 0.2], grad_clip=clips, **RULES[rule], **extra)

        mine, expected = optimizer(ours.Optimizer), optimizer(thinc.Optimizer)
        assert_close(train(mine, start.copy(), steps), train(expected, start.copy(), steps))
        assert_same_state(mine, expected)

    @pytest.mark.parametrize("kwargs", CASES)
    def test_nonfinite_gradients(self, kwargs):
        steps = [np.array([1, np.inf, -1], "f"), np.array([np.nan, 1, 2], "f")]
        found = []
        for cls in (ours.Optimizer, thinc.Optimizer):
            weights, g = np.ones(3, "f"), steps[0].copy()
            with np.errstate(all="ignore"):
                cls(0.1, **kwargs)(KEY, weights, g)
            found.append(weights)
        assert np.array_equal(np.isnan(found[0]), np.isnan(found[1]))

    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES)
    def test_thincs_own_schedules(self, make, rule):
        start, steps = np.ones(5, "f"), gradients(10, 12, 5)
        mine, expected = (
            cls(make(), L2=make(), **RULES[rule]) for cls in (ours.Optimizer, thinc.Optimizer)
        )
        assert_close(train(mine, start.copy(), steps), train(expected, start.copy(), steps))

    @thinc_9
    def test_schedules_that_ask_for_the_key_and_the_last_score(self):
        rates = {(0, "W"): 0.1, (1, "W"): 0.01}

        def of_the_key(schedule, step, *, key, **_):
            return rates[key] / (1 + step)

        found = []
        for cls in (ours.Optimizer, thinc.Optimizer):
            own = thinc.Schedule("of_the_key", of_the_key)
            optimizer = cls(own, grad_clip=thinc.plateau(1, 0.5, thinc.constant(0.8)))
            weights = {key: np.ones(4, "f") for key in rates}
            for score in (0.5, 0.4, 0.6, 0.1, 0.1):
                for key, w in weights.items():
                    optimizer(key, w, np.full(4, 3.0, "f"))
                optimizer.step_schedules()
                optimizer.last_score = score
            assert optimizer.step == 5
            assert optimizer.last_score == (5, 0.1)
            found.append(weights)
        assert_close(found[0].values(), found[1].values())

    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("grad_clip", False),
            ("grad_clip", True),
            ("grad_clip", np.inf),
            ("L2", False),
            ("L2", True),
            ("eps", False),
            ("learn_rate", 1),
            ("learn_rate", True),
        ],
    )
    def test_numbers_that_are_no_floats(self, name, value, rule):
        start, steps = np.ones(5, "f"), gradients(11, 4, 5)
        for given in (value, [value]):
            kwargs = {"learn_rate": 0.1} | RULES[rule] | {name: given}
            found, expected = (
                train(cls(**kwargs), start.copy(), steps)
                for cls in (ours.Optimizer, thinc.Optimizer)
            )
            assert_close(found, expected)

    @pytest.mark.parametrize("name", ["learn_rate", "L2", "beta1", "beta2", "eps", "grad_clip"])
    def test_numbers_of_numpy(self, name):
        start, steps = np.ones(5, "f"), gradients(12, 4, 5)

        def trained(value, lr_scale=1.0):
            optimizer = ours.Optimizer(**{"learn_rate": 0.1} | {name: value})
            return train(optimizer, start.copy(), steps, lr_scale=lr_scale)

        expected = trained(0.25)
        for value in (np.float32(0.25), np.float64(0.25), np.array(0.25), np.array(0.25, "f")):
            assert all(map(same_bits, trained(value), expected))
            assert all(map(same_bits, trained([value]), expected))
        for one in (1, True, np.float32(1), np.array(1.0)):
            assert all(map(same_bits, trained(0.25, lr_scale=one), expected))

    def test_numbers_that_the_user_assigns(self):
        for value in (0.25, np.float32(0.25), np.array(0.25)):
            optimizer, expected = ours.Optimizer(0.1), ours.Optimizer(0.25, grad_clip=0.0)
            optimizer.learn_rate, optimizer.grad_clip = value, False
            steps = gradients(13, 4, 5)
            found = train(optimizer, np.ones(5, "f"), steps)
            assert all(map(same_bits, found, train(expected, np.ones(5, "f"), steps)))

    def test_norms_that_float32_cannot_hold(self):
        for size in (1e25, 1e-30):
            weights, g = np.zeros(2, "f"), np.array([3 * size, 4 * size], "f")
            ours.SGD(1.0, grad_clip=size, use_averages=False)(KEY, weights, g)
            np.testing.assert_allclose(weights, [-0.6 * size, -0.8 * size], rtol=1e-6)

    @pytest.mark.parametrize("name", ["Adam", "RAdam", "SGD", "Optimizer"])
    def test_arguments(self, name):
        found, expected = (
            inspect.signature(getattr(module, name)).parameters.values()
            for module in (ours, thinc_optimizers)
        )
        assert [(p.name, p.default, p.kind) for p in found] == [
            (p.name, p.default, p.kind) for p in expected
        ]

    @pytest.mark.parametrize("kwargs", CASES)
    def test_model_and_its_averages(self, kwargs):
        x = np.random.default_rng(4).standard_normal((32, 6)).astype("f")
        y = x[:, :1] * x[:, 1:2]
        found = []
        for cls in (ours.Optimizer, thinc.Optimizer):
            thinc.fix_random_seed(0)
            model = thinc.chain(thinc.Relu(16), thinc.Linear(1)).initialize(x, y)
            optimizer = cls(0.01, **kwargs)
            for _ in range(30):
                outputs, backprop = model.begin_update(x)
                backprop(outputs - y)
                model.finish_update(optimizer)
                optimizer.step_schedules()
            trained = model.predict(x)
            with model.use_params(optimizer.averages or {}):
                found.append((trained, model.predict(x)))
            assert same_bits(model.predict(x), trained)
        assert_close(*found, tolerance=1e-4)


@pytest.fixture(autouse=True)
def named(monkeypatch):
    """Let thinc's own tests, in this module below, test the optimizers of fastoptim."""

    class Registry:
        @staticmethod
        def resolve(config):
            ((section, settings),) = config.items()
            name = f"fastoptim.{settings['@optimizers']}"
            return thinc.registry.resolve({section: settings | {"@optimizers": name}})

    monkeypatch.setattr(thinc_tests, "Optimizer", ours.Optimizer)
    monkeypatch.setattr(thinc_tests, "registry", Registry)


THEIRS = {k: v for k, v in vars(thinc_tests).items() if k.startswith(("test_", "schedule_"))}
globals().update(THEIRS)


def test_that_thincs_tests_are_here():
    assert sum(name.startswith("test_optimizer") for name in THEIRS) >= 5
    assert isinstance(thinc_tests.Optimizer(0.1), ours.Optimizer)


CONFIG = """
[optimizer]
@optimizers = "fastoptim.Adam.v1"
L2 = 0.01
grad_clip = 0.5

[optimizer.learn_rate]
@schedules = "warmup_linear.v1"
initial_rate = 0.1
warmup_steps = 2
total_steps = 10
"""


def test_config():
    optimizer = thinc.registry.resolve(thinc.Config().from_str(CONFIG))["optimizer"]
    assert isinstance(optimizer, ours.Optimizer)
    start, steps = np.ones(4, "f"), gradients(5, 10, 4)
    text = CONFIG.replace("fastoptim.", "")
    expected = thinc.registry.resolve(thinc.Config().from_str(text))["optimizer"]
    assert_close(train(optimizer, start.copy(), steps), train(expected, start.copy(), steps))


def test_registry_finds_them_without_an_import():
    source = Path(__file__).parents[1] / "pyproject.toml"
    names = [f"fastoptim.{name}.v1" for name in ("Adam", "RAdam", "SGD")]
    for name in names:
        entry = rf'"{re.escape(name)}" = "fastoptim.integrations.thinc:{name.split(".")[1]}"'
        assert re.search(entry, source.read_text(encoding="utf-8"))
    if not set(names) <= {entry.name for entry in entry_points(group="thinc_optimizers")}:
        pytest.skip("fastoptim is not installed from this source")
    code = (
        "from thinc.api import registry\n"
        f"for name in {names}:\n"
        "    print(registry.get('optimizers', name).__module__)"
    )
    assert output(code).split() == ["fastoptim.integrations.thinc"] * 3


class TestBits:
    @pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
    @pytest.mark.parametrize("options", [DECAY, PENALTY], ids=["decay", "penalty"])
    @pytest.mark.parametrize("rule", RULES)
    def test_compiled_steps_have_the_bits_of_the_reference(self, rule, options, dtype, monkeypatch):
        def states(backend):
            monkeypatch.setenv("FASTOPTIM_BACKEND", backend)
            optimizer = ours.Optimizer(0.01, **RULES[rule], **options)
            weights = [np.linspace(-1, 1, n).astype(dtype) for n in SIZES if n]
            for t in range(3):
                for i, w in enumerate(weights):
                    (g,) = gradients(100 * t + i, 1, w.shape, dtype)
                    optimizer((i, "W"), w, g)
                    assert not g.view(np.uint8).any()
            return weights + list(state_of(optimizer)[0].values())

        expected = states("reference")
        for level, threads in itertools.product(LEVELS, (1, 3)):
            with engine(level, threads):
                assert all(map(same_bits, states("compiled"), expected))

    @pytest.mark.parametrize("kwargs", [RULES["Adam"], RULES["SGD"] | PENALTY])
    @pytest.mark.parametrize("g_layout", WRITABLE)
    @pytest.mark.parametrize("p_layout", LAYOUTS)
    def test_layouts(self, p_layout, g_layout, kwargs):
        rng = np.random.default_rng(7)
        plain = rng.standard_normal((3, 4, 5))
        weights = LAYOUTS[p_layout](plain)
        mine, expected = (ours.Optimizer(0.1, **kwargs) for _ in range(2))
        for _ in range(3):
            values = rng.standard_normal((3, 4, 5))
            g = GRADIENT_LAYOUTS[g_layout](values)
            expected(KEY, plain, values.copy())
            returned = mine(KEY, weights, g)
            assert returned[0] is weights
            assert returned[1] is g
            assert not g.any()
        assert same_bits(weights, plain)
        for (_, a), (_, b) in zip(
            state_of(mine)[0].items(), state_of(expected)[0].items(), strict=True
        ):
            assert same_bits(a, b)


def pair(**kwargs):
    return ours.Optimizer(0.1, **kwargs), thinc.Optimizer(0.1, **kwargs)


class TestKeys:
    def step(self, optimizer, weights, seed=0, key=KEY):
        (g,) = gradients(seed, 1, np.shape(weights))
        optimizer(key, weights, g)
        return weights

    def test_another_array_of_a_key_goes_on_with_its_state(self):
        found = []
        for optimizer in pair():
            weights = np.ones(6, "f")
            for t in range(6):
                if t == 2:
                    weights = weights.copy()
                if t == 4:
                    weights = weights.reshape(6)
                self.step(optimizer, weights, t)
            found.append(weights)
        assert_close(*([w] for w in found))

    def test_keys_have_state_of_their_own(self):
        mine, expected = pair()
        for optimizer in (mine, expected):
            weights = [np.ones(n, "f") for n in (3, 3, 5)]
            for t, i in enumerate((0, 1, 2, 0, 0, 2, 1)):
                self.step(optimizer, weights[i], t, (i, "W"))
        assert_same_state(mine, expected)

    def test_model_that_is_read_back(self):
        x = np.random.default_rng(8).standard_normal((16, 4)).astype("f")
        found = []
        for optimizer in pair(**DECAY):
            thinc.fix_random_seed(1)
            model = thinc.Linear(2, 4).initialize()
            for t in range(6):
                outputs, backprop = model.begin_update(x)
                backprop(outputs - x[:, :2])
                model.finish_update(optimizer)
                if t == 2:
                    model.from_bytes(model.to_bytes())
            found.append(model.predict(x))
        assert_close([found[0]], [found[1]])

    @pytest.mark.parametrize("name", STATE)
    def test_state_that_the_user_replaces_is_what_the_next_step_takes(self, name):
        mine, expected = pair()
        for optimizer in (mine, expected):
            weights = self.step(optimizer, np.ones((2, 3), "f"))
            shape = (2, 3) if name == "averages" else 6
            getattr(optimizer, name)[KEY] = np.full(shape, 0.5, "f")
            self.step(optimizer, weights, 1)
        assert_same_state(mine, expected)

    def test_averages_switched_off_and_steps_counted_by_the_user(self):
        mine, expected = pair()
        for optimizer in (mine, expected):
            weights = self.step(optimizer, np.ones(3, "f"))
            averages, optimizer.averages = optimizer.averages, None
            optimizer.nr_update[KEY] = 10
            self.step(optimizer, weights, 1)
            optimizer.averages = averages
            self.step(optimizer, weights, 2)
        assert_same_state(mine, expected)
        assert mine.nr_update[KEY] == 12

    def test_average_after_very_many_steps(self):
        found = []
        for optimizer in pair():
            optimizer.nr_update[KEY] = 10**6
            self.step(optimizer, np.ones(3, "f"))
            found.append(optimizer.averages[KEY])
        np.testing.assert_allclose(*found, rtol=1e-5)

    def test_another_rule(self):
        mine = ours.Optimizer(0.1)
        weights = self.step(mine, np.ones(3, "f"))
        mine.use_radam = True
        self.step(mine, weights, 1)
        expected = thinc.Optimizer(0.1)
        weights = self.step(expected, np.ones(3, "f"))
        expected.use_radam = True
        self.step(expected, weights, 1)
        assert_same_state(mine, expected)

    def test_weights_without_steps_are_let_go(self):
        optimizer = ours.Optimizer(0.1)
        weights, kept = np.ones(3, "f"), np.ones(3, "f")
        self.step(optimizer, weights)
        gone = weakref.ref(weights)
        del weights
        for t in range(2):
            self.step(optimizer, kept, t, (4, "W"))
            planned = optimizer._planned[4, "W"]
            optimizer.step_schedules()
        gc.collect()
        assert gone() is None
        assert KEY in optimizer.mom1  # as in thinc
        self.step(optimizer, kept, 2, (4, "W"))
        assert optimizer._planned[4, "W"] is planned

    @pytest.mark.parametrize(
        "make", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"]
    )
    def test_copies_go_on_with_the_same_bits(self, make):
        optimizer = ours.Optimizer(0.1, L2=0.1)
        weights = self.step(optimizer, np.ones(9, "f"))
        other, others = make(optimizer), weights.copy()
        self.step(optimizer, weights, 1)
        self.step(other, others, 1)
        assert same_bits(weights, others)
        arrays, steps = state_of(other)
        assert steps == {KEY: 2}
        assert all(map(same_bits, arrays.values(), state_of(optimizer)[0].values()))

    @thinc_9  # generators have no copies
    def test_copies_go_on_with_their_schedules(self):
        optimizer = ours.Optimizer(thinc.warmup_linear(0.1, 3, 10))
        train(optimizer, np.ones(3, "f"), gradients(14, 2, 3))
        other = pickle.loads(pickle.dumps(optimizer))
        assert other.step == 2
        steps = gradients(15, 5, 3)
        found, expected = (train(o, np.ones(3, "f"), steps) for o in (optimizer, other))
        assert all(map(same_bits, found, expected))

    def test_empty_gradient_is_no_step(self):
        optimizer = ours.Optimizer(0.1)
        weights, g = np.ones((1, 2)), np.zeros(0)
        returned = optimizer(KEY, weights, g)
        assert returned[0] is weights
        assert returned[1] is g
        assert (weights == 1).all()
        assert state_of(optimizer) == ({}, {})


class Elsewhere:
    """An array that is not NumPy's."""

    size = 3


def test_arrays_of_a_gpu_are_refused():
    Elsewhere.__module__, Elsewhere.__qualname__ = "cupy", "ndarray"
    message = "expected a NumPy array, as thinc's NumpyOps has them, found cupy.ndarray"
    optimizer = ours.Optimizer(0.1)
    for arrays, name in (
        ((Elsewhere(), Elsewhere()), "weights"),
        ((np.ones(3, "f"), Elsewhere()), "gradient"),
    ):
        with pytest.raises(TypeError) as caught:
            optimizer(KEY, *arrays)
        assert str(caught.value) == f"{name}[(3, 'W')]: {message}"


def read_only(a):
    a.flags.writeable = False
    return a


SHARED = np.ones((3, 2), "f")


@pytest.mark.parametrize(
    ("weights", "g", "error", "message"),
    [
        (np.ones(3, "f"), np.ones(3), TypeError, "gradient[(3, 'W')]: expected dtype float32"),
        (np.ones(3, "f"), np.ones(4, "f"), ValueError, "gradient[(3, 'W')]: expected shape (3,)"),
        (np.ones(3, "f"), np.ones((1, 3), "f"), ValueError, "gradient[(3, 'W')]: expected shape"),
        (np.ones(3, "f"), read_only(np.ones(3, "f")), ValueError, "gradient[(3, 'W')]: expected a"),
        (
            read_only(np.ones(3, "f")),
            np.ones(3, "f"),
            ValueError,
            "weights[(3, 'W')]: expected a wr",
        ),
        (
            np.ones(3, "e"),
            np.ones(3, "e"),
            TypeError,
            "weights[(3, 'W')]: expected dtype float32 or float64, found float16: keep the model's "
            'parameters in float32, e.g. by model.set_param(name, weights.astype("f"))',
        ),
        (np.ones(6, "f")[::2], np.ones(3, "f"), ValueError, "weights[(3, 'W')]: expected a dense"),
        (SHARED, SHARED, ValueError, "gradient[(3, 'W')]: expected memory apart from all"),
        (SHARED.T, SHARED.T, ValueError, "gradient[(3, 'W')]: expected memory apart from the"),
        (np.ones(3, "f"), [1.0, 1.0, 1.0], TypeError, "gradient[(3, 'W')]: expected a NumPy array"),
    ],
)
@pytest.mark.parametrize("kwargs", [{}, PENALTY, RULES["SGD"]])
def test_refused_arrays(weights, g, error, message, kwargs):
    optimizer = ours.Optimizer(0.1, **kwargs)
    with pytest.raises(error) as caught:
        optimizer(KEY, weights, g)
    assert str(caught.value).startswith(message)
    assert np.all(weights == 1)
    assert np.all(np.asarray(g) == 1)
    assert state_of(optimizer) == ({}, {})


@pytest.mark.parametrize(
    ("name", "state", "error", "message"),
    [
        ("mom1", np.ones(4, "f"), ValueError, "mom1[(3, 'W')]: expected 6 elements in C order"),
        ("mom2", np.ones(12, "f")[::2], ValueError, "mom2[(3, 'W')]: expected 6 elements in C"),
        ("mom2", np.ones(6), TypeError, "mom2[(3, 'W')]: expected dtype float32 as weights"),
        ("mom1", [0.0] * 6, TypeError, "mom1[(3, 'W')]: expected 6 elements in C order"),
        ("averages", np.ones(6, "f"), ValueError, "averages[(3, 'W')]: expected shape (2, 3) as"),
        (
            "averages",
            None,
            ValueError,
            "weights[(3, 'W')]: expected an array apart from averages[(3, 'W')], found the same",
        ),
    ],
)
def test_refused_state(name, state, error, message):
    optimizer, weights, g = ours.Optimizer(0.1), np.ones((2, 3), "f"), np.ones((2, 3), "f")
    getattr(optimizer, name)[KEY] = weights if state is None else state
    with pytest.raises(error) as caught:
        optimizer(KEY, weights, g)
    assert str(caught.value).startswith(message)
    assert (weights == 1).all()
    assert (g == 1).all()
    assert KEY not in optimizer.nr_update


@pytest.mark.parametrize("name", STATE)
def test_state_in_the_memory_of_weights_that_are_stepped_through_a_copy(name):
    optimizer, weights, g = ours.Optimizer(0.1), np.ones((3, 2), "f").T, np.ones((2, 3), "f")
    getattr(optimizer, name)[KEY] = weights if name == "averages" else weights.T.reshape(6)
    with pytest.raises(
        ValueError, match=rf"^{name}\[\(3, 'W'\)\]: expected memory apart from the w"
    ):
        optimizer(KEY, weights, g)
    assert (weights == 1).all()
    assert (g == 1).all()
    assert KEY not in optimizer.nr_update


def test_averages_that_are_in_use():
    """In a block of use_params, and after one that raised, thinc steps the averages themselves."""
    x = np.ones((4, 3), "f")
    model, optimizer = thinc.Linear(2, 3).initialize(), ours.Optimizer(0.1)

    def step():
        outputs, backprop = model.begin_update(x)
        backprop(outputs - 1)
        model.finish_update(optimizer)

    step()
    for error in (None, KeyError):
        trained = {name: model.get_param(name) for name in model.param_names}
        averages = {key: array.copy() for key, array in optimizer.averages.items()}
        with suppress(KeyError), model.use_params(optimizer.averages):
            with pytest.raises(
                ValueError, match=r"found the same, as in a block of model\.use_params"
            ):
                step()
            if error:
                raise error
        if error:
            with pytest.raises(ValueError, match=r"set the parameters again by model\.set_param"):
                step()
        for name, array in trained.items():
            model.set_param(name, array)
        assert all(map(same_bits, optimizer.averages.values(), averages.values()))
        step()


BOTH = "beta1, beta2: expected both above 0 (Adam) or both 0 (gradient descent), found"


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"L2": -0.1}, ValueError, "L2: expected a finite number >= 0, found -0.1"),
        (
            {"L2": None},
            ValueError,
            "L2: expected a finite number >= 0, or a list, a generator or a schedule of such, "
            "found None",
        ),
        ({"L2": [None]}, TypeError, "L2: expected a finite number >= 0, found None"),
        (
            {"eps": np.ones(1)},
            ValueError,
            "eps: expected a finite number >= 0, or a list, a generator or a schedule of such, "
            "found array([1.])",
        ),
        ({"eps": [np.ones(1)]}, TypeError, "eps: expected a finite number >= 0, found array([1.])"),
        ({"beta1": 1.0}, ValueError, "beta1: expected a number in [0, 1), found 1.0"),
        ({"beta2": [1.5]}, ValueError, "beta2: expected a number in [0, 1), found 1.5"),
        ({"eps": -1.0}, ValueError, "eps: expected a finite number >= 0, found -1.0"),
        (
            {"grad_clip": -1.0},
            ValueError,
            "grad_clip: expected a number >= 0 (False or 0 does not clip), found -1.0",
        ),
        (
            {"grad_clip": [None]},
            TypeError,
            "grad_clip: expected a number >= 0 (False or 0 does not clip), found None",
        ),
        ({"learn_rate": np.inf}, ValueError, "learn_rate: expected a finite number, found inf"),
        ({"beta1": 0.0}, ValueError, f"{BOTH} 0 and 0.999"),
        ({"beta2": 0.0}, ValueError, f"{BOTH} 0.9 and 0"),
    ],
)
def test_refused_hyperparameters(kwargs, error, message):
    with pytest.raises(error) as caught:
        ours.Optimizer(**{"learn_rate": 0.1} | kwargs)
    assert str(caught.value) == message


def test_hyperparameters_that_go_wrong_later():
    optimizer = ours.Optimizer(learn_rate=[0.1, np.nan])
    weights, g = np.ones(3, "f"), np.ones(3, "f")
    with pytest.raises(ValueError, match=r"^lr_scale: expected a finite number, found inf"):
        optimizer(KEY, weights, g, lr_scale=np.inf)
    optimizer.step_schedules()
    with pytest.raises(ValueError, match=r"^learn_rate: expected a finite number, found nan"):
        optimizer(KEY, weights, g)
    assert state_of(optimizer) == ({}, {})
    assert (weights == 1).all()
    assert (g == 1).all()


def test_radam_may_have_either_beta_at_zero():
    for betas in ({"beta1": 0.0}, {"beta2": 0.0}):
        steps = gradients(9, 10, 5)
        mine, expected = pair(use_radam=True, **betas)
        assert_close(train(mine, np.ones(5, "f"), steps), train(expected, np.ones(5, "f"), steps))


def test_examples():
    assert doctest.testmod(ours).failed == 0


def test_import_without_thinc():
    done = python("import sys; sys.modules['thinc'] = None; import fastoptim.integrations.thinc")
    assert done.stderr.strip().splitlines()[-1] == (
        "ImportError: fastoptim.integrations.thinc: needs thinc: "
        'python -m pip install "fastoptim[thinc]"'
    )


def test_import_of_fastoptim_leaves_thinc_alone():
    code = "import sys, fastoptim; print(sorted(m for m in sys.modules if m.startswith('thinc')))"
    assert output(code) == "[]"


SPACY = """
[paths]
train = null
dev = null

[nlp]
lang = "en"
pipeline = ["textcat"]

[components]

[components.textcat]
factory = "textcat"

[components.textcat.model]
@architectures = "spacy.TextCatReduce.v1"
exclusive_classes = true
use_reduce_first = false
use_reduce_last = false
use_reduce_max = false
use_reduce_mean = true

[components.textcat.model.tok2vec]
@architectures = "spacy.HashEmbedCNN.v2"
pretrained_vectors = null
width = 16
depth = 1
embed_size = 200
window_size = 1
maxout_pieces = 2
subword_features = true

[corpora]

[corpora.train]
@readers = "spacy.Corpus.v1"
path = ${paths.train}

[corpora.dev]
@readers = "spacy.Corpus.v1"
path = ${paths.dev}

[training]
train_corpus = "corpora.train"
dev_corpus = "corpora.dev"
seed = 1
max_steps = 40
eval_frequency = 10

[training.batcher]
@batchers = "spacy.batch_by_sequence.v1"
size = 8

[training.logger]
@loggers = "test.losses.v1"

[training.optimizer]
@optimizers = "fastoptim.Adam.v1"
L2 = 0.01
use_averages = true

[training.optimizer.learn_rate]
@schedules = "warmup_linear.v1"
initial_rate = 0.02
warmup_steps = 5
total_steps = 60
"""


def test_spacy_trains_a_text_classifier(tmp_path, monkeypatch):
    spacy = pytest.importorskip("spacy", reason="spaCy cannot be imported", exc_type=ImportError)
    from spacy.tokens import DocBin
    from spacy.training.initialize import init_nlp
    from spacy.training.loop import train as train_pipeline

    rows, calls = [], []
    call = ours.Optimizer.__call__
    monkeypatch.setattr(ours.Optimizer, "__call__", lambda *a: calls.append(a[1]) or call(*a))

    @spacy.registry.loggers("test.losses.v1")
    def losses():
        def setup(nlp, stdout, stderr):
            def log(info):
                if info is not None:
                    rows.append((info["losses"]["textcat"], info["score"]))

            return log, lambda: None

        return setup

    def corpus(name, n):
        rng, docs = np.random.default_rng(n), DocBin()
        words = {
            "fruit": ["apple", "pear", "plum", "fig"],
            "metal": ["iron", "zinc", "tin", "lead"],
        }
        for i in range(n):
            label = list(words)[i % 2]
            doc = spacy.blank("en")(" ".join(["some", *rng.choice(words[label], 3), "here"]))
            doc.cats = {word: float(word == label) for word in words}
            docs.add(doc)
        docs.to_disk(tmp_path / name)
        return str(tmp_path / name)

    paths = {"paths.train": corpus("train.spacy", 60), "paths.dev": corpus("dev.spacy", 20)}
    found = {}
    for prefix in ("fastoptim.", ""):
        (tmp_path / "config.cfg").write_text(SPACY.replace("fastoptim.", prefix))
        config = spacy.util.load_config(tmp_path / "config.cfg", overrides=paths)
        rows.clear()
        nlp = init_nlp(spacy.util.load_model_from_config(config, auto_fill=True).config)
        folder = tmp_path / f"{prefix}out"
        folder.mkdir()
        train_pipeline(nlp, folder)
        best = spacy.load(folder / "model-best")
        found[prefix] = np.array(rows), best("some apple pear fig here").cats["fruit"]
        assert bool(calls) == bool(prefix)
        calls.clear()
    losses_and_scores, fruit = found["fastoptim."]
    assert losses_and_scores[-1, 1] > 0.95
    assert fruit > 0.8
    np.testing.assert_allclose(losses_and_scores, found[""][0], rtol=1e-3, atol=1e-4)
    assert abs(fruit - found[""][1]) < 1e-3
