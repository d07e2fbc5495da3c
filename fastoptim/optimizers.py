"""The optimizers: a docstring, a signature and a rule each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import reference
from ._base import Optimizer, Options, Params

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Momentum", "RMSprop"]


class SGD(Optimizer):
    r"""Stochastic gradient descent, with or without momentum.

    .. math::

        v_1 = g_1, \quad v_t = \mu v_{t-1} + (1 - d) g_t, \quad p_t = p_{t-1} - \eta v_t

    With ``nesterov`` the step is :math:`p_t = p_{t-1} - \eta (g_t + \mu v_t)`; without momentum
    it is :math:`p_t = p_{t-1} - \eta g_t` and there is no state. The formula is that of
    ``torch.optim.SGD``. A velocity that comes to exist after the first step, because momentum was
    0 until then, starts from zero.

    Parameters
    ----------
    params : ndarray, sequence, mapping, or sequence of group mappings
        The arrays to update in place, float32 or float64; see `Optimizer`.
    lr : float, default 1e-3
        Learning rate :math:`\eta \ge 0`.
    momentum : float, default 0
        :math:`\mu \ge 0`.
    dampening : float, default 0
        :math:`d`.
    weight_decay : float, default 0
        :math:`\lambda \ge 0`; the rule sees :math:`g + \lambda p` for g.
    nesterov : bool, default False
        Nesterov's look-ahead; needs momentum > 0 and dampening = 0.
    maximize : bool, default False
        Maximise: the rule sees :math:`-g` for g.
    **options
        What every optimizer takes: clipping, penalties, the backend; see `Optimizer`.

    Attributes
    ----------
    state : dict
        For each parameter ``"v"``, the velocity (torch's ``momentum_buffer``), if momentum > 0.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected.

    References
    ----------
    I. Sutskever, J. Martens, G. Dahl, G. Hinton, "On the importance of initialization and
    momentum in deep learning", ICML 2013.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> p = np.array([1.0, 2.0])
    >>> opt = fo.SGD(p, lr=0.1, momentum=0.9)
    >>> opt.step(np.array([1.0, 0.0]))
    >>> opt.step(np.array([1.0, 0.0]))
    >>> p
    array([0.71, 2.  ])
    """

    rule = reference.sgd

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            maximize=maximize,
            **options,
        )


class Momentum(Optimizer):
    r"""Gradient descent along an exponential average of the gradients.

    .. math::

        v_t = \mu v_{t-1} + (1 - \mu) g_t, \quad p_t = p_{t-1} - \eta v_t

    With ``form="heavy_ball"`` it is Polyak's method, with the learning rate inside the velocity:
    :math:`v_t = \mu v_{t-1} - \eta g_t`, :math:`p_t = p_{t-1} + v_t`.

    Parameters
    ----------
    params : ndarray, sequence, mapping, or sequence of group mappings
        The arrays to update in place, float32 or float64; see `Optimizer`.
    lr : float, default 0.01
        Learning rate :math:`\eta \ge 0`.
    momentum : float, default 0.9
        :math:`0 \le \mu < 1`.
    form : {"averaged", "heavy_ball"}, default "averaged"
        Which of the two formulas.
    weight_decay : float, default 0
        :math:`\lambda \ge 0`; the rule sees :math:`g + \lambda p` for g.
    maximize : bool, default False
        Maximise: the rule sees :math:`-g` for g.
    **options
        What every optimizer takes: clipping, penalties, the backend; see `Optimizer`.

    Attributes
    ----------
    state : dict
        For each parameter ``"v"``, the velocity.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected.

    References
    ----------
    B. T. Polyak, "Some methods of speeding up the convergence of iteration methods", USSR
    Computational Mathematics and Mathematical Physics 4(5), 1964.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> p = np.array([1.0, 2.0])
    >>> opt = fo.Momentum(p, lr=0.1, momentum=0.5)
    >>> opt.step(np.array([1.0, 0.0]))
    >>> p
    array([0.95, 2.  ])
    """

    rule = reference.momentum

    def __init__(
        self,
        params: Params,
        lr: float = 0.01,
        momentum: float = 0.9,
        *,
        form: str = "averaged",
        weight_decay: float = 0.0,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            form=form,
            weight_decay=weight_decay,
            maximize=maximize,
            **options,
        )


class RMSprop(Optimizer):
    r"""Gradient descent, each element scaled by a running root mean square of its gradients.

    .. math::

        v_t = \alpha v_{t-1} + (1 - \alpha) g_t^2, \quad
        p_t = p_{t-1} - \eta \frac{g_t}{\sqrt{v_t} + \epsilon}

    ``centered`` takes the variance for the mean square: :math:`v_t - \bar g_t^2` under the root,
    where :math:`\bar g_t = \alpha \bar g_{t-1} + (1 - \alpha) g_t`, and 0 where rounding makes it
    negative. With momentum, :math:`b_t = \mu b_{t-1} + g_t / (\sqrt{v_t} + \epsilon)` and
    :math:`p_t = p_{t-1} - \eta b_t`. The formula is that of ``torch.optim.RMSprop``.

    Parameters
    ----------
    params : ndarray, sequence, mapping, or sequence of group mappings
        The arrays to update in place, float32 or float64; see `Optimizer`.
    lr : float, default 0.01
        Learning rate :math:`\eta \ge 0`.
    alpha : float, default 0.99
        Decay rate of the averages, :math:`0 \le \alpha < 1`.
    eps : float, default 1e-8
        :math:`\epsilon \ge 0`, added to the root.
    weight_decay : float, default 0
        :math:`\lambda \ge 0`; the rule sees :math:`g + \lambda p` for g.
    momentum : float, default 0
        :math:`\mu \ge 0`.
    centered : bool, default False
        Scale by the standard deviation.
    maximize : bool, default False
        Maximise: the rule sees :math:`-g` for g.
    **options
        What every optimizer takes: clipping, penalties, the backend; see `Optimizer`.

    Attributes
    ----------
    state : dict
        For each parameter ``"v"``, if centered ``"g_avg"``, if momentum > 0 ``"b"`` (torch's
        ``square_avg``, ``grad_avg`` and ``momentum_buffer``).

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected.

    References
    ----------
    T. Tieleman, G. Hinton, "Lecture 6.5: RMSProp", Coursera, 2012; centered: A. Graves,
    "Generating sequences with recurrent neural networks", 2013, arXiv:1308.0850.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> p = np.array([1.0, 2.0])
    >>> opt = fo.RMSprop(p, lr=0.1)
    >>> opt.step(np.array([3.0, 0.0]))
    >>> p.round(6)
    array([0., 2.])
    """

    rule = reference.rmsprop

    def __init__(
        self,
        params: Params,
        lr: float = 0.01,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
            maximize=maximize,
            **options,
        )


class Adagrad(Optimizer):
    r"""Gradient descent, each element scaled by the root of the sum of its squared gradients.

    .. math::

        h_t = h_{t-1} + g_t^2, \quad
        p_t = p_{t-1} - \frac{\eta}{1 + (t - 1) \gamma} \frac{g_t}{\sqrt{h_t} + \epsilon}

    The formula is that of ``torch.optim.Adagrad``.

    Parameters
    ----------
    params : ndarray, sequence, mapping, or sequence of group mappings
        The arrays to update in place, float32 or float64; see `Optimizer`.
    lr : float, default 0.01
        Learning rate :math:`\eta \ge 0`.
    lr_decay : float, default 0
        :math:`\gamma \ge 0`.
    weight_decay : float, default 0
        :math:`\lambda \ge 0`; the rule sees :math:`g + \lambda p` for g.
    initial_accumulator_value : float, default 0
        :math:`h_0 \ge 0`.
    eps : float, default 1e-10
        :math:`\epsilon \ge 0`, added to the root.
    maximize : bool, default False
        Maximise: the rule sees :math:`-g` for g.
    **options
        What every optimizer takes: clipping, penalties, the backend; see `Optimizer`.

    Attributes
    ----------
    state : dict
        For each parameter ``"h"`` (torch's ``sum``).

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected.

    References
    ----------
    J. Duchi, E. Hazan, Y. Singer, "Adaptive subgradient methods for online learning and
    stochastic optimization", JMLR 12, 2011.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> p = np.array([1.0, 2.0])
    >>> opt = fo.Adagrad(p, lr=0.1)
    >>> opt.step(np.array([3.0, 0.0]))
    >>> p
    array([0.9, 2. ])
    """

    rule = reference.adagrad

    def __init__(
        self,
        params: Params,
        lr: float = 0.01,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            maximize=maximize,
            **options,
        )


class Adam(Optimizer):
    r"""Adam: momentum and a running mean square, both corrected for their start at zero.

    .. math::

        m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad
        v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, \quad
        p_t = p_{t-1} - \frac{\eta}{1 - \beta_1^t}
              \frac{m_t}{\sqrt{v_t} / \sqrt{1 - \beta_2^t} + \epsilon}

    ``amsgrad`` takes the largest :math:`v` so far for :math:`v_t` in the step. The formula is
    that of ``torch.optim.Adam``. The corrections are computed once a step in double precision.

    Parameters
    ----------
    params : ndarray, sequence, mapping, or sequence of group mappings
        The arrays to update in place, float32 or float64; see `Optimizer`.
    lr : float, default 1e-3
        Learning rate :math:`\eta \ge 0`.
    betas : (float, float), default (0.9, 0.999)
        :math:`0 \le \beta_1, \beta_2 < 1`.
    eps : float, default 1e-8
        :math:`\epsilon \ge 0`, added to the corrected root.
    weight_decay : float, default 0
        :math:`\lambda \ge 0`; the rule sees :math:`g + \lambda p` for g.
    amsgrad : bool, default False
        Never let the denominator shrink.
    maximize : bool, default False
        Maximise: the rule sees :math:`-g` for g.
    decoupled_weight_decay : bool, default False
        Decay as `AdamW` does instead.
    **options
        What every optimizer takes: clipping, penalties, the backend; see `Optimizer`.

    Attributes
    ----------
    state : dict
        For each parameter ``"m"``, ``"v"`` and, with amsgrad, ``"v_max"`` (torch's ``exp_avg``,
        ``exp_avg_sq`` and ``max_exp_avg_sq``).

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected.

    References
    ----------
    D. P. Kingma, J. Ba, "Adam: a method for stochastic optimization", ICLR 2015,
    arXiv:1412.6980; amsgrad: S. J. Reddi, S. Kale, S. Kumar, "On the convergence of Adam and
    beyond", ICLR 2018, arXiv:1904.09237.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> p = np.array([1.0, 2.0])
    >>> opt = fo.Adam(p, lr=0.1)
    >>> opt.step(np.array([3.0, 0.0]))
    >>> p
    array([0.9, 2. ])
    """

    rule = reference.adam

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            maximize=maximize,
            decoupled_weight_decay=decoupled_weight_decay,
            **options,
        )


class AdamW(Adam):
    r"""Adam with decoupled weight decay.

    .. math::

        p_t = (1 - \eta \lambda) p_{t-1} - \frac{\eta}{1 - \beta_1^t}
              \frac{m_t}{\sqrt{v_t} / \sqrt{1 - \beta_2^t} + \epsilon}

    with :math:`m_t` and :math:`v_t` as in `Adam`. The formula is that of ``torch.optim.AdamW``.

    Parameters
    ----------
    params : ndarray, sequence, mapping, or sequence of group mappings
        The arrays to update in place, float32 or float64; see `Optimizer`.
    lr : float, default 1e-3
        Learning rate :math:`\eta \ge 0`.
    betas : (float, float), default (0.9, 0.999)
        :math:`0 \le \beta_1, \beta_2 < 1`.
    eps : float, default 1e-8
        :math:`\epsilon \ge 0`, added to the corrected root.
    weight_decay : float, default 0.01
        :math:`\lambda \ge 0`.
    amsgrad : bool, default False
        Never let the denominator shrink.
    maximize : bool, default False
        Maximise: the rule sees :math:`-g` for g.
    **options
        What every optimizer takes: clipping, penalties, the backend; see `Optimizer`.

    Attributes
    ----------
    state : dict
        For each parameter ``"m"``, ``"v"`` and, with amsgrad, ``"v_max"``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected.

    References
    ----------
    I. Loshchilov, F. Hutter, "Decoupled weight decay regularization", ICLR 2019,
    arXiv:1711.05101.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> p = np.array([1.0, 2.0])
    >>> opt = fo.AdamW(p, lr=0.1, weight_decay=0.5)
    >>> opt.step(np.array([3.0, 0.0]))
    >>> p
    array([0.85, 1.9 ])
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            decoupled_weight_decay=True,
            **options,
        )
