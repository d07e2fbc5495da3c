"""A parameter that the program replaces in its list or dict, where it would never move again."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict, UserDict, UserList

import numpy as np
import pytest

import fastoptim as fo

PARAMS = {
    "dict": dict,
    "OrderedDict": OrderedDict,
    "UserDict": UserDict,
    "list": lambda params: list(params.values()),
    "UserList": lambda params: UserList(params.values()),
}


@pytest.fixture(params=PARAMS)
def held(request):
    """Return a container, the keys of its arrays, and zeros for gradients."""
    params = PARAMS[request.param]({"w": np.ones(3), "b": np.ones(2, np.float32)})
    keys = list(params) if hasattr(params, "keys") else [0, 1]
    grads = [np.ones(3), np.ones(2, np.float32)]
    return params, keys, dict(zip(keys, grads, strict=True)) if keys[0] == "w" else grads


def refusals(opt, grads, path):
    """Return every call that would go on with arrays of which the program knows nothing."""
    return [
        lambda: opt.step(grads),
        lambda: opt.save(path),
        lambda: opt.load(path),
        lambda: opt.use_ema().__enter__(),
    ]


def test_is_refused_by_name_before_anything_changes(held, tmp_path):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    params, (first, second), grads = held
    path = tmp_path / "saved"
    opt = fo.Adam(params, ema_decay=0.5)
    opt.step(grads)
    opt.save(path)
    given, before = params[second], opt.state_dict()
    params[second] = params[second] * 0.5
    for call in refusals(opt, grads, path):
        message = (
            rf"params\[{second!r}\]: expected the array that the optimizer was given.*found "
            rf"another array in its place: .*, as in params\[{second!r}\]\[\.\.\.\] = values"
        )
        with pytest.raises(ValueError, match=message):
            call()
    after = opt.state_dict()
    for key, entry in before["state"].items():
        for name, value in entry.items():
            assert np.array_equal(after["state"][key][name], value)
    params[second] = given
    opt.step(grads)
    assert params[first][0] < 1


def test_is_refused_with_state_that_is_planned_anew():
    params = [np.ones(3)]
    opt = fo.SGD(params)
    opt.momentum = 0.9
    params[0] = np.ones(3)
    with pytest.raises(ValueError, match="expected the array that the optimizer was given"):
        opt.step([np.ones(3)])


@pytest.mark.parametrize("found", [None, 1.0, "text", [1.0, 1.0, 1.0]])
def test_by_something_else(held, found):
    params, (first, _), grads = held
    opt = fo.Adam(params)
    params[first] = found
    with pytest.raises(ValueError, match=f"found {type(found).__name__} in its place"):
        opt.step(grads)


def test_that_is_gone(held):
    params, (_, last), grads = held
    opt = fo.Adam(params)
    del params[last]
    with pytest.raises(ValueError, match="found NoneType in its place"):
        opt.step(grads)


def test_two_that_have_changed_places(held):
    params, (first, second), _ = held
    params[second] = np.ones(3)
    opt = fo.Adam(params)
    params[first], params[second] = params[second], params[first]
    with pytest.raises(ValueError, match="found another array in its place"):
        opt.step(dict.fromkeys(params, np.ones(3)) if first == "w" else [np.ones(3)] * 2)


def test_the_same_memory_in_another_object_is_the_same_parameter(held):
    params, (first, _), grads = held
    opt = fo.SGD(params, lr=1.0)
    params[first] = params[first][:]
    opt.step(grads)
    assert params[first].tolist() == [0.0] * 3


def test_another_order_of_names_is_nothing(held):
    params, (first, _), grads = held
    if first != "w":
        pytest.skip("the place of an array in a list is its name")
    opt = fo.SGD(params, lr=1.0)
    params[first] = params.pop(first)
    opt.step(grads)
    assert params[first].tolist() == [0.0] * 3


def test_what_is_added_is_the_programs_own(held):
    params, (first, _), grads = held
    opt = fo.SGD(params, lr=1.0)
    params.append("notes") if isinstance(params, (list, UserList)) else params.update(notes=1)
    opt.step(grads)
    assert params[first].tolist() == [0.0] * 3


def test_in_a_group():
    first, second = {"w": np.ones(3)}, [np.ones(3)]
    opt = fo.SGD([{"params": first}, {"params": second}])
    second[0] = np.ones(3)
    with pytest.raises(ValueError, match=r"params\[1\]\[0\]: expected the array"):
        opt.step([{"w": np.ones(3)}, [np.ones(3)]])


def test_a_list_that_was_made_for_the_call_is_nobodys():
    w = np.ones(3)
    for params in ([w], (w,), iter([w]), w):
        fo.SGD(params, lr=1.0).step(np.ones(3) if params is w else [np.ones(3)])
    assert w.tolist() == [-3.0] * 3


class Loading(UserDict):
    """A mapping that hands out copies, as files of arrays do."""

    def __getitem__(self, key):
        return self.data[key].copy()


def test_of_a_mapping_that_hands_out_copies():
    opt = fo.SGD(Loading({"w": np.ones(3)}))
    with pytest.raises(ValueError, match=r"params\['w'\]: expected the array"):
        opt.step({"w": np.ones(3)})


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_in_a_copy(held, duplicate):
    params, (first, _), grads = held
    twins, opt = duplicate((params, fo.SGD(params, lr=1.0)))
    opt.step(grads)
    assert twins[first].tolist() == [0.0] * 3
    if type(params) in (dict, list):  # others need not pickle, and are left behind
        twins[first] = np.ones(3)
        with pytest.raises(ValueError, match="expected the array that the optimizer was given"):
            opt.step(grads)
