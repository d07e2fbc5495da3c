"""Calls that all ranks make together: what becomes of an error in one of them.

Until the ranks have agreed, an error of one rank is told to all, which raise it, too; nothing has
changed, and all can go on. Afterwards the ranks depend on each other: what stops one of them stops
all, and the optimizer is done for, unless all of them have the same error, as from a NaN.
"""

from __future__ import annotations

import atexit
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

from mpi4py import MPI

from ._agreement import Agreement, Subject
from ._ranks import Ranks, missing


class Calls:
    """The calls of one optimizer.

    Parameters
    ----------
    ranks : Ranks
        The ranks.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.agreement = Agreement(ranks)
        self.current: Call | None = None
        _in_use.append(self)

    def end(self) -> None:
        """Make the last call, in which the program ends on all ranks, if it does so on all.

        If an exception has ended it on this rank, the others are told, as they would wait for it.
        """
        error = getattr(sys, "last_value", None)
        if error is not None:
            self.ranks.leave(f"it has ended with {type(error).__name__}: {error}")
        if self.ranks.lost is None:
            with suppress(Exception):  # all ranks that are elsewhere raise it
                self.agreement.reach("the end of the program")

    def close(self) -> None:
        """Make no calls any more."""
        self.ranks.close()
        with suppress(ValueError):  # it was closed before
            _in_use.remove(self)

    def call(self, name: str, *, lays_out: bool = False) -> Call:
        """Return a call, which begins with its ``with``; `lays_out` is kept for its body."""
        return Call(self, name, lays_out)


class Call:
    """A call of this name, from the beginning to the end of a ``with``."""

    lays_out: bool  # whether it makes a plan, and agrees when it has

    def __init__(self, calls: Calls, name: str, lays_out: bool) -> None:
        self._calls, self._name, self.lays_out = calls, name, lays_out
        self._has_agreed = False
        self.is_common = False  # whether all ranks have the error that is raised

    def agree(self, subjects: Sequence[Subject] = (), error: BaseException | None = None) -> None:
        """Return when all ranks mean the same and have no error, or raise what all of them raise.

        A call may agree more than once, as when it has come to its end.
        """
        self._has_agreed = True
        verdict = self._calls.agreement.reach(self._name, subjects, error)
        if verdict is not None:
            self.is_common = True
            if error is not None and not isinstance(error, Exception):
                raise error
            raise verdict from error

    def __enter__(self) -> Call:
        if self._calls.current is not None:
            raise RuntimeError(
                f"{self._name}: this optimizer is in use already, by a call of "
                f"{self._calls.current._name}"
            )
        self._calls.ranks.check()
        self._calls.current = self
        return self

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        self._calls.current = None
        if self._has_agreed:
            if error is not None and not self.is_common:
                self._leave(error)
            return
        try:
            self.agree(error=error)
        except BaseException as another:
            if not self.is_common:
                self._leave(another)
            if another is not error:
                raise

    def _leave(self, error: BaseException) -> None:
        text = f": {error}" if str(error) else ""
        self._calls.ranks.leave(f"{self._name} has ended with {type(error).__name__}{text}")


PARTING = 0.5  # seconds for what was printed, before the job is ended

# The calls of all optimizers of this process, in the order in which these were made: the ranks end
# them in the same order. They are kept, as the ranks may drop an optimizer at different times.
_in_use: list[Calls] = []


@atexit.register
def _end_all() -> None:
    """End the calls of all optimizers, before MPI ends.

    Where a rank has not come in time, it most likely never will, and the end of MPI, which waits
    for all ranks, would not come either. So the job ends here.
    """
    is_missing = bool(missing)
    for calls in _in_use:
        calls.end()
    if is_missing:
        sys.stderr.flush()
        # A launcher drops what has not come to it yet, such as the errors that say why; and other
        # ranks, which have waited as long, are about to print theirs.
        time.sleep(PARTING)
        MPI.COMM_WORLD.Abort(1)
