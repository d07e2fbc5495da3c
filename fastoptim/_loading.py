"""Loading: what a saved state must be so that an optimizer can go on from it.

All of it is checked, and nothing is changed. Whether the state comes from a dict or from a file is
of no matter here; files are the subject of `fastoptim.checkpoint`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ._engine.arrays import as_array
from ._groups import ParamGroup
from ._hyper import EMA
from ._kinds import Choice, Count, checked, entry, expect, shown, with_other_names
from ._settings import SETTINGS, all_settings
from ._state import Wanted, keys_of, names_of

RULE = "rule"  # the key of a rule's name in a group of a state dict
FORMAT = 1  # the version of what is in a state dict
# What groups of state dicts of older versions do not have
SINCE = ("max_param_grad_norm", "cautious", "lazy")
STEPS_BITS = 62
STEPS = Count(0, bits=STEPS_BITS)  # the engine counts on from there


class Accepted(NamedTuple):
    """What an optimizer goes on from, once it has been checked."""

    groups: tuple[ParamGroup, ...]
    settings: dict[str, Any]
    skipped: int  # steps
    wanted: dict[str, Wanted]  # state arrays by their names
    steps: list[int]  # of each parameter
    numbers: list[tuple[float, ...]]  # of these steps


def accepted(
    name: str, groups: Sequence[ParamGroup], state_dict: Mapping[str, Any], names_rules: bool
) -> Accepted:
    """Return what is in the state dict of an optimizer, if all of it fits one with these groups.

    Where an optimizer has several rules, its groups have their names.

    No element of an array is read, so that stand-ins do where only the fit is of interest.
    """
    found = entry("state_dict", state_dict, "optimizer")
    checked("state_dict['optimizer']", Choice((name,)), found)
    number = checked("state_dict['format']", Count(), entry("state_dict", state_dict, "format"))
    expect("state_dict['format']", FORMAT, number)
    groups = _loaded_groups(groups, entry("state_dict", state_dict, "param_groups"), names_rules)
    settings = _loaded_settings(entry("state_dict", state_dict, "settings"))
    skipped = entry("state_dict", state_dict, "skipped_steps")
    skipped = checked("state_dict['skipped_steps']", STEPS, skipped)
    state = _loaded_state(groups, entry("state_dict", state_dict, "state"))
    return Accepted(groups, settings, skipped, *state)


def _loaded_groups(
    groups: Sequence[ParamGroup], saved: Any, names_rules: bool
) -> tuple[ParamGroup, ...]:
    """Return groups with the saved hyperparameters; schedules that were not saved stay."""
    label = "state_dict['param_groups']"
    loaded = []
    for group, found in zip(groups, matched(label, names_of(groups), saved), strict=True):
        hyper = {name: group.hyper[name] for name in group.schedules if name not in found}
        hyper |= {name: value for name, value in found.items() if name not in ("params", RULE)}
        if names_rules:
            checked(f"{label}[{RULE!r}]", Choice((group.rule.saved_as,)), entry(label, found, RULE))
        defaults = group.rule.defaults
        hyper = {name: defaults[name] for name in SINCE if name in defaults} | hyper
        if hyper.keys() != group.hyper.keys():
            raise ValueError(
                f"{label}: hyperparameters: expected {', '.join(group.hyper)}, "
                f"found {with_other_names(group.hyper, hyper)}"
            )
        loaded.append(group.with_hyper(hyper))
    return tuple(loaded)


def _loaded_settings(saved: Any) -> dict[str, Any]:
    label = "state_dict['settings']"
    if isinstance(saved, Mapping):
        saved = all_settings(saved)
    return {name: checked(name, kind, entry(label, saved, name)) for name, kind in SETTINGS.items()}


def _loaded_state(
    groups: Sequence[ParamGroup], saved: Any
) -> tuple[dict[str, Wanted], list[int], list[tuple[float, ...]]]:
    """Return the saved state arrays that are to be allocated, step counts, and numbers of steps."""
    where = "state_dict['state']"
    keys = keys_of(groups)
    if not isinstance(saved, Mapping):
        raise TypeError(f"{where}: expected a mapping, found {type(saved).__name__}")
    if saved.keys() != set(keys):
        raise ValueError(
            f"{where}: expected the keys of this optimizer's state, "
            f"found {with_other_names(keys, saved)}"
        )
    wanted: dict[str, Wanted] = {}
    steps, numbers = [], []
    for group, names in zip(groups, names_of(groups), strict=True):
        rule = group.rule
        known = (*rule.state, EMA)
        for name in known:
            wanted.setdefault(name, Wanted([], [], []))
        for key, p in zip(names, group.container.arrays, strict=True):
            arrays = saved[key]
            if not _fits_plainly(p, arrays, (*group.state_names, *rule.numbers), known):
                arrays = _checked_entry(f"{where}[{key!r}]", p, arrays, group, known)
            numbers.append(tuple([arrays[name] for name in rule.numbers]))
            for name, array in arrays.items():
                if name == "step":
                    steps.append(array)
                elif name not in rule.numbers:
                    wanted[name].add(key, p, array)
    return wanted, steps, numbers


def _fits_plainly(p: Any, saved: Any, needed: Sequence[str], known: Sequence[str]) -> bool:
    """Tell, quickly, whether what is saved of a parameter fits it, and is of the plainest types."""
    if type(saved) is not dict or "step" not in saved:
        return False
    for name in needed:
        if name not in saved:
            return False
    for name, value in saved.items():
        if name == "step":
            if not (type(value) is int and 0 <= value < 2**STEPS_BITS):
                return False
        elif not (
            name in known
            and type(value) is np.ndarray
            and value.dtype == p.dtype
            and value.shape == p.shape
        ):
            return False
    return True


def _checked_entry(
    label: str, p: Any, saved: Any, group: ParamGroup, known: Sequence[str]
) -> dict[str, Any]:
    """Return what is saved of a parameter as plain arrays, a step count and numbers, if it fits."""
    found = {"step": checked(f"{label}['step']", STEPS, entry(label, saved, "step"))}
    numbers = group.rule.number_kinds
    for name, kind in numbers.items():
        found[name] = checked(f"{label}[{name!r}]", kind, entry(label, saved, name))
    for name in group.state_names:
        entry(label, saved, name)
    for name in saved:
        if name not in ("step", *numbers, *known):
            expected = ", ".join((*numbers, *known))
            raise ValueError(f"{label}: expected state named {expected}, found {shown(name)}")
    for name in known:
        if name in saved:
            array = as_array(f"{label}[{name!r}]", saved[name])
            expect(f"{label}[{name!r}]: dtype", p.dtype, array.dtype, TypeError)
            expect(f"{label}[{name!r}]: shape", p.shape, array.shape)
            found[name] = array
    return found


def matched(label: str, wanted: Sequence[Sequence[Any]], saved: Any) -> list[Mapping[str, Any]]:
    """Return saved param groups in the order of those wanted, each with the same names.

    The names of a group may come in any order. Saved names are first looked up among those wanted.
    To make a dict of them unseen could take hours, as a file may hold names whose hashes collide.
    """
    if not isinstance(saved, Sequence):
        raise TypeError(f"{label}: expected a sequence, found {type(saved).__name__}")
    names = [entry(f"{label}[{number}]", group, "params") for number, group in enumerate(saved)]
    number_of = {name: number for number, group in enumerate(wanted) for name in group}
    found = {_group_with(group, wanted, number_of): i for i, group in enumerate(names)}
    if len(names) != len(wanted) or found.keys() != set(range(len(wanted))):
        lists = [list(group) if isinstance(group, tuple) else group for group in names]
        raise ValueError(f"{label}: expected groups of {shown(wanted)}, found {shown(lists)}")
    return [saved[found[number]] for number in range(len(wanted))]


def _group_with(
    names: Any, wanted: Sequence[Sequence[Any]], number_of: Mapping[Any, int]
) -> int | None:
    """Return the number of the group that has just these names, or None."""
    if not isinstance(names, (list, tuple)):
        return None
    try:
        numbers = {number_of[name] for name in names}
    except (LookupError, TypeError):  # not among those wanted, or nothing that can be looked up
        return None
    if len(numbers) != 1:
        return None
    (number,) = numbers
    return number if len(names) == len(set(names)) == len(wanted[number]) else None
