"""Optimizers of PyTorch whose steps on CPU tensors are fastoptim's.

They subclass ``torch.optim.Optimizer``, with the names, arguments, formulas and ``state_dict`` of
``torch.optim``, and clip, average and update all parameters in one pass over memory. Once this
module is imported, all steps run on the workers of torch's OpenMP runtime, which it keeps awake.

To torch the truth is in ``param_groups`` and ``state``, which anybody may change at any time, also
from another process. So it is here: a fastoptim optimizer that works on the same memory is made
when a step needs it, and made anew when that memory is no longer what it was made from. Step
counts are read from the state before each step and counted on there.

Examples
--------
>>> import torch
>>> from fastoptim.integrations.torch import AdamW
>>> model = torch.nn.Linear(3, 1)
>>> optimizer = AdamW(model.parameters(), lr=0.01, max_grad_norm=1.0, ema_decay=0.999)
>>> for _ in range(10):
...     optimizer.zero_grad()
...     model(torch.ones(8, 3)).square().mean().backward()
...     optimizer.step()
>>> with optimizer.use_ema():
...     output = model(torch.ones(1, 3))
"""

from __future__ import annotations

from bisect import bisect, insort
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

try:
    import torch
except ImportError as error:
    raise ImportError(
        'fastoptim.integrations.torch needs torch: python -m pip install "fastoptim[torch]"'
    ) from error

import numpy as np
from torch import Tensor
from torch.autograd.graph import increment_version

import fastoptim as fo
from fastoptim._base import (
    DEFAULT_SETTINGS,
    EMA,
    SETTINGS,
    STEPS,
    Array,
    Nonfinite,
    Setting,
    _allocated,
)
from fastoptim._engine.arrays import array_at
from fastoptim._engine.changes import change
from fastoptim._kinds import checked
from fastoptim.optimizers import refuse_idle_nesterov
from fastoptim.threads import share_openmp_workers

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from fastoptim._engine.changes import Change

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Lion", "RMSprop"]


def __dir__() -> list[str]:
    return __all__


share_openmp_workers(torch._C.__file__)

# Arguments of torch's that choose among its implementations. There is one here, which has the
# results of all, so that the first two may have any value.
REFUSED = ("capturable", "differentiable")
FLAGS = ("foreach", "fused", *REFUSED)
STEP = "step"
UNCOUNTED = {EMA: EMA}  # what is in the state of every optimizer
COUNTED = UNCOUNTED | {STEP: STEP}
DTYPES: dict[torch.dtype, np.dtype[Any]] = {
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
}
COUNTS = DTYPES | {torch.int64: np.dtype(np.int64)}  # of a step count, which the user may have put
SCHEDULED = ("lr", "momentum", "betas")  # what schedulers of torch's move
ROUNDINGS = 1024  # by whose sum a hyperparameter may be below zero, and still mean zero


class Extras(TypedDict, total=False):
    """The keyword arguments that every optimizer here takes beside torch's."""

    l1: float
    max_grad_value: float | None
    bounds: tuple[float, float] | None
    ema_decay: float | None
    max_grad_norm: float | None
    nonfinite: Nonfinite
    flush_denormals: bool


class Optimizer(torch.optim.Optimizer):
    """What the optimizers here share; the subclasses give it a fastoptim optimizer and names.

    Parameters
    ----------
    params : iterable
        What ``torch.optim`` takes: tensors, names with tensors, or param groups. The tensors must
        be float32 or float64, on the CPU and dense (no gaps between their elements, which may be
        in any order). They are updated in place and never copied. So are the tensors in ``state``,
        also those that you put there or share between processes (``share_memory_()``), if they are
        laid out like their parameters.
    foreach, fused : bool, optional
        For torch's sake: they change nothing here.
    capturable, differentiable : bool, default False
        True is refused.
    l1, max_grad_value, bounds, ema_decay : optional
        Options of a param group, in the same pass over memory: see `fastoptim.Optimizer`. The
        average of a parameter is in its state as ``"ema"``; `use_ema` evaluates with all of them.
        As ``torch.optim.swa_utils.AveragedModel`` does, it follows parameters that are frozen or
        that the model changes itself, if they are among `params`; buffers it knows nothing of.
    max_grad_norm : float, optional
        Clip by the norm of all gradients together, as ``torch.nn.utils.clip_grad_norm_`` does, but
        leave the gradients as they are. It and the next two concern the optimizer as a whole, and
        are not part of ``state_dict()``.
    nonfinite : {"ignore", "raise", "skip"}, default "ignore"
        What to do if a gradient holds a NaN or an infinity; see `fastoptim.Optimizer`.
    flush_denormals : bool, default False
        Whether denormal numbers are zero inside of a step; see `fastoptim.Optimizer`.
    **defaults
        The hyperparameters, named as torch names them, for groups that do not have their own. A
        learning rate, a momentum or a beta that a scheduler leaves a rounding error below zero, as
        ``LinearLR(..., end_factor=0.0)`` does for half of all lengths, counts as zero.

    Raises
    ------
    TypeError, ValueError
        If an argument, a tensor or a gradient is not as described; then nothing has changed. The
        message names it, what was found and what was expected.
    """

    method: ClassVar[type[fo.Optimizer]]
    names: ClassVar[Mapping[str, str]]  # of what the state holds: fastoptim's and torch's
    max_grad_norm = Setting[float | None]("max_grad_norm")
    nonfinite = Setting[Nonfinite]("nonfinite")
    flush_denormals = Setting[bool]("flush_denormals")

    _step_supports_amp_scaling = True  # `torch.amp.GradScaler` then sets grad_scale and found_inf

    _inner: fo.Optimizer | None = None  # what takes the steps
    _skipped = 0  # steps, before there was what takes them
    _made_from: list[Any] | None = None  # the memory that it works on
    _hypers: list[dict[str, Any]]  # of the groups, as _inner has them
    _counts: list[Any]  # arrays over the memory of the "step" tensors
    _shown: list[int]  # the steps of _inner that the state shows
    _hidden: dict[int, tuple[Tensor, dict[str, Tensor]]]  # what the state shows after a first step
    _outdated: Sequence[dict[str, Any]] = ()  # state with averages that the next step leaves behind
    _loaded = False  # whether the state was loaded, and is not yet laid out for speed
    _ranges: list[tuple[int, int]] | None = None  # the memory of the parameters, sorted

    def __init__(self, params: Any, **defaults: Any) -> None:
        self._ranges = []
        settings = {n: defaults.pop(n, default) for n, default in DEFAULT_SETTINGS.items()}
        self._settings = {n: checked(n, SETTINGS[n], value) for n, value in settings.items()}
        self.method.rule.check({n: plain(n, v) for n, v in defaults.items() if n not in FLAGS})
        super().__init__(params, defaults)

    @property
    def grad_norm(self) -> float | None:
        """The L2 norm of all gradients of the last step before clipping.

        It is measured if `max_grad_norm` or `nonfinite` asks for it, else None.
        """
        return self._inner.grad_norm if self._inner else None

    @property
    def skipped_steps(self) -> int:
        """The number of steps that `nonfinite` = "skip" has not taken."""
        return self._inner.skipped_steps if self._inner else self._skipped

    @torch._disable_dynamo  # torch.compile cannot see into it
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters that have gradients.

        Parameters
        ----------
        closure : function, optional
            It computes the gradients and returns the loss.

        Returns
        -------
        object
            What the closure returned, else None.

        Raises
        ------
        TypeError, ValueError
            If a parameter, a gradient, a hyperparameter or a state is not what it must be.
        FloatingPointError
            If a gradient is not finite and `nonfinite` is "raise".
        RuntimeError
            Inside of `use_ema`.
        """
        self._refuse_while_ema_shows("step")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # torch.amp.GradScaler sets both; where it finds no gradients, found_inf is the number 0
        if not getattr(self, "found_inf", None):
            scale = getattr(self, "grad_scale", None)
            self._update(1.0 if scale is None else float(scale))
        return loss

    @contextmanager
    def use_ema(self) -> Iterator[None]:
        """Let the parameters hold their averages meanwhile, also if the body raises.

        Raises
        ------
        RuntimeError
            If there is no average, or it is in use already; and meanwhile from `step`,
            `state_dict`, `load_state_dict` and `add_param_group`.
        """
        self._refuse_while_ema_shows("use_ema")
        groups = self._groups()
        params = [p for group in groups for p in group["params"]]
        shown = self._current(groups).use_ema()
        shown.__enter__()
        try:
            increment_version(params)
            yield
        finally:
            if self._made_from == self._memory():
                shown.__exit__(None, None, None)
            else:
                self._swap_back(groups)
            increment_version(params)

    @torch.no_grad()
    def _swap_back(self, groups: list[dict[str, Any]]) -> None:
        """Let the parameters hold their own values again, which have moved to other memory."""
        hidden = dict(self._hidden.values())
        for p in (p for group in groups for p in group["params"]):
            average = {**hidden.get(p, {}), **self.state.get(p, {})}.get(EMA)
            if average is not None:
                kept = p.clone()
                p.copy_(average)
                average.copy_(kept)
        self._skipped, self._inner, self._made_from = self.skipped_steps, None, None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, as in ``torch.optim``."""
        self._refuse_while_ema_shows("add_param_group")
        super().add_param_group(param_group)
        try:
            self.method.rule.check(self._hyper(param_group))
            self._check_memory(param_group)
        except BaseException:
            self.param_groups.pop()
            raise

    def _check_memory(self, added: Mapping[str, Any]) -> None:
        """Raise if steps could not update a group that was added, with or without the others."""
        first = sum(len(group["params"]) for group in self.param_groups[:-1])
        arrays = dict(chain.from_iterable(keyed([added], first)))
        arrays = {key: array_of(p, "params", key) for key, p in arrays.items()}
        if not arrays:
            return
        fo.SGD(arrays)  # which has no state
        ranges = sorted(memory_of(p) for p in added["params"] if p.numel())
        if self._ranges is None or any(touches(self._ranges, r) for r in ranges):
            # they may be known from earlier, or the others may have moved
            groups = self._groups()
            fo.SGD([{"params": a} for a in arrays_of(groups)])
            known = sorted(memory_of(p) for g in groups for p in g["params"] if p.numel())
            self._ranges = known
            return
        for r in ranges:
            insort(self._ranges, r)

    def state_dict(self) -> dict[str, Any]:
        """Return what a later run needs to go on, as ``torch.optim`` has it.

        It loads into torch's optimizer of the same name, and that one's into this. Like torch's it
        refers to the state and does not copy it.
        """
        self._refuse_while_ema_shows("state_dict")
        self._catch_up()
        found: dict[str, Any] = super().state_dict()
        return found

    def __getstate__(self) -> dict[str, Any]:
        self._refuse_while_ema_shows("copy or pickle")
        self._catch_up()
        return {**super().__getstate__(), "_settings": self._settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over what was loaded or unpickled, once it is checked.

        Its tensors are copied, unless an optimizer came from another process with shared ones.
        """
        self._refuse_while_ema_shows("load_state_dict")
        groups = state["param_groups"]
        defaults = state.get("defaults") or self.defaults
        before = self.__dict__.get("param_groups") or [{}] * len(groups)
        for group, own in zip(groups, before, strict=True):
            for name, value in {**defaults, **own}.items():
                group.setdefault(name, value)
            self.method.rule.check(self._hyper(group, defaults))
        for key, p in chain.from_iterable(keyed(groups)):
            self._entries(key, p, state["state"])
        unpickled = "defaults" in state
        copies = {
            p: {
                name: v.clone()
                if isinstance(v, Tensor) and not (unpickled and v.is_shared())
                else v
                for name, v in entries.items()
            }
            for p, entries in state["state"].items()
        }
        super().__setstate__({**state, "state": defaultdict(dict, copies)})
        self._made_from, self._loaded = None, True

    def _adopting(self, settings: dict[str, Any]) -> Change:
        """Return what to change to take settings that have been checked, for `Setting`."""
        return self, {"_settings": settings}

    def _refuse_while_ema_shows(self, what: str) -> None:
        if self._inner:
            self._inner._refuse_while_ema_shows(what)

    def _groups(self) -> list[dict[str, Any]]:
        """Return the groups that have parameters."""
        return [group for group in self.param_groups if group["params"]]

    def _hyper(
        self, group: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Return the hyperparameters of a group as fastoptim has them, unchecked."""
        for name in REFUSED:
            if group.get(name):
                raise ValueError(f"{name}: expected False, found {group[name]!r}")
        defaults = defaults or self.defaults
        names = [name for name in self.method.rule.kinds if name in group]
        found = {name: plain(name, group[name]) for name in names}
        for name in SCHEDULED:
            if name in found and is_negative(found[name]):
                found[name] = rounded(found[name], roundings(name, group, defaults))
        return found

    def _update(self, scale: float) -> None:
        groups = self._groups()
        if not groups:
            return
        inner = self._current(groups)
        grads = [
            {key: None if p.grad is None else gradient_of(p.grad, key) for key, p in pairs}
            for pairs in keyed(groups)
        ]
        inner.step(grads if len(grads) > 1 else grads[0], grad_scale=scale)
        increment_version([p for g in groups for p in g["params"] if p.grad is not None])
        self._show(inner)
        if self._outdated:
            for entries in self._outdated:
                entries.pop(EMA, None)
            self._outdated, self._made_from = [], self._memory()

    def _current(self, groups: list[dict[str, Any]]) -> fo.Optimizer:
        """Return the fastoptim optimizer, brought in line with groups and state."""
        self._catch_up()
        hypers = [self._hyper(group) for group in groups]
        inner = self._inner
        if inner is None or self._made_from != self._memory():
            return self._make(groups, hypers)
        self._count(inner, groups)
        change([inner._adopting(self._settings)])
        if hypers != self._hypers:
            values = [self.method.rule.check(hyper) for hyper in hypers]
            change([g.adopting(v) for g, v in zip(inner.param_groups, values, strict=True)])
            self._hypers = hypers
            if not all(group.planned for group in inner.param_groups):  # other state is needed
                return self._make(groups, hypers)
        return inner

    def _memory(self) -> list[Any]:
        """Return where the parameters and their state are in memory."""
        found: list[Any] = []
        for group in self.param_groups:
            found.append(len(group["params"]))
            for p in group["params"]:
                found += p.data_ptr(), p.dtype, p.shape, p.stride()
                tensors = [v for v in self.state.get(p, {}).values() if isinstance(v, Tensor)]
                found += map(id, tensors)
                found += [tensor.data_ptr() for tensor in tensors]
        return found

    def _count(self, inner: fo.Optimizer, groups: list[dict[str, Any]]) -> None:
        """Let the steps taken be what the state holds, which anybody may have changed."""
        if not self._counts or [count.item() for count in self._counts] == self._shown:
            return
        keys = (key for key, _ in chain.from_iterable(keyed(groups)))
        taken = [steps_taken(c, key) for c, key in zip(self._counts, keys, strict=True)]
        if taken != self._shown:
            change([(inner._plan, {"steps": taken}), (self, {"_shown": taken})])

    def _make(self, groups: list[dict[str, Any]], hypers: list[dict[str, Any]]) -> fo.Optimizer:
        """Make the fastoptim optimizer of what is there, and let the state show its arrays."""
        pairs = list(chain.from_iterable(keyed(groups)))
        known = {key: self._entries(key, p, self.state) for key, p in pairs}
        arrays = arrays_of(groups)
        inner = self.method(
            [{"params": a, **h} for a, h in zip(arrays, hypers, strict=True)], **self._settings
        )
        fresh = np.zeros(len(pairs), np.float32)
        counts, steps = [], []
        for i, (key, _) in enumerate(pairs):
            if STEP in self.names:
                counts.append(known[key].get(STEP, fresh[i : i + 1].reshape(())))
                steps.append(steps_taken(counts[-1], key))
            else:  # torch's SGD counts no steps; its first velocity is the gradient itself
                steps.append(int(bool(known[key].keys() - {EMA})))
        state = self._laid_out({k: a for group in arrays for k, a in group.items()}, known)
        if state:
            inner._lay_out(inner.param_groups, state, steps)
        inner._skipped = self.skipped_steps
        self._made_from = None  # should anything below not come to its end
        self._inner, self._hypers = inner, hypers
        self._counts, self._shown, self._hidden, self._loaded = counts, steps, {}, False
        for i, (key, p) in enumerate(pairs):
            entries = {**({STEP: counts[i]} if counts else {}), **inner.state[key]}
            for ours, array in entries.items():
                if isinstance(array.base, Tensor):
                    continue  # the state holds it
                tensor = torch.from_numpy(array)
                if ours in known[key]:
                    self.state[p][self.names[ours]] = tensor
                else:
                    self._hidden.setdefault(i, (p, {}))[1][self.names[ours]] = tensor
        self._outdated = [
            self.state[p]
            for group in groups
            for p in group["params"]
            if group.get("ema_decay") is None and EMA in self.state.get(p, {})
        ]
        self._made_from = self._memory()
        return inner

    def _laid_out(
        self, params: Mapping[Any, Array], known: Mapping[Any, Mapping[str, Any]]
    ) -> dict[Any, dict[str, Array]]:
        """Return the state that is known, each array as its parameter is laid out.

        Arrays that fit are used where they are, as others may work on them, too; what was loaded
        belongs to nobody else, and is gathered in memory.
        """
        found: dict[Any, dict[str, Array]] = {key: {} for key in params if known[key]}
        copies = {}
        for key, entries in known.items():
            for name, array in entries.items():
                if name == STEP:
                    continue
                shared = array.base.is_shared()
                if fits(array, params[key]) and (shared or not self._loaded):
                    found[key][name] = array
                elif shared:
                    raise ValueError(
                        f"state[{key!r}][{self.names[name]!r}]: expected the memory layout of its "
                        f"parameter (strides {params[key].strides}) of a tensor that processes "
                        f"share, found strides {array.strides}"
                    )
                else:
                    copies[key, name] = params[key], array
        for key, arrays in _allocated(found, copies).items():
            found[key].update(arrays)
        return found

    def _show(self, inner: fo.Optimizer) -> None:
        """Let the state show the steps that have been taken, as torch does from the first on.

        All of it shows at once, so that an interrupt cannot make a step count twice. The counts
        are counted on, not set: another process may have done so since they were read.
        """
        taken = inner._plan.steps
        counted: list[Change] = [
            (count, {...: count.item() + 1})  # rounded as torch rounds it
            for count, now, before in zip(self._counts, taken, self._shown, strict=False)
            if now != before
        ]
        disclosed, hidden = self._disclosed(inner, taken)
        change([*counted, *disclosed, (self, {"_shown": taken, "_hidden": hidden})])
        if disclosed:
            self._made_from = self._memory()

    def _disclosed(
        self, inner: fo.Optimizer, taken: Sequence[int]
    ) -> tuple[list[Change], dict[int, tuple[Tensor, dict[str, Tensor]]]]:
        """Return what the state is to show that it has not shown yet, and what stays hidden.

        Of a parameter that was stepped it shows all. One that was not has an average all the same,
        from the first step of the others on, which torch's optimizers only take with a step count
        and all that belongs to it, if they count steps.
        """
        changes: list[Change] = []
        hidden = {}
        starting = inner._plan.unstarted if self._hidden else ()
        for i, (p, tensors) in self._hidden.items():
            averaged = EMA in tensors and not starting[i]
            shown = {}
            if taken[i] or (averaged and STEP in self.names):
                shown = tensors
            elif averaged:
                shown = {EMA: tensors[EMA]}
            if shown:
                changes.append((self.state[p], shown))
            if rest := {name: t for name, t in tensors.items() if name not in shown}:
                hidden[i] = p, rest
        return changes, hidden

    def _catch_up(self) -> None:
        """Show a step that was taken, if an interrupt came before all of it was shown.

        The program may have changed anything meanwhile, so the next step starts from the state.
        """
        inner = self._inner
        if inner and self._made_from is not None and inner._plan.steps != self._shown:
            increment_version([p for group in self._groups() for p in group["params"]])
            self._show(inner)
            self._made_from = None

    def _entries(self, key: Any, p: Tensor, state: Mapping[Any, Any]) -> dict[str, Any]:
        """Return what a state holds of a parameter under fastoptim's names, or refuse it."""
        found = {name: v for name, v in state.get(p, {}).items() if v is not None}
        if not found:
            return {}
        entries: dict[str, Any] = {}
        for ours, theirs in self.names.items():
            label = f"state[{key!r}][{theirs!r}]"
            if theirs not in found:
                if ours != EMA and ours not in self.method.rule.needs:
                    raise ValueError(f"{label}: expected it beside {', '.join(found)}, found none")
            elif ours == STEP:
                entries[ours] = count_of(found[theirs])
                steps_taken(entries[ours], key)  # which checks it
            else:
                entries[ours] = array_like(label, found[theirs], p)
        return entries


class SGD(Optimizer):
    """Stochastic gradient descent, as ``torch.optim.SGD``; the formula is at `fastoptim.SGD`.

    Parameters
    ----------
    params, lr, momentum, dampening, weight_decay, nesterov, maximize
        As ``torch.optim.SGD`` has them, with its defaults.
    foreach, differentiable, fused
        As `Optimizer` says.
    **extras
        What every optimizer here takes: ``max_grad_norm``, ``ema_decay`` and so on.

    Attributes
    ----------
    state : dict
        For each parameter that has had a gradient ``"momentum_buffer"``, if momentum > 0.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected.

    Examples
    --------
    >>> import torch
    >>> from fastoptim.integrations.torch import SGD
    >>> p = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> optimizer = SGD([p], lr=0.1, momentum=0.9)
    >>> p.square().sum().backward()
    >>> optimizer.step()
    >>> p.detach()
    tensor([0.8000, 1.6000])
    """

    method = fo.SGD
    names = UNCOUNTED | {"v": "momentum_buffer"}

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float | Tensor = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        **extras: Unpack[Extras],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            maximize=maximize,
            foreach=foreach,
            differentiable=differentiable,
            fused=fused,
            **extras,
        )
        refuse_idle_nesterov(self.defaults)


class RMSprop(Optimizer):
    """Gradient over its running root mean square, as ``torch.optim.RMSprop``.

    The formula is at `fastoptim.RMSprop`.

    Parameters
    ----------
    params, lr, alpha, eps, weight_decay, momentum, centered, maximize
        As ``torch.optim.RMSprop`` has them, with its defaults.
    capturable, foreach, differentiable
        As `Optimizer` says.
    **extras
        What every optimizer here takes: ``max_grad_norm``, ``ema_decay`` and so on.

    Attributes
    ----------
    state : dict
        For each parameter that has had a gradient ``"step"`` and ``"square_avg"``; if centered
        ``"grad_avg"``, if momentum > 0 ``"momentum_buffer"``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected.

    Examples
    --------
    >>> import torch
    >>> from fastoptim.integrations.torch import RMSprop
    >>> p = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> optimizer = RMSprop([p], lr=0.1)
    >>> p.square().sum().backward()
    >>> optimizer.step()
    >>> p.detach().round(decimals=4)
    tensor([0., 1.])
    """

    method = fo.RMSprop
    names = COUNTED | {"v": "square_avg", "g_avg": "grad_avg", "b": "momentum_buffer"}

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        **extras: Unpack[Extras],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
            capturable=capturable,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
            **extras,
        )


class Adagrad(Optimizer):
    """Gradient over the root of the sum of its squares, as ``torch.optim.Adagrad``.

    The formula is at `fastoptim.Adagrad`.

    Parameters
    ----------
    params, lr, lr_decay, weight_decay, initial_accumulator_value, eps, maximize
        As ``torch.optim.Adagrad`` has them, with its defaults.
    foreach, differentiable, fused
        As `Optimizer` says.
    **extras
        What every optimizer here takes: ``max_grad_norm``, ``ema_decay`` and so on.

    Attributes
    ----------
    state : dict
        For each parameter that has had a gradient ``"step"`` and ``"sum"``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected.

    Examples
    --------
    >>> import torch
    >>> from fastoptim.integrations.torch import Adagrad
    >>> p = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> optimizer = Adagrad([p], lr=0.1)
    >>> p.square().sum().backward()
    >>> optimizer.step()
    >>> p.detach()
    tensor([0.9000, 1.9000])
    """

    method = fo.Adagrad
    names = COUNTED | {"h": "sum"}

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **extras: Unpack[Extras],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
            fused=fused,
            **extras,
        )

    def share_memory(self) -> None:
        """Move the sums into memory that processes share, as torch's does.

        They are in the state from then on, also before the first step.
        """
        groups = self._groups()
        if groups:
            self._current(groups)
            change([(self.state[p], tensors) for p, tensors in self._hidden.values()])
            self._hidden = {}
        for group in groups:
            for p in group["params"]:
                self.state[p]["sum"].share_memory_()


class Adam(Optimizer):
    """Adam, as ``torch.optim.Adam``; the formula is at `fastoptim.Adam`.

    Parameters
    ----------
    params, lr, betas, eps, weight_decay, amsgrad, maximize, decoupled_weight_decay
        As ``torch.optim.Adam`` has them, with its defaults.
    foreach, capturable, differentiable, fused
        As `Optimizer` says.
    **extras
        What every optimizer here takes: ``max_grad_norm``, ``ema_decay`` and so on.

    Attributes
    ----------
    state : dict
        For each parameter that has had a gradient ``"step"``, ``"exp_avg"`` and ``"exp_avg_sq"``;
        with amsgrad ``"max_exp_avg_sq"``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected.

    Examples
    --------
    >>> import torch
    >>> from fastoptim.integrations.torch import Adam
    >>> p = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> optimizer = Adam([p], lr=0.1)
    >>> p.square().sum().backward()
    >>> optimizer.step()
    >>> p.detach()
    tensor([0.9000, 1.9000])
    """

    method: ClassVar[type[fo.Optimizer]] = fo.Adam
    names = COUNTED | {"m": "exp_avg", "v": "exp_avg_sq", "v_max": "max_exp_avg_sq"}

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        **extras: Unpack[Extras],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=decoupled_weight_decay,
            **extras,
        )


class AdamW(Adam):
    """Adam with decoupled weight decay, as ``torch.optim.AdamW``; see `fastoptim.AdamW`.

    Parameters
    ----------
    params, lr, betas, eps, weight_decay, amsgrad, maximize
        As ``torch.optim.AdamW`` has them, with its defaults.
    foreach, capturable, differentiable, fused
        As `Optimizer` says.
    **extras
        What every optimizer here takes: ``max_grad_norm``, ``ema_decay`` and so on.

    Attributes
    ----------
    state : dict
        As that of `Adam`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected.

    Examples
    --------
    >>> import torch
    >>> from fastoptim.integrations.torch import AdamW
    >>> p = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> optimizer = AdamW([p], lr=0.1, weight_decay=0.5)
    >>> p.square().sum().backward()
    >>> optimizer.step()
    >>> p.detach()
    tensor([0.8500, 1.8000])
    """

    method = fo.AdamW

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **extras: Unpack[Extras],
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
            **extras,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        for group in state["param_groups"]:  # also one that was an Adam's
            group["decoupled_weight_decay"] = True
        super().__setstate__(state)


class Lion(Optimizer):
    """Sign of a momentum; torch has none. The formula is at `fastoptim.Lion`.

    Parameters
    ----------
    params, lr, betas, weight_decay, maximize, decoupled_weight_decay
        As `fastoptim.Lion` has them, with its defaults.
    **extras
        What every optimizer here takes: ``max_grad_norm``, ``ema_decay`` and so on.

    Attributes
    ----------
    state : dict
        For each parameter that has had a gradient ``"step"`` and ``"exp_avg"``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected.

    Examples
    --------
    >>> import torch
    >>> from fastoptim.integrations.torch import Lion
    >>> p = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> optimizer = Lion([p], lr=0.1)
    >>> p.square().sum().backward()
    >>> optimizer.step()
    >>> p.detach()
    tensor([0.9000, 1.9000])
    """

    method = fo.Lion
    names = COUNTED | {"m": "exp_avg"}

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-4,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = True,
        **extras: Unpack[Extras],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            weight_decay=weight_decay,
            maximize=maximize,
            decoupled_weight_decay=decoupled_weight_decay,
            **extras,
        )


def keyed(groups: Sequence[Mapping[str, Any]], first: int = 0) -> list[list[tuple[Any, Tensor]]]:
    """Return the tensors of each group with their names, else their numbers from the first on."""
    total = sum(len(group["params"]) for group in groups)
    names = [name for group in groups for name in group.get("param_names", ())]
    keys = iter(names if len(names) == len(set(names)) == total else range(first, first + total))
    return [[(next(keys), p) for p in group["params"]] for group in groups]


def arrays_of(groups: Sequence[Mapping[str, Any]]) -> list[dict[Any, Array]]:
    """Return arrays over the memory of the tensors of each group."""
    return [{key: array_of(p, "params", key) for key, p in pairs} for pairs in keyed(groups)]


def gradient_of(tensor: Tensor, key: Any) -> Array:
    """Return an array of the numbers of a gradient, in its own memory unless that has others."""
    dtype = DTYPES.get(tensor.dtype)
    if dtype is not None and has_memory(tensor):
        array: Array = view_of(tensor, dtype, tensor)  # for this step, in which nobody moves it
        return array
    # a tensor with the negative bit stands for minus what is in its memory
    return array_of(tensor.resolve_neg() if tensor.is_neg() else tensor, "grads", key)


def array_of(tensor: Tensor, label: str, key: Any = None) -> Array:
    """Return an array over the memory of a tensor, or say why there is none.

    The tensor's own method would leave a storage that can no longer be resized.
    """
    if tensor.dtype in DTYPES and has_memory(tensor):
        array: Array = view_of(tensor, DTYPES[tensor.dtype], tensor.detach())
        return array
    index = "" if key is None else f"[{key!r}]"
    negative = ", with the negative bit (see torch.resolve_neg)" if tensor.is_neg() else ""
    raise TypeError(
        f"{label}{index}: expected a dense tensor of float32 or float64 on the CPU, "
        f"found {tensor.dtype}, {tensor.layout}, on {tensor.device}{negative}"
    )


def has_memory(tensor: Tensor) -> bool:
    """Tell whether a tensor's numbers are in memory, as NumPy has them."""
    if tensor.layout is not torch.strided or not tensor.is_cpu or tensor.is_nested:
        return False
    try:
        return not tensor.is_neg() and (tensor.data_ptr() != 0 or tensor.numel() == 0)
    except RuntimeError:  # such as a tensor of a subclass without storage
        return False


def view_of(tensor: Tensor, dtype: np.dtype[Any], owner: Tensor) -> Any:
    """Return an array over the memory of a tensor, whose storage the owner keeps."""
    return array_at(tensor.data_ptr(), tensor.shape, tensor.stride(), dtype, owner)


def memory_of(tensor: Tensor) -> tuple[int, int]:
    """Return where the memory of a dense tensor begins and ends."""
    start = tensor.data_ptr()
    return start, start + tensor.numel() * tensor.element_size()


def touches(ranges: Sequence[tuple[int, int]], place: tuple[int, int]) -> bool:
    """Tell whether a range has memory in common with one of those, which are sorted."""
    at = bisect(ranges, place)
    return any(low < place[1] and place[0] < high for low, high in ranges[max(at - 1, 0) : at + 1])


def fits(array: Array, p: Array) -> bool:
    """Tell whether an array of a parameter's shape runs through memory as the parameter does."""
    strides = zip(array.shape, array.strides, p.strides, strict=True)
    same = all(ours == theirs for length, ours, theirs in strides if length != 1)
    return array.flags.aligned and (same or array.size == 0)


def count_of(value: Any) -> Any:
    """Return an array over the memory of a step count, or a new one of what has none."""
    if isinstance(value, Tensor) and value.numel() == 1:
        if value.dtype in COUNTS and has_memory(value):
            return view_of(value, COUNTS[value.dtype], value.detach())
        value = value.item()
    return np.array(value, np.float32)


def steps_taken(count: Any, key: Any) -> int:
    """Return the steps before the next one, as torch counts: in a float, where 2**24 + 1 is 2**24.

    Raises
    ------
    TypeError, ValueError
        If the count is not a whole number >= 0.
    """
    number = count.item()
    whole = int(number) if isinstance(number, int) or number.is_integer() else number
    checked(f"state[{key!r}][{STEP!r}]", STEPS, whole)
    following = count + count.dtype.type(1)
    return int(following.item()) - 1


def array_like(label: str, tensor: Any, p: Tensor) -> Array:
    """Return an array over the memory of a state tensor that fits its parameter."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{label}: expected a tensor, found {type(tensor).__name__}")
    for name in ("dtype", "shape"):
        expected, found = getattr(p, name), getattr(tensor, name)
        if found != expected:
            raise ValueError(
                f"{label}: expected {name} {expected} as its parameter has, found {found}"
            )
    return array_of(tensor.resolve_neg() if tensor.is_neg() else tensor, label)


def is_negative(value: Any) -> bool:
    """Tell whether a hyperparameter is a number below zero, or a pair with one."""
    items = value if isinstance(value, tuple) else (value,)
    return any(isinstance(item, (int, float)) and item < 0 for item in items)


def roundings(name: str, group: Mapping[str, Any], defaults: Mapping[str, Any]) -> float:
    """Return how far below zero a scheduler's roundings may put a hyperparameter."""
    eps: float = torch.finfo(torch.float64).eps
    if isinstance(group[name], Tensor) and group[name].is_floating_point():
        eps = torch.finfo(group[name].dtype).eps
    if name != "lr":  # which is of any size: what it started from tells how large an error may be
        return ROUNDINGS * eps
    starts = (defaults["lr"], group.get("initial_lr", 0.0))
    scale: float = max(abs(plain("lr", start)) for start in starts)
    return ROUNDINGS * eps * scale


def rounded(value: Any, most: float) -> Any:
    """Return a hyperparameter, with zero for what is below zero by no more than roundings."""
    if isinstance(value, tuple):
        return tuple(rounded(item, most) for item in value)
    return 0.0 if is_negative(value) and value >= -most else value


def plain(name: str, value: Any) -> Any:
    """Return a hyperparameter without tensors."""
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(
                f"{name}: expected a number or a tensor of one element, "
                f"found a tensor of shape {tuple(value.shape)}"
            )
        return value.item()
    if isinstance(value, (tuple, list)):
        return tuple(plain(name, item) for item in value)
    if callable(value):
        raise TypeError(
            f"{name}: expected a number, found a function; see torch.optim.lr_scheduler"
        )
    return value
