"""Containers within containers, groups with the same names, and other arrays in their places."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections import OrderedDict, UserDict, UserList, namedtuple
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zoo import arrays_of, assert_same, same_bits, snapshot

import fastoptim as fo

RNG = np.random.default_rng(5)


class Pair(NamedTuple):
    w: Any
    b: Any


@dataclasses.dataclass
class Layer:
    w: Any
    b: Any


@dataclasses.dataclass(frozen=True)
class Frozen:
    w: Any
    b: Any

    def __post_init__(self):
        assert self.w is not None, "the constructor is for arrays"


@dataclasses.dataclass
class Listed(list):
    """One that is a list, too, of which only the fields count."""

    w: Any
    b: Any


@dataclasses.dataclass
class Iterated:
    """One that can be gone through, which says nothing of its fields."""

    w: Any
    b: Any

    def __iter__(self):
        return iter([ones(5)])


@dataclasses.dataclass(slots=True)
class Slotted:
    w: Any
    b: Any


def ones(n=3, dtype=np.float64):
    return np.ones(n, dtype)


def network():
    """Return parameters with every kind of container."""
    return {
        "layers": [{"w": ones((2, 3)), "b": ones(3)}, Pair(ones((3, 1)), ones(1))],
        "head": Layer(ones(4), (ones(2, np.float32), Frozen(ones(), ones(())))),
        5: Slotted(ones(2), [ones(1)]),
    }


NAMES = [
    *("layers.0.w", "layers.0.b", "layers.1.w", "layers.1.b"),
    *("head.w", "head.b.0", "head.b.1.w", "head.b.1.b", "5.w", "5.b.0"),
]


def leaves(tree: Any) -> list[Any]:
    """Return the leaves of a tree, by a walk of its own."""
    if isinstance(tree, Mapping):
        parts = list(tree.values())
    elif dataclasses.is_dataclass(tree):
        parts = [getattr(tree, field.name) for field in dataclasses.fields(tree)]
    elif isinstance(tree, Sequence):
        parts = list(tree)
    else:
        return [tree]
    return [leaf for part in parts for leaf in leaves(part)]


def mapped(function: Any, tree: Any) -> Any:
    """Return a tree of the same shape and types, with a function of each leaf."""
    if isinstance(tree, Mapping):
        return type(tree)({key: mapped(function, part) for key, part in tree.items()})
    if hasattr(tree, "_fields"):
        return type(tree)(*[mapped(function, part) for part in tree])
    if dataclasses.is_dataclass(tree):
        made = copy.copy(tree)
        for field in dataclasses.fields(tree):
            object.__setattr__(made, field.name, mapped(function, getattr(tree, field.name)))
        return made
    if isinstance(tree, Sequence):
        return type(tree)([mapped(function, part) for part in tree])
    return function(tree)


def has_names(tree: Any) -> bool:
    """Tell whether the keys of nested containers, with dots, are one name for each leaf."""

    def names(part, name):
        if isinstance(part, np.ndarray):
            return [name]
        if isinstance(part, Mapping):
            items = part.items()
        elif isinstance(part, (list, tuple)) and not hasattr(part, "_fields"):
            items = enumerate(part)
        else:
            items = [(key, getattr(part, key)) for key in ("w", "b")]
        return [n for key, item in items for n in names(item, f"{name}.{key}")]

    flat = isinstance(tree, (Mapping, tuple, list)) and all(
        isinstance(part, np.ndarray)
        for part in (tree.values() if isinstance(tree, Mapping) else tree)
    )
    found = names(tree, "")
    return flat or len(set(found)) == len(found)


def like(p):
    return RNG.standard_normal(p.shape).astype(p.dtype)


def test_paths_are_names():
    params = network()
    opt = fo.SGD(params, lr=0.5, momentum=0.5)
    opt.step(mapped(np.ones_like, params))
    assert list(opt.state) == list(opt.steps) == NAMES
    assert opt.state_dict()["param_groups"][0]["params"] == NAMES
    assert all((p == 0.5).all() for p in leaves(params))


ARRAYS = st.builds(
    np.ones, st.sampled_from([(), (1,), (3,), (2, 2), (0,)]), st.sampled_from(["f4", "f8"])
)
KEYS = st.one_of(st.text("abc.0", max_size=3), st.integers(-1, 3))
TREES = st.recursive(
    ARRAYS,
    lambda parts: st.one_of(
        st.dictionaries(KEYS, parts, max_size=3),
        st.lists(parts, max_size=3),
        st.lists(parts, max_size=3).map(tuple),
        *(st.builds(kind, parts, parts) for kind in (Pair, Layer, Frozen, Slotted)),
    ),
    max_leaves=8,
)
AT_THE_TOP = st.one_of(
    st.dictionaries(KEYS, TREES, min_size=1, max_size=3),
    st.lists(TREES, min_size=1, max_size=3),
    st.builds(Pair, TREES, TREES),
    st.builds(Layer, TREES, TREES),
)


@settings(max_examples=150, deadline=None)
@given(tree=AT_THE_TOP, data=st.data())
def test_any_tree_is_stepped_as_a_flat_list(tree, data):
    arrays = leaves(tree)
    if not arrays or not has_names(tree):
        with pytest.raises(ValueError, match=r"at least one array|keys that make other names"):
            fo.Adam(tree)
        return
    opt = fo.Adam(tree, lr=0.1, ema_decay=0.5)
    flat = [p.copy() for p in arrays]
    other = fo.Adam(flat, lr=0.1, ema_decay=0.5)
    for _ in range(2):
        grads = mapped(like, tree)
        skipped = data.draw(st.sets(st.integers(0, len(arrays) - 1)))
        numbers = iter(range(len(arrays)))
        grads = mapped(lambda g: None if next(numbers) in skipped else g, grads)  # noqa: B023
        opt.step(grads)
        other.step(leaves(grads))
    assert all(map(same_bits, arrays, flat))
    assert list(opt.steps.values()) == list(other.steps.values())
    for entry, expected in zip(opt.state.values(), other.state.values(), strict=True):
        assert all(same_bits(entry[name], expected[name]) for name in expected)
    assert len(opt.state) == len(arrays)
    assert all(map(same_bits, leaves(opt.ema), leaves(other.ema)))
    twin = copy.deepcopy(opt)
    twin.step(grads)
    opt.step(grads)
    assert_same(twin, opt)


def test_averages_and_masks_have_the_containers_of_the_parameters():
    params = network()
    mask = mapped(lambda p: np.zeros(p.shape, bool), params)
    mask["layers"][0] = None
    mask["head"].b = (None, mask["head"].b[1])
    opt = fo.SGD(params, ema_decay=0.5, mask=mask)
    opt.step(mapped(np.ones_like, params))
    kinds = mapped(lambda _: None, params)
    assert mapped(lambda _: None, opt.ema) == kinds
    kept = opt.param_groups[0]["mask"]
    assert kept["layers"][0] == {"w": None, "b": None}
    assert kept["head"].b[0] is None
    assert type(kept["head"].b[1]) is Frozen
    assert not kept["layers"][1].w.any()
    assert params["layers"][0]["w"].all()
    assert not params["layers"][1].w.any()
    opt.param_groups[0]["mask"] = kept
    opt.param_groups[0]["mask"] = None


@pytest.mark.parametrize("cls", [Listed, Frozen, Slotted])
def test_any_dataclass_comes_back_as_itself(cls):
    params = {"a": cls(ones(), [ones(2)])}
    mask = {"a": cls(np.array([True, False, True]), [None])}
    opt = fo.SGD(params, lr=0.5, ema_decay=0.5, mask=mask)
    opt.step({"a": cls(ones(), [ones(2)])})
    average, found = opt.ema["a"], opt.param_groups[0]["mask"]["a"]
    assert type(average) is type(found) is cls
    assert average.w.tolist() == [0.75, 0.0, 0.75]
    assert average.b[0].tolist() == [0.75, 0.75]
    assert found.w.tolist() == [True, False, True]
    assert found.b == [None]


@pytest.mark.parametrize("cls", [Layer, Listed, Iterated, Slotted])
def test_a_dataclass_has_its_fields_at_the_root_as_within(cls):
    root = cls(ones(), ones(2))
    if cls is Listed:
        root.extend([{"params": ones(5)}, ones(5)])
    opt, within = fo.SGD(root, lr=1.0, ema_decay=0.5), fo.SGD([root], lr=1.0)
    assert (list(opt.state), list(within.state)) == (["w", "b"], ["0.w", "0.b"])
    opt.step(cls(ones(), None))
    assert (root.w[0], root.b[0]) == (0.0, 1.0)
    assert type(opt.ema) is cls
    opt.rebind(cls(ones(), ones(2)))
    assert fo.global_norm(cls(ones(9), None)) == 3.0
    groups = fo.SGD([{"params": root}, {"params": ones()}], lr=1.0)
    groups.step([cls(None, ones(2)), None])
    assert root.b[0] == 0.0
    with pytest.raises(TypeError, match="expected a sequence of param groups"):
        fo.Mixed(root)


def test_tuples_come_back_as_tuples():
    assert type(fo.SGD((ones(),), ema_decay=0.5).ema) is tuple
    found = fo.SGD(Pair(ones(2), ones()), ema_decay=0.5).ema
    assert type(found) is Pair
    assert found.w.shape == (2,)
    assert list(fo.SGD(Pair(ones(2), ones())).state) == [0, 1]  # flat: a sequence of two
    assert list(fo.SGD(Layer(ones(2), ones())).state) == ["w", "b"]
    masks = fo.prune.magnitude(network(), 0.5)
    assert mapped(lambda _: None, masks) == mapped(lambda _: None, network())


def test_other_mappings_and_sequences():
    params = UserDict(a=UserList([ones(), OrderedDict(b=ones())]), c=ones())
    opt = fo.SGD(params, lr=1.0, ema_decay=0.5)
    opt.step({"c": ones(), "a": (ones(), {"b": ones()})})
    assert list(opt.state) == ["a.0", "a.1.b", "c"]
    assert opt.ema == {"a": [opt.ema["a"][0], {"b": opt.ema["a"][1]["b"]}], "c": opt.ema["c"]}
    pickle.loads(pickle.dumps(opt)).step({"c": ones(), "a": (ones(), {"b": ones()})})
    fo.SGD(x for x in [ones(), {"w": ones()}]).step(iter([ones(), {"w": ones()}]))


class TestSkipping:
    @pytest.mark.parametrize(
        ("branch", "skipped"),
        [("layers", NAMES[:4]), ("head", NAMES[4:8]), (5, NAMES[8:])],
        ids=str,
    )
    def test_a_branch(self, branch, skipped):
        params = network()
        opt = fo.SGD(params)
        grads = mapped(np.ones_like, params)
        grads[branch] = None
        opt.step(grads)
        assert {name for name, t in opt.steps.items() if not t} == set(skipped)

    def test_everything_is_no_step(self):
        with pytest.raises(TypeError, match="grads: expected a mapping as params is, found None"):
            fo.SGD(network()).step(None)


def without(tree, change):
    change(tree)
    return tree


WRONG_GRADS = [
    (lambda g: g.pop("head"), ValueError, "grads: expected the names of params (None to skip"),
    (lambda g: g.update(x=1), ValueError, "found a mapping with the unknown name 'x'"),
    (lambda g: g.update(layers={}), TypeError, "grads['layers']: expected a sequence as params["),
    (lambda g: g["layers"].pop(), ValueError, "grads['layers']: expected 2 arrays as params['lay"),
    (
        lambda g: g["layers"].__setitem__(0, [ones((2, 3)), ones(3)]),
        TypeError,
        "grads['layers.0']: expected a mapping as params['layers.0'] is, found list",
    ),
    (
        lambda g: g.update(head=[1, 2]),
        TypeError,
        "grads['head']: expected the fields w, b as params['head'] has, found list",
    ),
    (
        lambda g: g["layers"].__setitem__(1, namedtuple("Swapped", "b w")(ones(1), ones((3, 1)))),
        TypeError,
        "grads['layers.1']: expected the fields w, b as params['layers.1'] has, found Swapped",
    ),
    (
        lambda g: g["layers"][0].update(b=ones(4)),
        ValueError,
        "grads['layers.0.b']: expected shape (3,) as params['layers.0.b'] has, found (4,)",
    ),
    (
        lambda g: g["layers"][0].update(b=[{}]),
        TypeError,
        "grads['layers.0.b']: expected a NumPy array, found list of dict",
    ),
]


@pytest.mark.parametrize("backend", ["compiled", "reference"])
@pytest.mark.parametrize(("change", "error", "message"), WRONG_GRADS)
def test_gradients_in_another_shape_change_nothing(change, error, message, backend):
    params = network()
    opt = fo.Adam(params, backend=backend)
    grads = mapped(np.ones_like, params)
    opt.step(grads)
    before = snapshot(opt)
    change(grads)
    with pytest.raises(error) as caught:
        opt.step(grads)
    assert message in str(caught.value)
    assert snapshot(opt) == before


def test_a_namedtuple_takes_gradients_in_any_sequence():
    params = [Pair(ones(), ones(2))]
    fo.SGD(params, lr=1.0).step([[ones(), ones(2)]])
    assert not params[0].w.any()


HOLDS_ITSELF: list[Any] = [ones()]
HOLDS_ITSELF.append(HOLDS_ITSELF)
DEEP: Any = ones()
for _ in range(5_000):
    DEEP = [DEEP]
SAME = "found 'a.b' for both params['a.b'] and params['a']['b']"
REFUSED = [
    ({"a.b": ones(), "a": {"b": ones()}}, ValueError, SAME),
    ({1: [ones()], "1": [ones()]}, ValueError, "for both params[1][0] and params['1'][0]"),
    ({(1, 2): [ones()]}, TypeError, "params: expected text or whole numbers as keys in containers"),
    ([[ones()], None], TypeError, "params['1']: expected a NumPy array, found NoneType"),
    ({"a": {"b": None}}, TypeError, "params['a.b']: expected a NumPy array, found NoneType"),
    (Layer(ones(), "relu"), TypeError, "params['b']: expected a NumPy array, found str"),
    (Layer, TypeError, "params: expected an array, a sequence or a mapping of arrays, found type"),
    (
        [[ones(), 1.0]],
        TypeError,
        "params['0.1']: expected a NumPy array, found float: write p = np.",
    ),
    (
        [[ones(), None]],
        TypeError,
        "params['0.1']: expected a NumPy array, found NoneType: put arr",
    ),
    (
        {"w": {"f": abs}},
        TypeError,
        "params['w.f']: expected a NumPy array, found builtin_function_or",
    ),
    ([{}, [], ()], ValueError, "params: expected at least one array, found none"),
    ([[ones()[::-1]]], ValueError, "params['0.0']: expected a dense array"),
    ([[ones(), ones(3, int)]], TypeError, "params['0.1']: expected dtype float32 or float64"),
    (HOLDS_ITSELF, ValueError, "params: expected arrays in containers within containers, found a"),
    (DEEP, ValueError, "or deeper ones than Python can go down to"),
    ([[w := ones()], {"a": w}], ValueError, "params['1.a']: expected parameters and state with"),
]


@pytest.mark.parametrize(("params", "error", "message"), REFUSED, ids=range(len(REFUSED)))
def test_params_that_are_refused(params, error, message):
    with pytest.raises(error) as caught:
        fo.Adam(params)
    assert message in str(caught.value)


def test_keys_with_dots_that_collide_with_nothing():
    params = {"block.0": {"w.a": ones()}, "block": {"1": ones()}}
    assert list(fo.SGD(params).state) == ["block.0.w.a", "block.1"]


class TestListsOfMappings:
    def test_without_the_key_params_are_trees(self):
        params = [{"w": ones()}, {"w": ones()}]
        opt = fo.SGD(params, lr=1.0)
        opt.step([{"w": ones()}, None])
        assert list(opt.state) == ["0.w", "1.w"]
        assert (params[0]["w"].any(), params[1]["w"].all()) == (False, True)

    def test_with_it_are_groups_all_of_them(self):
        assert len(fo.SGD([{"params": ones()}, {"params": [ones()]}]).param_groups) == 2
        message = r"params\[1\]: expected a param group, a mapping with the key 'params', found"
        for other in ({"w": ones()}, ones(), [ones()]):
            with pytest.raises(TypeError, match=message):
                fo.SGD([{"params": ones()}, other])

    def test_a_mapping_with_it_is_none(self):
        params = {"params": {"dense": {"w": ones()}}}  # as flax has it
        assert list(fo.SGD(params).state) == ["params.dense.w"]

    def test_groups_may_hold_trees(self):
        opt = fo.SGD([{"params": [{"w": ones()}], "lr": 1.0}, {"params": {"b": ones()}}])
        opt.step(iter([[{"w": ones()}], {"b": ones()}]))
        assert list(opt.state) == ["0.w", "b"]
        with pytest.raises(ValueError, match=r"grads\[0\]\['0.w'\]: expected shape"):
            opt.step([[{"w": ones(2)}], {"b": None}])


REPLACE = {
    "a leaf in a dict": (lambda p: p["layers"][0].update(w=ones((2, 3))), "layers.0.w", 0),
    "a dict": (lambda p: p["layers"].__setitem__(0, {"w": ones((2, 3))}), "layers.0.w", 0),
    "a list": (lambda p: p.update(layers=[]), "layers.0.w", 0),
    "a field": (lambda p: setattr(p["head"], "w", ones(4)), "head.w", 4),
    "a tuple": (lambda p: setattr(p["head"], "b", (ones(2), ones())), "head.b.0", 5),
    "a slot": (lambda p: setattr(p[5], "w", ones(2)), "5.w", 8),
    "a leaf in a list": (lambda p: p[5].b.clear(), "5.b.0", 9),
    "by a container": (lambda p: p["layers"][0].update(w=[ones()]), "layers.0.w", 0),
}


@pytest.mark.parametrize(("replace", "name", "number"), REPLACE.values(), ids=REPLACE)
class TestReplaced:
    def test_is_refused_by_its_path(self, replace, name, number):
        params = network()
        opt = fo.Adam(params, ema_decay=0.5)
        grads = mapped(np.ones_like, params)
        opt.step(grads)
        before = snapshot(opt)
        replace(params)
        message = rf"^params\['{name}'\]: expected the array that the optimizer was given"
        for call in (lambda: opt.step(grads), lambda: opt.use_ema().__enter__()):
            with pytest.raises(ValueError, match=message) as caught:
                call()
        assert "opt.rebind(params)" in str(caught.value)
        assert snapshot(opt) == before

    def test_is_refused_in_a_copy(self, replace, name, number):
        pair = network(), None
        for duplicate in (copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))):
            params, opt = duplicate((pair[0], fo.SGD(pair[0])))
            replace(params)
            with pytest.raises(ValueError, match=rf"params\['{name}'\]: expected the array that"):
                opt.step(mapped(np.ones_like, network()))

    def test_the_message_says_how_to_assign(self, replace, name, number):
        params = network()
        opt = fo.SGD(params)
        given = leaves(params)[number]
        namespace = {"params": mapped(lambda p: p, params), "values": 7.0}
        replace(params)
        with pytest.raises(ValueError, match=r"as in params.* = values,") as caught:
            opt.step(mapped(np.ones_like, network()))
        exec(str(caught.value).partition("as in ")[2].partition(",")[0], namespace)
        assert (given == 7.0).all()


def test_branches_that_hold_the_same_arrays_are_as_good():
    params = network()
    opt = fo.SGD(params, lr=1.0)
    grads = mapped(np.ones_like, params)
    params["layers"] = [dict(params["layers"][0]), Pair(*params["layers"][1])]
    params["head"] = copy.copy(params["head"])
    params["new"] = "the program's own"
    opt.step(grads)
    assert not params["layers"][0]["w"].any()
    params["layers"][0]["w"] = ones((2, 3))
    with pytest.raises(ValueError, match=r"params\['layers.0.w'\]: expected the array that"):
        opt.step(grads)


def test_checkpoints_have_paths(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    params, others = network(), network()
    opt = fo.Adam(params, lr=0.5)
    opt.step(mapped(like, params))
    opt.save(tmp_path / "saved")
    names = set(safetensors.load_file(tmp_path / "saved"))
    assert {f"p/{name}" for name in NAMES} | {f"m/{name}" for name in NAMES} <= names
    other = fo.Adam(others)
    other.load(tmp_path / "saved")
    assert_same(opt, other)
    flat = {name: p.copy() for name, p in zip(NAMES, leaves(network()), strict=True)}
    third = fo.Adam(flat)  # the same names in another container
    third.load(tmp_path / "saved")
    third.load_state_dict(opt.state_dict())
    assert_same(opt, third)


def test_gradients_alone():
    grads = mapped(lambda p: np.full_like(p, 3.0), network())
    grads["layers"][0]["w"] = None
    assert fo.global_norm(grads) == fo.global_norm([g for g in leaves(grads) if g is not None])
    fo.clip_grad_value_(grads, 2.0)
    assert all((g == 2.0).all() for g in leaves(grads) if g is not None)
    grads["head"].w[0] = np.nan
    assert not fo.all_finite(grads)
    assert fo.global_norm([{"w": 3.0}, [[4.0], {"b": None}]]) == 5.0
    with pytest.raises(TypeError, match=r"grads\['0.w'\]: expected a NumPy array, found str"):
        fo.global_norm([{"w": "1"}])


class TestGroupsWithTheSameNames:
    def test_carry_the_number_of_the_group(self):
        first, second = {"w": ones(), "b": ones()}, {"w": ones(), "c": ones()}
        opt = fo.SGD([{"params": first, "lr": 1.0}, {"params": second, "lr": 0.5}], momentum=0.5)
        opt.step([{"w": ones(), "b": None}, {"c": ones(), "w": ones()}])
        assert list(opt.state) == ["w", "b", "1.w", "1.c"]
        assert (first["w"][0], first["b"][0], second["w"][0]) == (0.0, 1.0, 0.5)
        with pytest.raises(ValueError, match=r"grads\[1\]\['w'\]: expected shape"):
            opt.step([{"w": ones(), "b": None}, {"c": ones(), "w": ones(2)}])

    def test_of_groups_before_stay_when_another_comes(self):
        opt = fo.SGD({"w": ones(), "b": ones()}, momentum=0.5)
        opt.step({"w": ones(), "b": ones()})
        before = opt.state_dict()["state"]
        opt.add_param_group({"params": {"b": ones()}})
        opt.add_param_group({"params": [ones()]})
        opt.add_param_group({"params": {"x": ones()}})
        opt.add_param_group({"params": {"x": [ones()], "w": ones()}})
        assert list(opt.state) == ["w", "b", "1.b", 3, "x", "4.x.0", "4.w"]
        for key, entry in before.items():
            assert same_bits(opt.state[key]["v"], entry["v"])

    def test_numbers_that_are_names(self):
        opt = fo.SGD([{"params": {0: ones(), 1: ones()}}, {"params": {0: ones()}}])
        assert list(opt.state) == [0, 1, "1.0"]
        opt = fo.SGD([{"params": {2: ones(), 1: ones()}}, {"params": [ones(), ones()]}])
        assert list(opt.state) == [2, 1, "1.0", "1.1"]

    def test_come_back_from_checkpoints(self, tmp_path):
        pytest.importorskip("safetensors", reason="safetensors is not installed")

        def made():
            groups = [{"params": {"w": like(ones()), "b": like(ones())}} for _ in range(3)]
            return fo.Adam([{**group, "lr": 0.1 * (i + 1)} for i, group in enumerate(groups)])

        opt, other, third = made(), made(), made()
        for _ in range(2):
            opt.step([{"w": like(ones()), "b": None} for _ in range(3)])
        opt.save(tmp_path / "saved")
        other.load(tmp_path / "saved")
        assert_same(opt, other)
        third.load_state_dict(opt.state_dict())
        assert all(map(same_bits, *(values(o.state) for o in (opt, third))))
        twin = pickle.loads(pickle.dumps(opt))
        for o in (opt, other, twin):
            o.step([{"w": ones(), "b": ones()}] * 3)
        assert_same(opt, other)
        assert_same(opt, twin)

    def test_are_refused_where_even_these_are_the_same(self):
        with pytest.raises(ValueError, match="params: expected names unique over all groups, or"):
            fo.SGD([{"params": {"w": ones(), "1.w": ones()}}, {"params": {"w": ones()}}])
        with pytest.raises(TypeError, match="params: expected text or whole numbers as keys"):
            fo.SGD([{"params": {(1, 2): ones()}}] * 2)


def values(state):
    return [array for entry in state.values() for array in entry.values()]


WRONG_ARRAYS = [
    ({"w": ones(), "b": ones(4)}, ValueError, r"params\['b'\]: shape: expected \(2,\), found"),
    ({"w": ones(3, "f4"), "b": ones(2)}, TypeError, r"params\['w'\]: dtype: expected float64"),
    ({"w": ones()}, ValueError, "params: expected arrays with the names .* without 'b'"),
    ({"w": ones(), "b": ones(2), "c": ones()}, ValueError, "with the unknown name 'c'"),
    ([ones(), ones(2)], ValueError, "params: expected arrays with the names"),
    (ones(), ValueError, "params: expected a container of arrays as the optimizer has"),
    (None, TypeError, "params: expected an array, a sequence or a mapping"),
    ({"w": ones(6)[::2], "b": ones(2)}, ValueError, r"params\['w'\]: expected a dense array"),
    ({"w": 1.0, "b": ones(2)}, TypeError, r"params\['w'\]: expected a NumPy array, found float"),
    ({"w": (x := ones(4))[:3], "b": x[2:]}, ValueError, "found memory shared with"),
    ({"w": np.broadcast_to(1.0, 3), "b": ones(2)}, ValueError, "expected a writable array"),
]


class TestRebind:
    @pytest.mark.parametrize("backend", ["compiled", "reference"])
    def test_goes_on_with_other_arrays(self, backend):
        params = network()
        options = {"ema_decay": 0.5, "backend": backend}
        opt, other = fo.Adam(params, **options), fo.Adam(copy.deepcopy(params), **options)
        for round_ in range(3):
            grads = mapped(like, params)
            if round_ == 1:
                grads["layers"][0] = None
            opt.step(grads)
            other.step(grads)
            before = leaves(params)
            params = mapped(lambda p: p.copy(order="F"), params)
            opt.rebind(params)
            assert all(map(np.array_equal, before, leaves(params)))
        assert_same(opt, other)
        assert all(map(same_bits, leaves(opt.ema), leaves(other.ema)))
        assert opt.param_groups[0]["params"][0] is params["layers"][0]["w"]

    def test_takes_the_values_of_the_new_arrays(self):
        params = {"w": ones()}
        opt = fo.SGD(params, lr=1.0, momentum=0.5)
        opt.step({"w": ones()})
        params["w"] = np.full(3, 9.0)
        opt.rebind(params)
        opt.step({"w": np.zeros(3)})
        assert params["w"].tolist() == [8.5] * 3
        params["w"] = ones()
        with pytest.raises(ValueError, match="expected the array that the optimizer was given"):
            opt.step({"w": ones()})

    def test_in_another_layout_and_another_order(self):
        w, b = RNG.standard_normal((4, 3)), RNG.standard_normal(3)
        mask = {"w": w > 0, "b": None}
        make = lambda: fo.Adam({"w": w.copy(), "b": b.copy()}, mask=mask, ema_decay=0.9)  # noqa: E731
        opt, other = make(), make()
        opt.step({"w": w, "b": None})
        other.step({"w": w, "b": None})
        named = dict(zip(opt.state, opt.param_groups[0]["params"], strict=True))
        opt.rebind({"b": named["b"].copy(), "w": np.asfortranarray(named["w"])})
        for o in (opt, other):
            o.step({"w": w, "b": b})
        assert opt.steps == other.steps == {"w": 2, "b": 1}
        found, expected = dict(arrays_of(opt)), dict(arrays_of(other))
        assert found.keys() == expected.keys()
        assert all(same_bits(found[name], expected[name]) for name in found)
        assert opt.state["w"]["m"].flags.f_contiguous

    def test_of_groups(self):
        p, q = ones(), {"w": ones()}
        opt = fo.SGD([{"params": p, "lr": 1.0}, {"params": q, "lr": 0.5}], momentum=0.5)
        opt.step([ones(), {"w": ones()}])
        p, q["w"] = np.zeros(3), np.zeros(3)
        opt.rebind((p, q))
        opt.step([np.zeros(3), {"w": np.zeros(3)}])
        assert (p[0], q["w"][0]) == (-0.5, -0.25)
        assert [group["lr"] for group in opt.param_groups] == [1.0, 0.5]
        with pytest.raises(ValueError, match="params: expected a sequence of 2 containers"):
            opt.rebind([p])

    @pytest.mark.parametrize(("params", "error", "message"), WRONG_ARRAYS)
    def test_to_what_does_not_fit_changes_nothing(self, params, error, message):
        given = {"w": ones(), "b": ones(2)}
        opt = fo.Adam(given, ema_decay=0.5)
        opt.step({"w": ones(), "b": ones(2)})
        before = snapshot(opt)
        with pytest.raises(error, match=message):
            opt.rebind(params)
        assert snapshot(opt) == before
        opt.step({"w": ones(), "b": ones(2)})
        assert opt.param_groups[0]["params"][0] is given["w"]

    @pytest.mark.parametrize("rest", [[], [{"params": {"b": ones(2)}}]])
    def test_to_groups_as_the_constructor_takes_them(self, rest):
        groups = [{"params": {"w": ones()}, "lr": 1.0}, *rest]
        opt = fo.SGD(groups, momentum=0.5)
        before = snapshot(opt)
        for wrong in (groups, groups[0]):
            with pytest.raises(TypeError, match=r"^params: .* a param group: write") as caught:
                opt.rebind(wrong)
        assert snapshot(opt) == before
        if rest:
            opt.rebind(eval(str(caught.value).partition("opt.rebind")[2], {"groups": groups}))
        else:
            assert "write opt.rebind(group['params'])" in str(caught.value)

    def test_to_containers_with_a_name_that_groups_have(self):
        params = {"params": ones(), "w": [{"params": ones(2)}]}
        opt = fo.SGD(params)
        opt.rebind({"params": ones(), "w": [{"params": ones(2)}]})
        opt = fo.SGD([[{"params": ones(2)}]])
        opt.rebind([[{"params": ones(2)}]])
        assert list(opt.state) == ["0.0.params"]

    def test_of_an_array_alone_to_one_in_a_container(self):
        with pytest.raises(ValueError, match=r"expected an array alone as .* found a container"):
            fo.SGD(ones()).rebind([ones()])
        with pytest.raises(ValueError, match=r"expected a container of arrays .* an array alone"):
            fo.SGD([ones()]).rebind(ones())

    def test_to_memory_of_the_state(self):
        opt = fo.Adam([ones()])
        with pytest.raises(ValueError, match="found memory shared with"):
            opt.rebind([opt.state[0]["m"]])

    def test_is_refused_while_averages_show(self):
        params = [ones()]
        opt = fo.SGD(params, ema_decay=0.5)
        with opt.use_ema(), pytest.raises(RuntimeError, match="rebind: the parameters hold their"):
            opt.rebind(params)

    def test_keeps_averages_that_have_not_begun(self):
        params = [ones()]
        opt = fo.SGD(params, lr=1.0, ema_decay=0.5)
        params[0] = np.full(3, 3.0)
        opt.rebind(params)
        opt.step([ones()])
        assert opt.ema[0].tolist() == [2.5] * 3

    def test_hyperparameters_set_before_the_next_step(self):
        params = [ones()]
        opt = fo.SGD(params, lr=1.0)
        opt.momentum = 0.5
        params[0] = ones()
        opt.rebind(params)
        opt.step([ones()])
        assert list(opt.state[0]) == ["v"]
