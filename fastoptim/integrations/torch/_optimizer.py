"""What the optimizers for torch share: torch's protocol, with steps that a mirror takes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from typing import Any, ClassVar, Literal, TypedDict

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

import fastoptim as fo
from fastoptim._containers import Array
from fastoptim._engine.changes import change
from fastoptim._mirror import Places
from fastoptim._settings import Nonfinite, WithSettings, all_settings, pop_settings

from ._hyperparameters import FLAGS, hyper_of, plain
from ._link import Link, entries_of, filled
from ._tensors import arrays_of, gradient_of, keyed


class Extras(TypedDict, total=False):
    """The keyword arguments that every optimizer here takes beside torch's."""

    l1: float
    max_grad_value: float | None
    max_param_grad_norm: float | None
    bounds: tuple[float, float] | None
    ema_decay: float | None
    lazy: bool
    max_grad_norm: float | None
    nonfinite: Nonfinite
    flush_denormals: bool


class Optimizer(WithSettings, torch.optim.Optimizer):
    """What the optimizers here share: options beside torch's, and what is refused.

    A subclass names the fastoptim class whose rule takes the steps (`method`), and what the arrays
    of its state are called in torch (`names`).

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
    l1, max_grad_value, max_param_grad_norm, bounds, ema_decay : optional
        Options of a param group, in the same pass over memory: see `fastoptim.Optimizer`. The
        average of a parameter is in its state as ``"ema"``; `use_ema` evaluates with all of them.
        As ``torch.optim.swa_utils.AveragedModel`` does, it follows parameters that are frozen or
        that the model changes itself, if they are among `params`; buffers it knows nothing of.
    lazy : bool, default False
        Let gradients of embeddings with ``sparse=True`` move the rows alone that have a gradient,
        as ``torch.optim.SparseAdam`` does: see `fastoptim.Optimizer`. Without it they are taken by
        rules that leave other rows as they are, `SGD` without momentum and `Adagrad`. The tensor
        must be contiguous.
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
    names: ClassVar[Mapping[str, str]]  # of what torch has in tensors, fastoptim's to torch's

    _step_supports_amp_scaling = True  # `torch.amp.GradScaler` then sets grad_scale and found_inf

    # torch unpickles an optimizer without calling __init__, hence the defaults.
    _link: Link | None = None  # to what takes the steps, made when it is needed
    _loaded = False  # whether the state was loaded, and no link was made since
    _skipped = 0  # steps that were not taken, unless there is a link, which counts them
    _places: Places | None = None  # of the parameters in memory; None where they are not known

    def __init__(self, params: Any, **defaults: Any) -> None:
        self._places = Places()
        self._settings = pop_settings(defaults)
        self.method.rule.check({n: plain(n, v) for n, v in defaults.items() if n not in FLAGS})
        super().__init__(params, defaults)

    @property
    def grad_norm(self) -> float | None:
        """The L2 norm of all gradients of the last step before clipping.

        It is measured if `max_grad_norm` or `nonfinite` asks for it, else None.
        """
        return self._link.mirror.grad_norm if self._link else None

    @property
    def skipped_steps(self) -> int:
        """The number of steps that `nonfinite` = "skip" has not taken."""
        return self._link.mirror.skipped_steps if self._link else self._skipped

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
            Inside of `use_ema` or `use_average`.
        """
        self._refuse_while_averages_show("step")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # torch.amp.GradScaler sets both attributes: grad_scale is None where it has divided the
        # gradients itself, and found_inf is a tensor, or the number 0 if there were no gradients.
        if not getattr(self, "found_inf", None):
            scale = getattr(self, "grad_scale", None)
            self._update(1.0 if scale is None else float(scale))
        return loss

    def use_ema(self) -> AbstractContextManager[None]:
        """Let the parameters hold their averages meanwhile, also if the body raises.

        Raises
        ------
        RuntimeError
            If there is no average, or one is in use already; and meanwhile from `step`,
            `state_dict`, `load_state_dict` and `add_param_group`.
        """
        return self._showing("use_ema")

    def use_average(self) -> AbstractContextManager[None]:
        """Let parameters with a Schedule-Free rule hold their averages meanwhile.

        These are what is to be evaluated, and whose ``state_dict()`` of the model is to be kept for
        that; see `fastoptim.Optimizer.use_average`. Afterwards the parameters have the bits that
        they had, also if the body raises, or moves them. It takes memory for two more copies of
        them.

        Raises
        ------
        ValueError
            If the parameters say nothing of their averages, since the momentum is 0.
        RuntimeError
            If the rule is not Schedule-Free, or an average is in use already; and meanwhile from
            `step`, `state_dict`, `load_state_dict` and `add_param_group`.

        Examples
        --------
        >>> import torch
        >>> import fastoptim as fo
        >>> from fastoptim.integrations.torch import optimizer_of
        >>> p = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> optimizer = optimizer_of(fo.ScheduleFreeSGD)([p], lr=0.5, momentum=0.5)
        >>> for _ in range(2):
        ...     p.grad = torch.tensor([1.0, 0.0])
        ...     optimizer.step()
        >>> with optimizer.use_average():
        ...     print(p.detach())
        tensor([0.2500, 2.0000])
        >>> p.detach()
        tensor([0.1250, 2.0000])
        """
        return self._showing("use_average")

    @contextmanager
    def _showing(self, what: Literal["use_ema", "use_average"]) -> Iterator[None]:
        """Let the parameters hold what the mirror's call of this name shows."""
        self._refuse_while_averages_show(what)
        of_rule = what == "use_average"
        if of_rule and self.method.rule.average is None:
            raise RuntimeError(
                "use_average: expected an optimizer with a Schedule-Free rule, "
                f"found {type(self).__name__}"
            )
        groups = filled(self.param_groups)
        params = params_of(groups)
        link = self._current(groups)
        # The state has no array that could take the parameters' own values meanwhile.
        kept = [(p, p.detach().clone()) for p in params] if of_rule else None
        shown = getattr(link.mirror, what)()
        shown.__enter__()
        try:
            increment_version(params)
            yield
        finally:
            if link.holds(self.param_groups, self.state):
                shown.__exit__(None, None, None)
            else:
                self._swap_back(link.averages(params, self.state) if kept is None else kept)
            increment_version(params)

    @torch.no_grad()
    def _swap_back(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Let parameters that have moved to other memory meanwhile hold their own values again.

        They come with what holds these values, which gets what the parameters hold.
        """
        for p, own in pairs:
            shown = p.clone()
            p.copy_(own)
            own.copy_(shown)
        self._skipped, self._link = self.skipped_steps, None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, as in ``torch.optim``."""
        self._refuse_while_averages_show("add_param_group")
        super().add_param_group(param_group)
        try:
            self.method.rule.check(self._hyper(param_group, self.defaults))
            self._check_memory(param_group)
        except BaseException:
            self.param_groups.pop()
            raise

    def _check_memory(self, added: Mapping[str, Any]) -> None:
        """Raise if steps could not update a group that was added, with or without the others."""
        if not added["params"]:
            return
        first = sum(len(group["params"]) for group in self.param_groups[:-1])
        arrays = named(arrays_of([added], first))
        places = self._places
        if places is None or places.meet(arrays):
            # The places of an unpickled optimizer are not known; and a place that is known may be
            # one that its parameter has left since. So all are noted anew.
            places, arrays = Places(), named(arrays_of(self.param_groups))
        places.add(arrays)
        self._places = places

    def state_dict(self) -> dict[str, Any]:
        """Return what a later run needs to go on, as ``torch.optim`` has it.

        It loads into torch's optimizer of the same name, and that one's into this. Like torch's it
        refers to the state and does not copy it.

        Raises
        ------
        ValueError
            If there is state of tensors that are in no param group any more.
        RuntimeError
            Inside of `use_ema` or `use_average`.
        """
        self._refuse_while_averages_show("state_dict")
        self._catch_up()
        there = {id(p) for group in self.param_groups for p in group["params"]}
        gone = [p for p in self.state if isinstance(p, Tensor) and id(p) not in there]
        if gone:  # torch would name them by numbers
            raise ValueError(
                "state: expected that of the parameters in param_groups, found that of "
                f"{len(gone)} tensors that are there no more: put them back, or write "
                "del optimizer.state[p]"
            )
        found: dict[str, Any] = super().state_dict()
        return found

    def __getstate__(self) -> dict[str, Any]:
        self._refuse_while_averages_show("copy or pickle")
        self._catch_up()
        return {**super().__getstate__(), "_settings": self._settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over what was loaded or unpickled, once it is checked.

        The tensors of the state are copied, except those that an unpickled optimizer shares with
        another process.
        """
        self._refuse_while_averages_show("load_state_dict")
        groups = state["param_groups"]
        defaults = state.get("defaults") or self.defaults
        before = self.__dict__.get("param_groups") or [{}] * len(groups)
        for group, own in zip(groups, before, strict=True):
            for name, value in {**defaults, **own}.items():
                group.setdefault(name, value)
            self.method.rule.check(self._hyper(group, defaults))
        for key, p in chain.from_iterable(keyed(groups)):
            entries_of(self.method.rule, self.names, key, p, state["state"])  # which checks them
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
        own = {"_settings": all_settings(state["_settings"])} if unpickled else {}
        super().__setstate__({**state, **own, "state": defaultdict(dict, copies)})
        self._loaded = True
        if self._link:
            self._link.loosen()

    def _refuse_while_averages_show(self, what: str) -> None:
        if self._link:
            self._link.mirror.refuse_while_averages_show(what)

    def _hyper(self, group: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
        return hyper_of(self.method.rule, group, defaults)

    def _update(self, scale: float) -> None:
        groups = filled(self.param_groups)
        if not groups:
            return
        link = self._current(groups)
        grads = [
            {key: None if p.grad is None else gradient_of(p.grad, key) for key, p in pairs}
            for pairs in keyed(groups)
        ]
        link.mirror.step(grads if len(grads) > 1 else grads[0], grad_scale=scale)
        increment_version([p for g in groups for p in g["params"] if p.grad is not None])
        link.show(self.param_groups, self.state)

    def _current(self, groups: Sequence[dict[str, Any]]) -> Link:
        """Return the link to a mirror that is in line with groups, state and settings."""
        self._catch_up()
        hypers = [self._hyper(group, self.defaults) for group in groups]
        link = self._link
        if link and link.holds(self.param_groups, self.state):
            link.recount(groups)
            adopted = link.mirror.adopt(self._settings, hypers)
            if adopted and link.starts_alike(self.method.rule, hypers):
                return link
        link = Link(
            self.method.rule,
            self.names,
            self.param_groups,
            hypers,
            self._settings,
            self.state,
            self._loaded,
            self.skipped_steps,
        )
        change([(self, {"_link": link, "_loaded": False})])
        return link

    def _catch_up(self) -> None:
        """Show a step that was taken, if an interrupt came before all of it was shown.

        The program may have changed anything meanwhile, so the next step starts from the state.
        """
        link = self._link
        if link and link.is_behind:
            increment_version(params_of(self.param_groups))
            link.show(self.param_groups, self.state)
            link.loosen()


def params_of(groups: Sequence[Mapping[str, Any]]) -> list[Tensor]:
    """Return the parameters of all groups."""
    return [p for group in groups for p in group["params"]]


def named(arrays: Sequence[Mapping[Any, Array]]) -> dict[str, Array]:
    """Return the arrays of all groups by their names in messages."""
    return {f"params[{key!r}]": a for group in arrays for key, a in group.items()}
