"""Optimizers of rules of one's own have what the built-in ones have."""

from __future__ import annotations

import copy
import ctypes
import inspect
import pickle
import warnings

import numpy as np
import own_module
import pytest
import rewritten
from own_module import Chosen, Derived, my_rule
from written import function_from
from zoo import assert_same, engine, gradients, snapshot

import fastoptim as fo
from fastoptim import _levels
from fastoptim.rules import _compiler
from fastoptim.typing import Fraction

needs_llvm = pytest.mark.skipif(_compiler.llvm() is None, reason="the extra rules is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:.*has no compiled loop without the extra")


def test_one_class_for_one_rule():
    assert fo.optimizer(my_rule) is Chosen
    assert (Chosen.__name__, Chosen.__qualname__) == ("MyRule", "MyRule")
    assert Chosen.__module__ == "own_module"
    assert Chosen.__doc__ == "Go down an average of the gradients."
    other = fo.optimizer(my_rule, "Other")
    assert other is not Chosen
    assert other.__name__ == "Other"
    assert fo.optimizer(my_rule, name="Other") is other


def test_signature_and_attributes():
    parameters = inspect.signature(Chosen).parameters
    assert [*parameters] == ["params", "lr", "decay", "options"]
    assert parameters["lr"].default == 0.5
    opt = Chosen(np.ones(2), lr=0.1, ema_decay=0.5)
    assert (opt.lr, opt.decay, opt.ema_decay) == (0.1, 0.5, 0.5)
    opt.decay = 0.25
    assert opt.param_groups[0]["decay"] == 0.25
    assert repr(opt).startswith("MyRule(")
    with pytest.raises(TypeError, match=r"lrr: MyRule has no such argument \(did you mean lr"):
        Chosen(np.ones(2), lrr=0.1)
    with pytest.raises(AttributeError, match=r"lrr: MyRule has no such hyperp"):
        opt.lrr = 0.1
    with pytest.raises(ValueError, match="lr: expected a finite number >= 0, found -1"):
        opt.lr = -1
    Derived(np.ones(2)).anything = 1  # as with any class of the user's


def test_the_rule_steps_in_place_as_those_of_reference_do():
    p, m = np.ones(2), np.zeros(2)
    my_rule(p, np.array([1.0, 0.0]), m, step=2, lr=1.0)
    assert p.tolist() == [0.5, 1.0]
    assert m.tolist() == [1.0, 0.0]
    assert my_rule.function(1.0, 1.0, 0.0, 0.5, 0.5) == (0.5, 1.0)
    with pytest.raises(TypeError, match="m"):
        my_rule(p, p.copy(), step=1)


def test_kinds_without_annotations():
    def scalars(step, lr=0.5, pair=(1, 2.0), on=True):
        return lr, *pair, float(on)

    text = "def plain(p, g, lr, a, b, on):\n    return p - lr * g\n"
    own = fo.rule(scalars=scalars)(function_from(text))
    cls = fo.optimizer(own)
    assert cls(np.ones(2), lr=-1.0, pair=(3.0, -4.0), on=False).lr == -1.0
    for wrong in ({"lr": "x"}, {"pair": 1.0}, {"on": 1.0}, {"lr": np.nan}):
        with pytest.raises((TypeError, ValueError), match=f"{next(iter(wrong))}: expected"):
            cls(np.ones(2), **wrong)


def test_weight_decay_of_the_rule_has_its_own_kind_and_default():
    def scalars(step, lr=0.5, weight_decay: Fraction = 0.25):
        return lr, 1 - lr * weight_decay

    text = "def fading(p, g, lr, decay):\n    return decay * p - lr * g\n"
    cls = fo.optimizer(fo.rule(scalars=scalars, decoupled=True)(function_from(text)))
    p = np.ones(2)
    cls(p).step(np.zeros(2))
    assert p.tolist() == [0.875] * 2
    with pytest.raises(ValueError, match=r"weight_decay: expected a number in \[0, 1\), found 2.0"):
        cls(p, weight_decay=2.0)


def test_beside_other_rules_in_one_optimizer(tmp_path):
    def trained(**options):
        first, second = params()
        groups = [
            {"optimizer": Chosen, "params": [first], "decay": 0.25},
            {"optimizer": fo.Adam, "params": [second]},
            {"optimizer": fo.optimizer(rewritten.adam), "params": [second.copy()]},
        ]
        return steps_of(fo.Mixed(groups, max_grad_norm=1.0, **options), 4)

    opt = trained()
    assert_same(opt, trained(backend="reference"))
    assert_same(pickle.loads(pickle.dumps(opt)), opt)
    rules = [group["rule"] for group in opt.state_dict()["param_groups"]]
    assert rules == ["own_module.my_rule", "adam", "rewritten.adam"]


def steps_of(opt, steps):
    rng = np.random.default_rng(7)
    params = [p for group in opt.param_groups for p in group["params"]]
    for _ in range(steps):
        grads = gradients(rng, params)
        opt.step(grads if len(opt.param_groups) == 1 else [[g] for g in grads])
    return opt


def params(dtype=np.float64):
    return [np.linspace(-1, 1, n, dtype=dtype) for n in (1000, 3)]


OPTIONS = [
    {"lr": fo.schedules.CosineAnnealing(0.5, T_max=10)},
    {"max_grad_norm": 1.0, "nonfinite": "skip"},
    {"max_grad_value": 0.1, "l1": 0.1, "weight_decay": 0.1, "maximize": True},
    {"ema_decay": 0.9, "bounds": (-0.5, 0.5)},
]


@pytest.mark.parametrize("cls", [Chosen, Derived])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda opt: pickle.loads(pickle.dumps(opt))])
def test_copies_go_on_with_the_same_bits(cls, options, copied):
    first = steps_of(cls(params(), **options), 3)
    second = copied(first)
    assert type(second) is cls
    assert_same(steps_of(second, 3), steps_of(first, 3))
    assert second.param_groups[0]["params"][0] is not first.param_groups[0]["params"][0]


def test_pickles_of_every_protocol():
    opt = steps_of(Chosen(params()), 2)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert_same(pickle.loads(pickle.dumps(opt, protocol)), opt)
    assert pickle.loads(pickle.dumps(my_rule)) is my_rule
    assert copy.deepcopy(my_rule) is my_rule


def test_a_pickle_needs_a_rule_at_the_top_of_a_module():
    text = "def hidden(p, g, lr, decay):\n    return p - lr * g\n"
    own = fo.rule(scalars=own_module.my_scalars)(function_from(text))
    with pytest.raises((pickle.PicklingError, ModuleNotFoundError, AttributeError)):
        pickle.dumps(fo.optimizer(own)(params()))


def test_checkpoints_have_the_name_of_the_function(tmp_path):
    pytest.importorskip("safetensors")
    first = steps_of(Chosen(params(), ema_decay=0.5), 3)
    assert first.state_dict()["optimizer"] == "own_module.my_rule"
    first.save(tmp_path / "run")
    for cls in (Chosen, fo.optimizer(my_rule, "Other"), Derived):
        second = cls(params(), ema_decay=0.5)
        second.load(tmp_path / "run")
        assert_same(second, first)
        third = cls([p.copy() for p in first.param_groups[0]["params"]], ema_decay=0.5)
        third.load_state_dict(first.state_dict())
        assert_same(steps_of(third, 2), steps_of(second, 2))
    other = fo.optimizer(rewritten.lion)(params())
    before = snapshot(other)
    message = "optimizer.*: expected '?rewritten.lion'?, found 'own_module.my_rule'"
    with pytest.raises(ValueError, match=message):
        other.load(tmp_path / "run")
    with pytest.raises(ValueError, match=message):
        other.load_state_dict(first.state_dict())
    assert snapshot(other) == before


def test_a_class_of_the_same_name_is_not_taken_for_it():
    """The class written anew is called Adam, too."""
    ours, theirs = fo.optimizer(rewritten.adam)(params()), fo.Adam(params())
    with pytest.raises(ValueError, match=r"expected 'Adam', found 'rewritten\.adam'"):
        theirs.load_state_dict(ours.state_dict())


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_groups_and_options(options, dtype):
    def trained(**more):
        first, second = params(dtype)
        groups = [{"params": [first], "lr": 0.25}, {"params": [second], "decay": 0.0}]
        return steps_of(Chosen(groups, **options, **more), 4)

    assert_same(trained(), trained(backend="reference"))


def test_state_that_comes_and_goes():
    """Momentum that is set later, and taken away again, as with the built-in class."""

    def trained(cls):
        opt = steps_of(cls(params()), 2)
        opt.momentum = 0.5
        steps_of(opt, 2)
        opt.momentum = 0.0
        return steps_of(opt, 2)

    assert_same(trained(fo.optimizer(rewritten.sgd)), trained(fo.SGD))


def test_masks_and_gradients_in_other_layouts():
    mask = np.arange(3000).reshape(50, 60) % 3 > 0
    rng = np.random.default_rng(1)
    grads = [rng.standard_normal((60, 50)).T, rng.standard_normal((100, 60))[::2], None]

    def trained(**more):
        opt = Chosen(np.ones((50, 60)), mask=mask, weight_decay=0.1, **more)
        for g in grads:
            opt.step(g)
        return opt

    expected = trained(backend="reference")
    assert (expected.param_groups[0]["params"][0] == 0)[~mask].all()
    with engine(threads=2):
        assert_same(trained(), expected)


@needs_llvm
def test_asks_for_compiled_loops_and_gets_them():
    assert Chosen(params(), backend="compiled").backend == "compiled"
    assert Chosen(params(), backend="reference").backend == "reference"


@needs_llvm
def test_what_the_engine_calls_the_rule():
    """Choices of the engine are kept by it, so two rules of one name share none."""
    assert my_rule.loop.name == "own_module.my_rule"


def test_what_a_function_returns_is_copied_before_it_is_written():
    def swap_scalars(lr=0.0):
        return (lr,)

    text = "def swapped(p, g, a, b, lr):\n    return p, b, a\n"
    own = fo.rule(state=("a", "b"), scalars=swap_scalars)(function_from(text))
    for backend in ["reference", "compiled"][: 1 + (_compiler.llvm() is not None)]:
        opt = fo.optimizer(own)(np.ones(70), backend=backend)
        opt.state[0]["a"][...] = 1.0
        opt.step(np.ones(70))
        assert set(opt.state[0]["a"]) == {0.0}
        assert set(opt.state[0]["b"]) == {1.0}


def test_uniform_results_fill_arrays():
    text = "def filled(p, g, a, b, lr, decay):\n    return lr, 3, decay\n"
    own = fo.rule(state=("a", "b"), scalars=own_module.my_scalars)(function_from(text))
    for shape in ((), (5,), (0,), (3, 4)):
        for backend in ["reference", "compiled"][: 1 + (_compiler.llvm() is not None)]:
            opt = fo.optimizer(own)(np.ones(shape, np.float32), backend=backend)
            opt.step(np.ones(shape, np.float32))
            assert (opt.param_groups[0]["params"][0] == np.float32(0.5)).all()
            assert (opt.state[0]["a"] == 3).all()
            assert (opt.state[0]["b"] == np.float32(0.5)).all()


LOOP = ctypes.CFUNCTYPE(
    None, ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p
)


def compiled_loops():
    level = _levels.active[-1]
    return {real: my_rule.loop.address(level, real) for real in ("float32", "float64")}


def given_rule(loops, text="def given(p, g, m, lr, decay):\n    return p - lr * g * 0.5, m\n"):
    """Return a rule with loops, and a function that may say anything, as nothing is made of it."""
    make = fo.rule(state=("m",), scalars=own_module.my_scalars, loops=loops)
    return make(function_from(text))


_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
NAMES = {real: f"fastoptim.rule.v1.{real}".encode() for real in ("float32", "float64")}


def capsules(loops):
    return {real: _new_capsule(loops[real], NAMES[real], None) for real in loops}


def pointers(loops):
    return {real: LOOP(address) for real, address in loops.items()}


@needs_llvm
@pytest.mark.parametrize("form", [dict, capsules, pointers])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_loops_that_are_given(form, dtype):
    cls = fo.optimizer(given_rule(form(compiled_loops())))
    for options in OPTIONS:
        with engine(threads=2):
            ours = steps_of(cls(params(dtype), **options), 3)
        assert ours.backend == "compiled"
        assert_same(ours, steps_of(Chosen(params(dtype), **options), 3))
    reference = cls(np.ones(3), backend="reference", lr=1.0)
    reference.step(np.ones(3))
    assert reference.param_groups[0]["params"][0].tolist() == [0.5] * 3


def test_capsules_of_another_signature():
    good = capsules({"float32": 8, "float64": 8})
    other = _new_capsule(8, b"fastoptim.rule.v2.float64", None)
    nameless = _new_capsule(8, None, None)
    for capsule, found in (
        (good["float32"], r"found 'fastoptim\.rule\.v1\.float32'"),
        (other, r"found 'fastoptim\.rule\.v2\.float64'"),
        (nameless, "found one without a name"),
    ):
        message = (
            rf"loops\['float64'\]: expected a capsule named 'fastoptim.rule.v1.float64', {found}"
        )
        with pytest.raises(ValueError, match=message):
            given_rule({**good, "float64": capsule})


def test_a_function_beside_loops_that_returns_too_few():
    own = given_rule({"float32": 8, "float64": 8}, "def given(p, g, m, lr, decay):\n    return p\n")
    opt = fo.optimizer(own)(np.ones(3), backend="reference")
    before = snapshot(opt)
    with pytest.raises(ValueError, match="given: expected 2 results, the new p, m, found 1"):
        opt.step(np.ones(3))
    assert snapshot(opt) == before


def test_a_star_import_leaves_the_names_of_python_alone():
    space = {}
    exec("from fastoptim import *", space)
    assert "abs" not in space
    assert fo.abs is np.abs
    assert fo.where is np.where
    assert fo.sqrt is np.sqrt


@needs_llvm
def test_many_rules_in_threads():
    """Two threads that make the first optimizer of one rule."""
    import threading

    text = "def together(p, g, m, lr, decay):\n    return p - lr * g, m\n"
    cls = fo.optimizer(fo.rule(state=("m",), scalars=own_module.my_scalars)(function_from(text)))
    found, barrier = [], threading.Barrier(4)

    def make():
        barrier.wait()
        opt = cls(np.ones(100))
        opt.step(np.ones(100))
        found.append(opt.param_groups[0]["params"][0][0])

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [0.5] * 4


def test_warnings_of_the_scalars_are_the_users():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Chosen(np.ones(2), backend="reference").step(np.full(2, np.inf))
