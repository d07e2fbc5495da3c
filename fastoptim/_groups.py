"""Param groups: parameters with hyperparameters and masks of their own.

A group knows its rule, which checks hyperparameters and makes scalars of them. It knows neither the
state of its parameters nor how a step is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import numpy as np

from ._containers import Array, Container
from ._engine.arrays import check_targets
from ._engine.changes import change
from ._hyper import Hyper, ScalarsOfStep
from ._kinds import expect, unknown, with_other_names
from ._rule import Scheduled, ScheduledPair, ScheduledTriple
from ._settings import SETTINGS
from ._trees import is_sequence

if TYPE_CHECKING:
    from ._engine.changes import Change
    from ._optimizer import Optimizer
    from ._rule import Rule

Read = TypeVar("Read")
Given = TypeVar("Given")
# The caller's containers, each with what it held, and what raises if an array is not there any more
Watched = tuple[list[tuple[Any, list[Any]]], Callable[[], None]]


class ParamGroup(MutableMapping[str, Any]):
    """Parameters with hyperparameters of their own: a mapping, as in ``torch.optim``.

    ``group["lr"] = 0.1`` checks the value, alone and beside the others, before it changes
    anything. ``group["params"]`` is the list of the group's arrays. ``group["mask"]`` is a
    container of read-only masks as the optimizer keeps them, or None; set to other masks, or to
    None, it holds from the next step on.
    """

    owner: str  # what messages call the class by whose rule it steps
    container: Container
    masks: tuple[Any, ...]  # of each array, or None
    hyper: Hyper
    scalars: ScalarsOfStep  # of these hyperparameters
    wanted: object  # another one for each call for other state or other masks
    planned: object  # the one with which the plan of the steps was made

    def __init__(
        self, container: Container, hyper: Hyper, mask: Any = None, owner: str | None = None
    ) -> None:
        masks = container.masks(mask)
        own = {"container": container, "masks": masks, "hyper": hyper, "scalars": hyper.scalars}
        own["owner"] = owner or hyper.rule.name  # older versions have pickled none
        change([(self, own | {"wanted": object(), "planned": None})])

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(
            f"{name}: expected an item, as in group[{name!r}] = ..., found an attribute"
        )

    @property
    def rule(self) -> Rule:
        """The rule by which the parameters of the group step."""
        return self.hyper.rule

    @property
    def state_names(self) -> tuple[str, ...]:
        """The names of the state arrays that each parameter has."""
        return self.hyper.state_names

    @property
    def schedules(self) -> tuple[str, ...]:
        """The names of the hyperparameters that are schedules."""
        return self.hyper.schedules

    def takes_rows(self, masked: bool) -> bool | None:
        """Tell whether a gradient may have but some rows; see `Hyper.takes_rows`."""
        return self.hyper.takes_rows(masked)

    def refuse_rows(self, label: str) -> None:
        """Raise, as a gradient of this label may not have but some rows."""
        self.hyper.refuse_rows(label)

    def setting(self, values: Mapping[str, Any]) -> Change:
        """Return what to change so that some hyperparameters have these values, once checked."""
        try:
            hyper = self.hyper.changed(values)
        except TypeError:
            _refuse_unknown(values, self.owner, self.rule)
            raise
        hyper.checked_scalars(1)
        values = {"hyper": hyper, "scalars": hyper.scalars}
        if hyper.state_names != self.hyper.state_names or hyper.measured != self.hyper.measured:
            values["wanted"] = object()
        return self, values

    def with_hyper(self, hyper: Mapping[str, Any]) -> ParamGroup:
        """Return a group of the same arrays and masks with other hyperparameters."""
        group = ParamGroup(self.container, self.hyper, owner=self.owner)
        change([group.setting(hyper), (group, {"masks": self.masks})])
        return group

    def __getstate__(self) -> dict[str, Any]:
        masks = self.container.like(list(self.masks))
        return {
            "container": self.container,
            "hyper": self.hyper,
            "mask": masks,
            "owner": self.owner,
        }

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        # NumPy may have unpickled the arrays in another layout, which the masks take over here. The
        # hyperparameters are not checked again: that would call schedules, of which some parts may
        # not be unpickled yet.
        state = {**state}
        if "rule" in state:  # version 0.1 had the hyperparameters in a dict
            state["hyper"] = Hyper(state.pop("rule"), {**state["hyper"]})
        ParamGroup.__init__(self, **state)

    def __getitem__(self, name: str) -> Any:
        if name == "params":
            return list(self.container.arrays)
        if name == "mask":
            pruned = any(mask is not None for mask in self.masks)
            return self.container.like(list(self.masks)) if pruned else None
        return self.hyper[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.update({name: value})

    def update(self, *args: Any, **values: Any) -> None:
        """Set several hyperparameters, and the mask, all of them or none."""
        values = dict(*args, **values)
        if "params" in values:
            raise TypeError("params: a group's arrays stay; add_param_group takes further ones")
        masks = {}
        if "mask" in values:
            masks = {"masks": self.container.masks(values.pop("mask")), "wanted": object()}
        _refuse_settings(values)
        change([self.setting(values), (self, masks)])

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"{name}: a hyperparameter can be changed, not deleted")

    def __iter__(self) -> Iterator[str]:
        return iter(("params", "mask", *self.hyper))

    def __len__(self) -> int:
        return 2 + len(self.hyper)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({shown_call(self.chosen(), self.contents())})"

    def chosen(self) -> dict[str, Any]:
        """Return the hyperparameters that differ from the defaults."""
        defaults = self.hyper.rule.defaults
        return {
            name: value
            for name, value in self.hyper.items()
            if name in self.schedules or value != defaults[name]
        }

    def contents(self) -> str:
        """Return how many arrays and elements there are, in words."""
        arrays = self.container.arrays
        masked = sum(mask is not None for mask in self.masks)
        return (
            _counted(len(arrays), "array")
            + (f" ({masked} masked)" if masked else "")
            + f", {_counted(sum(a.size for a in arrays), 'element')}"
        )


class Hyperparameter(Generic[Read, Given]):
    """An attribute that reads and sets a hyperparameter of all param groups.

    For a type checker the attribute is, say, a number, though it may be a schedule, too. With a
    union of the two, ``opt.lr * 0.5`` would be an error.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, opt: None, owner: type[Optimizer]) -> Hyperparameter[Read, Given]: ...
    @overload
    def __get__(self, opt: Optimizer, owner: type[Optimizer]) -> Read | Any: ...
    def __get__(self, opt: Optimizer | None, owner: type[Optimizer]) -> Any:
        if opt is None:
            return self
        name = self._name
        try:
            first, *others = (group[name] for group in opt.param_groups)
        except KeyError:
            self._check_known(opt)
            raise
        if any(other != first for other in others):
            raise AttributeError(
                f"{name}: the param groups differ; see opt.param_groups[i][{name!r}]"
            )
        return first

    def __set__(self, opt: Optimizer, value: Given) -> None:
        values = {self._name: value}
        try:
            changes = [group.setting(values) for group in opt.param_groups]
        except TypeError:
            self._check_known(opt)
            raise
        change(changes)

    def _check_known(self, opt: Optimizer) -> None:
        """Raise if a group has a rule without the hyperparameter, as a rule of one's own may be."""
        for number, group in enumerate(opt.param_groups):
            if self._name not in group.hyper:
                owner = f"opt.param_groups[{number}]"
                raise AttributeError(unknown(self._name, owner, group.hyper, "hyperparameter"))


NumberAttribute = Hyperparameter[float, Scheduled[float]]
MaybeNumberAttribute = Hyperparameter[float | None, Scheduled[float | None]]
FlagAttribute = Hyperparameter[bool, Scheduled[bool]]
PairAttribute = Hyperparameter[tuple[float, float], ScheduledPair]
TripleAttribute = Hyperparameter[tuple[float, float, float], ScheduledTriple]
MaybePairAttribute = Hyperparameter[tuple[float, float] | None, ScheduledPair | None]


def new_groups(
    groups: Sequence[Any],
    defaults: Callable[[str, dict[str, Any]], tuple[str, Hyper]],
    first: int = 0,
) -> list[ParamGroup]:
    """Return param groups of mappings with params, hyperparameters and perhaps masks, checked.

    Each group is made on what `defaults` returns, the name of a class and hyperparameters, given
    what messages call the group and a dict of what it has beside parameters and masks, from which
    the function may take what is no hyperparameter. In messages groups are numbered from the first
    on, unless there is only one.
    """
    made = []
    for number, group in enumerate(groups, start=first):
        label = _label(number, first + len(groups))
        if not isinstance(group, Mapping) or "params" not in group:
            raise TypeError(
                f"{label}: expected a param group, a mapping with the key 'params', "
                f"found {type(group).__name__}"
            )
        hyper = {k: value for k, value in group.items() if k not in ("params", "mask")}
        owner, of_rule = defaults(label, hyper)
        container = Container(label, group["params"])
        check_targets(container.labels(label), container.arrays)
        _refuse_settings(hyper)
        _refuse_unknown(hyper, owner, of_rule.rule)
        own = of_rule.changed(hyper)
        own.checked_scalars(1)
        made.append(ParamGroup(container, own, group.get("mask"), owner))
    return made


def are_groups(params: Sequence[Any]) -> bool:
    """Tell whether there is a param group among the items: a mapping with the key "params".

    To tell that an array is one takes a fraction of the time that a mapping takes.
    """
    return any(
        not isinstance(p, np.ndarray) and isinstance(p, Mapping) and "params" in p for p in params
    )


def rebound(groups: Sequence[ParamGroup], params: Any) -> list[ParamGroup]:
    """Return groups as these of other arrays, which have the same names, shapes and dtypes."""
    _refuse_groups(groups, params)
    given = (params,) if len(groups) == 1 else of_each_group("params", len(groups), params)
    made = []
    for number, (group, others) in enumerate(zip(groups, given, strict=True)):
        label = _label(number, len(groups))
        before, container = group.container, Container(label, others)
        check_targets(container.labels(label), container.arrays)
        place_of = {key: i for i, key in enumerate(before.keys)}
        if container.single != before.single:
            one, other = "an array alone", "a container of arrays"
            expected, found = (one, other) if before.single else (other, one)
            raise ValueError(f"{label}: expected {expected} as the optimizer has, found {found}")
        if place_of.keys() != {*container.keys}:
            raise ValueError(
                f"{label}: expected arrays with the names that those of the optimizer have, "
                f"found {with_other_names(before.keys, dict.fromkeys(container.keys))}"
            )
        places = [place_of[key] for key in container.keys]
        for index, place, array in zip(container.indices(), places, container.arrays, strict=True):
            expect(f"{label}{index}: dtype", before.arrays[place].dtype, array.dtype, TypeError)
            expect(f"{label}{index}: shape", before.arrays[place].shape, array.shape)
        masks = container.like([group.masks[place] for place in places])
        made.append(ParamGroup(container, group.hyper, masks, group.owner))
    return made


def _refuse_groups(groups: Sequence[ParamGroup], params: Any) -> None:
    """Raise if there are param groups, as the constructor takes them, in the place of arrays."""
    given = params if isinstance(params, Sequence) else [params]
    known = (str(key).split(".") for group in groups for key in group.container.keys)
    if are_groups(given) and not any("params" in names for names in known):
        how = "group['params']" if len(groups) == 1 else "[group['params'] for group in groups]"
        raise TypeError(
            "params: expected arrays alone, as hyperparameters and masks stay, found a param "
            f"group: write opt.rebind({how})"
        )


def of_each_group(label: str, count: int, given: Any) -> Sequence[Any]:
    """Return what is given for each of so many groups, in a sequence of containers."""
    if isinstance(given, (list, tuple)) and len(given) == count:  # which takes next to no time
        return given
    found = [*given] if is_sequence(given) else None
    if found is None or len(found) != count:
        wrong = TypeError if found is None else ValueError
        shown = type(given).__name__ if found is None else len(found)
        raise wrong(
            f"{label}: expected a sequence of {count} containers, one for each param group, "
            f"found {shown}"
        )
    return found


def is_planned(groups: Iterable[ParamGroup]) -> bool:
    """Tell whether the plan of the steps is what these groups want."""
    return all(group.planned is group.wanted for group in groups)


def each_param(groups: Iterable[ParamGroup]) -> Iterator[tuple[ParamGroup, Array]]:
    """Yield all parameters, each with its group."""
    return ((group, p) for group in groups for p in group.container.arrays)


def _refuse_unknown(hyper: Mapping[str, Any], owner: str, rule: Rule) -> None:
    """Raise if a name is none of the hyperparameters of a rule, by the name of its class."""
    for name in hyper:
        if name not in rule.kinds:
            raise TypeError(unknown(name, owner, rule.kinds))


def _refuse_settings(hyper: Mapping[str, Any]) -> None:
    """Raise if a setting of the optimizer as a whole is among the hyperparameters of a group."""
    for name in SETTINGS.keys() & hyper.keys():
        raise TypeError(f"{name}: expected it for the optimizer as a whole, found it in a group")


def watched(groups: Sequence[ParamGroup]) -> list[Watched]:
    """Return the caller's containers of parameters, as a plan watches them."""
    found: list[Watched] = []
    for number, group in enumerate(groups):
        held = group.container.held()
        if held:
            label = _label(number, len(groups))
            found.append((held, partial(group.container.check_given, label)))
    return found


def _label(number: int, count: int) -> str:
    """Return what messages call the parameters of one of so many groups."""
    return f"params[{number}]" if count > 1 else "params"


def shown_call(chosen: Mapping[str, Any], contents: str) -> str:
    """Return what stands between the parentheses of a repr."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in chosen.items())
    return f"{arguments}; {contents}" if arguments else contents


def _counted(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
