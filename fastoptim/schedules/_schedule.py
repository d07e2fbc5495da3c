"""What all schedules share. It knows none of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from ._arguments import check_fields, checked_step


@dataclass(frozen=True)
class Schedule(ABC):
    """What all schedules share: they are immutable values, and can be called with a step.

    Two schedules of one class with the same arguments are equal, and hash, copy and pickle as such.
    ``repr`` shows the arguments. Each is an attribute, too; a sequence has become a tuple.

    A subclass is a frozen dataclass that defines ``_value(t)``. Where fastoptim takes a schedule,
    it takes any other callable from a step to a value too.

    Raises
    ------
    TypeError, ValueError
        From every class, if an argument is not as it describes; the message names the argument,
        what was found and what was expected.
    """

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, step: int) -> float:
        """Return the value for one step.

        Parameters
        ----------
        step : int
            The number of the step, counted from 0.

        Returns
        -------
        float
            The value.

        Raises
        ------
        TypeError, ValueError
            If the step is not a whole number, or is negative, or is one that the schedule does
            not reach, or whose value is too large for a float.
        """
        t = checked_step("step", step)
        try:
            return self._value(t)
        except OverflowError as error:
            raise ValueError(f"step: expected one whose value fits a float, found {t}") from error

    @abstractmethod
    def _value(self, t: int) -> float:
        """Return the value for step t, which has been checked."""
