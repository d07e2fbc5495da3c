"""The optimizers: a docstring, a signature and a rule each, in the order of `reference`.

A docstring here has what is the class's own. The entries that all classes share (``params``, an
ordinary ``weight_decay``, ``maximize``, ``**options``, what is raised) are in `_docs`, which adds
them below.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from . import reference
from ._containers import Params
from ._docs import complete
from ._groups import (
    FlagAttribute,
    Hyperparameter,
    NumberAttribute,
    PairAttribute,
    TripleAttribute,
)
from ._optimizer import Optimizer, Options
from ._rule import Scheduled, ScheduledPair, ScheduledTriple

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "ADOPT",
    "ASGD",
    "FTRL",
    "LAMB",
    "LARS",
    "SGD",
    "AdEMAMix",
    "AdaBelief",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Adan",
    "Lion",
    "Momentum",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "StableAdamW",
    "Yogi",
]


def __dir__() -> list[str]:
    return __all__


Form = Literal["averaged", "heavy_ball"]
FormAttribute = Hyperparameter[Form, Scheduled[Form]]


class SGD(Optimizer):
    r"""Stochastic gradient descent, with or without momentum.

    .. math::

        v_1 = g_1, \quad v_t = \mu v_{t-1} + (1 - d) g_t, \quad p_t = p_{t-1} - \eta v_t

    With ``nesterov`` the step is :math:`p_t = p_{t-1} - \eta (g_t + \mu v_t)`; without momentum
    it is :math:`p_t = p_{t-1} - \eta g_t` and there is no state. The formula is that of
    ``torch.optim.SGD``. So is what follows from it where momentum is changed or scheduled: a step
    with momentum 0 leaves the velocity as it is. A velocity that is first needed after the first
    step, because momentum was 0 until then, starts from zero.

    Parameters
    ----------
    lr : float, default 1e-3
        Learning rate :math:`\eta \ge 0`.
    momentum : float, default 0
        :math:`\mu \ge 0`.
    dampening : float, default 0
        :math:`d`.
    nesterov : bool, default False
        Nesterov's look-ahead; needs dampening = 0, and a momentum other than the number 0 beside
        it. (One that is scheduled, or changed later, may be 0; then it makes no difference.)
    cautious : bool, default False
        Take no step in elements where it would not go down the gradient; the learning rate of
        the others is divided by their share of the array, which is taken to be 0.001 at least
        (arXiv:2411.16085).

    Attributes
    ----------
    state : dict
        For each parameter ``"v"``, the velocity (torch's ``momentum_buffer``), if momentum > 0.

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
    momentum: NumberAttribute
    dampening: NumberAttribute
    nesterov: FlagAttribute
    cautious: FlagAttribute

    def __init__(
        self,
        params: Params,
        lr: Scheduled[float] = 1e-3,
        momentum: Scheduled[float] = 0.0,
        dampening: Scheduled[float] = 0.0,
        weight_decay: Scheduled[float] = 0.0,
        nesterov: Scheduled[bool] = False,
        *,
        maximize: Scheduled[bool] = False,
        cautious: Scheduled[bool] = False,
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
            cautious=cautious,
            **options,
        )
        refuse_idle(self._defaults)


class Momentum(Optimizer):
    r"""Gradient descent along an exponential average of the gradients.

    .. math::

        v_t = \mu v_{t-1} + (1 - \mu) g_t, \quad p_t = p_{t-1} - \eta v_t

    With ``form="heavy_ball"`` it is Polyak's method, with the learning rate inside the velocity:
    :math:`v_t = \mu v_{t-1} - \eta g_t`, :math:`p_t = p_{t-1} + v_t`. With ``nesterov`` the steps
    are :math:`-\eta ((1 - \mu) g_t + \mu v_t)` and :math:`\mu v_t - \eta g_t`; the latter is what
    scikit-learn's ``SGDOptimizer`` and Keras's ``SGD`` do.

    Parameters
    ----------
    lr : float, default 0.01
        Learning rate :math:`\eta \ge 0`.
    momentum : float, default 0.9
        :math:`0 \le \mu < 1`.
    form : {"averaged", "heavy_ball"}, default "averaged"
        Which of the two formulas.
    nesterov : bool, default False
        Nesterov's look-ahead.
    cautious : bool, default False
        Take no step in elements where it would not go down the gradient; the learning rate of
        the others is divided by their share of the array, which is taken to be 0.001 at least
        (arXiv:2411.16085).

    Attributes
    ----------
    state : dict
        For each parameter ``"v"``, the velocity.

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
    momentum: NumberAttribute
    form: FormAttribute
    nesterov: FlagAttribute
    cautious: FlagAttribute

    def __init__(
        self,
        params: Params,
        lr: Scheduled[float] = 0.01,
        momentum: Scheduled[float] = 0.9,
        *,
        form: Scheduled[Form] = "averaged",
        nesterov: Scheduled[bool] = False,
        weight_decay: Scheduled[float] = 0.0,
        maximize: Scheduled[bool] = False,
        cautious: Scheduled[bool] = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            form=form,
            nesterov=nesterov,
            weight_decay=weight_decay,
            maximize=maximize,
            cautious=cautious,
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
    :math:`p_t = p_{t-1} - \eta b_t`; a step in which a schedule makes it 0 leaves b as it is. The
    formula is that of ``torch.optim.RMSprop``.

    Parameters
    ----------
    lr : float, default 0.01
        Learning rate :math:`\eta \ge 0`.
    alpha : float, default 0.99
        Decay rate of the averages, :math:`0 \le \alpha < 1`.
    eps : float, default 1e-8
        :math:`\epsilon \ge 0`, added to the root.
    momentum : float, default 0
        :math:`\mu \ge 0`.
    centered : bool, default False
        Scale by the standard deviation.
    eps_inside : bool, default False
        Add :math:`\epsilon` under the root instead, as optax and Keras have it: their
        :math:`\sqrt{v_t + \epsilon}`.

    Attributes
    ----------
    state : dict
        For each parameter ``"v"``, if centered ``"g_avg"``, if momentum > 0 ``"b"`` (torch's
        ``square_avg``, ``grad_avg`` and ``momentum_buffer``).

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
    alpha: NumberAttribute
    eps: NumberAttribute
    momentum: NumberAttribute
    centered: FlagAttribute
    eps_inside: FlagAttribute

    def __init__(
        self,
        params: Params,
        lr: Scheduled[float] = 0.01,
        alpha: Scheduled[float] = 0.99,
        eps: Scheduled[float] = 1e-8,
        weight_decay: Scheduled[float] = 0.0,
        momentum: Scheduled[float] = 0.0,
        centered: Scheduled[bool] = False,
        *,
        maximize: Scheduled[bool] = False,
        eps_inside: Scheduled[bool] = False,
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
            eps_inside=eps_inside,
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
    lr : float, default 0.01
        Learning rate :math:`\eta \ge 0`.
    lr_decay : float, default 0
        :math:`\gamma \ge 0`.
    initial_accumulator_value : float, default 0
        :math:`h_0 \ge 0`.
    eps : float, default 1e-10
        :math:`\epsilon \ge 0`, added to the root.
    eps_inside : bool, default False
        Add :math:`\epsilon` under the root instead, as optax and Keras have it: their
        :math:`\sqrt{h_t + \epsilon}`; their :math:`h_0` is 0.1, their :math:`\epsilon` 1e-7.

    Attributes
    ----------
    state : dict
        For each parameter ``"h"`` (torch's ``sum``).

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
    lr_decay: NumberAttribute
    initial_accumulator_value: NumberAttribute
    eps: NumberAttribute
    eps_inside: FlagAttribute

    def __init__(
        self,
        params: Params,
        lr: Scheduled[float] = 0.01,
        lr_decay: Scheduled[float] = 0.0,
        weight_decay: Scheduled[float] = 0.0,
        initial_accumulator_value: Scheduled[float] = 0.0,
        eps: Scheduled[float] = 1e-10,
        *,
        maximize: Scheduled[bool] = False,
        eps_inside: Scheduled[bool] = False,
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
            eps_inside=eps_inside,
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
    lr : float, default 1e-3
        Learning rate :math:`\eta \ge 0`.
    betas : (float, float), default (0.9, 0.999)
        :math:`0 \le \beta_1, \beta_2 < 1`.
    eps : float, default 1e-8
        :math:`\epsilon \ge 0`, added to the corrected root.
    amsgrad : bool, default False
        Never let the denominator shrink.
    decoupled_weight_decay : bool, default False
        Decay as `AdamW` does instead.
    eps_hat : bool, default False
        Add :math:`\epsilon` to the root that is not corrected, as scikit-learn, Keras and thinc do:
        the step is :math:`\eta \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}
        \frac{m_t}{\sqrt{v_t} + \epsilon}`.
    cautious : bool, default False
        Take no step in elements where it would not go down the gradient; the learning rate of
        the others is divided by their share of the array, which is taken to be 0.001 at least
        (arXiv:2411.16085).

    Attributes
    ----------
    state : dict
        For each parameter ``"m"``, ``"v"`` and, with amsgrad, ``"v_max"`` (torch's ``exp_avg``,
        ``exp_avg_sq`` and ``max_exp_avg_sq``).

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
    betas: PairAttribute
    eps: NumberAttribute
    amsgrad: FlagAttribute
    decoupled_weight_decay: FlagAttribute
    eps_hat: FlagAttribute
    cautious: FlagAttribute

    def __init__(
        self,
        params: Params,
        lr: Scheduled[float] = 1e-3,
        betas: ScheduledPair = (0.9, 0.999),
        eps: Scheduled[float] = 1e-8,
        weight_decay: Scheduled[float] = 0.0,
        amsgrad: Scheduled[bool] = False,
        *,
        maximize: Scheduled[bool] = False,
        decoupled_weight_decay: Scheduled[bool] = False,
        eps_hat: Scheduled[bool] = False,
        cautious: Scheduled[bool] = False,
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
            eps_hat=eps_hat,
            cautious=cautious,
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
    decoupled_weight_decay : bool, default True
        As above; if False, the rule sees :math:`g + \lambda p` for g, as in `Adam`.
    eps_hat : bool, default False
        Add :math:`\epsilon` to the root that is not corrected; see `Adam`.
    cautious : bool, default False
        Take no step in elements where it would not go down the gradient; the learning rate of
        the others is divided by their share of the array, which is taken to be 0.001 at least
        (arXiv:2411.16085).

    Attributes
    ----------
    state : dict
        For each parameter ``"m"``, ``"v"`` and, with amsgrad, ``"v_max"``.

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

    rule = reference.adamw

    def __init__(
        self,
        params: Params,
        lr: Scheduled[float] = 1e-3,
        betas: ScheduledPair = (0.9, 0.999),
        eps: Scheduled[float] = 1e-8,
        weight_decay: Scheduled[float] = 0.01,
        amsgrad: Scheduled[bool] = False,
        *,
        maximize: Scheduled[bool] = False,
        decoupled_weight_decay: Scheduled[bool] = True,
        eps_hat: Scheduled[bool] = False,
        cautious: Scheduled[bool] = False,
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
            decoupled_weight_decay=decoupled_weight_decay,
            eps_hat=eps_hat,
            cautious=cautious,
            **options,
        )


class Adadelta(Optimizer):
    r"""Gradient descent whose steps have the size of the steps before, and so the units of p.

    .. math::

        v_t = \rho v_{t-1} + (1 - \rho) g_t^2, \quad
        \Delta_t = \frac{\sqrt{u_{t-1} + \epsilon}}{\sqrt{v_t + \epsilon}} g_t, \quad
        u_t = \rho u_{t-1} + (1 - \rho) \Delta_t^2, \quad
        p_t = p_{t-1} - \eta \Delta_t

    The formula is that of ``torch.optim.Adadelta``.

    Parameters
    ----------
    lr : float, default 1.0
        Learning rate :math:`\eta \ge 0`.
    rho : float, default 0.9
        Decay rate of the averages, :math:`0 \le \rho < 1`.
    eps : float, default 1e-6
        :math:`\epsilon \ge 0`, under both roots. The first steps are about its root long.

    Attributes
    ----------
    state : dict
        For each parameter ``"v"`` and ``"u"`` (torch's ``square_avg`` and ``acc_delta``).

    References
    ----------
    M. D. Zeiler, "ADADELTA: an adaptive learning rate method", 2012, arXiv:1212.5701.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> p = np.array([1.0, 2.0])
    >>> opt = fo.Adadelta(p, eps=0.01)
    >>> opt.step(np.array([3.0, 0.0]))
    >>> p.round(6)
    array([0.685515, 2.      ])
    """

    rule = reference.adadelta
    rho: NumberAttribute
    eps: NumberAttribute

    def __init__(
        self,
        params: Params,
        lr: Scheduled[float] = 1.0,
        rho: Scheduled[float] = 0.9,
        eps: Scheduled[float] = 1e-6,
        weight_decay: Scheduled[float] = 0.0,
        *,
        maximize: Scheduled[bool] = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            rho=rho,
            eps=eps,
            weight_decay=weight_decay,
            maximize=maximize,
            **options,
        )


class Adamax(Optimizer):
    r"""Adam with a running maximum of the gradients in place of their root mean square.

    .. math::

        m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad
        u_t = \max(\beta_2 u_{t-1}, |g_t| + \epsilon), \quad
        p_t = p_{t-1} - \frac{\eta}{1 - \beta_1^t} \frac{m_t}{u_t}

    The formula is that of ``torch.optim.Adamax``.

    Parameters
    ----------
    lr : float, default 2e-3
        Learning rate :math:`\eta \ge 0`.
    betas : (float, float), default (0.9, 0.999)
        :math:`0 \le \beta_1, \beta_2 < 1`.
    eps : float, default 1e-8
        :math:`\epsilon \ge 0`. With 0, an element whose gradients have all been 0 becomes NaN.

    Attributes
    ----------
    state : dict
        For each parameter ``"m"`` and ``"u"`` (torch's ``exp_avg`` and ``exp_inf``).

    References
    ----------
    D. P. Kingma, J. Ba, "Adam: a method for stochastic optimization", section 7.1, ICLR 2015,
    arXiv:1412.6980.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> p = np.array([1.0, 2.0])
    >>> opt = fo.Adamax(p, lr=0.1)
    >>> opt.step(np.array([3.0, 0.0]))
    >>> p
    array([0.9, 2. ])
    """

    rule = reference.adamax
    betas: PairAttribute
    eps: NumberAttribute

    def __init__(
        self,
        params: Params,
        lr: Scheduled[float] = 2e-3,
        betas: ScheduledPair = (0.9, 0.999),
        eps: Scheduled[float] = 1e-8,
        weight_decay: Scheduled[float] = 0.0,
        *,
        maximize: Scheduled[bool] = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            maximize=maximize,
            **options,
        )


class NAdam(Optimizer):
    r"""Adam with Nesterov's momentum.

    .. math::

        \mu_t = \beta_1 (1 - \tfrac12 0.96^{t \psi}), \quad
        p_t = p_{t-1} - \eta \left(
              \frac{1 - \mu_t}{1 - \prod_{i=1}^t \mu_i} g_t
              + \frac{\mu_{t+1}}{1 - \prod_{i=1}^{t+1} \mu_i} m_t \right) \Big/
              \left( \sqrt{v_t} / \sqrt{1 - \beta_2^t} + \epsilon \right)

    with :math:`m_t` and :math:`v_t` as in `Adam`. The formula is that of ``torch.optim.NAdam``.
    The product is taken in double precision (torch's is float32 by default) from the
    hyperparameters of this step: after a change of :math:`\beta_1` or :math:`\psi` it is what it
    would be had they always been so, where torch goes on from the product of the old ones.

    Parameters
    ----------
    lr : float, default 2e-3
        Learning rate :math:`\eta \ge 0`.
    betas : (float, float), default (0.9, 0.999)
        :math:`0 \le \beta_1, \beta_2 < 1`.
    eps : float, default 1e-8
        :math:`\epsilon \ge 0`, added to the corrected root.
    momentum_decay : float, default 4e-3
        :math:`\psi \ge 0`.
    decoupled_weight_decay : bool, default False
        Decay as `AdamW` does instead.

    Attributes
    ----------
    state : dict
        For each parameter ``"m"`` and ``"v"`` (torch's ``exp_avg`` and ``exp_avg_sq``; its
        ``mu_product`` needs no state here).

    References
    ----------
    T. Dozat, "Incorporating Nesterov momentum into Adam", ICLR workshop 2016.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> p = np.array([1.0, 2.0])
    >>> opt = fo.NAdam(p, lr=0.1)
    >>> opt.step(np.array([3.0, 0.0]))
    >>> p.round(6)
    array([0.894355, 2.      ])
    """

    rule = reference.nadam
    betas: PairAttribute
    eps: NumberAttribute
    momentum_decay: NumberAttribute
    decoupled_weight_decay: FlagAttribute

    def __init__(
        self,
        params: Params,
        lr: Scheduled[float] = 2e-3,
        betas: ScheduledPair = (0.9, 0.999),
        eps: Scheduled[float] = 1e-8,
        weight_decay: Scheduled[float] = 0.0,
        momentum_decay: Scheduled[float] = 4e-3,
        decoupled_weight_decay: Scheduled[bool] = False,
        *,
        maximize: Scheduled[bool] = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            momentum_decay=momentum_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            maximize=maximize,
            **options,
        )


class RAdam(Optimizer):
    r"""Adam that takes plain momentum steps until its mean square can be relied upon.

    .. math::

        \rho_\infty = \frac{2}{1 - \beta_2} - 1, \quad
        \rho_t = \rho_\infty - \frac{2 t \beta_2^t}{1 - \beta_2^t}, \quad
        r_t = \sqrt{\frac{(\rho_t - 4)(\rho_t - 2) \rho_\infty}
                         {(\rho_\infty - 4)(\rho_\infty - 2) \rho_t}}

    .. math::

        p_t = p_{t-1} - \frac{\eta}{1 - \beta_1^t} \cdot \begin{cases}
              r_t \sqrt{1 - \beta_2^t} \; m_t / (\sqrt{v_t} + \epsilon) & \rho_t > 5 \\
              m_t & \text{otherwise} \end{cases}

    with :math:`m_t` and :math:`v_t` as in `Adam`. The formula is that of ``torch.optim.RAdam``.

    Parameters
    ----------
    lr : float, default 1e-3
        Learning rate :math:`\eta \ge 0`.
    betas : (float, float), default (0.9, 0.999)
        :math:`0 \le \beta_1, \beta_2 < 1`.
    eps : float, default 1e-8
        :math:`\epsilon \ge 0`, added to the root, which is not corrected.
    decoupled_weight_decay : bool, default False
        Decay as `AdamW` does instead.

    Attributes
    ----------
    state : dict
        For each parameter ``"m"`` and ``"v"`` (torch's ``exp_avg`` and ``exp_avg_sq``).

    References
    ----------
    L. Liu, H. Jiang, P. He, W. Chen, X. Liu, J. Gao, J. Han, "On the variance of the adaptive
    learning rate and beyond", ICLR 2020, arXiv:1908.03265.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> p = np.array([1.0, 2.0])
    >>> opt = fo.RAdam(p, lr=0.1)
    >>> opt.step(np.array([3.0, 0.0]))
    >>> p
    array([0.7, 2. ])
    """

    rule = reference.radam
    betas: PairAttribute
    eps: NumberAttribute
    decoupled_weight_decay: FlagAttribute

    def __init__(
        self,
        params: Params,
        lr: Scheduled[float] = 1e-3,
        betas: ScheduledPair = (0.9, 0.999),
        eps: Scheduled[float] = 1e-8,
        weight_decay: Scheduled[float] = 0.0,
        decoupled_weight_decay: Scheduled[bool] = False,
        *,
        maximize: Scheduled[bool] = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            maximize=maximize,
            **options,
        )


class Rprop(Optimizer):
    r"""Resilient backpropagation: step sizes of their own, and only the sign of the gradient.

    Where the gradient has the sign that it had in the step before, the step size
    :math:`\Delta` is multiplied by :math:`\eta_+`; where the sign has changed, by :math:`\eta_-`,
    and the gradient is taken for 0, in this step and by the next:

    .. math::

        \Delta_t = \mathrm{clip}(\Delta_{t-1} \eta_\pm, \Delta_{\min}, \Delta_{\max}), \quad
        p_t = p_{t-1} - \Delta_t \, \mathrm{sign}(g_t)

    For full batches: the signs of stochastic gradients change too often. The formula is that of
    ``torch.optim.Rprop``, save that signs are compared where torch multiplies the two gradients,
    whose product vanishes where both are small.

    Parameters
    ----------
    lr : float, default 1e-2
        The step size :math:`\Delta_0 \ge 0` of all elements at the start; to change it later has
        no effect.
    etas : (float, float), default (0.5, 1.2)
        :math:`0 < \eta_- < 1 < \eta_+`.
    step_sizes : (float, float), default (1e-6, 50.0)
        :math:`0 \le \Delta_{\min} \le \Delta_{\max}`.

    Attributes
    ----------
    state : dict
        For each parameter ``"prev"``, the gradient of the step before, and ``"step_size"``, as
        torch has them.

    References
    ----------
    M. Riedmiller, H. Braun, "A direct adaptive method for faster backpropagation learning: the
    RPROP algorithm", ICNN 1993.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> p = np.array([1.0, 2.0])
    >>> opt = fo.Rprop(p, lr=0.1)
    >>> for _ in range(2):
    ...     opt.step(np.array([3.0, 0.0]))
    >>> p
    array([0.78, 2.  ])
    """

    rule = reference.rprop
    etas: PairAttribute
    step_sizes: PairAttribute

    def __init__(
        self,
        params: Params,
        lr: Scheduled[float] = 1e-2,
        etas: ScheduledPair = (0.5, 1.2),
        step_sizes: ScheduledPair = (1e-6, 50.0),
        *,
        weight_decay: Scheduled[float] = 0.0,
        maximize: Scheduled[bool] = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            etas=etas,
            step_sizes=step_sizes,
            weight_decay=weight_decay,
            maximize=maximize,
            **options,
        )


class ASGD(Optimizer):
    r"""Averaged stochastic gradient descent: beside the parameters, their average over the steps.

    .. math::

        \eta_t = \frac{\eta}{(1 + \lambda \eta (t - 1))^\alpha}, \quad
        p_t = (1 - \lambda \eta_t) p_{t-1} - \eta_t g_t, \quad
        \bar p_t = \bar p_{t-1} + \mu_t (p_t - \bar p_{t-1}), \quad
        \mu_t = \frac{1}{\max(1, t - 1 - t_0)}

    The average is the state ``ax``; while :math:`\mu_t = 1` it is a copy of p. The formula is that
    of ``torch.optim.ASGD``, with :math:`\eta_t` and :math:`\mu_t` in double precision (torch's
    are float32 by default) and from the hyperparameters of this step: after a change of ``lr``
    torch takes one more step with the old one.

    Parameters
    ----------
    lr : float, default 1e-2
        Learning rate :math:`\eta \ge 0`.
    lambd : float, default 1e-4
        Decay :math:`\lambda \ge 0`, of p and of the learning rate.
    alpha : float, default 0.75
        :math:`\alpha \ge 0`, the power of the learning rate's decay.
    t0 : float, default 1e6
        :math:`t_0 \ge 0`, the step after which the average begins.
    weight_decay : float, default 0
        An L2 penalty :math:`w \ge 0`: the rule sees :math:`g + w p` for g.

    Attributes
    ----------
    state : dict
        For each parameter ``"ax"``, the average, as torch has it.

    References
    ----------
    B. T. Polyak, A. B. Juditsky, "Acceleration of stochastic approximation by averaging", SIAM
    Journal on Control and Optimization 30(4), 1992.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> p = np.array([1.0, 2.0])
    >>> opt = fo.ASGD(p, lr=0.1, lambd=0.0, t0=0)
    >>> for _ in range(3):
    ...     opt.step(np.array([1.0, 0.0]))
    >>> p
    array([0.7, 2. ])
    >>> opt.state[0]["ax"]  # of the last two
    array([0.75, 2.  ])
    """

    rule = reference.asgd
    lambd: NumberAttribute
    alpha: NumberAttribute
    t0: NumberAttribute

    def __init__(
        self,
        params: Params,
        lr: Scheduled[float] = 1e-2,
        lambd: Scheduled[float] = 1e-4,
        alpha: Scheduled[float] = 0.75,
        t0: Scheduled[float] = 1e6,
        weight_decay: Scheduled[float] = 0.0,
        *,
        maximize: Scheduled[bool] = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            lambd=lambd,
            alpha=alpha,
            t0=t0,
            weight_decay=weight_decay,
            maximize=maximize,
            **options,
        )


class Lion(Optimizer):
    r"""Steps of one size, along the sign of a momentum.

    .. math::

        p_t = (1 - \eta \lambda) p_{t-1}
              - \eta \, \mathrm{sign}(\beta_1 m_{t-1} + (1 - \beta_1) g_t), \quad
        m_t = \beta_2 m_{t-1} + (1 - \beta_2) g_t

    where :math:`\mathrm{sign}(0) = 0`. The formula is that of ``optax.lion``, whose default is a
    decay of 0.001.

    Parameters
    ----------
    lr : float, default 1e-4
        Learning rate :math:`\eta \ge 0`.
    betas : (float, float), default (0.9, 0.99)
        :math:`0 \le \beta_1, \beta_2 < 1`.
    weight_decay : float, default 0
        :math:`\lambda \ge 0`.
    decoupled_weight_decay : bool, default True
        Decay as `AdamW` does; if False, the rule sees :math:`g + \lambda p` for g instead.
    cautious : bool, default False
        Take no step in elements where it would not go down the gradient; the learning rate of
        the others is divided by their share of the array, which is taken to be 0.001 at least
        (arXiv:2411.16085).

    Attributes
    ----------
    state : dict
        For each parameter ``"m"`` (optax's ``mu``).

    References
    ----------
    X. Chen et al., "Symbolic discovery of optimization algorithms", NeurIPS 2023,
    arXiv:2302.06675.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> p = np.array([1.0, 2.0])
    >>> opt = fo.Lion(p, lr=0.1)
    >>> opt.step(np.array([3.0, 0.0]))
    >>> p
    array([0.9, 2. ])
    """

    rule = reference.lion
    betas: PairAttribute
    decoupled_weight_decay: FlagAttribute
    cautious: FlagAttribute

    def __init__(
        self,
        params: Params,
        lr: Scheduled[float] = 1e-4,
        betas: ScheduledPair = (0.9, 0.99),
        weight_decay: Scheduled[float] = 0.0,
        *,
        maximize: Scheduled[bool] = False,
        decoupled_weight_decay: Scheduled[bool] = True,
        cautious: Scheduled[bool] = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            weight_decay=weight_decay,
            maximize=maximize,
            decoupled_weight_decay=decoupled_weight_decay,
            cautious=cautious,
            **options,
        )


class AdaBelief(Optimizer):
    r"""Adam, scaled by how far gradients stray from their average.

    .. math::

        m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad
        s_t = \beta_2 s_{t-1} + (1 - \beta_2) (g_t - m_t)^2 + \epsilon_r, \quad
        p_t = p_{t-1} - \frac{\eta}{1 - \beta_1^t}
              \frac{m_t}{\sqrt{s_t} / \sqrt{1 - \beta_2^t} + \epsilon}

    The formula is that of ``optax.adabelief``. In the paper :math:`\epsilon` is 1e-8 and
    :math:`\epsilon_r` 0.

    Parameters
    ----------
    lr : float, default 1e-3
        Learning rate :math:`\eta \ge 0`.
    betas : (float, float), default (0.9, 0.999)
        :math:`0 \le \beta_1, \beta_2 < 1`.
    eps : float, default 1e-16
        :math:`\epsilon \ge 0`, added to the corrected root.
    eps_root : float, default 1e-16
        :math:`\epsilon_r \ge 0`, added to the variance at each step.
    decoupled_weight_decay : bool, default False
        Decay as `AdamW` does instead.

    Attributes
    ----------
    state : dict
        For each parameter ``"m"`` and ``"s"`` (optax's ``mu`` and ``nu``).

    References
    ----------
    J. Zhuang, T. Tang, Y. Ding, S. Tatikonda, N. Dvornek, X. Papademetris, J. Duncan, "AdaBelief
    optimizer: adapting stepsizes by the belief in observed gradients", NeurIPS 2020,
    arXiv:2010.07468.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> p = np.array([1.0, 2.0])
    >>> opt = fo.AdaBelief(p, lr=0.1)
    >>> opt.step(np.array([3.0, 0.0]))
    >>> p.round(6)
    array([0.888889, 2.      ])
    """

    rule = reference.adabelief
    betas: PairAttribute
    eps: NumberAttribute
    eps_root: NumberAttribute
    decoupled_weight_decay: FlagAttribute

    def __init__(
        self,
        params: Params,
        lr: Scheduled[float] = 1e-3,
        betas: ScheduledPair = (0.9, 0.999),
        eps: Scheduled[float] = 1e-16,
        eps_root: Scheduled[float] = 1e-16,
        weight_decay: Scheduled[float] = 0.0,
        *,
        maximize: Scheduled[bool] = False,
        decoupled_weight_decay: Scheduled[bool] = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            eps_root=eps_root,
            weight_decay=weight_decay,
            maximize=maximize,
            decoupled_weight_decay=decoupled_weight_decay,
            **options,
        )


class Yogi(Optimizer):
    r"""Adam whose mean square moves towards the square of the gradient by no more than that square.

    .. math::

        v_t = v_{t-1} - (1 - \beta_2) \, \mathrm{sign}(v_{t-1} - g_t^2) \, g_t^2, \quad
        p_t = p_{t-1} - \frac{\eta}{1 - \beta_1^t}
              \frac{m_t}{\sqrt{v_t} / \sqrt{1 - \beta_2^t} + \epsilon}

    with :math:`m_t` as in `Adam`, :math:`m_0 = v_0` and :math:`\mathrm{sign}(0) = 0`. Where
    gradients become small, v falls slowly, as a sum, where Adam's falls exponentially. The formula
    is that of ``optax.yogi``.

    Parameters
    ----------
    lr : float, default 1e-2
        Learning rate :math:`\eta \ge 0`.
    betas : (float, float), default (0.9, 0.999)
        :math:`0 \le \beta_1, \beta_2 < 1`.
    eps : float, default 1e-3
        :math:`\epsilon \ge 0`, added to the corrected root.
    initial_accumulator_value : float, default 1e-6
        :math:`m_0 = v_0 \ge 0`.

    Attributes
    ----------
    state : dict
        For each parameter ``"m"`` and ``"v"`` (optax's ``mu`` and ``nu``).

    References
    ----------
    M. Zaheer, S. Reddi, D. Sachan, S. Kale, S. Kumar, "Adaptive methods for nonconvex
    optimization", NeurIPS 2018.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> p = np.array([1.0, 2.0])
    >>> opt = fo.Yogi(p, lr=0.1, eps=0.0, initial_accumulator_value=0.0)
    >>> opt.step(np.array([3.0, 1.0]))
    >>> p
    array([0.9, 1.9])
    """

    rule = reference.yogi
    betas: PairAttribute
    eps: NumberAttribute
    initial_accumulator_value: NumberAttribute

    def __init__(
        self,
        params: Params,
        lr: Scheduled[float] = 1e-2,
        betas: ScheduledPair = (0.9, 0.999),
        eps: Scheduled[float] = 1e-3,
        weight_decay: Scheduled[float] = 0.0,
        initial_accumulator_value: Scheduled[float] = 1e-6,
        *,
        maximize: Scheduled[bool] = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            maximize=maximize,
            **options,
        )


class AdEMAMix(Optimizer):
    r"""Adam with a second momentum, which remembers the gradients of thousands of steps.

    .. math::

        m^{(1)}_t = \beta_1 m^{(1)}_{t-1} + (1 - \beta_1) g_t, \quad
        m^{(2)}_t = \beta_3 m^{(2)}_{t-1} + (1 - \beta_3) g_t, \quad
        p_t = (1 - \eta \lambda) p_{t-1}
              - \eta \frac{m^{(1)}_t / (1 - \beta_1^t) + \alpha m^{(2)}_t}
                          {\sqrt{v_t} / \sqrt{1 - \beta_2^t} + \epsilon}

    with :math:`v_t` as in `Adam`. The slow momentum is not corrected for its start at zero. The
    formula is that of ``optax.contrib.ademamix``.

    Parameters
    ----------
    lr : float, default 1e-3
        Learning rate :math:`\eta \ge 0`.
    betas : (float, float, float), default (0.9, 0.999, 0.9999)
        :math:`0 \le \beta_1, \beta_2, \beta_3 < 1`. For trainings of a few thousand steps a smaller
        :math:`\beta_3` is better.
    alpha : float, default 5
        :math:`\alpha \ge 0`, the weight of the slow momentum. The paper raises it, and
        :math:`\beta_3`, by schedules from 0 and from :math:`\beta_1`.
    eps : float, default 1e-8
        :math:`\epsilon \ge 0`, added to the corrected root.
    weight_decay : float, default 0
        :math:`\lambda \ge 0`.
    decoupled_weight_decay : bool, default True
        Decay as `AdamW` does; if False, the rule sees :math:`g + \lambda p` for g instead.

    Attributes
    ----------
    state : dict
        For each parameter ``"m1"``, ``"m2"`` and ``"v"`` (optax's ``m1``, ``m2`` and ``nu``).

    References
    ----------
    M. Pagliardini, P. Ablin, D. Grangier, "The AdEMAMix optimizer: better, faster, older", ICLR
    2025, arXiv:2409.03137.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> p = np.array([1.0, 2.0])
    >>> opt = fo.AdEMAMix(p, lr=0.1, betas=(0.9, 0.999, 0.5), alpha=2.0)
    >>> opt.step(np.array([3.0, 0.0]))
    >>> p
    array([0.8, 2. ])

    The weight of the slow momentum grows for 10,000 steps:

    >>> opt = fo.AdEMAMix(p, alpha=lambda t: 5.0 * min(1.0, t / 10_000))
    """

    rule = reference.ademamix
    betas: TripleAttribute
    alpha: NumberAttribute
    eps: NumberAttribute
    decoupled_weight_decay: FlagAttribute

    def __init__(
        self,
        params: Params,
        lr: Scheduled[float] = 1e-3,
        betas: ScheduledTriple = (0.9, 0.999, 0.9999),
        alpha: Scheduled[float] = 5.0,
        eps: Scheduled[float] = 1e-8,
        weight_decay: Scheduled[float] = 0.0,
        *,
        maximize: Scheduled[bool] = False,
        decoupled_weight_decay: Scheduled[bool] = True,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            maximize=maximize,
            decoupled_weight_decay=decoupled_weight_decay,
            **options,
        )


class ADOPT(Optimizer):
    r"""Momentum of gradients that are scaled by the root mean square of those before them.

    .. math::

        u_t = \mathrm{clip}\left( \frac{g_t}{\max(\sqrt{v_{t-1}}, \epsilon)},
              \pm (t - 1)^{1/4} \right), \quad
        m_t = \beta_1 m_{t-1} + (1 - \beta_1) u_t, \quad
        p_t = p_{t-1} - \eta m_t, \quad
        v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2

    The first step only takes :math:`v_1 = g_1^2`. Since v lacks the gradient that it divides, the
    method converges whatever :math:`\beta_2` is. The formula is that of ``optax.contrib.adopt``.

    Parameters
    ----------
    lr : float, default 1e-3
        Learning rate :math:`\eta \ge 0`.
    betas : (float, float), default (0.9, 0.9999)
        :math:`0 \le \beta_1, \beta_2 < 1`.
    eps : float, default 1e-6
        :math:`\epsilon \ge 0`, the least divisor. With 0, an element whose gradients have all been
        0 becomes NaN.
    decoupled_weight_decay : bool, default False
        Decay as `AdamW` does instead, from the second step on.

    Attributes
    ----------
    state : dict
        For each parameter ``"m"`` and ``"v"`` (optax's ``mu`` and ``nu``).

    References
    ----------
    S. Taniguchi et al., "ADOPT: modified Adam can converge with any beta2 with the optimal rate",
    NeurIPS 2024, arXiv:2411.02853.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> p = np.array([1.0, 2.0])
    >>> opt = fo.ADOPT(p, lr=0.1, betas=(0.5, 0.9999))
    >>> opt.step(np.array([3.0, 0.0]))
    >>> p
    array([1., 2.])
    >>> opt.step(np.array([3.0, 0.0]))
    >>> p
    array([0.95, 2.  ])
    """

    rule = reference.adopt
    betas: PairAttribute
    eps: NumberAttribute
    decoupled_weight_decay: FlagAttribute

    def __init__(
        self,
        params: Params,
        lr: Scheduled[float] = 1e-3,
        betas: ScheduledPair = (0.9, 0.9999),
        eps: Scheduled[float] = 1e-6,
        weight_decay: Scheduled[float] = 0.0,
        decoupled_weight_decay: Scheduled[bool] = False,
        *,
        maximize: Scheduled[bool] = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            maximize=maximize,
            **options,
        )


class Adan(Optimizer):
    r"""Adam with Nesterov's momentum, estimated from the differences of gradients.

    .. math::

        \delta_t = g_t - g_{t-1}, \quad
        m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad
        d_t = \beta_2 d_{t-1} + (1 - \beta_2) \delta_t, \quad
        v_t = \beta_3 v_{t-1} + (1 - \beta_3) (g_t + \beta_2 \delta_t)^2

    .. math::

        p_t = \frac{1}{1 + \eta \lambda} \left( p_{t-1}
              - \eta \frac{\hat m_t + \beta_2 \hat d_t}{\sqrt{\hat v_t} + \epsilon} \right)

    where :math:`\delta_1 = 0`, and the hats correct averages for their start at zero, as in `Adam`;
    the state holds them corrected. The formula is that of ``Adan`` in torch-optimi; the paper's
    :math:`\beta` are 1 minus these.

    Parameters
    ----------
    lr : float, default 1e-3
        Learning rate :math:`\eta \ge 0`.
    betas : (float, float, float), default (0.98, 0.92, 0.99)
        :math:`0 \le \beta_1, \beta_2, \beta_3 < 1`.
    eps : float, default 1e-8
        :math:`\epsilon \ge 0`, added to the corrected root.
    weight_decay : float, default 0
        :math:`\lambda \ge 0`, decoupled.

    Attributes
    ----------
    state : dict
        For each parameter ``"m"``, ``"d"``, ``"v"`` (torch-optimi's ``exp_avg``, ``exp_avg_diff``
        and ``exp_avg_sq``) and ``"prev"``, the gradient of the step before (its ``prev_grad``, with
        the other sign).

    References
    ----------
    X. Xie, P. Zhou, H. Li, Z. Lin, S. Yan, "Adan: adaptive Nesterov momentum algorithm for faster
    optimizing deep models", IEEE TPAMI 2024, arXiv:2208.06677.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> p = np.array([1.0, 2.0])
    >>> opt = fo.Adan(p, lr=0.1)
    >>> opt.step(np.array([3.0, 0.0]))
    >>> p
    array([0.9, 2. ])
    """

    rule = reference.adan
    betas: TripleAttribute
    eps: NumberAttribute

    def __init__(
        self,
        params: Params,
        lr: Scheduled[float] = 1e-3,
        betas: ScheduledTriple = (0.98, 0.92, 0.99),
        eps: Scheduled[float] = 1e-8,
        weight_decay: Scheduled[float] = 0.0,
        *,
        maximize: Scheduled[bool] = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            maximize=maximize,
            **options,
        )


class FTRL(Optimizer):
    r"""Follow the regularised leader, proximal: sparse linear models, such as those of clicks.

    .. math::

        h_t = h_{t-1} + g_t^2, \quad
        z_t = z_{t-1} + g_t - \frac{\sqrt{h_t} - \sqrt{h_{t-1}}}{\eta} p_{t-1}, \quad
        p_t = \frac{\mathrm{clip}(z_t, \pm \lambda_1) - z_t}
                   {(\sqrt{h_t} + \beta) / \eta + 2 \lambda_2}

    Where :math:`|z_t| \le \lambda_1`, the parameter is exactly 0. It depends on the parameters
    before the first step only as far as :math:`z_1` does, so they should be 0: one whose gradients
    have all been 0 becomes 0. Since z sums what was divided by the learning rate of its step, a
    learning rate that changes later moves all parameters. The formula and the names are those of
    ``keras.optimizers.Ftrl``.

    Parameters
    ----------
    lr : float, default 1e-3
        Learning rate :math:`\eta > 0`.
    initial_accumulator_value : float, default 0.1
        :math:`h_0 \ge 0`. If it, :math:`\beta` and :math:`\lambda_2` are all 0, an element whose
        gradients have all been 0 becomes NaN.
    l1_regularization_strength : float, default 0
        :math:`\lambda_1 \ge 0`.
    l2_regularization_strength : float, default 0
        :math:`\lambda_2 \ge 0`.
    beta : float, default 0
        :math:`\beta \ge 0`.

    Attributes
    ----------
    state : dict
        For each parameter ``"z"`` and ``"h"`` (Keras's ``linear`` and ``accumulator``).

    References
    ----------
    H. B. McMahan et al., "Ad click prediction: a view from the trenches", KDD 2013.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> p = np.zeros(3)
    >>> opt = fo.FTRL(p, lr=0.5, l1_regularization_strength=1.0, beta=1.0)
    >>> opt.step(np.array([3.0, 1.0, -5.0]))
    >>> p.round(6)
    array([-0.248966,  0.      ,  0.332779])
    """

    rule = reference.ftrl
    initial_accumulator_value: NumberAttribute
    l1_regularization_strength: NumberAttribute
    l2_regularization_strength: NumberAttribute
    beta: NumberAttribute

    def __init__(
        self,
        params: Params,
        lr: Scheduled[float] = 1e-3,
        initial_accumulator_value: Scheduled[float] = 0.1,
        l1_regularization_strength: Scheduled[float] = 0.0,
        l2_regularization_strength: Scheduled[float] = 0.0,
        beta: Scheduled[float] = 0.0,
        *,
        weight_decay: Scheduled[float] = 0.0,
        maximize: Scheduled[bool] = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            initial_accumulator_value=initial_accumulator_value,
            l1_regularization_strength=l1_regularization_strength,
            l2_regularization_strength=l2_regularization_strength,
            beta=beta,
            weight_decay=weight_decay,
            maximize=maximize,
            **options,
        )


class LAMB(Optimizer):
    r"""Adam whose learning rate is scaled, for each array, by a ratio of norms.

    .. math::

        u_t = \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon} + \lambda p_{t-1}, \quad
        p_t = p_{t-1} - \eta \frac{\lVert p_{t-1} \rVert}{\lVert u_t \rVert} u_t

    with :math:`\hat m_t` and :math:`\hat v_t` as in `Adam`; the ratio is 1 where either norm is 0.
    The norms are summed in a fixed order, so they depend on no number of threads. The formula is
    that of ``optax.lamb``.

    Parameters
    ----------
    params : ndarray, sequence, mapping, or sequence of group mappings
        The arrays to update in place, float32 or float64; see `Optimizer`. Each array is a layer
        with a ratio of its own.
    lr : float, default 1e-3
        Learning rate :math:`\eta \ge 0`.
    betas : (float, float), default (0.9, 0.999)
        :math:`0 \le \beta_1, \beta_2 < 1`.
    eps : float, default 1e-6
        :math:`\epsilon \ge 0`, added to the corrected root.
    weight_decay : float, default 0
        :math:`\lambda \ge 0`, added to the direction before its norm is taken.
    decoupled_weight_decay : bool, default True
        As above; if False, the decay is an L2 penalty on the gradient.

    Attributes
    ----------
    state : dict
        For each parameter ``"m"`` and ``"v"`` (optax's ``mu`` and ``nu``).

    References
    ----------
    Y. You et al., "Large batch optimization for deep learning: training BERT in 76 minutes",
    ICLR 2020, arXiv:1904.00962.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> p = np.array([3.0, 4.0])
    >>> opt = fo.LAMB(p, lr=0.1)
    >>> opt.step(np.array([2.0, 0.0]))
    >>> p.round(6)
    array([2.5, 4. ])
    """

    rule = reference.lamb
    betas: PairAttribute
    eps: NumberAttribute
    decoupled_weight_decay: FlagAttribute

    def __init__(
        self,
        params: Params,
        lr: Scheduled[float] = 1e-3,
        betas: ScheduledPair = (0.9, 0.999),
        eps: Scheduled[float] = 1e-6,
        weight_decay: Scheduled[float] = 0.0,
        *,
        maximize: Scheduled[bool] = False,
        decoupled_weight_decay: Scheduled[bool] = True,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            maximize=maximize,
            decoupled_weight_decay=decoupled_weight_decay,
            **options,
        )


class LARS(Optimizer):
    r"""Momentum whose learning rate is scaled, for each array, by a ratio of norms.

    .. math::

        u_t = g_t + \lambda p_{t-1}, \quad
        v_t = \mu v_{t-1} + \eta \, c \frac{\lVert p_{t-1} \rVert}{\lVert u_t \rVert} u_t, \quad
        p_t = p_{t-1} - v_t

    The factor :math:`c \lVert p \rVert / \lVert u \rVert` is 1 where either norm is 0. The norms
    are summed in a fixed order, so they depend on no number of threads. The formula is that of
    ``optax.lars``.

    Parameters
    ----------
    params : ndarray, sequence, mapping, or sequence of group mappings
        The arrays to update in place, float32 or float64; see `Optimizer`. Each array is a layer
        with a ratio of its own.
    lr : float, default 1
        Learning rate :math:`\eta \ge 0`.
    momentum : float, default 0.9
        :math:`\mu \ge 0`.
    trust_coefficient : float, default 1e-3
        :math:`c \ge 0`.
    nesterov : bool, default False
        Step along the new velocity's look-ahead, :math:`\mu v_t` plus the new term.

    Attributes
    ----------
    state : dict
        For each parameter ``"v"`` (optax's ``trace``, with the other sign).

    References
    ----------
    Y. You, I. Gitman, B. Ginsburg, "Large batch training of convolutional networks", 2017,
    arXiv:1708.03888.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> p = np.array([3.0, 4.0])
    >>> opt = fo.LARS(p, lr=1.0, trust_coefficient=0.1)
    >>> opt.step(np.array([2.0, 0.0]))
    >>> p.round(6)
    array([2.5, 4. ])
    """

    rule = reference.lars
    momentum: NumberAttribute
    trust_coefficient: NumberAttribute
    nesterov: FlagAttribute

    def __init__(
        self,
        params: Params,
        lr: Scheduled[float] = 1.0,
        momentum: Scheduled[float] = 0.9,
        weight_decay: Scheduled[float] = 0.0,
        trust_coefficient: Scheduled[float] = 1e-3,
        *,
        nesterov: Scheduled[bool] = False,
        maximize: Scheduled[bool] = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            trust_coefficient=trust_coefficient,
            nesterov=nesterov,
            maximize=maximize,
            **options,
        )


class StableAdamW(Optimizer):
    r"""AdamW whose learning rate shrinks, for each array, where its gradients are suddenly large.

    .. math::

        r_t = \sqrt{\mathrm{mean} \frac{g_t^2}{\max(\hat v_t, \epsilon^2)}}, \quad
        \eta_t = \frac{\eta}{\max(1, r_t)}, \quad
        p_t = (1 - \eta_t \lambda) p_{t-1} - \eta_t \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon}

    with :math:`\hat m_t` and :math:`\hat v_t` as in `Adam`; the state holds them, corrected. The
    mean is over all elements of an array, summed in a fixed order, so it depends on no number of
    threads. The formula is that of ``StableAdamW`` in torch-optimi.

    Parameters
    ----------
    params : ndarray, sequence, mapping, or sequence of group mappings
        The arrays to update in place, float32 or float64; see `Optimizer`. Each array has a
        learning rate of its own.
    lr : float, default 1e-3
        Learning rate :math:`\eta \ge 0`.
    betas : (float, float), default (0.9, 0.99)
        :math:`0 \le \beta_1, \beta_2 < 1`.
    eps : float, default 1e-6
        :math:`\epsilon \ge 0`, added to the corrected root.
    weight_decay : float, default 0.01
        :math:`\lambda \ge 0`, decoupled.

    Attributes
    ----------
    state : dict
        For each parameter ``"m"`` and ``"v"`` (torch-optimi's ``exp_avg`` and ``exp_avg_sq``).

    References
    ----------
    M. Wortsman et al., "Stable and low-precision training for large-scale vision-language models",
    NeurIPS 2023, arXiv:2304.13013.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> p = np.array([1.0, 2.0])
    >>> opt = fo.StableAdamW(p, lr=0.1, betas=(0.5, 0.75), weight_decay=0.0)
    >>> opt.step(np.array([1.0, 1.0]))
    >>> opt.step(np.array([6.0, 6.0]))  # 1.3 times as large as v has it
    >>> p.round(6)
    array([0.827778, 1.827778])
    """

    rule = reference.stableadamw
    betas: PairAttribute
    eps: NumberAttribute

    def __init__(
        self,
        params: Params,
        lr: Scheduled[float] = 1e-3,
        betas: ScheduledPair = (0.9, 0.99),
        eps: Scheduled[float] = 1e-6,
        weight_decay: Scheduled[float] = 1e-2,
        *,
        maximize: Scheduled[bool] = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            maximize=maximize,
            **options,
        )


class ScheduleFreeSGD(Optimizer):
    r"""Stochastic gradient descent that needs no schedule: gradients at y, steps of z, result x.

    .. math::

        c_t = \frac{w_t}{\sum_{i \le t} w_i}, \quad w_t = t^r \max_{i \le t} \eta_i^k, \quad
        z_t = z_{t-1} - \eta_t g_t, \quad
        x_t = (1 - c_t) x_{t-1} + c_t z_t, \quad
        y_t = (1 - \mu) z_t + \mu x_t

    The parameters are y, where the gradients are to be taken. They hold x, which is to be evaluated
    and kept, inside of `use_average`; x is no array, but follows from y and z. There,
    :math:`x_0 = y_0 = z_0`, and :math:`\eta_t` rises to :math:`\eta` in the first steps as
    :math:`\eta t / \mathrm{warmup\_steps}`. The formula is that of ``SGDScheduleFree`` in the
    package schedulefree; t and the weights are those of each parameter.

    Parameters
    ----------
    lr : float, default 1.0
        Learning rate :math:`\eta \ge 0`. It may be larger than what suits `SGD`.
    momentum : float, default 0.9
        :math:`0 \le \mu < 1`, how close y is to x. `use_average` needs :math:`\mu > 0`.
    weight_decay : float, default 0
        :math:`\lambda \ge 0`; the rule sees :math:`g + \lambda y` for g.
    warmup_steps : float, default 0
        In how many steps the learning rate rises.
    r : float, default 0
        :math:`r \ge 0`: later steps weigh more.
    weight_lr_power : float, default 2
        :math:`k \ge 0`: steps with small learning rates, such as the first, weigh less.

    Attributes
    ----------
    state : dict
        For each parameter ``"z"``.

    References
    ----------
    A. Defazio, X. Yang, H. Mehta, K. Mishchenko, A. Khaled, A. Cutkosky, "The road less scheduled",
    NeurIPS 2024, arXiv:2405.15682.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> p = np.array([1.0, 2.0])
    >>> opt = fo.ScheduleFreeSGD(p, lr=0.5, momentum=0.5)
    >>> for _ in range(2):
    ...     opt.step(np.array([1.0, 0.0]))
    >>> p
    array([0.125, 2.   ])
    >>> with opt.use_average():
    ...     print(p)
    [0.25 2.  ]
    """

    rule = reference.schedulefreesgd
    momentum: NumberAttribute
    warmup_steps: NumberAttribute
    r: NumberAttribute
    weight_lr_power: NumberAttribute

    def __init__(
        self,
        params: Params,
        lr: Scheduled[float] = 1.0,
        momentum: Scheduled[float] = 0.9,
        weight_decay: Scheduled[float] = 0.0,
        warmup_steps: Scheduled[float] = 0.0,
        r: Scheduled[float] = 0.0,
        weight_lr_power: Scheduled[float] = 2.0,
        *,
        maximize: Scheduled[bool] = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            warmup_steps=warmup_steps,
            r=r,
            weight_lr_power=weight_lr_power,
            maximize=maximize,
            **options,
        )


class ScheduleFreeAdamW(Optimizer):
    r"""AdamW that needs no schedule: gradients at y, steps of z, result x.

    .. math::

        u_t = \frac{g_t}{\sqrt{v_t} / \sqrt{1 - \beta_2^t} + \epsilon} + \lambda y_{t-1}, \quad
        z_t = z_{t-1} - \eta_t u_t, \quad
        x_t = (1 - c_t) x_{t-1} + c_t z_t, \quad
        y_t = (1 - \beta_1) z_t + \beta_1 x_t

    with :math:`v_t` as in `Adam`, and :math:`\eta_t`, :math:`c_t` and all else as in
    `ScheduleFreeSGD`. The formula is that of ``AdamWScheduleFree`` in the package schedulefree.

    Parameters
    ----------
    lr : float, default 2.5e-3
        Learning rate :math:`\eta \ge 0`. It may be larger than what suits `AdamW`.
    betas : (float, float), default (0.9, 0.999)
        :math:`0 \le \beta_1, \beta_2 < 1`; :math:`\beta_1` is how close y is to x, and
        `use_average` needs :math:`\beta_1 > 0`.
    eps : float, default 1e-8
        :math:`\epsilon \ge 0`, added to the corrected root.
    weight_decay : float, default 0
        :math:`\lambda \ge 0`, decoupled.
    warmup_steps : float, default 0
        In how many steps the learning rate rises.
    r : float, default 0
        :math:`r \ge 0`: later steps weigh more.
    weight_lr_power : float, default 2
        :math:`k \ge 0`: steps with small learning rates, such as the first, weigh less.

    Attributes
    ----------
    state : dict
        For each parameter ``"z"`` and ``"v"`` (schedulefree's ``z`` and ``exp_avg_sq``).

    References
    ----------
    A. Defazio, X. Yang, H. Mehta, K. Mishchenko, A. Khaled, A. Cutkosky, "The road less scheduled",
    NeurIPS 2024, arXiv:2405.15682.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> p = np.array([1.0, 2.0])
    >>> opt = fo.ScheduleFreeAdamW(p, lr=0.5, betas=(0.5, 0.999))
    >>> for _ in range(2):
    ...     opt.step(np.array([1.0, 0.0]))
    >>> with opt.use_average():
    ...     print(p.round(6))
    [0.25 2.  ]
    """

    rule = reference.schedulefreeadamw
    betas: PairAttribute
    eps: NumberAttribute
    warmup_steps: NumberAttribute
    r: NumberAttribute
    weight_lr_power: NumberAttribute

    def __init__(
        self,
        params: Params,
        lr: Scheduled[float] = 2.5e-3,
        betas: ScheduledPair = (0.9, 0.999),
        eps: Scheduled[float] = 1e-8,
        weight_decay: Scheduled[float] = 0.0,
        warmup_steps: Scheduled[float] = 0.0,
        r: Scheduled[float] = 0.0,
        weight_lr_power: Scheduled[float] = 2.0,
        *,
        maximize: Scheduled[bool] = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            warmup_steps=warmup_steps,
            r=r,
            weight_lr_power=weight_lr_power,
            maximize=maximize,
            **options,
        )


def refuse_idle(defaults: Mapping[str, Any]) -> None:
    """Raise if a constructor was given an option without the momentum that it is about."""
    for name in ("nesterov", "cautious"):
        if defaults.get(name) and defaults["momentum"] == 0:
            raise ValueError(
                f"{name}: expected momentum > 0 with it, or a schedule, "
                f"found momentum={defaults['momentum']}"
            )


for _name in __all__:
    complete(globals()[_name])
