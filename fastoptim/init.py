r"""Initial weights: Xavier's (Glorot's) and Kaiming's (He's), uniform and normal.

Gains and fans follow ``torch.nn.init``. The fans of a weight array are the number of inputs that
an output sums over, and the number of outputs that an input goes to. They depend on which axes
are which, and ``layout`` says it:

- ``"out_in"``, the default: (outputs, inputs, \*kernel) as in torch, for ``x @ w.T``;
- ``"in_out"``: (\*kernel, inputs, outputs) as in Keras, for ``x @ w``.

In both, fan_in is inputs times the size of the kernel and fan_out is outputs times the size of
the kernel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ._kinds import Choice, Real, Shape, checked, shown

__all__ = [
    "calculate_gain",
    "kaiming_normal",
    "kaiming_uniform",
    "xavier_normal",
    "xavier_uniform",
]


def __dir__() -> list[str]:
    return __all__


GAINS = {
    "linear": 1.0,
    "conv1d": 1.0,
    "conv2d": 1.0,
    "conv3d": 1.0,
    "conv_transpose1d": 1.0,
    "conv_transpose2d": 1.0,
    "conv_transpose3d": 1.0,
    "sigmoid": 1.0,
    "tanh": 5 / 3,
    "relu": math.sqrt(2),
    "selu": 3 / 4,
}
NONLINEARITIES = Choice((*GAINS, "leaky_relu"))
MODES = Choice(("fan_in", "fan_out"))
LAYOUTS = Choice(("out_in", "in_out"))


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    r"""Return the factor by which weights before a nonlinearity are scaled.

    It is 1 for ``"linear"``, the convolutions (``"conv1d"`` to ``"conv3d"``,
    ``"conv_transpose1d"`` to ``"conv_transpose3d"``) and ``"sigmoid"``, 5/3 for ``"tanh"``,
    :math:`\sqrt 2` for ``"relu"``, :math:`\sqrt{2 / (1 + a^2)}` for ``"leaky_relu"``, 3/4 for
    ``"selu"``: the values of ``torch.nn.init.calculate_gain``.

    Parameters
    ----------
    nonlinearity : str
        One of those above.
    param : float, optional
        The negative slope a of ``"leaky_relu"``, by default 0.01; no other nonlinearity looks
        at it.

    Returns
    -------
    float
        The gain.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected.

    References
    ----------
    K. He, X. Zhang, S. Ren, J. Sun, "Delving deep into rectifiers: surpassing human-level
    performance on ImageNet classification", 2015, arXiv:1502.01852.

    Examples
    --------
    >>> import fastoptim as fo
    >>> round(fo.init.calculate_gain("relu"), 6)
    1.414214
    >>> round(fo.init.calculate_gain("leaky_relu", 0.2), 6)
    1.38675
    """
    nonlinearity = checked("nonlinearity", NONLINEARITIES, nonlinearity)
    slope = 0.01 if param is None else checked("param", Real(), param)
    if nonlinearity == "leaky_relu":
        return math.sqrt(2) / math.hypot(1, slope)  # which no slope makes overflow
    return GAINS[nonlinearity]


def xavier_uniform(
    shape: Sequence[int],
    dtype: DTypeLike,
    rng: np.random.Generator,
    *,
    gain: float = 1.0,
    layout: str = "out_in",
) -> NDArray[Any]:
    r"""Return weights drawn from Xavier's uniform distribution, also known as Glorot's.

    .. math::

        w \sim U(-a, a), \quad a = \text{gain} \sqrt{\frac{6}{\text{fan\_in} + \text{fan\_out}}}

    Parameters
    ----------
    shape : sequence of int
        Of the weights: inputs, outputs and the kernel's axes in the order of ``layout``.
    dtype : dtype
        float32 or float64; the random numbers are drawn in it.
    rng : numpy.random.Generator
        The generator that draws them.
    gain : float, default 1
        See `calculate_gain`; :math:`\ge 0`, and less than 1e30, so that float32 holds the weights.
    layout : {"out_in", "in_out"}, default "out_in"
        (outputs, inputs, \*kernel) or (\*kernel, inputs, outputs).

    Returns
    -------
    ndarray
        A new array.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected.

    References
    ----------
    X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward neural
    networks", AISTATS 2010.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> w = fo.init.xavier_uniform((784, 128), np.float32, np.random.default_rng(0))
    >>> w.dtype, w.shape, bool(abs(w).max() <= np.sqrt(6 / (784 + 128)))
    (dtype('float32'), (784, 128), True)
    """
    shape = checked_shape(shape)
    return uniform(shape, dtype, rng, xavier_std(shape, gain, layout))


def xavier_normal(
    shape: Sequence[int],
    dtype: DTypeLike,
    rng: np.random.Generator,
    *,
    gain: float = 1.0,
    layout: str = "out_in",
) -> NDArray[Any]:
    r"""Return weights drawn from Xavier's normal distribution, also known as Glorot's.

    .. math::

        w \sim N(0, \sigma^2), \quad
        \sigma = \text{gain} \sqrt{\frac{2}{\text{fan\_in} + \text{fan\_out}}}

    Parameters
    ----------
    shape : sequence of int
        Of the weights: inputs, outputs and the kernel's axes in the order of ``layout``.
    dtype : dtype
        float32 or float64; the random numbers are drawn in it.
    rng : numpy.random.Generator
        The generator that draws them.
    gain : float, default 1
        See `calculate_gain`; :math:`\ge 0`, and less than 1e30, so that float32 holds the weights.
    layout : {"out_in", "in_out"}, default "out_in"
        (outputs, inputs, \*kernel) or (\*kernel, inputs, outputs).

    Returns
    -------
    ndarray
        A new array.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected.

    References
    ----------
    X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward neural
    networks", AISTATS 2010.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> gain = fo.init.calculate_gain("tanh")
    >>> w = fo.init.xavier_normal((512, 512), np.float64, np.random.default_rng(0), gain=gain)
    >>> print(f"{w.std():.3f}, expected {gain * np.sqrt(2 / (512 + 512)):.3f}")
    0.074, expected 0.074
    """
    shape = checked_shape(shape)
    return normal(shape, dtype, rng, xavier_std(shape, gain, layout))


def kaiming_uniform(
    shape: Sequence[int],
    dtype: DTypeLike,
    rng: np.random.Generator,
    *,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    layout: str = "out_in",
) -> NDArray[Any]:
    r"""Return weights drawn from Kaiming's uniform distribution, also known as He's.

    .. math::

        w \sim U(-b, b), \quad b = \text{gain} \sqrt{\frac{3}{\text{fan}}}

    Parameters
    ----------
    shape : sequence of int
        Of the weights: inputs, outputs and the kernel's axes in the order of ``layout``.
    dtype : dtype
        float32 or float64; the random numbers are drawn in it.
    rng : numpy.random.Generator
        The generator that draws them.
    a : float, default 0
        The negative slope, if the nonlinearity is ``"leaky_relu"``.
    mode : {"fan_in", "fan_out"}, default "fan_in"
        Which fan: fan_in keeps the variance from layer to layer in the forward pass, fan_out in
        the backward pass.
    nonlinearity : str, default "leaky_relu"
        What follows the weights, for the gain; see `calculate_gain`.
    layout : {"out_in", "in_out"}, default "out_in"
        (outputs, inputs, \*kernel) or (\*kernel, inputs, outputs).

    Returns
    -------
    ndarray
        A new array.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected.

    References
    ----------
    K. He, X. Zhang, S. Ren, J. Sun, "Delving deep into rectifiers: surpassing human-level
    performance on ImageNet classification", 2015, arXiv:1502.01852.

    Examples
    --------
    >>> import numpy as np
    >>> import fastoptim as fo
    >>> kernels = fo.init.kaiming_uniform((64, 3, 5, 5), np.float32, np.random.default_rng(0))
    >>> bool(abs(kernels).max() <= np.sqrt(2) * np.sqrt(3 / (3 * 5 * 5)))
    True
    """
    shape = checked_shape(shape)
    return uniform(shape, dtype, rng, kaiming_std(shape, a, mode, nonlinearity, layout))


def kaiming_normal(
    shape: Sequence[int],
    dtype: DTypeLike,
    rng: np.random.Generator,
    *,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    layout: str = "out_in",
) -> NDArray[Any]:
    r"""Return weights drawn from Kaiming's normal distribution, also known as He's.

    .. math::

        w \sim N(0, \sigma^2), \quad \sigma = \frac{\text{gain}}{\sqrt{\text{fan}}}

    Parameters
    ----------
    shape : sequence of int
        Of the weights: inputs, outputs and the kernel's axes in the order of ``layout``.
    dtype : dtype
        float32 or float64; the random numbers are drawn in it.
    rng : numpy.random.Generator
        The generator that draws them.
    a : float, default 0
        The negative slope, if the nonlinearity is ``"leaky_relu"``.
    mode : {"fan_in", "fan_out"}, default "fan_in"
        Which fan: fan_in keeps the variance from layer to layer in the forward pass, fan_out in
        the backward pass.
    nonlinearity : str, default "leaky_relu"
        What follows the weights, for the gain; see `calculate_gain`.
    layout : {"out_in", "in_out"}, default "out_in"
        (outputs, inputs, \*kernel) or (\*kernel, inputs, outputs).

    Returns
    -------
    ndarray
        A new array.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described; the message names it, what was found and what was
        expected.

    References
    ----------
    K. He, X. Zhang, S. Ren, J. Sun, "Delving deep into rectifiers: surpassing human-level
    performance on ImageNet classification", 2015, arXiv:1502.01852.

    Examples
    --------
    Weights for ``x @ w``, of 784 inputs and 128 outputs:

    >>> import numpy as np
    >>> import fastoptim as fo
    >>> rng = np.random.default_rng(0)
    >>> w = fo.init.kaiming_normal((784, 128), np.float64, rng, layout="in_out")
    >>> print(f"{w.std():.3f}, expected {np.sqrt(2 / 784):.3f}")
    0.051, expected 0.051
    """
    shape = checked_shape(shape)
    return normal(shape, dtype, rng, kaiming_std(shape, a, mode, nonlinearity, layout))


def checked_shape(shape: Any) -> tuple[int, ...]:
    """Return the shape of an array that has fans."""
    return cast("tuple[int, ...]", checked("shape", Shape(), shape))


def fans(shape: tuple[int, ...], layout: str) -> dict[str, int]:
    """Return fan_in and fan_out."""
    if checked("layout", LAYOUTS, layout) == "out_in":
        outputs, inputs, *kernel = shape
    else:
        *kernel, inputs, outputs = shape
    size = math.prod(kernel)
    return {"fan_in": inputs * size, "fan_out": outputs * size}


def xavier_std(shape: tuple[int, ...], gain: float, layout: str) -> float:
    """Return the standard deviation of Xavier's distributions."""
    gain = checked("gain", Real(0, 1e30), gain)
    return gain * math.sqrt(2 / sum(fans(shape, layout).values()))


def kaiming_std(
    shape: tuple[int, ...], a: float, mode: str, nonlinearity: str, layout: str
) -> float:
    """Return the standard deviation of Kaiming's distributions."""
    slope = checked("a", Real(), a)
    fan = fans(shape, layout)[checked("mode", MODES, mode)]
    return calculate_gain(nonlinearity, slope) / math.sqrt(fan)


def uniform(shape: tuple[int, ...], dtype: DTypeLike, rng: Any, std: float) -> NDArray[Any]:
    """Return numbers between plus and minus sqrt(3) std."""
    weights = checked_rng(rng).random(shape, checked_dtype(dtype))
    weights *= 2
    weights -= 1
    weights *= math.sqrt(3) * std
    return weights


def normal(shape: tuple[int, ...], dtype: DTypeLike, rng: Any, std: float) -> NDArray[Any]:
    """Return normally distributed numbers of mean 0."""
    weights = checked_rng(rng).standard_normal(shape, checked_dtype(dtype))
    weights *= std
    return weights


def checked_dtype(dtype: Any) -> Any:
    """Return float32 or float64."""
    try:
        found = None if dtype is None else np.dtype(dtype)  # to NumPy, None would be float64
    except Exception:  # np.dtype raises more than TypeError, such as SyntaxError for some strings
        found = None
    if found not in (np.float32, np.float64):
        raise TypeError(f"dtype: expected float32 or float64, found {shown(dtype)}")
    return found


def checked_rng(rng: Any) -> np.random.Generator:
    """Return the generator that draws the numbers."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng: expected a numpy.random.Generator, found {type(rng).__name__}")
    return rng
