"""Sharded: an optimizer whose steps several ranks share.

What it adds to an optimizer is what the ranks say to each other: that they agree, before anything
changes; the gradients, sums and parameters of a step; and what they have of the state, where one of
them is to show or to save it. Groups, hyperparameters, rules and steps are those of the optimizer.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from mpi4py import MPI

from ... import checkpoint
from ..._containers import Array, Grads, Params
from ..._engine.arrays import check_target
from ..._groups import ParamGroup, each_param, rebound
from ..._kinds import Above, Choice, Count, Flag, checked, expect, shown
from ..._optimizer import Optimizer
from ..._state import keys_of
from ..._stepper import DIVISOR, ONE, Labels, ordered
from . import _files, _subjects
from ._agreement import Subject, subject
from ._batches import Batches
from ._calls import Call, Calls
from ._exchange import Exchange
from ._ranks import Ranks
from ._shards import Shards, ShardsOnDisk
from ._shown import Shown

if TYPE_CHECKING:
    from ..._engine.changes import Change
    from ..._engine.plan import Plan

Mode = Literal["local", "summed", "own"]
MODES = Choice(("local", "summed", "own"))
TIMEOUT = 1800.0
WAVE_BYTES = 1 << 25
WAVES = Count(1, bits=31)

made: dict[type[Optimizer], type[Sharded]] = {}  # the classes, by those that they share
_has_warned = False  # of being bound to one CPU

if TYPE_CHECKING:
    Base = Optimizer
else:
    Base = object


class Sharded(Base):
    r"""An optimizer whose steps all ranks of a communicator share, each with a part of the state.

    All elements of all parameters, one behind the other, are cut into as many parts as there are
    ranks. A rank holds the state of its part, takes the step of its part, and sends the new
    parameters to all others. (Rajbhandari et al. 2020, "ZeRO", arXiv 1910.02054, call that stage
    1.) The bits are those of one process that steps on the sum of the gradients, added up as a
    balanced binary tree in the order of the ranks; in MPI's own sums the order depends on the
    library.

    Parameters
    ----------
    optimizer : type
        The class whose rule and hyperparameters the steps have, such as `fastoptim.AdamW`,
        `fastoptim.Mixed`, or one that `fastoptim.optimizer` has made of a rule.
    params : ndarray, sequence, mapping or dataclass, or sequence of group mappings
        The parameters, as that class takes them. But with ``grads="own"`` all ranks have the same:
        in shapes, types, layouts and elements.
    comm : mpi4py.MPI.Intracomm
        The ranks. A duplicate is used, so that nothing of the program's own gets in between.
    grads : {"local", "summed", "own"}, default "local"
        What `step` is given. "local": each rank's own gradients, as of its part of a batch, which
        are summed. "summed": the same gradients on all ranks, as where these share what they are
        made of. "own": each rank has parameters of its own, as a part of a domain, and their
        gradients; only the norm of all of them, and whether all are finite, is shared.
    average : bool, default False
        Divide by the number of gradients that were added up here: the batches since the last step
        and, with "local", those of all ranks.
    timeout : float, default 1800
        Seconds that a rank waits for the others, at the most, in each exchange of a call.
    wave_bytes : int, default 33554432
        How many bytes are sent at a time. There are two buffers of that length.
    **options
        The arguments of the class, such as ``lr`` and ``max_grad_norm``. With ``state_path`` each
        rank has a file for the state of its part, at a path of its own, as in
        ``state_path=f"run-{comm.rank}.state"``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described, on any rank, or is another one than on the first; all
        ranks raise the same error, which names the rank and the argument.
    TimeoutError
        If a rank does not come in time.

    Notes
    -----
    All methods and context managers that change something, and `state_dict` and `save`, are calls
    of all ranks, in the same order; `accumulate` and what only looks, such as `state`, `lr` and
    `grad_norm`, are not. Hyperparameters are set on each rank, as in ``opt.lr = 0.1``, and a step
    in which they differ is refused.

    Before anything is sent, the ranks tell each other in one small record what they are about to
    do. An error of one rank is raised by all then, nothing has changed, and all can go on. If a
    rank ends or is interrupted in the middle of a call, the others raise RuntimeError or
    TimeoutError, and the optimizer cannot go on: some ranks may have new parameters.

    A rank holds, beside the parameters, its gradients and its part of the state, two buffers of
    ``wave_bytes``. Where a step needs the norm of gradients (``max_grad_norm``, ``nonfinite``,
    ``max_param_grad_norm``) or of directions (LAMB, LARS and other rules that measure), and with
    "local", it also holds the sum of the gradients of its part.

    Examples
    --------
    With one rank; with more, by ``mpiexec -n 4 python -m mpi4py program.py``, these lines are the
    same, and each rank gives the gradients of its part of the batch.

    >>> import numpy as np
    >>> import fastoptim as fo
    >>> from mpi4py import MPI
    >>> from fastoptim.integrations.mpi import Sharded
    >>> params = {"w": np.array([1.0, 2.0]), "b": np.array(0.5)}
    >>> opt = Sharded(fo.AdamW, params, MPI.COMM_SELF, lr=0.5, weight_decay=0.0, max_grad_norm=1.0)
    >>> opt.step({"w": np.array([3.0, 0.0]), "b": np.array(4.0)})
    >>> opt.grad_norm, params["w"].round(6)
    (5.0, array([0.5, 2. ]))
    """

    _home: Shards

    def __new__(cls, optimizer: type[Optimizer], *_: Any, **__: Any) -> Sharded:
        if not (isinstance(optimizer, type) and issubclass(optimizer, Optimizer)) or (
            optimizer is Optimizer or issubclass(optimizer, Sharded)
        ):
            raise TypeError(
                "optimizer: expected a class of fastoptim, such as fastoptim.AdamW, "
                f"found {shown(optimizer)}"
            )
        return object.__new__(_made(optimizer) if cls is Sharded else cls)

    def __init__(
        self,
        optimizer: type[Optimizer],
        params: Params,
        comm: MPI.Intracomm,
        *,
        grads: Mode = "local",
        average: bool = False,
        timeout: float = TIMEOUT,
        wave_bytes: int = WAVE_BYTES,
        **options: Any,
    ) -> None:
        if not isinstance(comm, MPI.Intracomm) or comm == MPI.COMM_NULL:
            raise TypeError(f"comm: expected an mpi4py.MPI.Intracomm, found {shown(comm)}")
        self._ranks = Ranks(comm, checked("timeout", Above(0), timeout))
        self._calls = Calls(self._ranks)
        self._known_masks: tuple[list[object], Subject] = [], _subjects.masks([])
        self._batches = Batches(self._params_in_order)
        self._scale = ONE
        try:
            with self._calls.call("Sharded", lays_out=True):
                self._mode: str = checked("grads", MODES, grads)
                self._averages = checked("average", Flag(), average)
                self._wave_bytes = checked("wave_bytes", WAVES, wave_bytes)
                optimizer.__init__(self, params, **options)
        except BaseException:
            self.close()  # on all ranks, which raise the same
            raise
        if self._ranks.rank == 0:
            _warn_of_binding(self._ranks.size)

    def step(self, grads: Grads, *, grad_scale: float = ONE) -> None:
        """Update the parameters, on all ranks together.

        Parameters
        ----------
        grads : ndarray, sequence, mapping or dataclass
            The gradients of this rank, as `Optimizer.step` takes them. With ``grads="local"`` and
            ``"summed"`` the same of them are None on all ranks.
        grad_scale : float, default 1
            Divide the gradients by this before all else.

        Raises
        ------
        TypeError, ValueError, FloatingPointError
            As `Optimizer.step` does, on all ranks alike, if it would on one of them; and
            ValueError, if the ranks differ in hyperparameters, settings, or which gradients are
            None. Nothing has changed then.
        TimeoutError
            If a rank does not come in time.
        RuntimeError
            If a rank is in another call; or if one has left in the middle of a call: after that, as
            after a TimeoutError, the optimizer cannot go on.
        """
        with self._calls.call("step") as call:
            self._refuse_while_averages_show("step")
            self._scale = self._divisor(grad_scale)
            if self._batches.count:
                grads = self._with_batches(grads)
            try:
                super().step(grads, grad_scale=self._scale)
            finally:
                if self._mode != "own":
                    self._exchange.end()
            if self._mode == "own" and self.state_path is not None:
                call.agree()  # that all state is on the disks; else the last wave of all says so
        self._batches.clear()

    def accumulate(self, grads: Grads) -> None:
        """Add the gradients of a batch to those of the next step.

        It is a call of this rank alone. The sums of the batches of a rank, and those of all ranks,
        are one balanced tree: the bits of the steps depend on the gradients in their order, not on
        how many ranks have had them, if each has had as many as each other, a power of two.

        Parameters
        ----------
        grads : ndarray, sequence, mapping or dataclass
            The gradients, as `step` takes them, which takes those of the last batch.

        Raises
        ------
        TypeError, ValueError
            As `step` does; nothing has changed then.

        Examples
        --------
        >>> import numpy as np
        >>> import fastoptim as fo
        >>> from mpi4py import MPI
        >>> from fastoptim.integrations.mpi import Sharded
        >>> w = np.array([1.0, 2.0])
        >>> opt = Sharded(fo.SGD, w, MPI.COMM_SELF, lr=0.5)
        >>> opt.accumulate(np.array([1.0, 0.0]))
        >>> opt.step(np.array([2.0, 1.0]))
        >>> w
        array([-0.5,  1.5])
        """
        self._refuse_while_averages_show("accumulate")
        self._batches.take(self._plan.checked(ordered(self._groups, grads), self._casts))

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add a group of parameters, before the first step; see `Optimizer.add_param_group`.

        With ``grads="own"`` it may come later.
        """
        with self._calls.call("add_param_group", lays_out=True):
            if self._mode != "own" and any(self._plan.steps):
                raise ValueError(
                    "add_param_group: expected a Sharded optimizer before its first step, since "
                    f"the ranks' parts would move, found one after {max(self._plan.steps)} steps: "
                    "save it, and load the file's arrays into one that has all groups"
                )
            super().add_param_group(group)

    def rebind(self, params: Params) -> None:
        """Go on with other arrays in the place of the parameters; see `Optimizer.rebind`.

        They must be laid out as those before, and have the same elements on all ranks.
        """
        with self._calls.call("rebind", lays_out=True):
            if self._mode != "own":
                self._check_layout(params)
            super().rebind(params)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned, of which each rank takes its part."""
        with self._calls.call("load_state_dict", lays_out=True):
            super().load_state_dict(state_dict)

    def state_dict(self) -> dict[str, Any]:
        """Return what `Optimizer.state_dict` does, with whole arrays, on all ranks.

        It takes the memory of the whole state on each rank; `save` does not.
        """
        with self._calls.call("state_dict") as call:
            if self._mode == "own":
                return super().state_dict()
            self._refuse_while_averages_show("state_dict")
            with self._settled():
                found = self._described()
                call.agree()
                for name in self._state_names():
                    arrays = [self._state[key].get(name) for key in self._state]
                    for key, whole in zip(self._state, self._exchange.wholes(arrays), strict=True):
                        if whole is not None:
                            found["state"][key][name] = whole
        return found

    def save(self, path: str | os.PathLike[str], *, params: bool = True) -> None:
        """Save what `Optimizer.save` does, with the bytes that one process would write.

        The first rank writes the file, and the others send it their parts of the state piece by
        piece. With ``grads="own"`` each rank writes a file of its own.

        Parameters
        ----------
        path : str or os.PathLike
            The file: the same on all ranks, with ``grads="own"`` another one on each.
        params : bool, default True
            Whether to save the parameters, too.

        Raises
        ------
        TypeError, ValueError, OSError, ImportError, RuntimeError
            As `Optimizer.save` does, on all ranks. The old file is there then; but with
            ``grads="own"`` other ranks may have replaced theirs.
        """
        with self._calls.call("save") as call:
            self._refuse_while_averages_show("save")
            path = checkpoint.path_of(path)
            with_params = checked("params", Flag(), params)
            self._check_given()
            if self._mode == "own":
                self._save_own(call, path, with_params)
                return
            with self._settled():
                saved, arrays, states = self._described(), self._params(), self._state_names()
                saved["state"] = _files.spread(self._ranks, self._exchange, saved["state"])
                like = self._described()
                call.agree([_subjects.settings({"path": path, "params": with_params})])

                def prove(file: str) -> None:
                    self._accepted(checkpoint.read_without_data(file, like, arrays, states))

                kept = arrays if with_params else {}
                failed = _files.write(self._ranks.rank, path, saved, kept, prove)
                call.agree(error=failed)

    def _save_own(self, call: Call, path: str, with_params: bool) -> None:
        """Save what this rank has under a path of its own."""
        call.agree()
        paths = self._ranks.things(os.path.realpath(path))
        twice = sorted({other for other in paths if paths.count(other) > 1})
        failed: BaseException | None = None
        try:
            if twice:
                raise ValueError(
                    f"path: expected another one on each rank, since grads='own', found {twice[0]} "
                    "twice"
                )
            super().save(path, params=with_params)
        except BaseException as error:
            failed = error
        call.agree(error=failed)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Go on from what `save` saved, or an optimizer of one process: see `Optimizer.load`.

        Each rank reads its part of the state, and the parameters. The first rank reads all of the
        file, and makes sure that each has found what was saved.

        Parameters
        ----------
        path : str or os.PathLike
            The file, which all ranks can open; with ``grads="own"`` that of the rank.

        Raises
        ------
        TypeError, ValueError, OSError, ImportError, RuntimeError
            As `Optimizer.load` does, on all ranks; nothing has changed then.
        """
        with self._calls.call("load", lays_out=True) as call:
            if self._mode == "own":
                super().load(path)
                return
            self._refuse_while_averages_show("load")
            path, failed, read = checkpoint.path_of(path), None, None
            self._check_given()
            with self._plan, ExitStack() as file:
                try:
                    read = self._read(path, file)
                except BaseException as error:
                    failed = error
                call.agree(error=failed)
                assert read is not None
                if self._ranks.things(read.checksums)[0][self._ranks.rank] != read.checksum:
                    failed = ValueError(f"{path}: {checkpoint.DAMAGED}, or another one than rank 0")
                call.agree(error=failed)
                self._home.read = read.arrays
                try:
                    self._load(read.saved, read.values)
                finally:
                    self._home.read = {}

    def _read(self, path: str, file: ExitStack) -> _files.Read:
        """Return this rank's part of a file, once all of it fits this optimizer.

        The file is opened, and stays open for as long as the stack says.
        """
        params = self._params()
        with checkpoint.blaming(path):
            source = file.enter_context(
                checkpoint.source(path, self._described(), params, self._state_names())
            )
            in_ranges = self.state_path is not None
            found = _files.read(source, params, self._exchange, self._ranks, in_ranges)
        self._accepted(found.saved)
        for key, p in self._params().items() if found.values else ():
            check_target(f"params[{key!r}]", p)
        return found

    def use_ema(self) -> AbstractContextManager[None]:
        """Let the parameters hold their averages meanwhile, on all ranks: see `Optimizer.use_ema`.

        All ranks enter together, and each leaves by itself. It takes memory for another copy of the
        parameters.
        """
        return self._shown("use_ema", super().use_ema())

    def use_average(self) -> AbstractContextManager[None]:
        """Let the parameters hold the averages of their rule: see `Optimizer.use_average`.

        All ranks enter together, and each leaves by itself. It takes memory for another copy of the
        parameters.
        """
        return self._shown("use_average", super().use_average())

    def _shown(self, name: str, own: AbstractContextManager[None]) -> AbstractContextManager[None]:
        return own if self._mode == "own" else Shown(name, self._calls, self._exchange, own)

    def close(self) -> None:
        """Give back the duplicate of the communicator, and the file of the state if there is one.

        The optimizer takes no steps any more.
        """
        self._calls.close()
        if hasattr(self, "_home"):  # unless it was not made in the end
            self._home.close()

    @property
    def ranges(self) -> Mapping[Any, tuple[int, int]]:
        """Which elements of each parameter this rank steps, in the order of its memory.

        The arrays in `state` and `ema` have these elements alone, and one axis. With ``"own"`` they
        are all elements, in arrays like the parameters.
        """
        return MappingProxyType(dict(zip(self._state, self._home.part.bounds(), strict=True)))

    def __repr__(self) -> str:
        who = f"rank {self._ranks.rank} of {self._ranks.size}, grads={self._mode!r}"
        return f"Sharded({super().__repr__().removeprefix('Sharded')}, {who})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            "copy or pickle: expected an optimizer of one process, found a Sharded one, whose "
            "ranks cannot be copied: save it, and load the file into another one"
        )

    @classmethod
    def _saved_as(cls) -> str:
        return super()._saved_as().removeprefix("Sharded")

    def _new_home(self, state_path: Any) -> Shards:
        shards = self._ranks, self._mode, self._wave_bytes, self._origin
        return Shards(*shards) if state_path is None else ShardsOnDisk(state_path, *shards)

    @property
    def _exchange(self) -> Exchange:
        """The exchange of the plan that takes the steps."""
        return self._home.exchange

    def _planned(
        self,
        groups: tuple[ParamGroup, ...],
        state: Mapping[Any, Any],
        steps: Sequence[int],
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Plan, list[Change]]:
        if not (self._mode == "own" or self._home.is_cut_as([p for _, p in each_param(groups)])):
            state = {}  # it was cut in other places, and there has been no step yet
        call = self._calls.current
        if call is not None and not call.lays_out:
            call = None
        try:
            found, changes = super()._planned(groups, state, steps, *args, **kwargs)
        except BaseException as error:  # as where a disk is full
            if call is not None:
                call.agree(error=error)  # which raises
            raise
        found.agree = self._agree
        if call is not None:
            counts = {"steps": found.steps, "numbers": found.numbers}
            call.agree(self._subjects_of(groups, counts))
        return found, [(self._home, {"part": self._home.pending}), *changes]

    def _subjects_of(
        self, groups: tuple[ParamGroup, ...], counts: Mapping[str, Any]
    ) -> list[Subject]:
        """Return what the ranks must have in common to go on with these groups."""
        whole = _subjects.settings(
            self._settings,
            grads=self._mode,
            average=self._averages,
            wave_bytes=self._wave_bytes,
            state_path=None if self.state_path is None else "a path",
        )
        if self._mode == "own":
            return [whole]
        return [
            whole,
            self._home.pending.waves.layout,  # type: ignore[union-attr]
            subject(_subjects.hyperparameters(groups)),
            _subjects.settings(counts),
            _subjects.masks(groups),
            _subjects.elements(groups),
        ]

    def _agree(self, lines: Sequence[tuple[Any, ...]], grads: Sequence[Any]) -> None:
        """Begin a step together with all other ranks, once this one has checked what it can."""
        batches = self._batches.count + 1
        subjects = [_subjects.settings(self._settings, grad_scale=self._scale, batches=batches)]
        if self._mode != "own":
            stepped = [g is not None for g in grads]
            self._exchange.begin([*map(self._batches.leaves, range(len(grads)), grads)], stepped)
            subjects += [
                self._exchange.layout,
                self._masks(),
                _subjects.given(self._groups, stepped),
                _subjects.scalars(self._groups, lines),
            ]
        call: Any = self._calls.current
        call.agree(subjects)

    def _masks(self) -> Subject:
        """Return which elements are kept, as a subject; it is made anew with other masks."""
        tokens = [group.wanted for group in self._groups]
        if tokens != self._known_masks[0]:
            self._known_masks = tokens, _subjects.masks(self._groups)
        return self._known_masks[1]

    def _judge(self, norm: float, bad: str | None) -> tuple[float | None, list[Change]]:
        try:
            return super()._judge(norm, bad)
        except FloatingPointError:
            call: Any = self._calls.current
            call.is_common = True
            raise

    def _origin(self, label: str) -> str:
        """Return what a message calls a gradient that is not finite, with the rank to blame."""
        if self._mode == "summed":
            return label
        labels = Labels(self._groups, list(self._state))
        number = next(i for i in range(len(labels)) if labels[i][1] == label)
        finite = self._ranks.gathered(np.array([self._exchange.is_finite(number)])).reshape(-1)
        ranks = np.flatnonzero(~finite)
        return f"rank {ranks[0]}: {label}" if ranks.size else f"{label}, summed over all ranks"

    def _params_in_order(self) -> list[Array]:
        return [p for _, p in each_param(self._groups)]

    def _divisor(self, grad_scale: float) -> float:
        """Return what the sum of the gradients is divided by."""
        if not self._averages:
            return grad_scale
        count = self._batches.count + 1
        if self._mode == "local":
            count *= self._ranks.size
        return float(checked("grad_scale", DIVISOR, grad_scale)) * count

    def _with_batches(self, grads: Any) -> Any:
        """Return the gradients of a last batch as those of a step with all batches.

        With "local" the exchange adds them up, and only what is None needs something in its place.
        """
        given = self._plan.checked(ordered(self._groups, grads), self._casts)
        local = self._mode == "local"
        found = iter(self._batches.present(given) if local else self._batches.totals(given))
        containers = [
            group.container.like([next(found) for _ in group.container.arrays])
            for group in self._groups
        ]
        return containers[0] if len(containers) == 1 else containers

    def _check_layout(self, params: Params) -> None:
        """Raise if other arrays would not have their elements in the order of those before."""
        groups = rebound(self._groups, params)
        before, after = list(self._state), keys_of(groups)
        if before != after:
            raise ValueError(f"params: expected the names in the order {before}, found {after}")
        for key, (_, p), (_, other) in zip(
            before, each_param(self._groups), each_param(groups), strict=True
        ):
            expect(f"params[{key!r}]: strides", p.strides, other.strides)


def _made(optimizer: type[Optimizer]) -> type[Sharded]:
    """Return the class of Sharded with the rule and the hyperparameters of another one."""
    if optimizer in made:
        return made[optimizer]
    names = {"__module__": __name__, "__doc__": Sharded.__doc__}
    made[optimizer] = type(f"Sharded{optimizer.__name__}", (Sharded, optimizer), names)
    return made[optimizer]


def _warn_of_binding(ranks: int) -> None:
    """Say so if this rank may use one CPU of many, as Open MPI has it by default."""
    global _has_warned
    local = os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") or os.environ.get("MPI_LOCALNRANKS")
    on_node, cpus = int(local or ranks), os.cpu_count() or 1
    is_bound = hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) == 1
    if is_bound and on_node < cpus and not _has_warned:
        _has_warned = True
        warnings.warn(
            f"each rank is bound to one CPU, though there are {cpus} for {on_node} ranks, and "
            "steps on one thread: start the program by mpiexec --bind-to none, or with srun by "
            "--cpus-per-task and --cpu-bind=cores",
            RuntimeWarning,
            stacklevel=3,
        )
