"""The optimizer: what its user sees of it, from the constructor to copies and checkpoints.

How a step is taken is the stepper's concern, and what a saved state must be is that of
`fastoptim._loading`. The subclasses give it a rule and a signature.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypedDict

from . import checkpoint
from ._containers import Array, Masks, Params
from ._engine.arrays import check_target, flat
from ._engine.changes import change
from ._engine.plan import Plan
from ._groups import (
    FlagAttribute,
    Hyperparameter,
    MaybeNumberAttribute,
    MaybePairAttribute,
    NumberAttribute,
    ParamGroup,
    are_groups,
    each_param,
    new_groups,
    rebound,
    shown_call,
)
from ._hyper import EMA, Hyper
from ._kinds import Flag, checked, shown, unknown
from ._loading import FORMAT, RULE, Accepted, accepted
from ._rule import Rule, Scheduled, ScheduledPair
from ._settings import (
    DEFAULT_SETTINGS,
    SETTINGS,
    Nonfinite,
    all_settings,
    chosen_backend,
    pop_settings,
)
from ._state import Heap, Wanted, copied, names_of
from ._stepper import Stepper
from ._trees import is_sequence

# Rules without compiled loops, of each of which a process is warned once.
warned_of: set[Rule] = set()


class CommonOptions(TypedDict, total=False):
    """The keyword arguments that every optimizer takes, whatever its rules are."""

    l1: Scheduled[float]
    max_grad_value: Scheduled[float | None]
    max_param_grad_norm: Scheduled[float | None]
    max_grad_norm: float | None
    nonfinite: Nonfinite
    flush_denormals: bool
    cast_grads: bool
    bounds: ScheduledPair | None
    ema_decay: Scheduled[float | None]
    backend: str | None
    state_path: str | os.PathLike[str] | None


class Options(CommonOptions, total=False):
    """The keyword arguments that an optimizer with one rule takes beside those of the rule."""

    mask: Masks | None
    lazy: bool


class Optimizer(Stepper):
    r"""What every optimizer does; the subclasses give it a rule and a signature.

    Parameters
    ----------
    params : ndarray, sequence, mapping or dataclass, or sequence of group mappings
        The arrays to update in place: float32 or float64, dense (C or Fortran order), writable,
        without memory in common; see the notes. Mappings, lists, tuples, namedtuples and
        dataclasses may be within each other to any depth: the name of an array is then its path,
        as in "layers.0.w".
        A group is ``{"params": ..., "lr": ...}`` with hyperparameters of its own. A list is one of
        groups where a mapping in it has the key "params"; else it holds arrays, and mappings of
        them.
    weight_decay : float, default 0
        :math:`\lambda \ge 0`, an L2 penalty: the rule sees :math:`g + \lambda p` for g. (Where a
        class decouples it, as `AdamW` does, it shrinks p instead.)
    l1 : float, default 0
        :math:`\lambda_1 \ge 0`: the rule sees :math:`g + \lambda_1 \mathrm{sign}(p)` for g.
        With ``weight_decay`` it is the elastic net.
    max_grad_value : float, optional
        Clip each element of the gradient to [-max_grad_value, max_grad_value], before the
        penalties. The caller's gradients stay as they are.
    maximize : bool, default False
        Maximise: the rule sees :math:`-g` for g.
    bounds : (float, float), optional
        Clip the parameters to [low, high] after the update; either may be infinite.
    max_param_grad_norm : float, optional
        Scale the gradient of each parameter so that its own L2 norm is at most this, as the
        ``clipnorm`` of Keras and the ``grad_clip`` of thinc do; after ``max_grad_norm``, before
        ``max_grad_value``.
    mask : array of bool, or a container like params, optional
        Where it is False the parameters are zero after every step. See `fastoptim.prune`. With
        param groups it belongs into each group, of which ``group["mask"] = ...`` changes it. It is
        copied.
    lazy : bool, default False
        What a step does with a gradient that is `fastoptim.Rows`: move the rows alone that have a
        gradient, with the step count of the array, as torch's ``SparseAdam`` does. State and
        averages of other rows then stay as they are, and ``weight_decay``, ``l1``, ``bounds``,
        ``mask`` and ``ema_decay`` act on the rows that are moved, whenever they are. It is another
        algorithm than that of the class; so without it a rule that would move the other rows, too,
        refuses such a gradient. Gradients that are arrays move everything either way.
    ema_decay : float, optional
        :math:`0 \le d < 1`: keep an exponential moving average of the parameters:
        :math:`e = d e + (1 - d) p` after each step, then as `bounds` and `mask` let the parameters
        be. It starts with the first step, as the parameters are before it, and follows those
        without a gradient, too, which the program may change itself (so do
        ``torch.optim.swa_utils.AveragedModel`` and Keras). If it was off for a step, it starts
        anew. It is at `ema`.
    max_grad_norm : float, optional
        Scale the gradients so that the L2 norm of all of them together is at most this, as
        ``torch.nn.utils.clip_grad_norm_`` does; before ``max_grad_value``. For the optimizer as a
        whole, not for a group.
    nonfinite : {"ignore", "raise", "skip"}, default "ignore"
        What to do if a gradient holds a NaN or an infinity: step all the same, raise
        FloatingPointError, or take no step and count it in `skipped_steps`. Neither of the last
        two changes parameters, state or step counts. For the optimizer as a whole.
    flush_denormals : bool, default False
        Take numbers closer to zero than the smallest normal one (1.2e-38 in float32, 2.2e-308 in
        float64) for zero, as operands and as results. State decays into them where gradients
        vanish, and many CPUs then take many times as long for a step. The mode of the CPU is set
        inside the loops of a step, in every thread, and restored behind them. For the optimizer
        as a whole.
    cast_grads : bool, default False
        Take float64 gradients for float32 parameters, too, each element rounded to the nearest
        float32 as it is read. For the optimizer as a whole.
    backend : {"compiled", "reference"}, optional
        What computes the steps; by default what the environment variable FASTOPTIM_BACKEND says,
        else the compiled loops. Both give the same bits.
    state_path : str or os.PathLike, optional
        A file that holds the state, which then takes next to no memory: each step reads it and
        writes it back. It is scratch, made now and removed with the optimizer, and no checkpoint;
        see the notes.
    **hyper
        The hyperparameters of the rule, for groups that do not have their own. Any of them, and of
        those above that belong to a group, may be a schedule: a function of the number of steps
        that a parameter has taken, such as those in `fastoptim.schedules`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected.
    OSError
        If the system refuses the file at `state_path`, or has no room for the state.
    RuntimeError
        If another optimizer has that file.

    Notes
    -----
    Arrays may be views of one buffer that do not overlap, of no axes, without elements, and of
    subclasses of ndarray such as ``np.memmap`` and ``np.matrix``, whose memory counts and whose
    own arithmetic does not; masked arrays are refused, as parameters, gradients, state and masks.
    State read back is what the next step goes on from. Lists, mappings and dataclasses must go on
    holding the arrays that they held: if another array takes the place of one, as in
    ``params["w"] = w``, which steps would never reach, `step`, `save`, `load` and `use_ema` raise;
    `rebind` goes on with other arrays. The optimizer goes on with an array as it was given, if its
    shape or dtype is set later. A hyperparameter is no array, not even one without axes. What the
    caller's own code raises, such as a schedule, comes through, and nothing has changed.

    In containers within each other, keys are text or whole numbers, and no two arrays may have the
    same name: ``{"a.b": x, "a": {"b": y}}`` is refused. None and all else that is no array is
    refused, too. The fields of a dataclass are its arrays; one that comes back, as in `ema`, is
    made without a call of its constructor.

    ``copy.deepcopy`` and ``pickle`` take everything along: the parameters, state, step counts,
    hyperparameters with their schedules, masks, and what belongs to the optimizer as a whole. The
    copy goes on with the same bits and shares no memory. Parameters that are copied or pickled
    together with it, as in ``copy.deepcopy((params, opt))``, are the copy's parameters. Where
    unpickled parameters can only be read, as joblib hands large arrays to its workers, a step is
    refused, and all else works.

    - A schedule must pickle, too: those in `fastoptim.schedules` do, a lambda does not.
    - NumPy pickles an array whose axes are in neither C nor Fortran order in C order. A norm over
      it is then summed in another order, and may round differently.
    - Both raise RuntimeError inside of `use_ema`, or if another thread is in a step. No thread may
      step the optimizer until they are done.
    - ``copy.copy`` raises TypeError: the copy would share the parameters, but not their state.
    - To keep results for years, or for other versions of fastoptim, use `save`.

    With `state_path` the bits are the same, and so is all else but this:

    - `state` and `ema` show copies that are read when they are asked for, and cannot be written to.
      `state_dict` copies all state into memory; `save` and `load` do not.
    - An error in the middle of a step, such as one of the disk, leaves parameters and state partly
      as they were before it. The optimizer then refuses all further calls, and names the file.
      Checkpoints that were saved before are good.
    - It can be neither copied nor pickled, and a child of ``fork()`` cannot use it.
    - When state is added or loaded after the first step, the file holds the old and the new state
      for a moment.
    """

    rule: Rule
    _names_rules = False  # whether state dicts name the rule of each group
    _is_closed = False  # whether attributes have but known names, as in all classes made here

    # What every rule has, for type checkers. The attributes themselves are made of the rule.
    lr: NumberAttribute
    weight_decay: NumberAttribute
    l1: NumberAttribute
    max_grad_value: MaybeNumberAttribute
    max_param_grad_norm: MaybeNumberAttribute
    maximize: FlagAttribute
    bounds: MaybePairAttribute
    ema_decay: MaybeNumberAttribute
    lazy: Hyperparameter[bool, bool]

    def __init__(
        self,
        params: Params,
        *,
        backend: str | None = None,
        mask: Masks | None = None,
        state_path: str | os.PathLike[str] | None = None,
        **hyper: Any,
    ) -> None:
        if type(self) is Optimizer:
            raise TypeError("Optimizer: expected one of its subclasses, found the class itself")
        chosen = self._chosen_backend(backend, [self.rule])
        settings = pop_settings(hyper)
        for name in hyper:
            if name not in self._kinds():
                raise TypeError(unknown(name, type(self).__name__, self._arguments()))
        self._defaults = self.rule.check(hyper)
        super().__init__(chosen, settings, state_path)
        if is_sequence(params):
            params = params if isinstance(params, Sequence) else list(params)
            if are_groups(params):
                if mask is not None:
                    raise TypeError("mask: expected a mask in each param group, found one for all")
                self._add_groups(list(params))
                return
        self._add_groups([{"params": params, "mask": mask}])

    def _chosen_backend(self, backend: str | None, rules: Sequence[Rule]) -> str:
        """Return the backend that is asked for, or the only one that the rules have."""
        chosen = chosen_backend(backend)
        alone = [rule for rule in rules if rule.loop is None] if chosen == "compiled" else []
        for rule in alone:
            if backend is not None:
                raise ValueError(
                    f"backend: expected 'reference' for the rule {rule.name}, which "
                    f"{rule.without_loop}, found {backend!r}"
                )
            if rule not in warned_of:
                warnings.warn(
                    f"{type(self).__name__}: the rule {rule.name} {rule.without_loop}, and steps "
                    "with NumPy; backend='reference' asks for that",
                    RuntimeWarning,
                    stacklevel=3,
                )
                warned_of.add(rule)
        return "reference" if alone else chosen

    @property
    def param_groups(self) -> tuple[ParamGroup, ...]:
        """The param groups.

        ``opt.param_groups[0]["lr"]`` reads and sets a hyperparameter of one group, ``opt.lr``
        that of all groups.
        """
        return self._groups

    @property
    def state(self) -> Mapping[Any, Mapping[str, Array]]:
        """The state arrays of each parameter by name, as in ``opt.state[0]["m"]``.

        The key of a parameter is its name where ``params`` is a mapping, its path where containers
        are within each other, else its number, counted over all groups. Where a group has a name
        that an earlier group has, too, all names of the group begin with its number, as in "1.w".
        The arrays may be changed in place, not replaced; with `state_path` they are copies, which
        are read when a name is looked up.
        """
        if self.state_path is not None:
            self._refuse_while_averages_show("state")
        self._settled()
        shown, plan = self._home.shown, self._plan
        return MappingProxyType({key: shown(arrays, plan) for key, arrays in self._state.items()})

    @property
    def steps(self) -> Mapping[Any, int]:
        """The number of steps that each parameter has taken, by its key in `state`.

        They differ where gradients have been None. Steps that `nonfinite` = "skip" has not taken
        do not count, and what was loaded goes on counting: ``max(opt.steps.values())`` is where a
        run stands.
        """
        return MappingProxyType(dict(zip(self._state, self._plan.steps, strict=True)))

    @property
    def backend(self) -> str:
        """What computes the steps: "compiled" or "reference"."""
        return self._backend

    @property
    def state_path(self) -> str | None:
        """The file that the state is in, None if it is in memory."""
        return self._home.path

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add a group of parameters, which start with fresh state.

        From then on ``grads`` is a sequence with one container for each group.

        Parameters
        ----------
        group : mapping
            ``{"params": ..., "lr": ...}``; hyperparameters that are missing take the defaults.

        Raises
        ------
        TypeError, ValueError
            As the constructor does; nothing has changed then.
        RuntimeError
            Inside of `use_ema` or `use_average`, or if another thread is in a step of this
            optimizer.
        """
        self._refuse_while_averages_show("add_param_group")
        with self._plan:
            self._add_groups([group])

    def rebind(self, params: Params) -> None:
        """Go on with other arrays in the place of the parameters.

        State, averages, step counts and masks stay, and belong to the new arrays from then on. It
        is for programs that replace their arrays, say to load weights, where others assign to
        their elements.

        Parameters
        ----------
        params : ndarray, sequence, mapping or dataclass
            The arrays, with the names, shapes and dtypes of those before; with several param
            groups, a sequence of such containers, one for each group.

        Raises
        ------
        TypeError, ValueError
            As the constructor does, and if a name, shape or dtype is another; nothing has changed
            then.
        RuntimeError
            Inside of `use_ema` or `use_average`, or if another thread is in a step of this
            optimizer.

        Examples
        --------
        >>> import numpy as np
        >>> import fastoptim as fo
        >>> params = {"w": np.array([1.0, 2.0])}
        >>> opt = fo.SGD(params, lr=0.5, momentum=0.5)
        >>> opt.step({"w": np.array([1.0, 0.0])})
        >>> params["w"] = np.zeros(2)
        >>> opt.rebind(params)
        >>> opt.step({"w": np.array([1.0, 0.0])})
        >>> params["w"]
        array([-0.75,  0.  ])
        """
        self._refuse_while_averages_show("rebind")
        with self._plan as plan:
            groups = tuple(rebound(self._groups, params))
            state = self._home.laid_out(groups, self._state)
            place_of = {key: i for i, key in enumerate(self._state)}
            places = [place_of[key] for key in state]  # names may be in another order
            self._lay_out(
                groups,
                state,
                [plan.steps[i] for i in places],
                unstarted=self._unstarted(),
                numbers=[plan.numbers[i] for i in places],
            )

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of all that a later run needs to go on with the same bits.

        Returns
        -------
        dict
            ``"optimizer"`` (the class's name), ``"format"`` (a number), ``"settings"``
            (max_grad_norm, nonfinite, flush_denormals and cast_grads), ``"skipped_steps"``;
            ``"state"``: for the key of each parameter its ``"step"`` and copies of its state
            arrays; ``"param_groups"``: for each group the keys of its ``"params"`` and its
            hyperparameters. The parameters themselves are not in it, nor are masks and
            schedules, which the optimizer that loads it must have been made with.

        Raises
        ------
        RuntimeError
            Inside of `use_ema` or `use_average`, where parameters and averages have changed places,
            or if another thread is in a step of this optimizer.
        """
        self._refuse_while_averages_show("state_dict")
        with self._settled():
            # The copies are made in a function: after an interrupt within a comprehension, Python
            # 3.13 would not leave the plan.
            found = self._described()
            found["state"] = copied(found["state"])
        return found

    def _described(self) -> dict[str, Any]:
        """Return what `state_dict` returns, but with the state arrays themselves."""
        groups = [
            {
                "params": names,
                **({RULE: group.rule.saved_as} if self._names_rules else {}),
                **{k: v for k, v in group.hyper.items() if k not in group.schedules},
            }
            for names, group in zip(names_of(self._groups), self._groups, strict=True)
        ]
        return {
            "optimizer": self._saved_as(),
            "format": FORMAT,
            "settings": dict(self._settings),
            "skipped_steps": self._skipped,
            "state": self._described_state(),
            "param_groups": groups,
        }

    def _described_state(self) -> dict[Any, dict[str, Any]]:
        """Return step count, numbers and state arrays of each parameter."""
        rules = (group.rule for group, _ in each_param(self._groups))
        plan = self._plan
        return {
            key: {"step": step, **dict(zip(rule.numbers, numbers, strict=True)), **arrays}
            for (key, arrays), rule, step, numbers in zip(
                self._state.items(), rules, plan.steps, plan.numbers, strict=True
            )
        }

    def _state_names(self) -> tuple[str, ...]:
        """Return the names that state arrays may have."""
        names = [name for group in self._groups for name in group.rule.state]
        return (*dict.fromkeys(names), EMA)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned.

        Parameters
        ----------
        state_dict : mapping
            From an optimizer of the same class, whose groups hold parameters with the same keys,
            shapes and dtypes. The order of keys and groups does not matter where `params` is a
            mapping; elsewhere a parameter's key is its number. Its arrays are copied.

        Raises
        ------
        TypeError, ValueError
            If anything in it does not fit; then nothing has changed.
        RuntimeError
            Inside of `use_ema` or `use_average`, or if another thread is in a step of this
            optimizer.
        """
        self._refuse_while_averages_show("load_state_dict")
        with self._plan:
            self._load(state_dict)

    def save(self, path: str | os.PathLike[str], *, params: bool = True) -> None:
        """Save all that a later run needs to go on with the same bits, as a safetensors file.

        The file at `path` is replaced in one moment, once the new one is whole and on the disk:
        whatever happens meanwhile, it is the old one or the new one. (A process that is killed
        may leave a file ``.fastoptim-*`` beside it.) It keeps its permissions, on Linux with its
        POSIX access control list, and its owner and group. Where the system refuses these, as it
        does to all but root and the group's members, the file belongs to whom saves it, has no
        set-id bits, and a new group gets no more than the old group and all others both had. Other
        access control lists and extended attributes are not kept, nor are further hard links. The
        permissions of a new file are what the umask leaves. Where `path` is a symbolic link, what
        it points to is replaced.

        Parameters
        ----------
        path : str or os.PathLike
            The file.
        params : bool, default True
            Whether to save the parameters, too, beside what `state_dict` returns. Nothing but this
            optimizer may write to them meanwhile.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as described, `path` is a folder or a device, or a parameter has
            a name other than text, a number, None, or a tuple of these; if names and shapes take
            more than the 100,000,000 bytes that a safetensors file has for them; or if `load`
            would refuse the new file. The old one is there as it was.
        OSError
            If the system refuses, as it does where the disk is full; then the old file is there
            as it was.
        ImportError
            Without the extra ``checkpoint``.
        RuntimeError
            Inside of `use_ema` or `use_average`, or if another thread is in a step of this
            optimizer.

        Examples
        --------
        >>> import os, tempfile
        >>> import numpy as np
        >>> import fastoptim as fo
        >>> path = os.path.join(tempfile.mkdtemp(), "run.safetensors")
        >>> opt = fo.Adam({"w": np.array([1.0, 2.0])}, lr=0.5)
        >>> opt.step({"w": np.array([1.0, 0.0])})
        >>> opt.save(path)
        >>> w = np.zeros(2)
        >>> opt = fo.Adam({"w": w})
        >>> opt.load(path)
        >>> opt.lr, w
        (0.5, array([0.5, 2. ]))
        """
        self._refuse_while_averages_show("save")
        path = checkpoint.path_of(path)
        with_params = checked("params", Flag(), params)
        self._check_given()
        with self._settled():
            saved, arrays = self._described(), self._params()
            states = self._state_names()

            def prove(file: str) -> None:
                self._accepted(checkpoint.read_without_data(file, saved, arrays, states))

            checkpoint.write(path, saved, arrays if with_params else {}, prove)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Go on from what `save` saved, with the same bits.

        Parameters that are in the file are written into the arrays of this optimizer. As in
        `state_dict`, masks and schedules are not: the optimizer must have been made with them.

        Parameters
        ----------
        path : str or os.PathLike
            A file from an optimizer of the same class, whose groups hold parameters with the same
            names, shapes and dtypes. The order of names and groups does not matter where `params`
            is a mapping; elsewhere a parameter's name is its number.

        Raises
        ------
        TypeError
            If `path` is not one.
        ValueError
            If the file is not from `save`, has changed since, or anything in it does not fit; then
            nothing has changed. The message has the path and what is wrong.
        OSError
            If the system cannot open it.
        ImportError
            Without the extra ``checkpoint``.
        RuntimeError
            Inside of `use_ema` or `use_average`, or if another thread is in a step of this
            optimizer.
        """
        self._refuse_while_averages_show("load")
        path = checkpoint.path_of(path)
        self._check_given()
        with self._plan, checkpoint.blaming(path):
            fitting = self._described(), self._params(), self._state_names()
            if self.state_path is None:
                self._load(*checkpoint.read(path, *fitting))
            else:
                with checkpoint.source(path, *fitting) as source:
                    self._load_ranges(source)

    def _load(self, state_dict: Mapping[str, Any], values: Sequence[Array] = ()) -> None:
        """Go on from a state, and from these values of the parameters, or those that there are."""
        found, others = self._accepted(state_dict)
        for key, p in self._params().items() if values else ():
            check_target(f"params[{key!r}]", p)  # somebody may have made it read-only
        state: dict[Any, dict[str, Array]] = {key: {} for key in self._state}
        self._home.put(state, found.wanted)
        self._lay_out(found.groups, state, found.steps, others, values, numbers=found.numbers)

    def _load_ranges(self, source: checkpoint.Source) -> None:
        """Go on from a file range by range: what is in it need not fit into memory."""
        found, others = self._accepted(source.saved)
        source.check()
        params = self._params() if source.has_params else {}
        for key, p in params.items():
            check_target(f"params[{key!r}]", p)
        state: dict[Any, dict[str, Any]] = {key: {} for key in self._state}
        for name, (keys, arrays, _) in found.wanted.items():
            reads = [partial(source.read, key, name) for key in keys]
            self._home.put(state, {name: Wanted(keys, arrays, reads)})
        groups, steps, numbers = found.groups, found.steps, found.numbers
        _, changes = self._planned(groups, state, steps, others, numbers=numbers)
        try:
            for key, p in params.items():
                for start, stop in checkpoint.pieces(p):
                    flat(p)[start:stop] = source.read(key, checkpoint.PARAM, start, stop)
            self._plan.retire(changes, [])
        except BaseException as error:
            self._plan.break_off(error)
            raise

    def _accepted(self, state_dict: Mapping[str, Any]) -> tuple[Accepted, dict[Any, Any]]:
        """Return what to go on from, and the attributes to set, if all of it fits."""
        found = accepted(self._saved_as(), self._groups, state_dict, self._names_rules)
        _, others = self._adopting(found.settings)
        return found, {**others, "_skipped": found.skipped}

    def __getstate__(self) -> dict[str, Any]:
        if self.state_path is not None:
            raise TypeError(
                "copy or pickle: expected an optimizer with its state in memory, found one with "
                f"state_path={self.state_path!r}: save it, and load the checkpoint into another"
            )
        self._refuse_while_averages_show("copy or pickle")
        with self._settled() as plan:
            kept = {"_plan": plan.steps, "_numbers": plan.numbers, "_unstarted": self._unstarted()}
            return {**vars(self), **kept}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        state = {"_home": Heap(), **state}
        unstarted, numbers = state.pop("_unstarted", ()), state.pop("_numbers", ())
        change([(self, {**state, "_plan": Plan([], [])})])
        change([self._adopting(all_settings(self._settings))])
        params = self._params()
        wanted: dict[str, Wanted] = {}
        for key, arrays in self._state.items():
            for name, array in arrays.items():
                wanted.setdefault(name, Wanted([], [], [])).add(key, params[key], array)
        copies: dict[Any, dict[str, Array]] = {key: {} for key in self._state}
        self._home.put(copies, wanted)
        self._lay_out(self._groups, copies, state["_plan"], unstarted=unstarted, numbers=numbers)

    def __copy__(self) -> Any:
        raise TypeError(
            f"copy.copy: expected copy.deepcopy for {type(self).__name__}, which copies the "
            "parameters too: two optimizers that share them would undo each other's steps"
        )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "_is_closed" not in vars(cls):
            cls._is_closed = cls.__module__.startswith(f"{__package__}.")
        for name in cls._kinds():
            if not hasattr(cls, name):  # a class may define such an attribute itself
                setattr(cls, name, Hyperparameter(name))

    if not TYPE_CHECKING:  # seeing this method, a type checker would let any name pass

        def __setattr__(self, name: str, value: Any) -> None:
            """Refuse a misspelt hyperparameter. Other packages' classes may set any name."""
            cls = type(self)
            fits = hasattr(cls, name) or name.startswith("_")
            if not fits and cls._is_closed:
                known = (*self._kinds(), *SETTINGS)
                raise AttributeError(unknown(name, cls.__name__, known, "hyperparameter"))
            super().__setattr__(name, value)

    def __repr__(self) -> str:
        whole = {**self._settings, "backend": self._backend, "state_path": self.state_path}
        defaults = {**DEFAULT_SETTINGS, "backend": "compiled", "state_path": None}
        chosen = {name: value for name, value in whole.items() if value != defaults[name]}
        if len(self._groups) == 1:
            (group,) = self._groups
            call = shown_call({**group.chosen(), **chosen}, group.contents())
        else:
            groups = "".join(
                f"\n  {group.owner}: {group!r}" if self._names_rules else f"\n  {group!r}"
                for group in self._groups
            )
            call = shown_call(chosen, f"{len(self._groups)} groups:{groups}\n")
        return f"{type(self).__name__}({call})"

    @classmethod
    def _kinds(cls) -> Collection[str]:
        """Return the names of the hyperparameters."""
        return cls.rule.kinds

    @classmethod
    def _arguments(cls) -> list[str]:
        """Return the names of all keyword arguments."""
        return [*cls._kinds(), *SETTINGS, "mask", "backend", "state_path"]

    def _defaults_of(self, label: str, group: dict[str, Any]) -> tuple[str, Hyper]:
        """Return the name of a group's class, and hyperparameters; its own are in the dict."""
        return type(self).__name__, self._defaults

    def _params(self) -> dict[Any, Array]:
        """Return the parameters by their keys."""
        arrays = (p for _, p in each_param(self._groups))
        return dict(zip(self._state, arrays, strict=True))

    @classmethod
    def _saved_as(cls) -> str:
        """Return what files call the class."""
        return cls.__name__

    def _add_groups(self, groups: Sequence[Any]) -> None:
        added = new_groups(groups, self._defaults_of, first=len(self._groups))
        steps = self._plan.steps + [0] * sum(len(group.container.arrays) for group in added)
        self._lay_out(
            (*self._groups, *added),
            self._state,
            steps,
            unstarted=self._unstarted(),
            numbers=self._plan.numbers,
        )


def class_with_rule(label: str, value: Any) -> type[Optimizer]:
    """Return a class that has a rule, or say what to write instead of what is none."""
    if isinstance(value, type) and issubclass(value, Optimizer) and hasattr(value, "rule"):
        return value
    how = ""
    if isinstance(value, Rule):
        classes = [cls for cls in Optimizer.__subclasses__() if getattr(cls, "rule", None) is value]
        made = f"its class {classes[0].__name__}" if classes else "a class of it"
        how = f": write {'fastoptim.optimizer(rule)' if value.is_own else made}"
    elif isinstance(value, Optimizer):
        how = f": write its class {type(value).__name__}"
    elif isinstance(value, str):
        how = ": write the class itself, without quotes"
    raise TypeError(
        f"{label}: expected a class of optimizers with one rule, such as fastoptim.AdamW, "
        f"found {shown(value)}{how}"
    )
