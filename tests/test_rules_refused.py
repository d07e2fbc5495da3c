"""What a rule of one's own must not say is refused when it is made: by name, line and words.

And whatever is wrong with the arguments of `fo.rule` and `fo.optimizer`.
"""

from __future__ import annotations

import ast
import functools
import math
import re
import runpy
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest
from written import function_from
from zoo import snapshot

import fastoptim as fo
from fastoptim.rules._grammar import INSTEAD
from fastoptim.typing import NonNegative, Switch

ELEMENT = "a condition that is the same for all elements"
STATEMENTS = "assignments, if and return alone"
NAMES = "the function's arguments and what it has named itself"
FUNCTIONS = "the functions fo.where, fo.sqrt and fo.abs"
NOT_LITERAL = "a number that is not a literal among them"
EXPRESSIONS = r"names, + - * /, comparisons and the functions of fo"


def scalars(step, lr: NonNegative = 0.1, extra: Switch = False):
    return lr, 2.0


def make(body, **options):
    """Return the rule of a function's statements, the first of which is in the second line."""
    text = "def mine(p, g, m, lr, two):\n" + "".join(f"    {line}\n" for line in body.split("\n"))
    names = {"math": math, "factor": 0.5, "count": 3, "config": SimpleNamespace(k=2), "own": abs_of}
    return fo.rule(state=("m",), scalars=scalars, **options)(function_from(text, **names))


def abs_of(x):
    return abs(x)


# Statements, the line of what is refused, what was expected, its words, and what to write instead.
REFUSED = [
    ("return 0.5 * p, m", 2, "a whole number", "0.5", "let the function of scalars return it"),
    ("return p - 1e-3 * g, m", 2, "a whole number", "1e-3", "function of scalars"),
    ("return p * 16777216, m", 2, "a whole number below 2**24", "16777216", "function of scalars"),
    ("return p * -16777216, m", 2, "a whole number below 2**24", "16777216", "function of"),
    ("return p * True, m", 2, "a whole number", "True", "1 for True"),
    ("return p * 'x', m", 2, "a whole number", "'x'", "function of scalars"),
    ("return p ** 2, m", 2, "+ - * /", "p ** 2", "write x * x"),
    ("return p ** 0.5, m", 2, "+ - * /", "p ** 0.5", "fo.sqrt(x) for a root"),
    ("return p // 2, m", 2, "+ - * /", "p // 2", "write x / y"),
    ("return p % 2, m", 2, "+ - * /", "p % 2", "function of scalars"),
    ("return p @ g, m", 2, "+ - * /", "p @ g", "examples.muon"),
    (
        "return fo.where((p > 0) & (g > 0), p, g), m",
        2,
        "+ - * /",
        "(p > 0) & (g > 0)",
        "fo.where(b",
    ),
    (
        "return fo.where((p > 0) | (g > 0), p, g), m",
        2,
        "+ - * /",
        "(p > 0) | (g > 0)",
        "x, fo.where",
    ),
    ("return fo.where(~(p > 0), p, g), m", 2, "no sign but -", "~(p > 0)", "fo.where(a, y, x) for"),
    ("return +p, m", 2, "no sign but -", "+p", "leave the sign out"),
    ("return fo.where(not p > 0, p, g), m", 2, "no sign but -", "not p > 0", "fo.where(a, y, x)"),
    (
        "return fo.where(p > 0 and g > 0, p, g), m",
        2,
        EXPRESSIONS,
        "p > 0 and g > 0",
        "fo.where(a, fo.where(b, x, y), y)",
    ),
    (
        "return fo.where(0 < p < 1, p, g), m",
        2,
        "one comparison",
        "0 < p < 1",
        "fo.where(a < x, fo.where(x < b, y, z), z)",
    ),
    ("return fo.where(p in g, p, g), m", 2, "< <= > >= == !=", "p in g", "fo.where(x == a, y,"),
    (
        "return fo.where(p is None, p, g), m",
        2,
        "< <= > >= == !=",
        "p is None",
        "write `if m is None:`",
    ),
    (
        "return fo.where(p, p, g), m",
        2,
        "a comparison for a condition",
        "p",
        "write x != 0 for a number x",
    ),
    ("return fo.where(p > 0, 1, 0), m", 2, NOT_LITERAL, "fo.where(p > 0, 1, 0)", "of scalars"),
    ("return p * (1 / 2), m", 2, NOT_LITERAL, "1 / 2", "function of scalars"),
    ("one = 1\nreturn p * (one + one), m", 3, NOT_LITERAL, "one + one", "function of scalars"),
    ("return p * fo.sqrt(2), m", 2, NOT_LITERAL, "fo.sqrt(2)", "function of scalars"),
    ("return p * abs(-2), m", 2, NOT_LITERAL, "abs(-2)", "function of scalars"),
    ("return fo.where(1 < 2, p, g), m", 2, NOT_LITERAL, "1 < 2", "function of scalars"),
    (
        "return fo.where(p > 0, p), m",
        2,
        "3 arguments of where, without names",
        "fo.where(p >",
        "fo.where(condition, x, y)",
    ),
    (
        "return fo.sqrt(x=p), m",
        2,
        "1 argument of sqrt, without names",
        "fo.sqrt(x=p)",
        "write fo.sqrt(x)",
    ),
    (
        "return fo.where(*[p > 0, p, g]), m",
        2,
        "3 arguments of where",
        "fo.where(*[p",
        "fo.where(condition, x, y)",
    ),
    ("return np.exp(p), m", 2, FUNCTIONS, "np.exp(p)", "hyperparameters alone"),
    ("return p * math.sqrt(lr), m", 2, FUNCTIONS, "math.sqrt(lr)", "function of scalars"),
    ("return np.maximum(p, g), m", 2, FUNCTIONS, "np.maximum(p, g)", "write fo.where(x > y, x, y)"),
    ("return np.clip(p, 0, 1), m", 2, FUNCTIONS, "np.clip(p, 0, 1)", "fo.where(x < low, low"),
    ("return p - lr * np.sign(g), m", 2, FUNCTIONS, "np.sign(g)", "fo.where(x > 0, 1, fo.where"),
    ("return own(p), m", 2, FUNCTIONS, "own(p)", "write its formula here"),
    ("return unheard(p), m", 2, FUNCTIONS, "unheard(p)", "write its formula here"),
    ("return p - g.sum(), m", 2, FUNCTIONS, "g.sum()", "fastoptim.examples.muon"),
    ("sqrt = g\nreturn sqrt(p), m", 3, FUNCTIONS, "sqrt(p)", "give the value another"),
    ("fo = g\nreturn fo.sqrt(p), m", 3, FUNCTIONS, "fo.sqrt(p)", "give the value another"),
    ("return p * unheard, m", 2, NAMES, "unheard", "there is no such name"),
    ("return p * factor, m", 2, NAMES, "factor", "it might change; let the function of scalars"),
    ("return p * count, m", 2, NAMES, "count", "it might change; let the function of scalars"),
    ("return p * config.k, m", 2, NAMES, "config.k", "it might change"),
    ("return p * np.pi, m", 2, NAMES, "np.pi", "it might change"),
    ("return p * abs, m", 2, NAMES, "abs", "fo.abs(x)"),
    ("return p.T, m", 2, NAMES, "p.T", "fastoptim.examples.muon"),
    ("return p[0], m", 2, EXPRESSIONS, "p[0]", "computed of those at its own place"),
    ("return p * [1][0], m", 2, EXPRESSIONS, "[1][0]", "its own place"),
    ("return p * (lambda: 1)(), m", 2, FUNCTIONS, "(lambda: 1)()", "write its formula here"),
    ("return p * (x := g), m", 2, EXPRESSIONS, "x := g", "a line of its own"),
    ("return p * (p > 0), m", 2, "a number", "p > 0", "write fo.where(condition, x, y)"),
    ("return p > 0, m", 2, "a number", "p > 0", "write fo.where"),
    ("return p * (g, m), m", 2, "one number", "(g, m)", "one by one"),
    ("return p * None, m", 2, "a number", "None", "write a number"),
    ("if g > 0:\n    p = g\nreturn p, m", 2, ELEMENT, "g > 0", "write fo.where(condition, x, y)"),
    ("return (p if g > 0 else g), m", 2, ELEMENT, "g > 0", "write fo.where(condition, x, y)"),
    ("c = g > lr\nif c:\n    p = g\nreturn p, m", 3, ELEMENT, "c", "write fo.where"),
    (
        "if lr:\n    p = g\nreturn p, m",
        2,
        "a comparison for a condition",
        "lr",
        "write x != 0 for a number x",
    ),
    ("if 1:\n    p = g\nreturn p, m", 2, "a comparison for a condition", "1", "write x != 0"),
    (
        "if lr > 0 and two > 0:\n    p = g\nreturn p, m",
        2,
        EXPRESSIONS,
        "lr > 0 and two > 0",
        "an if within an if",
    ),
    ("if not lr > 0:\n    p = g\nreturn p, m", 2, "no sign but -", "not lr > 0", "exchange the br"),
    ("if m is None:\n    p = g\nreturn p, m", 2, "need not exist", "m is None", "say by needs="),
    (
        "if lr is two:\n    p = g\nreturn p, m",
        2,
        "`is None` or `is not None`",
        "lr is two",
        "== for all else",
    ),
    ("p -= lr * g\nreturn p, m", 2, STATEMENTS, "p -= lr * g", "write x = x + y for x += y"),
    ("p[...] = g\nreturn p, m", 2, "a name", "p[...]", "the function changes no array"),
    ("fo.x = g\nreturn p, m", 2, "a name", "fo.x", "the function changes no array"),
    ("x: float = g\nreturn p, m", 2, STATEMENTS, "x: float = g", "leave the annotation out"),
    (
        "for k in (1, 2):\n    p = p + g\nreturn p, m",
        2,
        STATEMENTS,
        "for k in",
        "one after the other",
    ),
    ("while lr > 0:\n    p = g\nreturn p, m", 2, STATEMENTS, "while lr > 0", "one after the other"),
    ("assert lr > 0\nreturn p, m", 2, STATEMENTS, "assert lr > 0", "in the function of scalars"),
    ("print(p)\nreturn p, m", 2, STATEMENTS, "print(p)", "leave it out"),
    ("import numpy\nreturn p, m", 2, STATEMENTS, "import numpy", "outside of the function"),
    ("global lr2\nreturn p, m", 2, STATEMENTS, "global lr2", "function of scalars"),
    (
        "def f(x):\n    return x\nreturn f(p), m",
        2,
        STATEMENTS,
        "def f(x)",
        "write its formula here",
    ),
    (
        "a, b = p\nreturn a, b",
        2,
        "as many names as values, which are 1",
        "a, b",
        "a name for each value",
    ),
    (
        "a, b = p, g, m\nreturn a, b",
        2,
        "as many names as values, which are 3",
        "a, b",
        "a name for each value",
    ),
    ("if lr > 0:\n    x = g\nreturn x, m", 4, "a value on every path", "x", "before the if"),
    ("return p", 2, "the new p, m", "1 of them", "write return p, m"),
    ("return p, g, m", 2, "the new p, m", "3 of them", "write return p, m"),
    ("return", 2, "the new p, m", "none", "write return p, m"),
    ("m = g", 2, "a return of the new p, m at the end of every path", "m = g", "write return p, m"),
    (
        "if lr > 0:\n    return p, m",
        2,
        "at the end of every path",
        "if lr > 0",
        "write return p, m",
    ),
    ("return p, None", 2, "a number", "None", "write a number"),
    ("return p * 1j, m", 2, "a whole number", "1j", "function of scalars"),
    ("return p * ..., m", 2, "a whole number", "...", "function of scalars"),
    ("return p << 2, m", 2, "+ - * /", "p << 2", "write x * 4"),
    ("return p >> 2, m", 2, "+ - * /", "p >> 2", "write x / 4"),
    ("return fo.where((p > 0) ^ (g > 0), p, g), m", 2, "+ - * /", "(p > 0) ^ (g > 0)", "for a ^ b"),
    ("return fo.where(p > 0 or g > 0, p, g), m", 2, EXPRESSIONS, "p > 0 or g > 0", "for a or b"),
    ("return fo.where(p not in g, p, g), m", 2, "< <= > >= == !=", "p not in g", "not in (a, b)"),
    ("return fo.where(p is not m, p, g), m", 2, "< <= > >= == !=", "p is not m", "!= for all else"),
    (
        "if p is None:\n    p = g\nreturn p, m",
        2,
        "need not exist",
        "p is None",
        "leave the test out",
    ),
    ("if None is m:\n    p = g\nreturn p, m", 2, "`is None`", "None is m", "`if m is None:`"),
    ("return p * {1: 2}, m", 2, EXPRESSIONS, "{1: 2}", "give each value a name"),
    ("return p * {1, 2}, m", 2, EXPRESSIONS, "{1, 2}", "give each value a name"),
    ("return p * [x for x in p], m", 2, EXPRESSIONS, "[x for x in p]", "one by one"),
    ("return p * {x for x in p}, m", 2, EXPRESSIONS, "{x for x in p}", "one by one"),
    ("return p * {x: x for x in p}, m", 2, EXPRESSIONS, "{x: x for", "give each value a name"),
    ("return p * (x for x in p), m", 2, EXPRESSIONS, "(x for x in p)", "one by one"),
    ("return p * (lambda: 1), m", 2, EXPRESSIONS, "lambda: 1", "write its formula here"),
    ("return p * f'{lr}', m", 2, EXPRESSIONS, "f'{lr}'", "numbers for words"),
    ("return [p, m]", 2, EXPRESSIONS, "[p, m]", "write a tuple"),
    ("return (*p, m)", 2, EXPRESSIONS, "*p", "one by one"),
    ("a, *b = p, m\nreturn a, b", 2, "a name", "*b", "a name for each value"),
    ("p = yield g\nreturn p, m", 2, EXPRESSIONS, "yield g", "return the results"),
    ("p = yield from g\nreturn p, m", 2, EXPRESSIONS, "yield from g", "return the results"),
    ("class A:\n    pass\nreturn p, m", 2, STATEMENTS, "class A", "leave it out"),
    ("async def f():\n    pass\nreturn p, m", 2, STATEMENTS, "async def f", "write its formula"),
    ("del g\nreturn p, m", 2, STATEMENTS, "del g", "leave it out"),
    ("with fo:\n    p = g\nreturn p, m", 2, STATEMENTS, "with fo", "what is in it alone"),
    ("try:\n    p = g\nfinally:\n    p = g\nreturn p, m", 2, STATEMENTS, "try:", "in it alone"),
    ("match lr:\n    case 0: p = g\nreturn p, m", 2, STATEMENTS, "match lr", "write if and elif"),
    ("raise ValueError\nreturn p, m", 2, STATEMENTS, "raise ValueError", "function of scalars"),
    ("from math import pi\nreturn p, m", 2, STATEMENTS, "from math", "outside of the function"),
    ("...\nreturn p, m", 2, STATEMENTS, "...", "leave it out"),
]

# A condition in the place of a number, and the other way round.
A_NUMBER = "write fo.where(condition, x, y) for x where it holds"
NO_CONDITION = "write x != 0 for a number x"
REFUSED += [
    (f"return {body}, m", 2, *rest)
    for body, *rest in [
        ("(p > 0) + g", "a number", "p > 0", A_NUMBER),
        ("g / (p > 0)", "a number", "p > 0", A_NUMBER),
        ("-(p > 0)", "a number", "p > 0", A_NUMBER),
        ("fo.abs(p > 0)", "a number", "p > 0", A_NUMBER),
        ("fo.sqrt(p > 0)", "a number", "p > 0", A_NUMBER),
        ("fo.where(p > 0, g > 0, p)", "a number", "g > 0", A_NUMBER),
        ("fo.where(p > 0, p, g > 0)", "a number", "g > 0", A_NUMBER),
        ("fo.where((p > 0) > 0, p, g)", "a number", "p > 0", A_NUMBER),
        ("fo.where(0 < (p > 0), p, g)", "a number", "p > 0", A_NUMBER),
        ("fo.where((p > 0) == 1, p, g)", "a number", "p > 0", A_NUMBER),
        ("(p if (lr > 0) == (two > 0) else g)", "a comparison of numbers", "(lr > 0)", "a == b"),
        ("fo.where((g > 0) == (p > 0), p, g)", "a comparison of numbers", "(g > 0)", "a == b"),
        ("fo.where((g > 0) != (p > 0), p, g)", "a comparison of numbers", "(g > 0)", "a == b"),
        ("fo.where((g > 0) < (p > 0), p, g)", "a comparison of numbers", "(g > 0)", "a == b"),
        ("fo.where(p + 1, p, g)", "a comparison for a condition", "p + 1", NO_CONDITION),
        ("fo.where((p, g), p, g)", "a comparison for a condition", "(p, g)", NO_CONDITION),
        ("fo.where(None, p, g)", "a comparison for a condition", "None", NO_CONDITION),
        ("fo.where(True, p, g)", "a whole number", "True", "write 1 for True"),
        ("(p if two else g)", "a comparison for a condition", "two", NO_CONDITION),
        ("(p if lr + two else g)", "a comparison for a condition", "lr + two", NO_CONDITION),
        ("p * (lr > 0, 1)", "one number", "(lr > 0, 1)", "one by one"),
        ("(p > 0, g > 0)", "one number", "(p > 0, g > 0)", "one by one"),
    ]
]


@pytest.mark.parametrize(("body", "line", "expected", "words", "instead"), REFUSED)
def test_refused_by_name_line_and_words(body, line, expected, words, instead):
    with pytest.raises(ValueError, match=r"^mine: <written \d+>, line") as caught:
        make(body)
    found = str(caught.value)
    assert f", line {line}: expected " in found, found
    before, _, after = found.partition(", found ")
    assert expected in before, found
    assert after.startswith(words), found
    assert instead in after[len(words) :].partition(": ")[2], found


PARTS = ast.stmt, ast.expr, ast.operator, ast.unaryop, ast.boolop, ast.cmpop
READ = {
    *("Return", "Assign", "If", "Pass", "BoolOp", "BinOp", "UnaryOp", "IfExp", "Compare", "Call"),
    *("Constant", "Attribute", "Name", "Tuple", "Add", "Sub", "Mult", "Div", "USub"),
    *("Eq", "NotEq", "Lt", "LtE", "Gt", "GtE"),
}
# What is found only within what is refused, and what a function made by def cannot have.
WITHIN = {
    *("Break", "Continue", "Slice", "FormattedValue", "Interpolation"),
    *("AsyncFor", "AsyncWith", "Await"),
}


def test_all_of_pythons_grammar_is_read_or_has_words_to_write_instead():
    names = {part.__name__ for base in PARTS for part in base.__subclasses__()}
    names -= {"Num", "Str", "Bytes", "NameConstant", "Ellipsis"}  # which Python 3.8 has replaced
    later = {"TryStar", "TypeAlias", "TemplateStr"}  # than Python 3.10
    assert names - READ - WITHIN - later == INSTEAD.keys() - later
    assert names & later <= INSTEAD.keys()


def test_each_part_of_pythons_grammar_that_is_refused_is_tried():
    written = {
        type(part).__name__
        for body, *_ in REFUSED
        for part in ast.walk(ast.parse(f"def mine():\n{textwrap.indent(body, ' ')}"))
    }
    assert INSTEAD.keys() - written <= {"TryStar", "TypeAlias", "TemplateStr", "Nonlocal"}


NEEDED = [
    (
        "return p * m, m",
        2,
        "a test of m, which is None without extra",
        "m",
        "write `if m is None:`",
    ),
    ("return p, g", 2, "a test of m, which is None without extra", "g", "write `if m is None:`"),
    ("x = m\nreturn p * x, m", 3, "a test of m, which is None without extra", "x", "write `if m"),
    (
        "if m is None:\n    return p, g\nreturn p, m",
        3,
        "None, as this state does not",
        "g",
        "write None",
    ),
    (
        "if m is None:\n    return m, m\nreturn p, m",
        3,
        "a number, as this state does not",
        "m",
        "write it where",
    ),
    ("if m is None:\n    return p, None\nreturn p, None", 4, "a number", "None", "write a number"),
]


@pytest.mark.parametrize(("body", "line", "expected", "words", "instead"), NEEDED)
def test_state_that_need_not_exist(body, line, expected, words, instead):
    with pytest.raises(ValueError, match=r"^mine: <written \d+>, line") as caught:
        make(body, needs={"m": "extra"})
    before, _, after = str(caught.value).partition(", found ")
    assert f", line {line}: expected " in before
    assert expected in before
    assert after.startswith(words)
    assert instead in after


TAKEN = [
    "return p, m",
    "'''It says what it does.'''\nreturn p - lr * g, m + g",
    "x = y = g\nreturn x, y",
    "(a, b), c = (p, g), m\nreturn a - b, c",
    "new = p - lr * g, m\nreturn new",
    "return p - lr * g, 0",
    "return lr, -1",
    "return p * -(-3), m",
    "c = g > 0\nreturn fo.where(c, p, g), m",
    "return np.where(g > 0, np.sqrt(g), np.abs(m)), np.absolute(abs(m))",
    "return p * 16777215, m",
    "if lr > two:\n    pass\nelif lr == 0:\n    p = g\nelse:\n    return m, m\nreturn p, m",
    "return (p if lr < 1 else g) * (m if two != 1 else 3), m",
]


@pytest.mark.parametrize("body", TAKEN)
def test_taken(body):
    own = make(body)
    p, g, m = np.array([1.0, -2.0]), np.array([3.0, 4.0]), np.array([5.0, -6.0])
    expected = own.function(p.copy(), g, m.copy(), np.float64(0.1), np.float64(2.0))
    own(p, g, m, step=1)
    assert p.tolist() == np.broadcast_to(expected[0], 2).tolist()
    assert m.tolist() == np.broadcast_to(expected[1], 2).tolist()


def test_too_many_paths():
    body = "\n".join(f"if lr > {k}:\n    p = p + g" for k in range(6)) + "\nreturn p, m"
    with pytest.raises(ValueError, match="mine: expected at most 32 paths through its conditions"):
        make(body)


def test_the_place_is_that_of_the_file():
    with pytest.raises(ValueError, match=re.escape(f"{__file__}, line {LINE}: expected")):

        @fo.rule(scalars=scalars)
        def indented(p, g, lr, two):
            # the next line is refused
            return p - 0.5 * g


LINE = test_the_place_is_that_of_the_file.__code__.co_firstlineno + 6


def test_names_of_closures():
    """A function or a module of NumPy's by any name is itself; a number may change."""
    root, numbers = np.sqrt, 2

    @fo.rule(scalars=scalars)
    def closing(p, g, lr, two):
        return p - root(lr * g)

    with pytest.raises(ValueError, match="found numbers: it might change; let the function"):

        @fo.rule(scalars=scalars)
        def other(p, g, lr, two):
            return p - numbers * g


def test_functions_without_a_source():
    space = {}
    exec("def mine(p, g, lr, two): return p", space)
    message = "mine: expected a function whose source can be read, found one without a file"
    with pytest.raises(ValueError, match=message):
        fo.rule(scalars=scalars)(space["mine"])


@pytest.mark.parametrize(
    "found",
    [(0.1,), (0.1, 1, 2), 0.1, [0.1, 2], (0.1, None), ("0.1", 2), (0.1, 1j), (0.1, 10**400), None],
)
@pytest.mark.parametrize("first", [1, 3])
def test_scalars_that_are_not_those_of_the_function(found, first):
    """When the rule is made, or in a later step, which then changes nothing."""

    def changing(step, lr=0.1):
        return (lr, 2.0) if step < first else found

    message = r"plain: expected scalars that return a tuple of numbers \(lr, two\), found"
    make = fo.rule(scalars=changing)
    if first == 1:
        with pytest.raises(TypeError, match=message):
            make(plain)
        return
    opt = fo.optimizer(make(plain))(np.ones(3))
    opt.step(np.ones(3))
    opt.step(np.ones(3))
    before = snapshot(opt)
    with pytest.raises(TypeError, match=message):
        opt.step(np.ones(3))
    assert snapshot(opt) == before


def test_scalars_that_are_flags_or_numbers_of_numpy():
    def odd(lr=0.5, on: Switch = True):
        return np.float32(lr), on

    text = "def odd(p, g, lr, on):\n    return p - (lr * g if on != 0 else g)\n"
    p = np.ones(2)
    fo.optimizer(fo.rule(scalars=odd)(function_from(text)))(p).step(np.ones(2))
    assert p.tolist() == [0.5, 0.5]


FACTORY = """
import fastoptim as fo

def make():
    @fo.rule(scalars=lambda lr=0.1: (lr,))
    def made(p, g, lr):
        return p - lr * g
    return made
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("p - lr", "p + lr"),
        ("import fastoptim", "import math\nimport fastoptim"),
        ("make()", "make("),
    ],
)
def test_a_file_that_has_changed_since_it_was_loaded(tmp_path, old, new):
    """Its function may be another one now, and what would be compiled is read from it."""
    file = tmp_path / "changing.py"
    file.write_text(FACTORY)
    make = runpy.run_path(str(file))["make"]
    assert make().function(1.0, 1.0, 0.5) == 0.5
    file.write_text(FACTORY.replace(old, new))
    with pytest.raises(ValueError, match=r"made: .* in \S+changing.py, found that it has changed"):
        make()
    file.write_text(FACTORY + "\n# another comment\n")
    assert make().function(1.0, 1.0, 0.5) == 0.5


def plain(p, g, lr, two):
    return p


@functools.wraps(plain)
def wrapped(p, g, lr, two):
    return g


WRONG = [
    ({}, lambda p, g, lr, two: p, ValueError, r"<lambda>: .* made by def, found .*: write def"),
    ({}, wrapped, TypeError, "plain: expected a plain function, found"),
    ({}, np.sqrt, TypeError, "sqrt: expected a plain function, found <ufunc 'sqrt'>"),
    ({}, 3, TypeError, "rule: expected a plain function, found 3"),
    (
        {"state": "m"},
        plain,
        TypeError,
        r"state: expected a sequence of names, as in \('m',\), found",
    ),
    ({"state": 3}, plain, TypeError, "state: expected a sequence of names"),
    ({"state": (3,)}, plain, ValueError, "state: expected names other than .*, found 3"),
    (
        {"state": ("p",)},
        plain,
        ValueError,
        "state: expected names other than p, g, step, .*, found",
    ),
    ({"state": ("m", "m")}, plain, ValueError, "state: expected each name once, found m, m"),
    ({"state": ("m",)}, plain, TypeError, "plain: expected the arguments p, g, m, as state= has"),
    ({"needs": 3}, plain, TypeError, "needs: expected a mapping, or None, found 3"),
    ({"starts": 3}, plain, TypeError, "starts: expected a mapping, or None, found 3"),
    (
        {"needs": {"m": "lr"}},
        plain,
        ValueError,
        r"needs: expected names of state .*none.* found 'm'",
    ),
    ({"decoupled": 3}, plain, TypeError, "decoupled: expected True or False, found 3"),
    ({"decoupled": "lr"}, plain, ValueError, "plain: expected scalars that take weight_decay"),
    ({"name": 3}, plain, TypeError, "name: expected a name, or None, found 3"),
    ({"name": " "}, plain, ValueError, "name: expected a name, or None, found ' '"),
    ({"scalars": 3}, plain, TypeError, "scalars: expected a function, found 3"),
    ({"scalars": lambda step, lr=0.1: (lr,)}, plain, TypeError, "return a tuple of numbers"),
    ({"scalars": lambda step, lr: (lr, 1)}, plain, (TypeError, ValueError), "lr"),
    ({"scalars": lambda step, lr="x": (lr, 1)}, plain, (TypeError, ValueError), "lr"),
    (
        {"scalars": lambda step, l1=0.1: (l1, 1)},
        plain,
        ValueError,
        "that mean nothing else, found l1",
    ),
    ({"scalars": lambda step, mask=0.1: (mask, 1)}, plain, ValueError, "nothing else, found mask"),
    ({"scalars": lambda step, rule=0.1: (rule, 1)}, plain, ValueError, "nothing else, found rule"),
    (
        {"scalars": lambda step, optimizer=0.1: (optimizer, 1)},
        plain,
        ValueError,
        "nothing else, found optimizer",
    ),
    ({"loops": 3}, plain, TypeError, "loops: expected a mapping, or None, found 3"),
    (
        {"loops": {}},
        plain,
        ValueError,
        "loops: expected the keys 'float32' and 'float64', found noth",
    ),
    ({"loops": {"float32": 1}}, plain, ValueError, "and 'float64', found 'float32'"),
    (
        {"loops": {"float32": "x", "float64": 1}},
        plain,
        TypeError,
        r"loops\['float32'\]: expected an",
    ),
    (
        {"loops": {"float32": 0, "float64": 1}},
        plain,
        ValueError,
        "expected the address of a function",
    ),
    (
        {"loops": {"float32": 1, "float64": -1}},
        plain,
        ValueError,
        r"loops\['float64'\]: expected the",
    ),
    (
        {"loops": {"float32": True, "float64": 1}},
        plain,
        TypeError,
        r"loops\['float32'\]: .*found True",
    ),
]


@pytest.mark.parametrize(("options", "function", "error", "message"), WRONG)
def test_wrong_arguments(options, function, error, message):
    with pytest.raises(error, match=message):
        fo.rule(**{"scalars": scalars, **options})(function)


def defaults(p, g, lr=1, two=2):
    return p


def keywords(p, g, lr, *, two):
    return p


def stars(p, g, *rest):
    return p


@pytest.mark.parametrize("function", [defaults, keywords, stars])
def test_arguments_that_are_not_plain(function):
    with pytest.raises(TypeError, match="expected plain arguments without defaults, found "):
        fo.rule(scalars=scalars)(function)


def test_needs_and_starts_that_name_nothing():
    text = "def mine(p, g, m, lr, two):\n    return p, m\n"
    for label in ("needs", "starts"):
        message = rf"{label}\['m'\]: expected the name of a hyperparameter \(lr, extra\), found 'x'"
        with pytest.raises(ValueError, match=message):
            fo.rule(state=("m",), scalars=scalars, **{label: {"m": "x"}})(function_from(text))
    with pytest.raises(ValueError, match="expected a hyperparameter that is a number, found extra"):
        fo.rule(state=("m",), scalars=scalars, starts={"m": "extra"})(function_from(text))


def test_too_many_state_arrays():
    names = [f"s{k}" for k in range(5)]
    text = f"def mine(p, g, {', '.join(names)}, lr, two):\n    return p, {', '.join(names)}\n"
    with pytest.raises(ValueError, match="mine: expected at most 4 arrays beside p and g, found 5"):
        fo.rule(state=names, scalars=scalars)(function_from(text))


def test_classes_are_made_of_rules_of_ones_own():
    own = make("return p, m")
    for wrong in (own.function, fo.reference.adam, fo.Adam, None):
        with pytest.raises(
            TypeError, match=r"rule: expected a rule made by fastoptim\.rule, found"
        ):
            fo.optimizer(wrong)
    for wrong in (3, "", "a b"):
        with pytest.raises((TypeError, ValueError), match="name: expected the name of a class, or"):
            fo.optimizer(own, wrong)


def test_hyperparameters_that_every_optimizer_has_an_attribute_for():
    @fo.rule(scalars=lambda steps=0.1: (steps,))
    def hiding(p, g, steps):
        return p - steps * g

    with pytest.raises(ValueError, match=r"hiding: expected names of .* found steps"):
        fo.optimizer(hiding)
