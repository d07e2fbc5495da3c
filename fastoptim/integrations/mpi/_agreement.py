"""Agreement: before anything moves, all ranks find out whether each of them means the same.

Each rank sends a record of one size: which call it is in, whether anything is wrong, and digests of
what all must have in common. Where the records differ, the ranks send words, too, and all of them
raise one error that names the rank and the argument.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np

from ._ranks import Ranks

WIDTH = 16  # numbers in a record: call, count of calls, fault, and digests
FIXED = 3


class Subject(NamedTuple):
    """What all ranks must have in common.

    Parameters
    ----------
    digest : int
        What tells one from another.
    words : function
        Returns it in words: what messages call each part of it, and what that is.
    """

    digest: int
    words: Callable[[], Sequence[tuple[str, str]]]


def digest_of(*parts: Any) -> int:
    """Return a number that tells these things from others: buffers, or what has one repr."""
    found = blake2b(digest_size=7)
    for part in parts:
        data = part if isinstance(part, (bytes, memoryview)) else repr(part).encode()
        found.update(len(data).to_bytes(8, "little"))
        found.update(data)
    return int.from_bytes(found.digest(), "little")


def subject(words: Sequence[tuple[str, str]]) -> Subject:
    """Return what is in words already as a subject."""
    return Subject(digest_of(words), lambda: words)


class Agreement:
    """What the calls of one optimizer agree by."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._calls = 0

    def reach(
        self, call: str, subjects: Sequence[Subject] = (), error: BaseException | None = None
    ) -> Exception | None:
        """Wait for all ranks, and return None if they are in this call with the same subjects.

        Else return the error that all of them are to raise. It has the type of that of the first
        rank that has one.
        """
        self._calls += 1
        own = np.zeros(WIDTH, np.int64)
        digests = [of_one.digest for of_one in subjects]
        own[: FIXED + len(digests)] = digest_of(call), self._calls, error is not None, *digests
        records = self._ranks.gathered(own)
        if not records[:, 2].any() and (records == records[0]).all():
            return None
        words = self._ranks.things(tuple(_Words.of(call, error, subjects)))
        told = [_Words(*of_one) for of_one in words]
        return _verdict(told)


class _Words(NamedTuple):
    """What a rank says where the records differ."""

    call: str
    error: tuple[str, str] | None  # its type, if that is one of Python's, and its message
    subjects: list[Sequence[tuple[str, str]]]

    @classmethod
    def of(cls, call: str, error: BaseException | None, subjects: Sequence[Subject]) -> _Words:
        return cls(call, None if error is None else _told_as(error), [s.words() for s in subjects])


def _told_as(error: BaseException) -> tuple[str, str]:
    """Return the type and the message by which other ranks can raise an error."""
    kind, text = type(error), str(error)
    if isinstance(error, OSError) and error.errno is not None:
        text = f"{error.strerror}: {error.filename!r}" if error.filename else str(error.strerror)
    if getattr(builtins, kind.__name__, None) is kind and isinstance(error, Exception):
        return kind.__name__, text
    return "RuntimeError", f"{kind.__name__}: {text}" if text else kind.__name__


def _verdict(told: Sequence[_Words]) -> Exception:
    """Return the error that all ranks raise."""
    for rank, words in enumerate(told):
        if words.error is not None:
            kind, text = words.error
            common: Exception = getattr(builtins, kind)(f"rank {rank}: {text}")
            return common
    first = told[0]
    for rank, words in enumerate(told):
        if words.call != first.call:
            return RuntimeError(
                f"rank {rank}: expected a call of {first.call}, as on rank 0, found {words.call}"
            )
        for ours, theirs in zip(first.subjects, words.subjects, strict=True):
            found = _difference(rank, dict(ours), dict(theirs))
            if found is not None:
                return found
    return RuntimeError("expected the same on all ranks, found something that differs")


def _difference(rank: int, ours: dict[str, str], theirs: dict[str, str]) -> Exception | None:
    """Return the error for the first thing in which a rank differs from the first one."""
    for name in {**ours, **theirs}:
        if ours.get(name) != theirs.get(name):
            expected, found = ours.get(name, "none"), theirs.get(name, "none")
            return ValueError(
                f"rank {rank}: {name}: expected {expected}, as on rank 0, found {found}"
            )
    return None
