"""Loops that can be run in several ways, of which the fastest counts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from fastoptim._engine.threads import explain_limit


class Variant(NamedTuple):
    """The instruction-set level of loops, and how many threads run them."""

    level: str
    threads: int

    def __str__(self) -> str:
        return f"{self.level} x {self.threads}"


def variants(levels: Iterable[str]) -> list[Variant]:
    """Return these levels with all numbers of threads that are worth a try."""
    return [Variant(level, threads) for level in levels for threads in thread_counts()]


def thread_counts() -> list[int]:
    """Return the powers of two up to the most threads that a step may use, and that number."""
    allowed: int = explain_limit()[0]
    return [*(1 << k for k in range(allowed.bit_length()) if 1 << k < allowed), allowed]
