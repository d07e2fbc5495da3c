"""Averages that parameters hold for a while, where each rank has a part of them.

All ranks enter together. Each leaves by itself, so that one whose body has raised leaves the others
alone: it keeps what the parameters were.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType

import numpy as np

from ._calls import Calls
from ._exchange import Exchange


class Shown(AbstractContextManager[None]):
    """Lets the parameters of all ranks hold averages.

    Parameters
    ----------
    name : str
        The call that this is for.
    calls : Calls
        The calls of the optimizer.
    exchange : Exchange
        What lets all ranks have the averages.
    own : context manager
        What lets this rank's part of the parameters hold theirs.
    """

    def __init__(
        self, name: str, calls: Calls, exchange: Exchange, own: AbstractContextManager[None]
    ) -> None:
        self._name, self._calls, self._exchange, self._own = name, calls, exchange, own
        self._before: list[np.ndarray] = []  # all elements as they were, without an average

    def __enter__(self) -> None:
        with self._calls.call(self._name) as call:
            before = [flat.copy() for flat in self._exchange.flat.params]
            self._own.__enter__()
            try:
                call.agree()
                self._before = before
                self._exchange.share_all([True] * len(before), self._exchange.flat.params)
            except BaseException:
                self.__exit__(None, None, None)
                raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._restore()
        except BaseException:  # an interrupt, after which all is done again
            self._restore()
            raise
        finally:
            self._before = []
            self._own.__exit__(kind, error, trace)

    def _restore(self) -> None:
        """Let the parameters be what they were, but for this rank's part."""
        flats = self._exchange.flat.params if self._before else []
        for i, (flat, before) in enumerate(zip(flats, self._before, strict=True)):
            start, stop = self._exchange.own_ranges[i]
            flat[:start], flat[stop:] = before[:start], before[stop:]
