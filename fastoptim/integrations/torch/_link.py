"""The link between a mirror, which takes the steps, and torch's state, which shows them.

To torch the truth is in ``param_groups`` and ``state``, which anybody may change at any time, also
from another process. So a mirror is made of them when a step needs one, and works on the same
memory. Another mirror is made when parameters or state have moved to other memory. Step counts, and
what other numbers a rule keeps of its steps, are read from the state before each step and written
there after it.

A mirror has all state before the first step. Torch would make some of it only in that step, and
shows no state of a parameter before. So the link hides such state until the parameter was stepped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, compress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fastoptim._containers import Array
from fastoptim._engine.changes import change
from fastoptim._hyper import EMA
from fastoptim._kinds import checked
from fastoptim._loading import STEPS
from fastoptim._mirror import Mirror
from fastoptim._rule import Rule
from fastoptim._state import Wanted, put

from ._numbers import InTensor, known_of, label_of, numbers_of, refuse_missing
from ._tensors import arrays_of, count_of, fits, keyed, number_of, scalar_dtype, state_of

if TYPE_CHECKING:
    from fastoptim._engine.changes import Change

STEP = "step"
UNCOUNTED = {EMA: EMA}  # the names of state that every optimizer has
COUNTED = UNCOUNTED | {STEP: STEP}  # and those of one that counts steps

State = dict[Tensor, dict[str, Any]]
Hidden = dict[int, tuple[Tensor, dict[str, Any]]]  # by the number of the parameter


class Link:
    """A mirror, and how far torch's state shows what its steps have done.

    Parameters
    ----------
    rule : Rule
        The rule.
    names : mapping
        The names that state has in torch, by its names in fastoptim. If "step" is among them, the
        optimizer counts steps; and if a number of the rule's is, it is in a tensor.
    param_groups : sequence of dicts
        The groups. The mirror gets only those that have parameters.
    hypers : sequence of dicts
        The hyperparameters of the groups that have parameters.
    settings : dict
        The settings.
    state : dict
        The state. Where the mirror cannot use a tensor of it as it is, an array of the mirror's
        takes its place.
    gathered : bool
        Whether the state belongs to nobody else, so that it may be moved together in memory.
    skipped : int
        The number of skipped steps before this link.

    Raises
    ------
    TypeError, ValueError
        If the mirror cannot work on a tensor or go on from the state.
    """

    def __init__(
        self,
        rule: Rule,
        names: Mapping[str, str],
        param_groups: Sequence[dict[str, Any]],
        hypers: Sequence[Mapping[str, Any]],
        settings: dict[str, Any],
        state: State,
        gathered: bool,
        skipped: int,
    ) -> None:
        groups = filled(param_groups)
        pairs = list(chain.from_iterable(keyed(groups)))
        known = {key: entries_of(rule, names, key, p, state) for key, p in pairs}
        self._names = names
        self._counts, self._shown = _counts_of(known, STEP in names)
        self._numbers = numbers_of(rule, names, groups, hypers, known, state)
        self._starts = _starts_of(rule, hypers)
        params = arrays_of(groups)
        self.mirror = Mirror(
            rule,
            params,
            hypers,
            settings,
            _laid_out(
                {ours: names[ours] for ours in (*rule.state, EMA)},
                {key: p for group in params for key, p in group.items()},
                known,
                gathered,
            ),
            self._shown,
            skipped,
            self._found_numbers(),
        )
        self._hidden = self._put_into(state, pairs, known)
        # The state of parameters whose averages are switched off. The next step removes these
        # averages from it.
        self._outdated = [
            state[p]
            for group in groups
            for p in group["params"]
            if group.get("ema_decay") is None and EMA in state.get(p, {})
        ]
        self._memory: list[Any] | None = memory_of(param_groups, state)

    def _put_into(
        self, state: State, pairs: Sequence[tuple[Any, Tensor]], known: Mapping[Any, Any]
    ) -> Hidden:
        """Put arrays of the mirror's in the place of the state's; return those that it had not."""
        hidden: Hidden = {}
        arrays = self.mirror.state
        for i, (key, p) in enumerate(pairs):
            counts = {STEP: self._counts[i]} if self._counts else {}
            numbers = self._numbers[i] if self._numbers else {}
            of_torch = {name: x.array for name, x in numbers.items() if isinstance(x, InTensor)}
            for ours, array in {**counts, **of_torch, **arrays[key]}.items():
                if isinstance(array.base, Tensor):
                    continue  # the mirror works on the state's own tensor
                tensor = torch.from_numpy(array)
                if ours in known[key]:
                    state[p][self._names[ours]] = tensor
                else:
                    hidden.setdefault(i, (p, {}))[1][self._names[ours]] = tensor
            for name, number in numbers.items():
                if name not in of_torch and name not in known[key]:
                    hidden.setdefault(i, (p, {}))[1][name] = number.value()
        return hidden

    def holds(self, param_groups: Sequence[dict[str, Any]], state: State) -> bool:
        """Tell whether parameters and state are where they were when the mirror was made."""
        return self._memory is not None and self._memory == memory_of(param_groups, state)

    def loosen(self) -> None:
        """Let the next step make another mirror."""
        self._memory = None

    @property
    def is_behind(self) -> bool:
        """Whether an interrupt came after a step, before the state showed all of it."""
        return self._memory is not None and self.mirror.steps != self._shown

    def starts_alike(self, rule: Rule, hypers: Sequence[Mapping[str, Any]]) -> bool:
        """Tell whether state that no step has used yet starts as these hyperparameters have it."""
        return not self._hidden or self._starts == _starts_of(rule, hypers)

    def recount(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Take over the step counts of the state, if somebody has changed them, and its numbers.

        These are read and checked before each step: there they are rounded to the type of their
        tensors. Whatever is wrong is refused before anything has changed.
        """
        counts, numbers = [count.item() for count in self._counts], self._found_numbers()
        if not numbers and (not counts or counts == self._shown):
            return
        keys = (key for key, _ in chain.from_iterable(keyed(groups)))
        taken = [_steps_taken(c, key) for c, key in zip(self._counts, keys, strict=True)]
        if taken != self._shown or numbers:
            change([self.mirror.counted(taken, numbers), (self, {"_shown": taken})])

    def _found_numbers(self) -> list[tuple[Any, ...]]:
        """Return what the state has beside the step counts, in the types that it has there."""
        return [tuple([x.value() for x in numbers.values()]) for numbers in self._numbers]

    def show(self, param_groups: Sequence[dict[str, Any]], state: State) -> None:
        """Let the state show the steps that have been taken, as torch does from the first on.

        All of it shows at once, so that an interrupt cannot make a step count twice. One is added
        to the counts that the state has now: another process may have added to them meanwhile.
        """
        taken = self.mirror.steps
        moved = [now != before for now, before in zip(taken, self._shown, strict=True)]
        counted: list[Change] = [
            (count, {...: count.item() + 1})  # rounded as torch rounds it
            for count in compress(self._counts, moved)
        ]
        disclosed, hidden = self._disclosed(state, taken)
        numbers = self._renumbered(moved) if self._numbers else ()
        change([*counted, *disclosed, *numbers, (self, {"_shown": taken, "_hidden": hidden})])
        for entries in self._outdated:
            entries.pop(EMA, None)
        if disclosed or self._outdated:
            self._outdated = []
            self._memory = memory_of(param_groups, state)

    def _renumbered(self, moved: Sequence[bool]) -> Iterator[Change]:
        """Yield what to change so that the state has the numbers of the steps that were taken."""
        pairs = zip(self._numbers, self.mirror.numbers, strict=True)
        for ours, numbers in compress(pairs, moved):
            for x, number in zip(ours.values(), numbers, strict=True):
                yield x.change(number)

    def _disclosed(self, state: State, taken: Sequence[int]) -> tuple[list[Change], Hidden]:
        """Return what the state is to show that it has not shown yet, and what stays hidden.

        A parameter that was stepped shows all its state. One that was not stepped still has an
        average, from the first step of the others on, and shows it. If the optimizer counts steps,
        the rest of the state shows, too: torch's optimizers do not take an average alone.
        """
        changes: list[Change] = []
        hidden: Hidden = {}
        starting = self.mirror.unstarted if self._hidden else ()
        for i, (p, tensors) in self._hidden.items():
            averaged = EMA in tensors and not starting[i]
            shown = {}
            if taken[i] or (averaged and STEP in self._names):
                shown = tensors
            elif averaged:
                shown = {EMA: tensors[EMA]}
            if shown:
                changes.append((state[p], shown))
            if rest := {name: t for name, t in tensors.items() if name not in shown}:
                hidden[i] = p, rest
        return changes, hidden

    def show_all(self, state: State) -> None:
        """Let the state show what it would show after a first step."""
        change([(state[p], tensors) for p, tensors in self._hidden.values()])
        self._hidden = {}

    def averages(self, params: Sequence[Tensor], state: State) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield parameters with their averages, also averages that the state does not show yet."""
        hidden = dict(self._hidden.values())
        for p in params:
            entries = {**hidden.get(p, {}), **state.get(p, {})}
            if EMA in entries:
                yield p, entries[EMA]


def filled(param_groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the groups that have parameters."""
    return [group for group in param_groups if group["params"]]


def memory_of(param_groups: Sequence[Mapping[str, Any]], state: Mapping[Any, Any]) -> list[Any]:
    """Return where the parameters and their state are in memory."""
    found: list[Any] = []
    for group in param_groups:
        found.append(len(group["params"]))
        for p in group["params"]:
            found += p.data_ptr(), p.dtype, p.shape, p.stride()
            tensors = [v for v in state.get(p, {}).values() if isinstance(v, Tensor)]
            found += map(id, tensors)
            found += [tensor.data_ptr() for tensor in tensors]
    return found


def entries_of(
    rule: Rule, names: Mapping[str, str], key: Any, p: Tensor, state: Mapping[Any, Any]
) -> dict[str, Any]:
    """Return what a state holds of a parameter under fastoptim's names, or refuse it."""
    found = known_of(state.get(p, {}))
    if not found:
        return {}
    entries: dict[str, Any] = {}
    kinds = rule.number_kinds
    for ours, theirs in {**{name: name for name in kinds}, **names}.items():
        label = label_of(key, theirs)
        if theirs not in found:
            if ours != EMA and ours not in rule.needs:
                refuse_missing(label, found)
        elif ours == STEP:
            entries[ours] = count_of(found[theirs])
            _steps_taken(entries[ours], key)  # which checks it
        elif ours in kinds and ours in names:
            entries[ours] = number_of(found[theirs], label, kinds[ours])
        elif ours in kinds:
            entries[ours] = checked(label, kinds[ours], found[theirs])
        else:
            entries[ours] = state_of(found[theirs], label, p)
    return entries


def _counts_of(
    known: Mapping[Any, Mapping[str, Any]], counts_steps: bool
) -> tuple[list[Any], list[int]]:
    """Return arrays over the memory of the step counts, and the steps that they say were taken."""
    # torch's SGD counts no steps. It tells the first one, whose velocity is the gradient itself, by
    # the state that is missing.
    if not counts_steps:
        return [], [int(bool(entries.keys() - {EMA})) for entries in known.values()]
    fresh = np.zeros(len(known), scalar_dtype())
    counts = [
        entries.get(STEP, fresh[i : i + 1].reshape(())) for i, entries in enumerate(known.values())
    ]
    return counts, [_steps_taken(c, key) for c, key in zip(counts, known, strict=True)]


def _starts_of(rule: Rule, hypers: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return the hyperparameters that state starts with."""
    return [hyper.get(name) for hyper in hypers for name in rule.starts.values()]


def _steps_taken(count: Any, key: Any) -> int:
    """Return the steps taken, so that the next step has the number that it has in torch.

    Torch adds to the count in its own type: in float32, 2**24 + 1 is 2**24.

    Raises
    ------
    TypeError, ValueError
        If the count is not a whole number >= 0.
    """
    number = count.item()
    whole = int(number) if isinstance(number, int) or number.is_integer() else number
    checked(label_of(key, STEP), STEPS, whole)
    following = count + count.dtype.type(1)
    return int(following.item()) - 1


def _laid_out(
    names: Mapping[str, str],
    params: Mapping[Any, Array],
    known: Mapping[Any, Mapping[str, Any]],
    gathered: bool,
) -> dict[Any, dict[str, Array]]:
    """Return the state that is known, each array as its parameter is laid out.

    Arrays that fit are used where they are, as others may work on them, too, unless they are to be
    gathered in memory.
    """
    found: dict[Any, dict[str, Array]] = {key: {} for key in params if known[key]}
    copies: dict[str, Wanted] = {}
    for key, entries in known.items():
        for name, array in entries.items():
            if name not in names:  # a count or another number
                continue
            shared = array.base.is_shared()
            if fits(array, params[key]) and (shared or not gathered):
                found[key][name] = array
            elif shared:
                raise ValueError(
                    f"{label_of(key, names[name])}: expected the memory layout of its "
                    f"parameter (strides {params[key].strides}) of a tensor that processes "
                    f"share, found strides {array.strides}"
                )
            else:
                copies.setdefault(name, Wanted([], [], [])).add(key, params[key], array)
    put(found, copies)
    return found
