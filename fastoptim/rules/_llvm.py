"""Machine code of formulas, by LLVM: a function for each type, at each instruction-set level.

The code has NumPy's bits: each operation of a formula is one instruction of LLVM's, and none is
marked as one that may be fused with another, reordered or left out. Arrays are marked as not
overlapping, which the engine has made sure of: without that each call of a loop would check it.
"""

from __future__ import annotations

import platform
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ._formula import Choice, Formula, Results, Term, needed, terms_of

WORD = f"i{8 * struct.calcsize('P')}"  # ptrdiff_t
TYPES = {"float32": ("float", 32), "float64": ("double", 64)}
OPERATIONS = {
    "negated": "fneg {real} {0}",
    "sqrt": "call {real} @llvm.sqrt.f{bits}({real} {0})",
    "abs": "call {real} @llvm.fabs.f{bits}({real} {0})",
    "where": "select i1 {0}, {real} {1}, {real} {2}",
    "+": "fadd {real} {0}, {1}",
    "-": "fsub {real} {0}, {1}",
    "*": "fmul {real} {0}, {1}",
    "/": "fdiv {real} {0}, {1}",
    "<": "fcmp olt {real} {0}, {1}",
    "<=": "fcmp ole {real} {0}, {1}",
    ">": "fcmp ogt {real} {0}, {1}",
    ">=": "fcmp oge {real} {0}, {1}",
    "==": "fcmp oeq {real} {0}, {1}",
    "!=": "fcmp une {real} {0}, {1}",
}


# What each loop is marked with. By itself LLVM would leave loops with roots alone at the lowest
# level of x86-64, as it reckons with the first processors of that kind.
VECTORISED = ["!0 = distinct !{!0, !1}", '!1 = !{!"llvm.loop.vectorize.enable", i1 true}']


class Target(NamedTuple):
    """What a level is to LLVM; setup.py says the same to C compilers."""

    cpu: str
    features: str = ""
    width: int = 0  # of vectors, in bits, where LLVM by itself would take shorter ones


GENERIC = Target("generic")
TARGETS = {
    "x86_64": {
        "base": Target("x86-64"),
        "v3": Target("x86-64-v3"),
        "v4": Target("x86-64-v4", width=512),
    },
    "aarch64": {"base": GENERIC, "sve": Target("generic", "+sve")},
}
PROCESSORS = {"amd64": "x86_64", "arm64": "aarch64"}  # by the names of other systems


def target_of(level: str) -> Target:
    """Return what a level is on this processor."""
    processor = platform.machine().lower()
    return TARGETS.get(PROCESSORS.get(processor, processor), {}).get(level, GENERIC)


def program(formula: Formula, states: int, scalars: int, width: int = 0) -> str:
    """Return a formula as a program of LLVM's, with a function for each type, named as the type.

    The functions are declared as ``fastoptim.h`` declares loops.
    """
    whole = sorted({term.number for term in terms_of(formula) if term.operation == "whole"})
    functions = (Function(name, states, scalars, whole, width) for name in TYPES)
    lines = [line for function in functions for line in function.lines(formula)]
    return "\n".join([*lines, *VECTORISED, ""])


class Function:
    """The function of a formula for one type."""

    def __init__(self, name: str, states: int, scalars: int, whole: list[int], width: int) -> None:
        self.name, self.scalars, self.whole = name, scalars, whole
        self.real, self.bits = TYPES[name]
        self.arrays = ["%p", "%g", *(f"%s{k}" for k in range(states))]
        self.attributes = f'"prefer-vector-width"="{width}"' if width else ""
        self.blocks = 0

    def lines(self, formula: Formula) -> Iterator[str]:
        """Yield all lines."""
        if self.whole:
            # Constants would let LLVM leave out operations, such as x * 1, that make a denormal
            # number 0 where these are flushed. Others could write to this array, for all it knows.
            values = ", ".join(f"{self.real} {float(number)!r}" for number in self.whole)
            yield f"@{self.name}.whole = global [{len(self.whole)} x {self.real}] [{values}]"
        yield f"declare {self.real} @llvm.sqrt.f{self.bits}({self.real})"
        yield f"declare {self.real} @llvm.fabs.f{self.bits}({self.real})"
        yield from self.entry()
        yield from self.loops(formula)

    def entry(self) -> Iterator[str]:
        """Yield the function that the engine calls.

        It hands over the addresses of the state arrays one by one, since only of an argument can be
        said that it does not overlap others.
        """
        yield f"define void @{self.name}({WORD} %n, ptr %p, ptr %g, ptr %state, ptr %scalars) {{"
        for k, array in enumerate(self.arrays[2:]):
            yield f"  {array}.at = getelementptr ptr, ptr %state, {WORD} {k}"
            yield f"  {array} = load ptr, ptr {array}.at"
        arrays = ", ".join(f"ptr {array}" for array in self.arrays)
        yield f"  call void @{self.name}.loops({WORD} %n, {arrays}, ptr %scalars)"
        yield "  ret void"
        yield "}"

    def loops(self, formula: Formula) -> Iterator[str]:
        """Yield the function with a loop for each path through the formula."""
        arrays = ", ".join(f"ptr noalias {array}" for array in self.arrays)
        arguments = f"{WORD} %n, {arrays}, ptr noalias %scalars"
        yield f"define internal void @{self.name}.loops({arguments}) noinline {self.attributes} {{"
        yield f"  %empty = icmp sle {WORD} %n, 0"
        yield "  br i1 %empty, label %end, label %b0"
        yield from self.block(formula, {})
        yield "end:"
        yield "  ret void"
        yield "}"

    def block(self, formula: Formula, known: Mapping[Term, str]) -> Iterator[str]:
        """Yield the next block, and those that it leads to; known terms have names already."""
        number, names = self.blocks, {**known}
        self.blocks += 1
        yield f"b{number}:"
        if isinstance(formula, Choice):
            yield from self.computed(needed([formula.condition]), names, number)
            condition = names[formula.condition]
            yield f"  br i1 {condition}, label %b{self.blocks}, label %b{number}.false"
            yield from self.block(formula.true, names)
            yield f"b{number}.false:"
            yield f"  br label %b{self.blocks}"
            yield from self.block(formula.false, names)
        else:
            yield from self.loop(formula, names, number)

    def loop(self, results: Results, names: dict[Term, str], number: int) -> Iterator[str]:
        """Yield a loop over all elements."""
        terms = needed(term for term in results.terms if term is not None)
        yield from self.computed([term for term in terms if term.is_uniform], names, number)
        yield f"  br label %b{number}.loop"
        yield f"b{number}.loop:"
        i = f"%i{number}"
        yield f"  {i} = phi {WORD} [ 0, %b{number} ], [ {i}.next, %b{number}.loop ]"
        yield from self.computed([term for term in terms if not term.is_uniform], names, number)
        outputs = [array for array in self.arrays if array != "%g"]
        for array, term in zip(outputs, results.terms, strict=True):
            if term is not None:
                at = f"{array}.new{number}"
                yield f"  {at} = getelementptr {self.real}, ptr {array}, {WORD} {i}"
                yield f"  store {self.real} {names[term]}, ptr {at}"
        yield f"  {i}.next = add nuw nsw {WORD} {i}, 1"
        yield f"  %done{number} = icmp eq {WORD} {i}.next, %n"
        yield f"  br i1 %done{number}, label %end, label %b{number}.loop, !llvm.loop !0"

    def computed(self, terms: Iterable[Term], names: dict[Term, str], number: int) -> Iterator[str]:
        """Yield what computes some terms, but for those that have names, and name them."""
        for term in terms:
            if term not in names:
                names[term] = f"%t{term.place}.b{number}"
                yield from self.instructions(term, names, number)

    def instructions(self, term: Term, names: Mapping[Term, str], number: int) -> Iterator[str]:
        """Yield what computes one term of others."""
        name, real = names[term], self.real
        if term.operation == "exists":
            yield f"  {name} = icmp ne ptr {self.arrays[term.number]}, null"
        elif term.operation in OPERATIONS:
            parts = [names[part] for part in term.parts]
            operation = OPERATIONS[term.operation].format(*parts, real=real, bits=self.bits)
            yield f"  {name} = {operation}"
        else:
            base, index = self.place(term, number)
            yield f"  {name}.at = getelementptr {real}, ptr {base}, {WORD} {index}"
            yield f"  {name} = load {real}, ptr {name}.at"

    def place(self, term: Term, number: int) -> tuple[str, str | int]:
        """Return where a term is that is read from memory: an address, and how far behind it."""
        if term.operation == "array":
            return self.arrays[term.number], f"%i{number}"
        if term.operation == "scalar":
            return "%scalars", term.number
        return f"@{self.name}.whole", self.whole.index(term.number)
