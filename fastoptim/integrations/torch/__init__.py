"""Optimizers of PyTorch whose steps on CPU tensors are fastoptim's.

They subclass ``torch.optim.Optimizer``, with the names, arguments, formulas and ``state_dict`` of
``torch.optim``, and clip, average and update all parameters in one pass over memory. Once this
module is imported, all steps run on the workers of torch's OpenMP runtime, which it keeps awake.

To torch the truth is in ``param_groups`` and ``state``, which anybody may change at any time, also
from another process. So it is here: each step starts from what they are then, and works on their
own memory.

The classes are here; `_optimizer` has what they share, `_rules` the rules that torch has otherwise,
and `_made` what `optimizer_of` makes of other classes. `_link` ties torch's state to what takes the
steps, and `_tensors` and `_hyperparameters` say what these are in fastoptim.

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

import copyreg
from typing import TYPE_CHECKING, Any, ClassVar

try:
    import torch
except ImportError as error:
    raise ImportError(
        'fastoptim.integrations.torch needs torch: python -m pip install "fastoptim[torch]"'
    ) from error

from torch import Tensor

import fastoptim as fo
from fastoptim._optimizer import class_with_rule
from fastoptim.optimizers import refuse_idle
from fastoptim.threads import share_openmp_workers

from . import _rules
from ._link import COUNTED, UNCOUNTED, filled
from ._made import Made, made_of
from ._optimizer import Extras, Optimizer, params_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "ASGD",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "optimizer_of",
]


def __dir__() -> list[str]:
    return __all__


share_openmp_workers(torch._C.__file__)


class SGD(Optimizer):
    """Stochastic gradient descent, as ``torch.optim.SGD``; the formula is at `fastoptim.SGD`.

    Parameters
    ----------
    params, lr, momentum, dampening, weight_decay, nesterov, maximize
        As ``torch.optim.SGD`` has them, with its defaults.
    foreach, differentiable, fused, **extras
        As `Optimizer` says.

    Attributes
    ----------
    state : dict
        For each parameter that has had a gradient ``"momentum_buffer"``, if momentum > 0.

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
        refuse_idle(self.defaults)


class RMSprop(Optimizer):
    """Gradient over its running root mean square, as ``torch.optim.RMSprop``.

    The formula is at `fastoptim.RMSprop`.

    Parameters
    ----------
    params, lr, alpha, eps, weight_decay, momentum, centered, maximize
        As ``torch.optim.RMSprop`` has them, with its defaults.
    capturable, foreach, differentiable, **extras
        As `Optimizer` says.

    Attributes
    ----------
    state : dict
        For each parameter that has had a gradient ``"step"`` and ``"square_avg"``; if centered
        ``"grad_avg"``, if momentum > 0 ``"momentum_buffer"``.

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
    foreach, differentiable, fused, **extras
        As `Optimizer` says.

    Attributes
    ----------
    state : dict
        For each parameter that has had a gradient ``"step"`` and ``"sum"``.

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
        groups = filled(self.param_groups)
        if groups:
            self._current(groups).show_all(self.state)
        for p in params_of(groups):
            self.state[p]["sum"].share_memory_()


class Adam(Optimizer):
    """Adam, as ``torch.optim.Adam``; the formula is at `fastoptim.Adam`.

    Parameters
    ----------
    params, lr, betas, eps, weight_decay, amsgrad, maximize, decoupled_weight_decay
        As ``torch.optim.Adam`` has them, with its defaults.
    foreach, capturable, differentiable, fused, **extras
        As `Optimizer` says.

    Attributes
    ----------
    state : dict
        For each parameter that has had a gradient ``"step"``, ``"exp_avg"`` and ``"exp_avg_sq"``;
        with amsgrad ``"max_exp_avg_sq"``.

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
    foreach, capturable, differentiable, fused, **extras
        As `Optimizer` says.

    Attributes
    ----------
    state : dict
        As that of `Adam`.

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


class Adadelta(Optimizer):
    """Steps of the size of the steps before, as ``torch.optim.Adadelta``.

    The formula is at `fastoptim.Adadelta`.

    Parameters
    ----------
    params, lr, rho, eps, weight_decay, maximize
        As ``torch.optim.Adadelta`` has them, with its defaults.
    foreach, capturable, differentiable, **extras
        As `Optimizer` says.

    Attributes
    ----------
    state : dict
        For each parameter that has had a gradient ``"step"``, ``"square_avg"`` and
        ``"acc_delta"``.

    Examples
    --------
    >>> import torch
    >>> from fastoptim.integrations.torch import Adadelta
    >>> p = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> optimizer = Adadelta([p], eps=0.01)
    >>> p.square().sum().backward()
    >>> optimizer.step()
    >>> p.detach().round(decimals=4)
    tensor([0.6877, 1.6848])
    """

    method = fo.Adadelta
    names = COUNTED | {"v": "square_avg", "u": "acc_delta"}

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        **extras: Unpack[Extras],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            rho=rho,
            eps=eps,
            weight_decay=weight_decay,
            foreach=foreach,
            capturable=capturable,
            maximize=maximize,
            differentiable=differentiable,
            **extras,
        )


class Adamax(Optimizer):
    """Adam with a running maximum of the gradients, as ``torch.optim.Adamax``.

    The formula is at `fastoptim.Adamax`.

    Parameters
    ----------
    params, lr, betas, eps, weight_decay, maximize
        As ``torch.optim.Adamax`` has them, with its defaults.
    foreach, capturable, differentiable, **extras
        As `Optimizer` says.

    Attributes
    ----------
    state : dict
        For each parameter that has had a gradient ``"step"``, ``"exp_avg"`` and ``"exp_inf"``.

    Examples
    --------
    >>> import torch
    >>> from fastoptim.integrations.torch import Adamax
    >>> p = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> optimizer = Adamax([p], lr=0.1)
    >>> p.square().sum().backward()
    >>> optimizer.step()
    >>> p.detach()
    tensor([0.9000, 1.9000])
    """

    method = fo.Adamax
    names = COUNTED | {"m": "exp_avg", "u": "exp_inf"}

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 2e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        **extras: Unpack[Extras],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
            capturable=capturable,
            **extras,
        )


class NAdam(Optimizer):
    """Adam with Nesterov's momentum, as ``torch.optim.NAdam``.

    The formula is at `fastoptim.NAdam`, but for one thing: the product of the momenta is torch's,
    that of the steps that were taken, where a momentum or its decay has changed meanwhile.

    Parameters
    ----------
    params, lr, betas, eps, weight_decay, momentum_decay, decoupled_weight_decay, maximize
        As ``torch.optim.NAdam`` has them, with its defaults.
    foreach, capturable, differentiable, **extras
        As `Optimizer` says.

    Attributes
    ----------
    state : dict
        For each parameter that has had a gradient ``"step"``, ``"exp_avg"``, ``"exp_avg_sq"`` and
        ``"mu_product"``.

    Examples
    --------
    >>> import torch
    >>> from fastoptim.integrations.torch import NAdam
    >>> p = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> optimizer = NAdam([p], lr=0.1)
    >>> p.square().sum().backward()
    >>> optimizer.step()
    >>> p.detach().round(decimals=4)
    tensor([0.8944, 1.8944])
    """

    method = _rules.NAdam
    names = COUNTED | {"m": "exp_avg", "v": "exp_avg_sq", "mu_product": "mu_product"}

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 2e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        **extras: Unpack[Extras],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            momentum_decay=momentum_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            **extras,
        )


class RAdam(Optimizer):
    """Adam that waits until its mean square can be relied upon, as ``torch.optim.RAdam``.

    The formula is at `fastoptim.RAdam`.

    Parameters
    ----------
    params, lr, betas, eps, weight_decay, decoupled_weight_decay, maximize
        As ``torch.optim.RAdam`` has them, with its defaults.
    foreach, capturable, differentiable, **extras
        As `Optimizer` says.

    Attributes
    ----------
    state : dict
        For each parameter that has had a gradient ``"step"``, ``"exp_avg"`` and ``"exp_avg_sq"``.

    Examples
    --------
    >>> import torch
    >>> from fastoptim.integrations.torch import RAdam
    >>> p = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> optimizer = RAdam([p], lr=0.1)
    >>> p.square().sum().backward()
    >>> optimizer.step()
    >>> p.detach()
    tensor([0.8000, 1.6000])
    """

    method = fo.RAdam
    names = COUNTED | {"m": "exp_avg", "v": "exp_avg_sq"}

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        **extras: Unpack[Extras],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            **extras,
        )


class Rprop(Optimizer):
    """Step sizes that follow the signs of the gradient, as ``torch.optim.Rprop``.

    The formula is at `fastoptim.Rprop`.

    Parameters
    ----------
    params, lr, etas, step_sizes, maximize
        As ``torch.optim.Rprop`` has them, with its defaults.
    capturable, foreach, differentiable, **extras
        As `Optimizer` says.

    Attributes
    ----------
    state : dict
        For each parameter that has had a gradient ``"step"``, ``"prev"`` and ``"step_size"``.

    Examples
    --------
    >>> import torch
    >>> from fastoptim.integrations.torch import Rprop
    >>> p = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> optimizer = Rprop([p], lr=0.1)
    >>> p.square().sum().backward()
    >>> optimizer.step()
    >>> p.detach()
    tensor([0.9000, 1.9000])
    """

    method = fo.Rprop
    names = COUNTED | {"prev": "prev", "step_size": "step_size"}

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        **extras: Unpack[Extras],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            etas=etas,
            step_sizes=step_sizes,
            capturable=capturable,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
            **extras,
        )


class ASGD(Optimizer):
    """Gradient descent with an average of the parameters, as ``torch.optim.ASGD``.

    The formula is at `fastoptim.ASGD`, but for one thing: as in torch, a step has the rates that
    the step before it has left in the state, so that another learning rate comes a step later.

    Parameters
    ----------
    params, lr, lambd, alpha, t0, weight_decay, maximize
        As ``torch.optim.ASGD`` has them, with its defaults.
    foreach, differentiable, capturable, **extras
        As `Optimizer` says.

    Attributes
    ----------
    state : dict
        For each parameter that has had a gradient ``"step"``, ``"eta"``, ``"mu"`` and ``"ax"``, the
        average.

    Examples
    --------
    >>> import torch
    >>> from fastoptim.integrations.torch import ASGD
    >>> p = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> optimizer = ASGD([p], lr=0.1)
    >>> p.square().sum().backward()
    >>> optimizer.step()
    >>> p.detach()
    tensor([0.8000, 1.6000])
    """

    method = _rules.ASGD
    names = COUNTED | {"ax": "ax", "eta": "eta", "mu": "mu"}

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        **extras: Unpack[Extras],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            lambd=lambd,
            alpha=alpha,
            t0=t0,
            weight_decay=weight_decay,
            foreach=foreach,
            maximize=maximize,
            differentiable=differentiable,
            capturable=capturable,
            **extras,
        )


class Lion(Optimizer):
    """Sign of a momentum; torch has none. The formula is at `fastoptim.Lion`.

    Parameters
    ----------
    params, lr, betas, weight_decay, maximize, decoupled_weight_decay
        As `fastoptim.Lion` has them, with its defaults.
    **extras
        As `Optimizer` says.

    Attributes
    ----------
    state : dict
        For each parameter that has had a gradient ``"step"`` and ``"exp_avg"``.

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


OPTIMIZERS: dict[type[fo.Optimizer], type[Optimizer]] = {
    fo.ASGD: ASGD,
    fo.SGD: SGD,
    fo.Adadelta: Adadelta,
    fo.Adagrad: Adagrad,
    fo.Adam: Adam,
    fo.AdamW: AdamW,
    fo.Adamax: Adamax,
    fo.Lion: Lion,
    fo.NAdam: NAdam,
    fo.RAdam: RAdam,
    fo.RMSprop: RMSprop,
    fo.Rprop: Rprop,
}


def optimizer_of(cls: type[fo.Optimizer]) -> type[Optimizer]:
    """Return the optimizer for torch that takes the steps of a class of fastoptim.

    It is a ``torch.optim.Optimizer`` with the name, the arguments and the defaults of the class,
    but for ``mask`` and ``backend``, and takes what `Optimizer` says beside them. Its state has the
    names that it has in fastoptim, beside ``"step"``; numbers that the rule keeps of its steps are
    plain numbers there, which processes do not share. Each class has one, which pickles wherever
    the class itself does; for a class that has a namesake here, it is that one. With a
    Schedule-Free class, evaluate inside of `Optimizer.use_average`.

    Parameters
    ----------
    cls : type
        A class such as `fastoptim.LAMB`, or one of a rule of your own.

    Returns
    -------
    type
        A subclass of `Optimizer`.

    Raises
    ------
    TypeError
        If `cls` is not a class of optimizers with a rule.

    Examples
    --------
    >>> import torch
    >>> import fastoptim as fo
    >>> from fastoptim.integrations.torch import optimizer_of
    >>> p = torch.tensor([3.0, 4.0], requires_grad=True)
    >>> optimizer = optimizer_of(fo.LAMB)([p], lr=0.1)
    >>> p.square().sum().backward()
    >>> optimizer.step()
    >>> p.detach().round(decimals=4)
    tensor([2.6464, 3.6464])
    """
    found = OPTIMIZERS.get(class_with_rule("cls", cls))
    # Of two threads that make one at the same time, both get the same.
    return found or OPTIMIZERS.setdefault(cls, made_of(cls, __name__))


def _pickled(cls: Made) -> Any:
    """Say how a class is pickled: as that of another class, else, as ever, by its name."""
    method = cls.method
    return (optimizer_of, (method,)) if OPTIMIZERS.get(method) is cls else cls.__qualname__


copyreg.pickle(Made, _pickled)
