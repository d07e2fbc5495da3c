"""Pictures of schedules. matplotlib is needed only once one is drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .._kinds import Count, checked
from ._arguments import checked_callable

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot(schedule: Callable[[int], float], steps: int, *, ax: Axes | None = None) -> Axes:
    """Draw the values of a schedule.

    Parameters
    ----------
    schedule : callable
        A schedule, or any callable from a step to a value.
    steps : int
        How many steps to draw, from step 0 on; at least 1.
    ax : matplotlib.axes.Axes, optional
        Where to draw, for several schedules in one picture; by default a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        What was drawn on; the label of the curve is the schedule.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    TypeError, ValueError
        If an argument is not as described.

    Examples
    --------
    >>> from fastoptim.schedules import OneCycle, plot
    >>> ax = plot(OneCycle(0.1, total_steps=100), 100)  # doctest: +SKIP
    >>> ax.figure.savefig("schedule.png")  # doctest: +SKIP
    """
    checked_callable("schedule", schedule)
    numbers = range(checked("steps", Count(1), steps))
    if ax is None:
        ax = _new_axes()
    ax.plot(numbers, [schedule(t) for t in numbers], label=repr(schedule))
    ax.set(xlabel="step", ylabel="value")
    return ax


def _new_axes() -> Axes:
    try:
        from matplotlib import pyplot
    except ModuleNotFoundError as error:
        raise ImportError(
            "fastoptim.schedules.plot needs matplotlib, which is not installed: "
            'python -m pip install "fastoptim[plot]"',
            name=error.name,
        ) from error
    return pyplot.subplots()[1]
