"""The stepper: param groups, their state and a plan, brought in line with each other for a step.

It knows how gradients are judged before a step and what must change together. It does not know
where its parameters come from, nor how anything is saved; those are the concern of what is built on
it, `fastoptim.Optimizer` above all. How the arrays are computed on is the engine's.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import repeat
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ._containers import Array, Grads
from ._disk import Disk
from ._engine.changes import change
from ._engine.entry import Entry
from ._engine.machine import can_flush
from ._engine.parts import ELSEWHERE
from ._engine.plan import Plan, ShownAverages
from ._groups import ParamGroup, is_planned, of_each_group, watched
from ._hyper import EMA
from ._kinds import Divisor, checked
from ._rule import Rule, loops_of
from ._settings import WithSettings
from ._stages import clip_factor
from ._stages import kept as kept_within
from ._state import ALL, Heap, kept, names_of

if TYPE_CHECKING:
    from ._engine.changes import Change

DIVISOR = Divisor(0)
ONE = 1.0  # the default of grad_scale, which need not be checked: `is` tells it from another 1.0


class Labels(Sequence[list[str]]):
    """What messages call each parameter and what belongs to it, made when it is asked for."""

    def __init__(self, groups: Sequence[ParamGroup], keys: Sequence[Any]) -> None:
        self._groups, self._keys = groups, keys

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, i: Any) -> Any:
        number, first = 0, 0  # the group of the parameter, and the first in it
        while i >= first + len(self._groups[number].container.arrays):
            first += len(self._groups[number].container.arrays)
            number += 1
        where = f"[{number}]" if len(self._groups) > 1 else ""
        where += self._groups[number].container.index(i - first)
        names = (*self._groups[number].rule.state, EMA)
        state = (f"state[{self._keys[i]!r}][{name!r}]" for name in names)
        return [f"params{where}", f"grads{where}", *state]


class Stepper(WithSettings):
    """What takes the steps of param groups, each by its own rule."""

    _judges: bool  # whether the settings want the gradients measured before a step is taken
    _flushes: bool  # whether denormal numbers are zero in a step
    _casts: bool  # whether gradients may be rounded to the types of their parameters

    def __init__(
        self,
        backend: str,
        settings: dict[str, Any],
        state_path: str | os.PathLike[str] | None = None,
    ) -> None:
        self._backend = backend
        self._home = self._new_home(state_path)
        change([self._adopting(settings)])
        self._norm: float | None = None  # of the gradients of the last step, if it was measured
        self._skipped = 0  # steps that were not taken, as gradients were not finite
        self._groups: tuple[ParamGroup, ...] = ()  # `_lay_out` brings them in
        self._state: dict[Any, dict[str, Array]] = {}  # by the keys of the parameters
        self._plan = Plan([], [])

    def _new_home(self, state_path: str | os.PathLike[str] | None) -> Heap:
        """Return where the state is to be."""
        return Heap() if state_path is None else Disk(state_path)

    @property
    def grad_norm(self) -> float | None:
        """The L2 norm of all gradients of the last step, divided by grad_scale, before clipping.

        It is measured if `max_grad_norm` or `nonfinite` asks for it, else None.
        """
        return self._norm

    @property
    def skipped_steps(self) -> int:
        """The number of steps that `nonfinite` = "skip" has not taken."""
        return self._skipped

    @property
    def ema(self) -> Any:
        """The average of the parameters, in containers like theirs; None without `ema_decay`.

        Until the first step, it is what the parameters are, within their bounds and masks, and what
        is written to it is lost with that step; `load_state_dict` brings another average.
        """
        self._settled()
        if all(group.hyper["ema_decay"] is None for group in self._groups):
            return None
        arrays = (self._home.shown(arrays, self._plan) for arrays in self._state.values())
        averages = [
            group.container.like([next(arrays).get(EMA) for _ in group.container.arrays])
            for group in self._groups
        ]
        return averages[0] if len(averages) == 1 else averages

    def use_ema(self) -> AbstractContextManager[None]:
        """Let the parameters hold their averages meanwhile, also if the body raises.

        Raises
        ------
        RuntimeError
            If there is no average, it is in use already, or another thread is in a step; and from
            `step` meanwhile.

        Examples
        --------
        >>> import numpy as np
        >>> import fastoptim as fo
        >>> p = np.array([1.0, 2.0])
        >>> opt = fo.SGD(p, lr=0.5, ema_decay=0.5)
        >>> opt.step(np.array([1.0, 0.0]))
        >>> with opt.use_ema():
        ...     print(p)
        [0.75 2.  ]
        >>> p
        array([0.5, 2. ])
        """
        return ShownAverages("use_ema", self._averaged)

    def use_average(self) -> AbstractContextManager[None]:
        """Let parameters with a Schedule-Free rule hold their averages meanwhile.

        These are what is to be evaluated, within `bounds` and `mask`; of a parameter that has taken
        no step the average is what it is. Afterwards the parameters have the bits that they had,
        also if the body raises. It takes memory for another copy of them.

        Raises
        ------
        ValueError
            If the parameters say nothing of their averages, since the momentum is 0.
        RuntimeError
            If no rule is Schedule-Free, averages are in use already, or another thread is in a
            step; and from `step` meanwhile.

        Examples
        --------
        >>> import numpy as np
        >>> import fastoptim as fo
        >>> p = np.array([1.0, 2.0])
        >>> opt = fo.ScheduleFreeSGD(p, lr=0.5, momentum=0.5)
        >>> for _ in range(2):
        ...     opt.step(np.array([1.0, 0.0]))
        >>> with opt.use_average():
        ...     print(p)
        [0.25 2.  ]
        >>> p
        array([0.125, 2.   ])
        """
        return ShownAverages("use_average", self._evaluable, self._average_of)

    def step(self, grads: Grads, *, grad_scale: float = ONE) -> None:
        """Update the parameters in place.

        Parameters
        ----------
        grads : ndarray, sequence, mapping or dataclass
            The gradients, in a container like that of the parameters, or in any iterable where
            that is a sequence; with several param groups, one such container for each group. None
            skips its parameter, or all in its place where containers are within each other; their
            step counts then stay as they are.

            A gradient has its parameter's shape, but for axes of length 1, and any layout. It is
            an array of NumPy or, on the CPU, of another library (``__dlpack__``, ``__array__`` or
            a buffer), whose memory is read where it is; a number of Python where the parameter
            has one element; or nested lists of numbers. Python's numbers take on the parameter's
            dtype, as everywhere in NumPy. An array has that dtype, or float32 where it is float64;
            with `cast_grads` it may also be float64 where it is float32. It may be
            `fastoptim.Rows` where the other rows of its parameter stay as they are.
        grad_scale : float, default 1
            Divide the gradients by this before all else: the loss scale, or the number of batches
            whose gradients were added up.

        Raises
        ------
        TypeError, ValueError
            If a gradient does not fit its parameter, or shares memory with parameters or state;
            then nothing has changed.
        FloatingPointError
            If a gradient is not finite and `nonfinite` is "raise"; then nothing has changed.
        RuntimeError
            If another thread is in a step of this optimizer, or the averages are swapped in.
        """
        # Should another thread change the groups from here on, this plan is retired, and raises.
        plan, groups = self._plan, self._groups
        if plan.shows is not None:
            self._refuse_while_averages_show("step")
        scale = 1.0 if grad_scale is ONE else 1 / checked("grad_scale", DIVISOR, grad_scale)
        grads = ordered(groups, grads)
        judge = self._judge if self._judges else None
        for group in groups:
            if group.planned is not group.wanted:
                # A new plan takes the step, and takes over only if it succeeds. Until then the old
                # plan keeps other threads out.
                with plan:
                    new, changes = self._planned(
                        groups,
                        self._state,
                        plan.steps,
                        unstarted=self._unstarted(),
                        numbers=plan.numbers,
                    )
                    changes.append((plan, {"retired": True}))
                    try:
                        new.step(grads, groups, scale, changes, judge, self._flushes, self._casts)
                    finally:
                        plan.broken = new.broken  # they have the same parameters
                return
        plan.step(grads, groups, scale, (), judge, self._flushes, self._casts)

    def _refuse_while_averages_show(self, what: str) -> None:
        if self._plan.shows is not None:
            raise RuntimeError(
                f"{what}: the parameters hold their averages, inside of {self._plan.shows}()"
            )

    def _averaged(self) -> Plan:
        """Return the plan, if the parameters can hold their averages."""
        self._refuse_while_averages_show("use_ema")
        self._settled()
        if all(group.hyper["ema_decay"] is None for group in self._groups):
            raise RuntimeError("use_ema: expected an optimizer with ema_decay, found None")
        self._check_given()
        return self._plan

    def _evaluable(self) -> Plan:
        """Return the plan, if some parameters can hold the averages of their rule."""
        self._refuse_while_averages_show("use_average")
        if not any(group.rule.average for group in self._groups):
            raise RuntimeError(
                "use_average: expected an optimizer with a Schedule-Free rule, "
                f"found {type(self).__name__}"
            )
        self._check_given()
        return self._settled()

    def _average_of(self, number: int, mask: Any, t: int, p: Array, *state: Any) -> Array | None:
        """Return the average that a rule has of a parameter in the group of this number."""
        group = self._groups[number]
        hyper = group.hyper.at(max(t - 1, 0)) if group.schedules else group.hyper
        average, after = hyper.rule.average, hyper.rule.after_of(hyper)
        if average is None:
            return None
        low, high = map(p.dtype.type, (after.low, after.high))
        found = kept_within(average(hyper, p, *state) if t > 0 else p, mask, low, high)
        return np.asarray(found)

    def _check_given(self) -> None:
        """Raise if a list or mapping of the caller's no longer holds the parameters."""
        for _, check in watched(self._groups):
            check()

    def _settled(self) -> Plan:
        """Return the plan, once it has what a next step would go on from.

        Hyperparameters that were set since the last step may call for more state, and averages may
        be about to start. While another call uses the plan, it is returned as it is.
        """
        plan = self._plan
        if plan.in_use:
            return plan
        if not is_planned(self._groups):
            with plan:
                unstarted = self._unstarted()
                self._lay_out(
                    self._groups,
                    self._state,
                    plan.steps,
                    unstarted=unstarted,
                    numbers=plan.numbers,
                )
            plan = self._plan
        if any(plan.unstarted):
            with plan:
                plan.start_averages(self._groups)
        return plan

    def _unstarted(self) -> set[Any]:
        """Return the keys of the parameters whose averages are to start at the next step."""
        pairs = zip(self._state, self._plan.unstarted, strict=True)
        return {key for key, unstarted in pairs if unstarted}

    def _lay_out(
        self,
        groups: tuple[ParamGroup, ...],
        state: Mapping[Any, Mapping[str, Array]],
        steps: Sequence[int],
        others: Mapping[str, Any] = MappingProxyType({}),
        values: Sequence[Array] = (),
        unstarted: Collection[Any] = (),
        numbers: Sequence[tuple[float, ...]] = (),
    ) -> None:
        """Allocate the state that is missing and plan the steps; then change all at once.

        Parameters
        ----------
        groups, state, steps
            What the steps are to go on from; the counts are in the order of the parameters.
        others
            Attributes of this object that change, too.
        values
            What the parameters become; without any, they stay.
        unstarted
            The keys of parameters whose averages in the state do not count: they start anew with
            the next step. All others in the state go on from what they are.
        numbers
            What the rules keep of the steps that each parameter has taken. Those that are missing,
            or empty where a rule keeps some, are as they are before the first step.
        """
        _, changes = self._planned(groups, state, steps, others, unstarted, numbers)
        self._plan.retire(changes, list(values))

    def _planned(
        self,
        groups: tuple[ParamGroup, ...],
        state: Mapping[Any, Mapping[str, Array]],
        steps: Sequence[int],
        others: Mapping[str, Any] = MappingProxyType({}),
        unstarted: Collection[Any] = (),
        numbers: Sequence[tuple[float, ...]] = (),
    ) -> tuple[Plan, list[Change]]:
        """Return a plan, as `_lay_out` says, and what to change so that it takes the steps."""
        wanted = [group.wanted for group in groups]  # what is set from here on waits for the next
        going_on = kept(groups, state)
        averaged = any(EMA in group.state_names for group in groups)
        averages = {key for key in going_on if EMA in going_on[key] and key not in unstarted}
        complete, part = self._home.complete(groups, going_on)
        rules = list(dict.fromkeys(group.rule for group in groups))
        plan = Plan(
            _entries(groups, rules, complete, steps, numbers, part.ranges, part.elsewhere),
            Labels(groups, list(complete)),
            [rule.twin for rule in rules],
            loops_of(rules) if self._backend == "compiled" else None,
            unstarted=[key not in averages for key in complete] if averaged else (),
            watched=watched(groups),
            sums=part.sums,
            waves=part.waves,
        )
        own = {**others, "_groups": groups, "_state": complete}
        # The plan comes last: another thread that steps it finds all else in place.
        planned = zip(groups, wanted, strict=True)
        changes = [*((group, {"planned": token}) for group, token in planned)]
        return plan, [*changes, (self, own | {"_plan": plan})]

    def _adopting(self, settings: dict[str, Any]) -> Change:
        """Return what to change to take settings that have been checked."""
        if settings["flush_denormals"] and not can_flush:
            raise ValueError("flush_denormals: expected False on this CPU, found True")
        judges = settings["max_grad_norm"] is not None or settings["nonfinite"] != "ignore"
        flushes, casts = settings["flush_denormals"], settings["cast_grads"]
        own = {"_judges": judges, "_flushes": flushes, "_casts": casts}
        return self, {"_settings": settings, **own}

    def _judge(self, norm: float, bad: str | None) -> tuple[float | None, list[Change]]:
        """Judge the gradients of a step by their norm, and the name of one that is not finite.

        Return what to multiply them by, or None for no step; and what to change together with the
        step, or instead of it.
        """
        nonfinite, limit = self._settings["nonfinite"], self._settings["max_grad_norm"]
        if bad and nonfinite == "raise":
            raise FloatingPointError(f"{bad}: expected finite numbers, found NaN or infinity")
        if bad and nonfinite == "skip":
            return None, [(self, {"_norm": norm, "_skipped": self._skipped + 1})]
        factor = 1.0 if limit is None else clip_factor(norm, limit)
        return factor, [(self, {"_norm": norm})]


def _entries(
    groups: tuple[ParamGroup, ...],
    rules: Sequence[Rule],
    state: Mapping[Any, dict[str, Array]],
    steps: Sequence[int],
    numbers: Sequence[tuple[float, ...]],
    ranges: Iterable[tuple[int, int] | None] = ALL,
    elsewhere: bool = False,
) -> Iterator[Entry]:
    """Yield what the engine wants to know of each parameter; state may be `ELSEWHERE`."""
    counts, kept_numbers, rest = iter(steps), iter(numbers), iter(ranges)
    for number, (group, keys) in enumerate(zip(groups, names_of(groups), strict=True)):
        params, masks, rule = group.container.arrays, group.masks, group.rule
        initial = rule.numbers_of(group.hyper)
        *used, emas = (
            [None] * len(keys)
            if name not in group.state_names
            else [ELSEWHERE] * len(keys)
            if elsewhere
            else [state[key][name] for key in keys]
            for name in (*rule.state, EMA)
        )
        states = zip(*used, strict=True) if used else [()] * len(keys)
        yield from map(
            Entry,
            params,
            states,
            emas,
            masks,
            repeat(number),
            counts,
            repeat(rules.index(rule)),
            [next(kept_numbers, ()) or initial for _ in keys],
            repeat(group.hyper.measured),
            rest,
        )


def ordered(groups: Sequence[ParamGroup], grads: Any) -> Sequence[Any]:
    """Return the gradients in the order of the parameters, over all groups."""
    if len(groups) == 1:
        return groups[0].container.order("grads", grads)
    given = of_each_group("grads", len(groups), grads)
    found: list[Any] = []
    for number, group in enumerate(groups):
        if given[number] is None:  # as for a branch of a tree
            found += [None] * len(group.container.arrays)
        else:
            found += group.container.order(f"grads[{number}]", given[number])
    return found
