"""What an update function says, as a formula: terms, and choices between results made of terms.

A term is a number or a truth value, the same for all elements or one for each. This module knows
neither Python's syntax nor machine code: `fastoptim.rules._grammar` makes formulas of the one, and
`fastoptim.rules._llvm` makes the other of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")


class Term:
    """An operation on other terms, equal to itself alone: `Terms` has one of each.

    Parameters
    ----------
    operation : str
        What it is: ``"array"`` (element of the array of that number: p, g and the state arrays),
        ``"scalar"`` (of that number), ``"whole"`` (that number itself), ``"exists"`` (whether the
        array of that number does); ``"negated"``, ``"sqrt"``, ``"abs"``, ``"where"``, ``"+"``,
        ``"-"``, ``"*"``, ``"/"``, or a comparison, with one to three terms.
    number : int, optional
        Of the first four operations.
    parts : tuple of Term
        Of all others.
    place : int
        Among all terms, of which each comes behind its parts.
    """

    __slots__ = ("is_truth", "is_uniform", "number", "operation", "parts", "place")
    is_uniform: bool

    def __init__(self, operation: str, number: int, parts: tuple[Term, ...], place: int) -> None:
        self.operation = operation
        self.number = number
        self.parts = parts
        self.place = place
        self.is_truth = operation == "exists" or operation in COMPARISONS
        self.is_uniform = operation != "array" and all(part.is_uniform for part in parts)


class Terms:
    """All terms of a formula: two that are made in the same way are one."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int, tuple[Term, ...]], Term] = {}

    def __call__(self, operation: str, *parts: Term, number: int = 0) -> Term:
        """Return the term with this operation."""
        key = operation, number, parts
        if key not in self._found:
            self._found[key] = Term(*key, len(self._found))
        return self._found[key]


def needed(terms: Iterable[Term]) -> list[Term]:
    """Return some terms and all that they are made of, each behind its parts."""
    found: set[Term] = set()
    rest = list(terms)
    while rest:
        term = rest.pop()
        if term not in found:
            found.add(term)
            rest += term.parts
    return sorted(found, key=lambda term: term.place)


class Results(NamedTuple):
    """What an update gives: the new elements of p and of each state array.

    None stands for an array that stays as it is, also because there is none.
    """

    terms: tuple[Term | None, ...]


class Choice(NamedTuple):
    """Two formulas, and the uniform condition that chooses one for all elements."""

    condition: Term
    true: Formula
    false: Formula


Formula: TypeAlias = "Results | Choice"


def terms_of(formula: Formula) -> list[Term]:
    """Return all terms of a formula."""
    if isinstance(formula, Results):
        return needed(term for term in formula.terms if term is not None)
    both = terms_of(formula.true) + terms_of(formula.false)
    return needed([formula.condition, *both])
