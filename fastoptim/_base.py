"""What all optimizers share: containers, param groups, state, the step, saving and restoring."""

from __future__ import annotations

import os
import warnings
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
    Set,
)
from contextlib import AbstractContextManager
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypedDict, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from . import _levels, checkpoint
from ._engine.arrays import as_array, check_target
from ._engine.changes import change
from ._engine.plan import Plan, ShownEma
from ._engine.threads import can_flush
from ._kinds import (
    NO_SEQUENCES,
    Choice,
    Count,
    Divisor,
    Flag,
    Kind,
    Maybe,
    Real,
    checked,
    entry,
    environment,
    shown,
    unknown,
)
from ._rule import Rule, ScalarsOfStep, Scheduled, ScheduledPair, is_schedule
from ._stages import clip_factor, norm_of

if TYPE_CHECKING:
    from ._engine.changes import Change

Array = NDArray[np.float32] | NDArray[np.float64]
Params = Array | Iterable[Array] | Mapping[Any, Array] | Iterable[Mapping[str, Any]]
Grads = Array | Sequence[Any] | Mapping[Any, Any]
Mask = NDArray[np.bool_]
Masks = Mask | Sequence[Mask | None] | Mapping[Any, Mask | None]
Nonfinite = Literal["ignore", "raise", "skip"]

Read = TypeVar("Read")
Given = TypeVar("Given")

BACKENDS = Choice(("compiled", "reference"))
# What belongs to an optimizer as a whole, because it concerns all gradients together.
SETTINGS: dict[str, Kind] = {
    "max_grad_norm": Maybe(Real(0)),
    "nonfinite": Choice(("ignore", "raise", "skip")),
    "flush_denormals": Flag(),
}
DEFAULT_SETTINGS = {"max_grad_norm": None, "nonfinite": "ignore", "flush_denormals": False}
DIVISOR, ONE = Divisor(0), 1.0
STEPS = Count(0, bits=62)  # the engine counts on from there
FORMAT = 1  # of state_dict
LINE = 64  # bytes of a cache line
EMA = "ema"  # the name of the average among the state arrays


class Options(TypedDict, total=False):
    """The keyword arguments that every optimizer takes beside those of its rule."""

    l1: Scheduled[float]
    max_grad_value: Scheduled[float | None]
    max_grad_norm: float | None
    nonfinite: Nonfinite
    flush_denormals: bool
    bounds: ScheduledPair | None
    ema_decay: Scheduled[float | None]
    mask: Masks | None
    backend: str | None


def _is_sequence(value: Any) -> bool:
    """Tell whether a value has items in an order, though perhaps for one reading."""
    no = (np.ndarray, Mapping, Set, *NO_SEQUENCES)
    return isinstance(value, Iterable) and not isinstance(value, no)


def chosen_backend(backend: str | None = None) -> str:
    """Return the backend that is asked for, here or by the environment."""
    label = "FASTOPTIM_BACKEND" if backend is None else "backend"
    if backend is None:
        backend = environment("FASTOPTIM_BACKEND") or "compiled"
    return str(checked(label, BACKENDS, backend))


class Container:
    """One array, a sequence of arrays or a mapping of arrays: what params is and grads must be."""

    # The caller's own list or mapping, in which an array may be replaced at any time; else None.
    given: Any = None

    def __init__(self, label: str, params: Any, at_least: int = 1) -> None:
        self.names: list[Any] | None = None
        if isinstance(params, (Sequence, Mapping)) and not isinstance(params, tuple):
            self.given = params
        self.single = isinstance(params, np.ndarray)
        if isinstance(params, Mapping):
            self.names, self.arrays = list(params), list(params.values())
        elif self.single:
            self.arrays = [params]
        elif _is_sequence(params):
            self.arrays = list(params)
        else:
            raise TypeError(
                f"{label}: expected an array, a sequence or a mapping of arrays, "
                f"found {type(params).__name__}"
            )
        if len(self.arrays) < at_least:
            raise ValueError(f"{label}: expected at least one array, found none")

    def __getstate__(self) -> dict[str, Any]:
        """Leave out a container of a type that need not pickle."""
        keep = type(self.given) in (list, dict)
        return {k: value for k, value in vars(self).items() if keep or k != "given"}

    def check_given(self, label: str) -> None:
        """Raise if another array has taken the place of one in the caller's list or mapping."""
        for key, index, p in zip(
            self.names or range(len(self.arrays)), self.indices(), self.arrays, strict=True
        ):
            try:
                found = self.given[key]
            except LookupError:
                found = None
            if not (found is p or _same_memory(found, p)):
                what = "another array" if isinstance(found, np.ndarray) else type(found).__name__
                raise ValueError(
                    f"{label}{index}: expected the array that the optimizer was given, which it "
                    f"updates in place, found {what} in its place: assign to its elements, as in "
                    f"params{index}[...] = values, or make a new optimizer"
                )

    def like(self, values: list[Any]) -> Any:
        """Return values in a container like this one."""
        if self.single:
            return values[0]
        return values if self.names is None else dict(zip(self.names, values, strict=True))

    def indices(self) -> list[str]:
        """Return what follows the container's name in the name of each array."""
        if self.single:
            return [""]
        return [f"[{key!r}]" for key in self.names or range(len(self.arrays))]

    def order(self, label: str, grads: Any) -> Sequence[Any]:
        """Return the gradients in the order of the parameters."""
        if self.single:
            return (grads,)
        if self.names is not None:
            return self._order_names(label, grads)
        # the types that are common, and quick to tell, first
        if not isinstance(grads, (list, tuple, Sequence)) or isinstance(grads, str):
            raise TypeError(
                f"{label}: expected a sequence as params is, found {type(grads).__name__}"
            )
        if len(grads) != len(self.arrays):
            raise ValueError(
                f"{label}: expected {len(self.arrays)} arrays as params has (None to skip one), "
                f"found {len(grads)}"
            )
        return grads

    def masks(self, mask: Any) -> tuple[Any, ...]:
        """Return a read-only copy of the mask of each array, in its layout, or None."""
        if mask is None:
            return (None,) * len(self.arrays)
        found: list[Any] = []
        for index, p, m in zip(self.indices(), self.arrays, self.order("mask", mask), strict=True):
            if m is not None:
                label = f"mask{index}"  # comparing 0-d arrays gives scalars
                m = np.asarray(m) if isinstance(m, np.generic) else as_array(label, m)
                if m.dtype != bool:
                    raise TypeError(f"{label}: expected an array of bool, found {m.dtype}")
                if m.shape != p.shape:
                    raise ValueError(
                        f"{label}: expected shape {p.shape} as its parameter has, found {m.shape}"
                    )
                m = np.full_like(p, m, dtype=bool, subok=False)
                m.flags.writeable = False
            found.append(m)
        return tuple(found)

    def _order_names(self, label: str, grads: Any) -> Sequence[Any]:
        if not isinstance(grads, Mapping):
            raise TypeError(
                f"{label}: expected a mapping as params is, found {type(grads).__name__}"
            )
        names = self.names or []
        if grads.keys() != set(names):
            raise ValueError(
                f"{label}: expected the names of params (None to skip one), "
                f"found {_with_other_names(names, grads)}"
            )
        return [grads[name] for name in names]


def _same_memory(found: Any, array: Array) -> bool:
    """Tell whether what was found is an array over the same elements."""
    return (
        isinstance(found, np.ndarray)
        and all(
            getattr(found, name) == getattr(array, name) for name in ("dtype", "shape", "strides")
        )
        and bool(found.ctypes.data == array.ctypes.data)
    )


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
    planned: bool  # whether the optimizer's plan has this state, and these masks
    schedules: set[str]
    scalars: ScalarsOfStep

    def __init__(
        self, rule: Rule, container: Container, hyper: Mapping[str, Any], mask: Any = None
    ) -> None:
        self._begin(rule, container, _checked_for_group(rule, hyper), mask)

    def _begin(self, rule: Rule, container: Container, hyper: Mapping[str, Any], mask: Any) -> None:
        """Take what a group is made of, its hyperparameters checked."""
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

    def __getstate__(self) -> dict[str, Any]:
        hyper = dict(self.hyper)
        masks = self.container.like(list(self.masks))
        return {"rule": self._rule, "container": self.container, "hyper": hyper, "mask": masks}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        # The masks are copied, for the arrays may have another layout now. The hyperparameters were
        # checked before, and no schedule may be called until all is there.
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
        return f"{type(self).__name__}({_shown_call(self._chosen(), self._contents())})"

    def _chosen(self) -> dict[str, Any]:
        """Return the hyperparameters that differ from the defaults."""
        defaults = self._rule.defaults
        return {
            name: value
            for name, value in self.hyper.items()
            if name in self.schedules or value != defaults[name]
        }

    def _contents(self) -> str:
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

    To a type checker it reads as a number, say, though it may be a schedule: with a union of the
    two, ``opt.lr * 0.5`` would be an error.
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


class Setting(Generic[Read]):
    """An attribute that reads and sets what belongs to an optimizer as a whole."""

    def __init__(self, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, opt: None, owner: type[Any]) -> Setting[Read]: ...
    @overload
    def __get__(self, opt: Any, owner: type[Any]) -> Read: ...
    def __get__(self, opt: Any, owner: type[Any]) -> Any:
        return self if opt is None else opt._settings[self._name]

    def __set__(self, opt: Any, value: Read) -> None:
        value = checked(self._name, SETTINGS[self._name], value)
        change([opt._adopting({**opt._settings, self._name: value})])


class Optimizer:
    r"""What every optimizer does; the subclasses give it a rule and a signature.

    Parameters
    ----------
    params : ndarray, sequence, mapping, or sequence of group mappings
        The arrays to update in place: float32 or float64, dense (C or Fortran order), writable,
        without memory in common; see the notes.
        A group is ``{"params": ..., "lr": ...}`` with hyperparameters of its own.
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
    mask : array of bool, or a container like params, optional
        Where it is False the parameters are zero after every step. See `fastoptim.prune`. With
        param groups it belongs into each group, of which ``group["mask"] = ...`` changes it. It is
        copied.
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
    backend : {"compiled", "reference"}, optional
        What computes the steps; by default what the environment variable FASTOPTIM_BACKEND says,
        else the compiled kernels. Both give the same bits.
    **hyper
        The hyperparameters of the rule, for groups that do not have their own. Any of them, and of
        those above that belong to a group, may be a schedule: a function of the number of steps
        that a parameter has taken, such as those in `fastoptim.schedules`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected.

    Notes
    -----
    Arrays may be views of one buffer that do not overlap, of no axes, without elements, and of
    subclasses of ndarray such as ``np.memmap`` and ``np.matrix``, whose memory counts and whose
    own arithmetic does not; masked arrays are refused, as parameters, gradients, state and masks.
    State read back is what the next step goes on from. Where `params` is a list or a mapping, it
    must go on holding the arrays that it held: if another array takes the place of one, as in
    ``params["w"] = w``, which steps would never reach, `step`, `save`, `load` and `use_ema` raise.
    The optimizer goes on with an array as it was given, if its shape or dtype is set later. A
    gradient may be a NumPy scalar where the parameter has no axes; a hyperparameter is no array,
    not even one without axes. What the caller's own code raises, such as a schedule, comes through,
    and nothing has changed.

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
    """

    rule: ClassVar[Rule]
    _backend: str
    _settings: dict[str, Any]
    _judges: bool
    _flushes: bool
    max_grad_norm = Setting[float | None]("max_grad_norm")
    nonfinite = Setting[Nonfinite]("nonfinite")
    flush_denormals = Setting[bool]("flush_denormals")
    # What every rule has, for type checkers. The attributes themselves are made of the rule.
    lr: NumberAttribute
    weight_decay: NumberAttribute
    l1: NumberAttribute
    max_grad_value: MaybeNumberAttribute
    maximize: FlagAttribute
    bounds: MaybePairAttribute
    ema_decay: MaybeNumberAttribute

    def __init__(
        self,
        params: Params,
        *,
        backend: str | None = None,
        mask: Masks | None = None,
        **hyper: Any,
    ) -> None:
        if type(self) is Optimizer:
            raise TypeError("Optimizer: expected one of its subclasses, found the class itself")
        self._backend = self._chosen_backend(backend)
        settings = {
            name: checked(name, kind, hyper.pop(name, DEFAULT_SETTINGS[name]))
            for name, kind in SETTINGS.items()
        }
        change([self._adopting(settings)])
        for name in hyper:
            if name not in self.rule.kinds:
                raise TypeError(unknown(name, type(self).__name__, self._arguments()))
        self._defaults = self.rule.check(hyper)
        self._norm: float | None = None
        self._skipped = 0
        self._groups: tuple[ParamGroup, ...] = ()
        self._state: dict[Any, dict[str, Array]] = {}
        self._plan = Plan([])
        if _is_sequence(params):
            params = params if isinstance(params, Sequence) else list(params)
            if any(isinstance(item, Mapping) for item in params):
                if mask is not None:
                    raise TypeError("mask: expected a mask in each param group, found one for all")
                self._add_groups(list(params))
                return
        self._add_groups([{"params": params, "mask": mask}])

    def _chosen_backend(self, backend: str | None) -> str:
        """Return the backend that is asked for, or the one that there is for the rule."""
        chosen = chosen_backend(backend)
        if chosen == "compiled" and self.rule.kernel is None:
            if backend is not None:
                raise ValueError(
                    f"backend: expected 'reference' for the rule {self.rule.name}, which has no "
                    f"compiled loop, found {backend!r}"
                )
            warnings.warn(
                f"{type(self).__name__}: the rule {self.rule.name} has no compiled loop, and steps "
                "with NumPy; backend='reference' asks for that",
                RuntimeWarning,
                stacklevel=3,
            )
            return "reference"
        return chosen

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

        The key of a parameter is its name where ``params`` is a mapping, else its number, counted
        over all groups. The arrays may be changed in place, not replaced.
        """
        self._settled()
        return MappingProxyType(
            {key: MappingProxyType(arrays) for key, arrays in self._state.items()}
        )

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
        arrays = iter(self._state.values())
        averages = [
            group.container.like([next(arrays).get(EMA) for _ in group.container.arrays])
            for group in self._groups
        ]
        if all(group.hyper["ema_decay"] is None for group in self._groups):
            return None
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
        return ShownEma(self)

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
            Inside of `use_ema`, or if another thread is in a step of this optimizer.
        """
        self._refuse_while_ema_shows("add_param_group")
        with self._plan:
            self._add_groups([group])

    def step(self, grads: Grads, *, grad_scale: float = ONE) -> None:
        """Update the parameters in place.

        Parameters
        ----------
        grads : ndarray, sequence or mapping
            The gradients, in a container like that of the parameters; with several param groups,
            a sequence of such containers, one for each group. A gradient has its parameter's
            dtype and shape, and any layout; None skips its parameter, whose step count then
            stays as it is.
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
        if self._plan.shows_ema:
            self._refuse_while_ema_shows("step")
        scale = 1.0 if grad_scale is ONE else 1 / checked("grad_scale", DIVISOR, grad_scale)
        grads = self._ordered(grads)
        for group in self._groups:
            if not group.planned:
                with self._plan as plan:  # until the step is taken
                    new, changes = self._planned(
                        self._groups, self._state, plan.steps, unstarted=self._unstarted()
                    )
                    taking = partial(self._judge, new, changes)
                    if new.step(grads, self._groups, scale, taking, self._flushes):
                        plan.retire((), ())
                return
        judge = partial(self._judge, self._plan, ()) if self._judges else None
        self._plan.step(grads, self._groups, scale, judge, self._flushes)

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of all that a later run needs to go on with the same bits.

        Returns
        -------
        dict
            ``"optimizer"`` (the class's name), ``"format"`` (a number), ``"settings"``
            (max_grad_norm, nonfinite and flush_denormals), ``"skipped_steps"``; ``"state"``: for
            the key of each parameter its ``"step"`` and copies of its state arrays;
            ``"param_groups"``: for each group the keys of its ``"params"`` and its
            hyperparameters. The parameters themselves are not in it, nor are masks and
            schedules, which the optimizer that loads it must have been made with.

        Raises
        ------
        RuntimeError
            Inside of `use_ema`, where parameters and averages have changed places, or if another
            thread is in a step of this optimizer.
        """
        self._refuse_while_ema_shows("state_dict")
        with self._settled():
            # No comprehension here: in Python 3.13 an interrupt in one would not leave the plan.
            found = self._described()
            found["state"] = _copied(found["state"])
        return found

    def _described(self) -> dict[str, Any]:
        """Return what `state_dict` returns, but with the state arrays themselves."""
        groups = [
            {"params": names, **{k: v for k, v in group.hyper.items() if k not in group.schedules}}
            for names, group in zip(self._names(), self._groups, strict=True)
        ]
        return {
            "optimizer": type(self).__name__,
            "format": FORMAT,
            "settings": dict(self._settings),
            "skipped_steps": self._skipped,
            "state": {
                key: {"step": step, **arrays}
                for (key, arrays), step in zip(self._state.items(), self._plan.steps, strict=True)
            },
            "param_groups": groups,
        }

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
            Inside of `use_ema`, or if another thread is in a step of this optimizer.
        """
        self._refuse_while_ema_shows("load_state_dict")
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
            Inside of `use_ema`, or if another thread is in a step of this optimizer.

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
        self._refuse_while_ema_shows("save")
        path = checkpoint.path_of(path)
        with_params = checked("params", Flag(), params)
        self._check_given()
        with self._settled():
            saved, arrays = self._described(), self._params()
            states = (*self.rule.state, EMA)

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
            Inside of `use_ema`, or if another thread is in a step of this optimizer.
        """
        self._refuse_while_ema_shows("load")
        path = checkpoint.path_of(path)
        self._check_given()
        with self._plan, checkpoint.blaming(path):
            states = (*self.rule.state, EMA)
            self._load(*checkpoint.read(path, self._described(), self._params(), states))

    def _load(self, state_dict: Mapping[str, Any], values: Sequence[Array] = ()) -> None:
        """Go on from a state, and from these values of the parameters, or those that there are."""
        groups, others, wanted, steps = self._accepted(state_dict)
        for key, p in self._params().items() if values else ():
            check_target(f"params[{key!r}]", p)  # it may have been made read-only since
        state = _allocated(list(self._state), wanted)
        self._lay_out(groups, state, steps, others, values)

    def _accepted(
        self, state_dict: Mapping[str, Any]
    ) -> tuple[tuple[ParamGroup, ...], dict[str, Any], dict[tuple[Any, str], Any], list[int]]:
        """Return what to lay out and to set for a state, if all of it fits; nothing changes.

        These are the groups, attributes, state arrays as `_allocated` wants them, and step counts.
        No element of an array is read, so that stand-ins do where only the fit is of interest.
        """
        written_by = Choice((type(self).__name__,))
        checked("state_dict['optimizer']", written_by, entry("state_dict", state_dict, "optimizer"))
        number = checked("state_dict['format']", Count(), entry("state_dict", state_dict, "format"))
        _expect("state_dict['format']", FORMAT, number)
        groups = self._loaded_groups(entry("state_dict", state_dict, "param_groups"))
        settings = entry("state_dict", state_dict, "settings")
        if isinstance(settings, Mapping):  # it came later than the others
            settings = {"flush_denormals": False, **settings}
        settings = {
            name: checked(name, kind, entry("state_dict['settings']", settings, name))
            for name, kind in SETTINGS.items()
        }
        skipped = entry("state_dict", state_dict, "skipped_steps")
        skipped = checked("state_dict['skipped_steps']", STEPS, skipped)
        wanted, steps = self._accepted_state(groups, entry("state_dict", state_dict, "state"))
        others = self._adopting(settings)[1] | {"_skipped": skipped}
        return groups, others, wanted, steps

    def __getstate__(self) -> dict[str, Any]:
        self._refuse_while_ema_shows("copy or pickle")
        with self._settled() as plan:
            return {**vars(self), "_plan": plan.steps, "_unstarted": self._unstarted()}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        state = dict(state)
        unstarted = state.pop("_unstarted", ())
        change([(self, {**state, "_plan": Plan([])})])
        params = (p for group in self._groups for p in group.container.arrays)
        wanted = {
            (key, name): (p, array)
            for p, (key, arrays) in zip(params, self._state.items(), strict=True)
            for name, array in arrays.items()
        }
        copies = _allocated(list(self._state), wanted)
        self._lay_out(self._groups, copies, state["_plan"], unstarted=unstarted)

    def __copy__(self) -> Any:
        raise TypeError(
            f"copy.copy: expected copy.deepcopy for {type(self).__name__}, which copies the "
            "parameters too: two optimizers that share them would undo each other's steps"
        )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in cls.rule.kinds:
            if not hasattr(cls, name):  # what a subclass says itself, stays
                setattr(cls, name, Hyperparameter(name))

    if not TYPE_CHECKING:  # a type checker that sees it lets any name pass

        def __setattr__(self, name: str, value: Any) -> None:
            """Refuse what looks like a hyperparameter and is none, unless a subclass wants it."""
            ours = type(self).__module__.startswith(f"{__package__}.")
            if ours and not (name.startswith("_") or hasattr(type(self), name)):
                known = (*self.rule.kinds, *SETTINGS)
                raise AttributeError(unknown(name, type(self).__name__, known, "hyperparameter"))
            super().__setattr__(name, value)

    def __repr__(self) -> str:
        whole = {**self._settings, "backend": self._backend}
        defaults = {**DEFAULT_SETTINGS, "backend": "compiled"}
        chosen = {name: value for name, value in whole.items() if value != defaults[name]}
        if len(self._groups) == 1:
            (group,) = self._groups
            shown_call = _shown_call({**group._chosen(), **chosen}, group._contents())
        else:
            groups = "".join(f"\n  {group!r}" for group in self._groups)
            shown_call = _shown_call(chosen, f"{len(self._groups)} groups:{groups}\n")
        return f"{type(self).__name__}({shown_call})"

    @classmethod
    def _arguments(cls) -> list[str]:
        """Return the names of all keyword arguments."""
        return [*cls.rule.kinds, *SETTINGS, "mask", "backend"]

    def _refuse_while_ema_shows(self, what: str) -> None:
        if self._plan.shows_ema:
            raise RuntimeError(f"{what}: the parameters hold their averages, inside of use_ema()")

    def _check_ema(self) -> None:
        self._refuse_while_ema_shows("use_ema")
        if self.ema is None:
            raise RuntimeError("use_ema: expected an optimizer with ema_decay, found None")
        self._check_given()

    def _check_given(self) -> None:
        """Raise if a list or mapping of the caller's no longer holds the parameters."""
        for _, _, check in _watched(self._groups):
            check()

    def _settled(self) -> Plan:
        """Return the plan, once it has what a next step would go on from.

        That is the state which hyperparameters that were set since the last step call for, and
        averages that are to start with that step. While the plan is in use it stays as it is.
        """
        plan = self._plan
        if plan.in_use:
            return plan
        if not all(group.planned for group in self._groups):
            with plan:
                unstarted = self._unstarted()
                self._lay_out(self._groups, self._state, plan.steps, unstarted=unstarted)
            plan = self._plan
        if any(plan.unstarted):
            with plan:
                plan.start_averages(self._groups)
        return plan

    def _unstarted(self) -> set[Any]:
        """Return the keys of the parameters whose averages are to start at the next step."""
        pairs = zip(self._state, self._plan.unstarted, strict=True)
        return {key for key, unstarted in pairs if unstarted}

    def _names(self) -> list[list[Any]]:
        """Return the keys of the parameters of each group."""
        keys = iter(self._state)
        return [[next(keys) for _ in group.container.arrays] for group in self._groups]

    def _params(self) -> dict[Any, Array]:
        """Return the parameters by their keys."""
        arrays = (p for group in self._groups for p in group.container.arrays)
        return dict(zip(self._state, arrays, strict=True))

    def _add_groups(self, groups: Sequence[Mapping[str, Any]]) -> None:
        added = []
        total = len(self._groups) + len(groups)
        for number, group in enumerate(groups, start=len(self._groups)):
            label = f"params[{number}]" if total > 1 else "params"
            if not isinstance(group, Mapping) or "params" not in group:
                raise TypeError(
                    f"{label}: expected a param group, a mapping with the key 'params', "
                    f"found {type(group).__name__}"
                )
            hyper = {k: value for k, value in group.items() if k not in ("params", "mask")}
            container = Container(label, group["params"])
            for index, p in zip(container.indices(), container.arrays, strict=True):
                check_target(f"{label}{index}", as_array(f"{label}{index}", p))
            hyper = {**self._defaults, **hyper}
            added.append(ParamGroup(self.rule, container, hyper, group.get("mask")))
        steps = self._plan.steps + [0] * sum(len(group.container.arrays) for group in added)
        unstarted = self._unstarted()
        self._lay_out((*self._groups, *added), self._state, steps, unstarted=unstarted)

    def _lay_out(
        self,
        groups: tuple[ParamGroup, ...],
        state: Mapping[Any, Mapping[str, Array]],
        steps: Sequence[int],
        others: Mapping[str, Any] = MappingProxyType({}),
        values: Sequence[Array] = (),
        unstarted: Collection[Any] = (),
    ) -> None:
        """Allocate the state that is missing and plan the steps; then change all at once.

        Attributes of the optimizer that change, too, are in `others`, and what the parameters
        become in `values`, unless they stay. Averages in the state go on from there, except those
        of the keys in `unstarted`.
        """
        _, changes = self._planned(groups, state, steps, others, unstarted)
        self._plan.retire(changes, list(values))

    def _planned(
        self,
        groups: tuple[ParamGroup, ...],
        state: Mapping[Any, Mapping[str, Array]],
        steps: Sequence[int],
        others: Mapping[str, Any] = MappingProxyType({}),
        unstarted: Collection[Any] = (),
    ) -> tuple[Plan, list[Change]]:
        """Return a plan of the steps, and what to change to take it and the state it has added."""
        complete = self._kept(groups, state)
        going_on = {key for key in complete if EMA in complete[key] and key not in unstarted}
        self._fill_in(groups, complete)
        loops = _levels.loops(self.rule.kernel) if self._backend == "compiled" else None
        tensors = list(self._tensors(groups, complete, steps))
        starting = [key not in going_on for key in complete]
        plan = Plan(
            tensors,
            self.rule.update,
            loops,
            self.rule.trust,
            unstarted=starting,
            watched=_watched(groups),
        )
        own = {**others, "_groups": groups, "_state": complete}
        # the plan last: who steps it finds the rest in place
        changes = [*((group, {"planned": True}) for group in groups), (self, own | {"_plan": plan})]
        return plan, changes

    def _kept(
        self, groups: Iterable[ParamGroup], state: Mapping[Any, Mapping[str, Array]]
    ) -> dict[Any, dict[str, Array]]:
        """Return the state that steps go on from, by the keys of all parameters.

        An average that is switched off is left out: once steps were taken without it, it is of
        parameters long gone, and starts anew when it is switched on again. Other state stays, as
        it does in ``torch.optim``.
        """
        averaged = (EMA in group.state_names for group in groups for _ in group.container.arrays)
        return {
            key: {n: a for n, a in state.get(key, {}).items() if keep or n != EMA}
            for key, keep in zip(_keys(groups), averaged, strict=True)
        }

    def _fill_in(self, groups: Iterable[ParamGroup], state: Mapping[Any, dict[str, Array]]) -> None:
        """Add the state arrays that are missing, as they are before the first step."""
        missing = {}
        params = ((group, p) for group in groups for p in group.container.arrays)
        for (group, p), (key, arrays) in zip(params, state.items(), strict=True):
            for name in group.state_names:
                if name not in arrays:
                    start = p if name == EMA else self.rule.start_of(name, group.hyper)
                    missing[key, name] = p, start
        for key, arrays in _allocated(list(state), missing).items():
            state[key].update(arrays)

    def _tensors(
        self,
        groups: tuple[ParamGroup, ...],
        state: Mapping[Any, dict[str, Array]],
        steps: Sequence[int],
    ) -> Iterator[tuple[Any, ...]]:
        """Yield what the engine wants to know of each parameter."""
        names = self.rule.state
        rest = zip(state.items(), steps, strict=True)
        for number, group in enumerate(groups):
            exists = group.state_names
            where = f"[{number}]" if len(groups) > 1 else ""
            container = group.container
            for index, p, mask in zip(
                container.indices(), container.arrays, group.masks, strict=True
            ):
                (key, arrays), t = next(rest)
                labels = [f"params{where}{index}", f"grads{where}{index}"]
                labels += [f"state[{key!r}][{name!r}]" for name in (*names, EMA)]
                *used, ema = (arrays[name] if name in exists else None for name in (*names, EMA))
                yield labels, number, t, p, used, ema, mask

    def _ordered(self, grads: Any) -> Sequence[Any]:
        """Return the gradients in the order of the parameters, over all groups."""
        groups = self._groups
        if len(groups) == 1:
            return groups[0].container.order("grads", grads)
        expected = f"expected a sequence of {len(groups)} containers, one for each param group"
        if not isinstance(grads, Sequence):
            raise TypeError(f"grads: {expected}, found {type(grads).__name__}")
        grads = list(grads)
        if len(grads) != len(groups):
            raise ValueError(f"grads: {expected}, found {len(grads)}")
        return [
            g
            for number, (group, container) in enumerate(zip(groups, grads, strict=True))
            for g in group.container.order(f"grads[{number}]", container)
        ]

    def _adopting(self, settings: dict[str, Any]) -> Change:
        """Return what to change to take settings that have been checked."""
        if settings["flush_denormals"] and not can_flush:
            raise ValueError("flush_denormals: expected False on this CPU, found True")
        judges = settings["max_grad_norm"] is not None or settings["nonfinite"] != "ignore"
        flushes = settings["flush_denormals"]
        return self, {"_settings": settings, "_judges": judges, "_flushes": flushes}

    def _judge(
        self, plan: Plan, changes: Sequence[Change], scale: float
    ) -> tuple[float | None, Sequence[Change]]:
        """Measure the gradients of the step under way; return their scale, or None to refuse.

        With it comes what to change together with the step, beside the changes given.
        """
        if not self._judges:
            return scale, changes
        norm, bad = norm_of(plan, scale)
        nonfinite, limit = self._settings["nonfinite"], self._settings["max_grad_norm"]
        if bad and nonfinite == "raise":
            raise FloatingPointError(f"{bad}: expected finite numbers, found NaN or infinity")
        if bad and nonfinite == "skip":
            return None, [(self, {"_norm": norm, "_skipped": self._skipped + 1})]
        factor = 1.0 if limit is None else clip_factor(norm, limit)
        return scale * factor, [*changes, (self, {"_norm": norm})]

    def _loaded_groups(self, saved: Any) -> tuple[ParamGroup, ...]:
        """Return this optimizer's groups with the hyperparameters of the saved ones."""
        label = "state_dict['param_groups']"
        groups = []
        for group, found in zip(
            self._groups, checkpoint.matched(label, self._names(), saved), strict=True
        ):
            hyper = {name: group.hyper[name] for name in group.schedules - found.keys()}
            hyper |= {name: value for name, value in found.items() if name != "params"}
            if hyper.keys() != group.hyper.keys():
                raise ValueError(
                    f"{label}: hyperparameters: expected {', '.join(group.hyper)}, "
                    f"found {_with_other_names(group.hyper, hyper)}"
                )
            groups.append(ParamGroup(self.rule, group.container, hyper))
            change([(groups[-1], {"masks": group.masks})])
        return tuple(groups)

    def _loaded_state(
        self, groups: Iterable[ParamGroup], saved: Mapping[Any, Any]
    ) -> tuple[dict[Any, dict[str, Array]], list[int]]:
        """Return checked copies of saved state arrays, and the step counts."""
        wanted, steps = self._accepted_state(groups, saved)
        return _allocated(list(self._state), wanted), steps

    def _accepted_state(
        self, groups: Iterable[ParamGroup], saved: Mapping[Any, Any]
    ) -> tuple[dict[tuple[Any, str], Any], list[int]]:
        """Return saved state arrays as `_allocated` wants them, and the step counts, checked."""
        where = "state_dict['state']"
        if not isinstance(saved, Mapping):
            raise TypeError(f"{where}: expected a mapping, found {type(saved).__name__}")
        if saved.keys() != self._state.keys():
            raise ValueError(
                f"{where}: expected the keys of this optimizer's state, "
                f"found {_with_other_names(self._state, saved)}"
            )
        known = (*self.rule.state, EMA)
        wanted = {}
        steps = []
        params = [(group, p) for group in groups for p in group.container.arrays]
        for (group, p), key in zip(params, self._state, strict=True):
            label, arrays = f"{where}[{key!r}]", saved[key]
            steps.append(checked(f"{label}['step']", STEPS, entry(label, arrays, "step")))
            for name in group.state_names:
                entry(label, arrays, name)
            for name in arrays:
                if name not in ("step", *known):
                    expected = ", ".join(known)
                    raise ValueError(
                        f"{label}: expected state named {expected}, found {shown(name)}"
                    )
            for name in known:
                if name in arrays:
                    array = as_array(f"{label}[{name!r}]", arrays[name])
                    _expect(f"{label}[{name!r}]: dtype", p.dtype, array.dtype, TypeError)
                    _expect(f"{label}[{name!r}]: shape", p.shape, array.shape)
                    wanted[key, name] = p, array
        return wanted, steps


def _allocated(
    keys: Iterable[Any], wanted: Mapping[tuple[Any, str], tuple[Array, Any]]
) -> dict[Any, dict[str, Array]]:
    """Return state with the arrays wanted, each laid out as a parameter and filled with a value.

    Those of one name and dtype lie one behind the other in a block of memory. Allocated one by one
    they were scattered: a step of 1,000 arrays of 1,000 elements then took 1.4 times as long.
    """
    blocks: dict[tuple[str, Any], list[tuple[tuple[Any, str], Array, Any]]] = {}
    for place, (p, value) in wanted.items():
        blocks.setdefault((place[1], p.dtype), []).append((place, p, value))
    found = {}
    for entries in blocks.values():
        sizes = [-(-p.nbytes // LINE) * LINE for _, p, _ in entries]
        block = np.zeros(sum(sizes) + LINE, np.uint8)
        start = -block.ctypes.data % LINE
        for (place, p, value), size in zip(entries, sizes, strict=True):
            array = found[place] = np.ndarray(p.shape, p.dtype, block, start, p.strides)
            if isinstance(value, np.ndarray) or value != 0:  # the memory is zero, yet untouched
                with np.errstate(over="ignore"):  # float32 may round it to infinity
                    array[...] = value
            start += size
    state: dict[Any, dict[str, Array]] = {key: {} for key in keys}
    for key, name in wanted:
        state[key][name] = found[key, name]
    return state


def _checked_for_group(rule: Rule, hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Return all hyperparameters of a group, checked."""
    for name in SETTINGS:
        if name in hyper:
            raise TypeError(
                f"{name}: expected it for the optimizer as a whole, found it in a group"
            )
    return rule.check(hyper)


def _watched(groups: Sequence[ParamGroup]) -> list[tuple[Any, list[Any], Callable[[], None]]]:
    """Return the caller's lists and mappings of parameters, as a plan watches them."""
    found: list[tuple[Any, list[Any], Callable[[], None]]] = []
    for number, group in enumerate(groups):
        container, label = group.container, f"params[{number}]" if len(groups) > 1 else "params"
        if container.given is not None:
            check = partial(container.check_given, label)
            found.append((container.given, container.arrays, check))
    return found


def _shown_call(chosen: Mapping[str, Any], contents: str) -> str:
    """Return what stands between the parentheses of a repr."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in chosen.items())
    return f"{arguments}; {contents}" if arguments else contents


def _counted(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def _copied(state: Mapping[Any, Mapping[str, Any]]) -> dict[Any, dict[str, Any]]:
    """Return a state as `Optimizer._described` has it, with copies of the arrays."""
    return {
        key: {n: x if n == "step" else x.copy(order="K") for n, x in entry.items()}
        for key, entry in state.items()
    }


def _keys(groups: Iterable[ParamGroup]) -> list[Any]:
    """Return the key of each parameter in the state: its name, or its number over all groups."""
    keys: dict[Any, None] = {}
    for group in groups:
        first, names = len(keys), group.container.names
        for key in names or range(first, first + len(group.container.arrays)):
            if key in keys:
                raise ValueError(
                    f"params: expected names unique over all groups, found {key!r} twice"
                )
            keys[key] = None
    return list(keys)


def _with_other_names(names: Iterable[Any], found: Mapping[Any, Any]) -> str:
    """Describe a mapping that has not just these names, by one that it lacks or has too many."""
    known = dict.fromkeys(names)
    for name in known:
        if name not in found:
            return f"a mapping without {shown(name)}"
    unknown = next(name for name in found if name not in known)
    return f"a mapping with the unknown name {shown(unknown)}"


def _expect(label: str, expected: Any, found: Any, wrong: type[Exception] = ValueError) -> None:
    try:
        same = bool(found == expected)
    except Exception:  # arrays among what is found have no truth value
        same = False
    if not same:
        raise wrong(f"{label}: expected {expected}, found {shown(found)}")
