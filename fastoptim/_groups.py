"""Param groups: parameters with hyperparameters and masks of their own.

A group knows its rule, which checks hyperparameters and makes scalars of them. It knows neither the
state of its parameters nor how a step is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from ._containers import Array, Container
from ._engine.arrays import check_targets
from ._engine.changes import change
from ._rule import Rule, ScalarsOfStep, Scheduled, ScheduledPair, is_schedule
from ._settings import SETTINGS

if TYPE_CHECKING:
    from ._engine.changes import Change
    from ._optimizer import Optimizer

Read = TypeVar("Read")
Given = TypeVar("Given")

EMA = "ema"  # the name, among the state arrays, of the average of the parameter


class ParamGroup(MutableMapping[str, Any]):
    """Parameters with hyperparameters of their own: a mapping, as in ``torch.optim``.

    ``group["lr"] = 0.1`` checks the value, alone and beside the others, before it changes
    anything. ``group["params"]`` is the list of the group's arrays. ``group["mask"]`` is a
    container of read-only masks as the optimizer keeps them, or None; set to other masks, or to
    None, it holds from the next step on.
    """

    _rule: Rule
    container: Container
    hyper: Mapping[str, Any]
    state_names: tuple[str, ...]
    masks: tuple[Any, ...]  # of each array, or None
    planned: bool  # whether the plan of the steps was made with this state and these masks
    schedules: set[str]  # the names of the hyperparameters that are schedules
    scalars: ScalarsOfStep

    def __init__(
        self, rule: Rule, container: Container, hyper: Mapping[str, Any], mask: Any = None
    ) -> None:
        self._begin(rule, container, _checked_for_group(rule, hyper), mask)

    def _begin(self, rule: Rule, container: Container, hyper: Mapping[str, Any], mask: Any) -> None:
        """Take what a group is made of; the hyperparameters have been checked."""
        masks = container.masks(mask)
        own = {"_rule": rule, "container": container, "masks": masks}
        change([(self, own | {"state_names": (), "planned": False})])
        change([self.adopting(hyper)])

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(
            f"{name}: expected an item, as in group[{name!r}] = ..., found an attribute"
        )

    def adopting(self, hyper: Mapping[str, Any]) -> Change:
        """Return what to change to take hyperparameters that the rule has checked."""
        state_names = self._rule.state_for(hyper)
        if hyper["ema_decay"] is not None:
            state_names += (EMA,)
        return self, {
            "hyper": MappingProxyType(dict(hyper)),
            "state_names": state_names,
            "planned": self.planned and state_names == self.state_names,
            "schedules": {name for name, value in hyper.items() if is_schedule(value)},
            "scalars": self._rule.scalars_of(hyper),
        }

    def with_hyper(self, hyper: Mapping[str, Any]) -> ParamGroup:
        """Return a group of the same arrays and masks with other hyperparameters."""
        group = ParamGroup(self._rule, self.container, hyper)
        change([(group, {"masks": self.masks})])
        return group

    def __getstate__(self) -> dict[str, Any]:
        hyper = dict(self.hyper)
        masks = self.container.like(list(self.masks))
        return {"rule": self._rule, "container": self.container, "hyper": hyper, "mask": masks}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        # NumPy may have unpickled the arrays in another layout, which the masks take over here. The
        # hyperparameters are not checked again: that would call schedules, of which some parts may
        # not be unpickled yet.
        self._begin(state["rule"], state["container"], state["hyper"], state["mask"])

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
            masks = {"masks": self.container.masks(values.pop("mask")), "planned": False}
        hyper = _checked_for_group(self._rule, {**self.hyper, **values})
        change([self.adopting(hyper), (self, masks)])

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
        defaults = self._rule.defaults
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
        first, *others = (group[name] for group in opt.param_groups)
        if any(other != first for other in others):
            raise AttributeError(
                f"{name}: the param groups differ; see opt.param_groups[i][{name!r}]"
            )
        return first

    def __set__(self, opt: Optimizer, value: Given) -> None:
        change(
            [
                group.adopting(opt.rule.check({**group.hyper, self._name: value}))
                for group in opt.param_groups
            ]
        )


NumberAttribute = Hyperparameter[float, Scheduled[float]]
MaybeNumberAttribute = Hyperparameter[float | None, Scheduled[float | None]]
FlagAttribute = Hyperparameter[bool, Scheduled[bool]]
PairAttribute = Hyperparameter[tuple[float, float], ScheduledPair]
MaybePairAttribute = Hyperparameter[tuple[float, float] | None, ScheduledPair | None]


def new_groups(
    rule: Rule, groups: Sequence[Any], defaults: Mapping[str, Any], first: int = 0
) -> list[ParamGroup]:
    """Return param groups of mappings with params, hyperparameters and perhaps masks, checked.

    In messages they are numbered from the first on, unless there is only one.
    """
    made = []
    for number, group in enumerate(groups, start=first):
        label = f"params[{number}]" if first + len(groups) > 1 else "params"
        if not isinstance(group, Mapping) or "params" not in group:
            raise TypeError(
                f"{label}: expected a param group, a mapping with the key 'params', "
                f"found {type(group).__name__}"
            )
        hyper = {k: value for k, value in group.items() if k not in ("params", "mask")}
        container = Container(label, group["params"])
        check_targets(container.labels(label), container.arrays)
        made.append(ParamGroup(rule, container, {**defaults, **hyper}, group.get("mask")))
    return made


def each_param(groups: Iterable[ParamGroup]) -> Iterator[tuple[ParamGroup, Array]]:
    """Yield all parameters, each with its group."""
    return ((group, p) for group in groups for p in group.container.arrays)


def _checked_for_group(rule: Rule, hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Return all hyperparameters of a group, checked."""
    for name in SETTINGS:
        if name in hyper:
            raise TypeError(
                f"{name}: expected it for the optimizer as a whole, found it in a group"
            )
    return rule.check(hyper)


def watched(groups: Sequence[ParamGroup]) -> list[tuple[Any, list[Any], Callable[[], None]]]:
    """Return the caller's lists and mappings of parameters, as a plan watches them."""
    found: list[tuple[Any, list[Any], Callable[[], None]]] = []
    for number, group in enumerate(groups):
        container, label = group.container, f"params[{number}]" if len(groups) > 1 else "params"
        if container.given is not None:
            check = partial(container.check_given, label)
            found.append((container.given, container.arrays, check))
    return found


def shown_call(chosen: Mapping[str, Any], contents: str) -> str:
    """Return what stands between the parentheses of a repr."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in chosen.items())
    return f"{arguments}; {contents}" if arguments else contents


def _counted(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
