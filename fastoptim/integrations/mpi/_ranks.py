"""The ranks: a communicator of our own, and waiting on it that always ends.

Each wait looks out for three things beside what it waits for: the time limit, Ctrl-C (which Python
raises between two looks), and the notice of a rank that has left in the middle of a call. After any
of them the ranks are no longer at the same place, so that nothing can be sent any more.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import numpy as np
from mpi4py import MPI

NOTICE = 1  # the tag of a notice
LENGTH = 1024  # bytes of a notice, at the most
PATIENCE = 1.0  # seconds of looking all the time, before it is done a thousand times a second
LOOKS = 200  # that are made before the clock is read and notices are looked for

Bytes: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
Sent: TypeAlias = tuple[Bytes, Any, Any]  # a buffer, and for each rank how many bytes, and where

# What MPI may still read or write, since nothing can take back a collective operation: requests
# that were given up, with their buffers.
_given_up: list[Any] = []
missing: list[Ranks] = []  # those of which one has not come in time


class Ranks:
    """The ranks of a communicator, as one optimizer sees them.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        The communicator, of which a duplicate is used.
    timeout : float
        Seconds after which a wait ends.
    """

    def __init__(self, comm: MPI.Intracomm, timeout: float) -> None:
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.timeout = timeout
        self.lost: str | None = None  # why nothing can be sent any more
        self._done = 0  # collective operations
        self._notices: list[tuple[int, str]] = []  # how many others had done when they left, why
        self._comm: Any = None
        duplicate, request = comm.Idup()
        self._wait(request, (), lambda: None)
        duplicate.Set_errhandler(MPI.ERRORS_RETURN)
        self._comm = duplicate

    def close(self) -> None:
        """Give the duplicate back; nothing can be sent any more."""
        if self.lost is None:
            self.lost = "it was closed"
            self._comm.Free()

    def check(self) -> None:
        """Raise if nothing can be sent any more."""
        if self.lost is not None:
            raise RuntimeError(
                f"this optimizer cannot go on, since the ranks have lost each other: {self.lost}; "
                "make another one, and load a checkpoint"
            )

    def gathered(self, own: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return what each rank has, in the order of the ranks: arrays of one length."""
        found = np.empty((self.size, *own.shape), own.dtype)
        own = np.ascontiguousarray(own)
        self._do("Iallgather", _bytes(own), _bytes(found))
        return found

    def joined(self, own: np.ndarray[Any, Any], counts: Any = None) -> np.ndarray[Any, Any]:
        """Return what all ranks have, one behind the other: 1-d arrays of a length each.

        Without the counts of all ranks, these are found out first.
        """
        if counts is None:
            counts = self.gathered(np.array([own.size])).reshape(-1)
        counts = np.asarray(counts)
        found = np.empty(int(counts.sum()), own.dtype)
        nbytes = counts * own.itemsize
        target = _counted(found.view(np.uint8), nbytes, starts_of(nbytes))
        self._do("Iallgatherv", _bytes(np.ascontiguousarray(own)), target)
        return found

    def collected(self, own: np.ndarray[Any, Any], counts: Sequence[int]) -> Any:
        """Return what all ranks have, one behind the other, on the first; on others, their own."""
        if self.size == 1:
            return own
        found = np.empty(sum(counts) if self.rank == 0 else 0, own.dtype)
        nbytes = np.asarray(counts) * own.itemsize
        target = _counted(found.view(np.uint8), nbytes, starts_of(nbytes))
        self._do("Igatherv", _bytes(np.ascontiguousarray(own)), target if self.rank == 0 else None)
        return found if self.rank == 0 else own

    def things(self, own: Any) -> list[Any]:
        """Return what each rank has: anything that can be pickled."""
        data = np.frombuffer(pickle.dumps(own), np.uint8)
        counts = self.gathered(np.array([data.size])).reshape(-1)
        parts = np.split(self.joined(data, counts), np.cumsum(counts)[:-1])
        return [pickle.loads(part.tobytes()) for part in parts]

    def exchange(self, sent: Sent, got: Sent) -> None:
        """Send each rank some bytes, and get some of each."""
        self._do("Ialltoallv", _counted(*sent), _counted(*got))

    def fill(self, buffer: Bytes, counts: Any, starts: Any) -> None:
        """Let all ranks have the bytes of each, where its own lie already."""
        self._do("Iallgatherv", MPI.IN_PLACE, _counted(buffer, counts, starts))

    def leave(self, why: str) -> None:
        """Tell all others that this rank has left in the middle of a call."""
        if self.lost is not None:
            return
        self.lost = why
        notice = np.zeros(LENGTH, np.uint8)
        text = pickle.dumps((self._done, f"rank {self.rank} has left: {why}"[: LENGTH // 4]))
        notice[: len(text)] = np.frombuffer(text, np.uint8)
        with suppress(MPI.Exception):
            for other in range(self.size):
                if other != self.rank:
                    request = self._comm.Isend([notice, MPI.BYTE], other, NOTICE)
                    _given_up.append((request, notice))

    def _do(self, name: str, *buffers: Any) -> None:
        """Start a collective operation and wait until it is done."""
        self.check()
        self._wait(getattr(self._comm, name)(*buffers), buffers, self._look_for_notices)
        self._done += 1

    def _wait(self, request: MPI.Request, buffers: Any, look: Callable[[], None]) -> None:
        start = time.monotonic()
        try:
            while not request.Test():
                for _ in range(LOOKS):
                    if request.Test():
                        return
                waited = time.monotonic() - start
                look()
                if waited > self.timeout:
                    missing.append(self)
                    raise TimeoutError(
                        f"expected all {self.size} ranks within timeout={self.timeout:g} seconds, "
                        f"and rank {self.rank} has waited for one that has not come"
                    )
                time.sleep(0 if waited < PATIENCE else 1e-3)
        except BaseException:
            _given_up.append((request, buffers))
            raise

    def _look_for_notices(self) -> None:
        """Raise if another rank has left before it was done with what this rank waits for.

        One that has left later has done its part of it.
        """
        status = MPI.Status()
        while self._comm.Iprobe(MPI.ANY_SOURCE, NOTICE, status):
            notice = np.zeros(LENGTH, np.uint8)
            self._comm.Recv([notice, MPI.BYTE], status.Get_source(), NOTICE)
            self._notices.append(pickle.loads(notice.tobytes()))
        for done, text in self._notices:
            if done <= self._done:
                self.lost = text
                raise RuntimeError(text)


def starts_of(counts: Any) -> Any:
    """Return where each of some things begins that lie one behind the other."""
    found = np.zeros(len(counts), np.int64)
    np.cumsum(np.asarray(counts)[:-1], out=found[1:])
    return found


def _bytes(array: np.ndarray[Any, Any]) -> Any:
    return [array.reshape(-1).view(np.uint8), MPI.BYTE]


def _counted(buffer: Bytes, counts: Any, starts: Any) -> Any:
    return [buffer, (counts, starts), MPI.BYTE]
