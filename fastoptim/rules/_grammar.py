"""Reading an update function: its formula, or an error that says what it must not say, and where.

The function is gone through statement by statement, with terms for the values of its names, once
for each path through its conditions. What has been read is what is compiled; the function itself,
run on arrays, is the reference. So whatever could mean one thing here and another there is refused.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import reprlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import CodeType, FunctionType, ModuleType
from typing import Any, NoReturn, TypeAlias

import numpy as np

from ._formula import COMPARISONS, Choice, Formula, Results, Term, Terms

MOST_PATHS = 32  # through the conditions of a function: each becomes a loop
EXACT = 2**24  # whole numbers below it are numbers of float32

# A value of a name: a term, None, or several values in a tuple.
Value: TypeAlias = "Term | tuple[Value, ...] | None"

FUNCTIONS: dict[Callable[..., Any], tuple[str, int]] = {
    np.where: ("where", 3),
    np.sqrt: ("sqrt", 1),
    np.abs: ("abs", 1),
    builtins.abs: ("abs", 1),
}
ARITHMETIC = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
COMPARED = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
}  # fmt: skip
assert tuple(COMPARED.values()) == COMPARISONS

BY_SCALARS = "let the function of scalars return it"
NAME_IT = "give it a value before, or let the function of scalars return it"
AND = "write fo.where(a, fo.where(b, x, y), y) for a and b, and an if within an if for if a and b"
OR = "write fo.where(a, x, fo.where(b, x, y)) for a or b, and an elif for if a or b"
NOT = "write fo.where(a, y, x) for fo.where(not a, x, y), and exchange the branches of an if"
AT_ITS_PLACE = (
    "an element is computed of those at its own place; do what needs whole arrays around the step, "
    "as fastoptim.examples.muon does"
)
LEAVE_OUT = "leave it out"
OF_ONE_TYPE = "leave it out, as all is computed in the type of the parameter"
FORMULA = "write its formula here"
ONE_BY_ONE = "write the values one by one"
ONE_AFTER_OTHER = "write the statements one after the other"
IN_SCALARS = "check hyperparameters in the function of scalars"
POWER = (
    "write x * x for x ** 2 and fo.sqrt(x) for a root; a power of hyperparameters is a scalar, "
    "which the function of scalars returns"
)
SAME = "write fo.where(a, fo.where(b, x, y), fo.where(b, y, x)) for a == b of conditions"

# What to write instead of each part of Python's grammar that is refused, by its name in ast, which
# older versions of Python need not have. test_rules_refused.py goes through all names there are.
INSTEAD = {
    # statements
    "AnnAssign": "leave the annotation out",
    "Assert": IN_SCALARS,
    "AsyncFunctionDef": FORMULA,
    "AugAssign": "write x = x + y for x += y, which would change an array in place",
    "ClassDef": LEAVE_OUT,
    "Delete": LEAVE_OUT,
    "Expr": "leave it out, or give its value a name",
    "For": ONE_AFTER_OTHER,
    "FunctionDef": FORMULA,
    "Global": BY_SCALARS,
    "Import": "import it outside of the function",
    "ImportFrom": "import it outside of the function",
    "Match": "write if and elif",
    "Nonlocal": BY_SCALARS,
    "Raise": IN_SCALARS,
    "Try": "write what is in it alone, as arithmetic raises nothing",
    "TryStar": "write what is in it alone, as arithmetic raises nothing",
    "TypeAlias": LEAVE_OUT,
    "While": ONE_AFTER_OTHER,
    "With": "write what is in it alone, as arithmetic warns of nothing",
    # expressions
    "Dict": "give each value a name",
    "DictComp": "give each value a name",
    "GeneratorExp": ONE_BY_ONE,
    "JoinedStr": "let the function of scalars return numbers for words",
    "Lambda": FORMULA,
    "List": "write a tuple",
    "ListComp": ONE_BY_ONE,
    "NamedExpr": "write x = y in a line of its own before it",
    "Set": "give each value a name",
    "SetComp": ONE_BY_ONE,
    "Starred": ONE_BY_ONE,
    "Subscript": AT_ITS_PLACE,
    "TemplateStr": "let the function of scalars return numbers for words",
    "Yield": "return the results",
    "YieldFrom": "return the results",
    # operators
    "And": AND,
    "BitAnd": AND,
    "BitOr": OR,
    "BitXor": "write fo.where(a, fo.where(b, y, x), fo.where(b, x, y)) for a ^ b of conditions",
    "FloorDiv": "write x / y; what is rounded is a scalar, which the function of scalars returns",
    "In": "write fo.where(x == a, y, fo.where(x == b, y, z)) for x in (a, b)",
    "Invert": NOT,
    "Is": "write `if m is None:` for state that need not exist, and == for all else",
    "IsNot": "write `if m is not None:` for state that need not exist, and != for all else",
    "LShift": "write x * 4 for x << 2",
    "MatMult": "write products of matrices around the step, as fastoptim.examples.muon does",
    "Mod": "a remainder of hyperparameters is a scalar, which the function of scalars returns",
    "Not": NOT,
    "NotIn": "write fo.where(x == a, z, fo.where(x == b, z, y)) for x not in (a, b)",
    "Or": OR,
    "Pow": POWER,
    "RShift": "write x / 4 for x >> 2",
    "UAdd": "leave the sign out",
}

# And instead of functions and methods, whosever they are.
INSTEAD_OF_CALLS = {
    **dict.fromkeys(("max", "maximum", "fmax"), "write fo.where(x > y, x, y)"),
    **dict.fromkeys(("min", "minimum", "fmin"), "write fo.where(x < y, x, y)"),
    **dict.fromkeys(("absolute", "fabs"), "write fo.abs(x)"),
    **dict.fromkeys(("pow", "power", "float_power"), POWER),
    **dict.fromkeys(("all", "any", "dot", "mean", "norm", "std", "sum", "var"), AT_ITS_PLACE),
    **dict.fromkeys(("array", "asarray", "astype", "float", "float32", "float64"), OF_ONE_TYPE),
    "clip": "write fo.where(x < low, low, fo.where(x > high, high, x))",
    "copy": "leave it out, as the function changes no array",
    "hypot": "write fo.sqrt(x * x + y * y)",
    "isfinite": "write x - x == 0",
    "isnan": "write x != x",
    "logical_and": AND,
    "logical_not": NOT,
    "logical_or": OR,
    "ones_like": "write 1",
    "reciprocal": "write 1 / x",
    "sign": "write fo.where(x > 0, 1, fo.where(x < 0, -1, x))",
    "square": "write x * x",
    "zeros_like": "write 0",
}
OTHER_CALLS = (
    f"{FORMULA}; what is computed of hyperparameters alone, the function of scalars returns"
)


def formula_of(
    function: FunctionType,
    name: str,
    state: Sequence[str],
    scalars: Sequence[str],
    needs: Mapping[str, str],
) -> Formula:
    """Return the formula of an update function.

    Parameters
    ----------
    function : function
        ``function(p, g, *state, *scalars)``.
    name : str
        What messages call the rule.
    state, scalars : sequence of str
        The names of its state arrays and of its scalars.
    needs : mapping
        The state arrays that need not exist, and the hyperparameters that decide.

    Raises
    ------
    ValueError
        If there is no source, or it says what cannot be compiled; the message names the rule, the
        file, the line and the words.
    """
    return Reader(Source(function, name), state, scalars, needs).formula()


class Source:
    """The source of a function: its statements, and the place of each of them."""

    def __init__(self, function: FunctionType, name: str) -> None:
        self.function, self.name = function, name
        try:
            lines, start = inspect.findsource(function)
        except (OSError, TypeError):
            raise ValueError(
                f"{name}: expected a function whose source can be read, found one without a file: "
                "write it into a module, or a cell of a notebook"
            ) from None
        if not is_made_of(function, lines):
            raise ValueError(
                f"{name}: expected a function made of what is in {function.__code__.co_filename}, "
                "found that it has changed since: load it anew"
            )
        block = inspect.getblock(lines[start:])
        # Behind a line of its own, the source of an indented function is a program, too.
        self.text = "".join(["if True:\n" if block[0][:1].isspace() else "\n", *block])
        self.offset = start - 1
        found = [n for n in ast.walk(ast.parse(self.text)) if isinstance(n, ast.FunctionDef)]
        if not found or found[0].name != function.__name__:
            raise ValueError(
                f"{name}: expected a function made by def, found {block[0].strip()}: "
                "write def name(p, g, ...): and its statements"
            )
        self.body = found[0].body
        self.locals = {*function.__code__.co_varnames}

    def refuse(self, node: ast.AST, expected: str, instead: str, found: str = "") -> NoReturn:
        """Raise an error: what was expected and found where a node is, and what to write."""
        words = found or reprlib.repr(ast.get_source_segment(self.text, node) or "")[1:-1]
        line = self.offset + getattr(node, "lineno", 1)
        where = f"{self.name}: {self.function.__code__.co_filename}, line {line}"
        raise ValueError(f"{where}: expected {expected}, found {words}: {instead}")

    def outside(self, node: ast.expr) -> Any:
        """Return the object that a name outside of the function stands for, by attributes too."""
        if isinstance(node, ast.Attribute):
            return getattr(self.outside(node.value), node.attr)
        if not isinstance(node, ast.Name) or node.id in self.locals:
            raise LookupError
        found = inspect.getclosurevars(self.function)
        for names in (found.nonlocals, found.globals, found.builtins):
            if node.id in names:
                return names[node.id]
        raise LookupError(node.id)


class UndecidedError(Exception):
    """A condition whose two paths have not been told apart yet."""

    def __init__(self, condition: Term) -> None:
        self.condition = condition


class Reader:
    """Goes through all paths of a function."""

    def __init__(
        self,
        source: Source,
        state: Sequence[str],
        scalars: Sequence[str],
        needs: Mapping[str, str],
    ) -> None:
        self.source, self.terms, self.needs = source, Terms(), needs
        self.arrays = {
            name: self.terms("array", number=k) for k, name in enumerate(("p", "g", *state))
        }
        self.scalars = {name: self.terms("scalar", number=k) for k, name in enumerate(scalars)}
        self.written = "p", *state  # what the function returns
        self.results = [self.arrays[name] for name in self.written]
        # The hyperparameter without which an array does not exist.
        self.optional = {self.arrays[name]: needs[name] for name in state if name in needs}
        self.paths = 0

    def formula(self, known: Mapping[Term, bool] | None = None) -> Formula:
        """Return the formula, where some conditions are known to be true or false."""
        known = known or {}
        found = Path(self, known).results_or_condition()
        if isinstance(found, Term):
            true, false = (self.formula({**known, found: decided}) for decided in (True, False))
            return Choice(found, true, false)
        self.paths += 1
        if self.paths > MOST_PATHS:
            raise ValueError(
                f"{self.source.name}: expected at most {MOST_PATHS} paths through its conditions, "
                "each of which becomes a loop, found more: write fo.where, or several rules"
            )
        return found


class Path:
    """Goes through a function in one path, as known conditions say."""

    def __init__(self, reader: Reader, known: Mapping[Term, bool]) -> None:
        self.reader, self.source, self.terms = reader, reader.source, reader.terms
        self.known = known
        self.values: dict[str, Value] = {**reader.arrays, **reader.scalars}

    def results_or_condition(self) -> Results | Term:
        """Return what the function returns, or the first condition that is not known."""
        try:
            return self.results()
        except UndecidedError as undecided:
            return undecided.condition

    def results(self) -> Results:
        """Return what the function returns."""
        found = self.block(self.source.body)
        if found is None:
            last = self.source.body[-1]
            expected = f"a return of {self.expected()} at the end of every path"
            self.source.refuse(last, expected, self.how_to_return())
        return found

    def expected(self) -> str:
        """Return what the function is expected to return, in words."""
        return f"the new {', '.join(self.reader.written)}"

    def how_to_return(self) -> str:
        """Return what a message says of a return statement."""
        return f"write return {', '.join(self.reader.written)}, each in its place"

    def block(self, statements: Sequence[ast.stmt]) -> Results | None:
        """Go through some statements; return the results if one of them returns."""
        for statement in statements:
            if isinstance(statement, ast.Return):
                return self.returned(statement)
            if isinstance(statement, ast.If):
                is_true = self.decided(statement.test)
                found = self.block(statement.body if is_true else statement.orelse)
                if found is not None:
                    return found
            elif isinstance(statement, ast.Assign):
                value = self.value(statement.value)
                for target in statement.targets:
                    self.bind(target, value)
            elif not is_docstring(statement):
                self.source.refuse(
                    statement, "assignments, if and return alone", instead(statement)
                )
        return None

    def bind(self, target: ast.expr, value: Value) -> None:
        """Give a value to a name, or several values to several names."""
        if isinstance(target, ast.Name):
            self.values[target.id] = value
        elif isinstance(target, (ast.Tuple, ast.List)):
            if not isinstance(value, tuple) or len(value) != len(target.elts):
                count = len(value) if isinstance(value, tuple) else 1
                expected = f"as many names as values, which are {count}"
                self.source.refuse(target, expected, "write a name for each value")
            for part, item in zip(target.elts, value, strict=True):
                self.bind(part, item)
        else:
            how = "give the new value a name, and return it, as the function changes no array"
            how = "write a name for each value" if isinstance(target, ast.Starred) else how
            self.source.refuse(target, "a name", how)

    def returned(self, statement: ast.Return) -> Results:
        """Return the results of a return statement."""
        value = None if statement.value is None else self.value(statement.value)
        items = value if isinstance(value, tuple) else (value,)
        own = self.reader.results
        if len(items) != len(own) or statement.value is None:
            found = f"{len(items)} of them" if statement.value is not None else "none"
            self.source.refuse(statement, self.expected(), self.how_to_return(), found)
        nodes = parts_of(statement.value, len(items))
        pairs = zip(items, own, nodes, strict=True)
        return Results(tuple(self.result(*pair) for pair in pairs))

    def result(self, item: Value, old: Term, node: ast.expr) -> Term | None:
        """Return the new elements of an array, None if it stays as it is."""
        if item is old:
            return None
        if self.exists(old) is False:
            if item is not None:
                expected = "None, as this state does not exist here"
                self.source.refuse(node, expected, "write None in its place")
            return None
        if self.exists(old) is None:
            self.refuse_untested(node, old)
        return self.number(item, node)

    def exists(self, array: Term) -> bool | None:
        """Tell whether an array exists, None if that has not been asked on this path."""
        if array not in self.reader.optional:
            return True
        return self.known.get(self.terms("exists", number=array.number))

    def refuse_untested(self, node: ast.expr, array: Term) -> NoReturn:
        """Raise, since an array may be None."""
        (name,) = [name for name, term in self.reader.arrays.items() if term is array]
        need = self.reader.optional[array]
        self.source.refuse(
            node,
            f"a test of {name}, which is None without {need}",
            f"write `if {name} is None:` before it",
        )

    def decided(self, test: ast.expr) -> bool:
        """Tell on which side of a condition this path goes on."""
        if isinstance(test, ast.Compare) and isinstance(test.ops[0], (ast.Is, ast.IsNot)):
            return self.is_none(test) is isinstance(test.ops[0], ast.Is)
        condition = self.condition(test)
        if not condition.is_uniform:
            self.source.refuse(
                test,
                "a condition that is the same for all elements",
                "write fo.where(condition, x, y) for what differs from element to element",
            )
        if condition not in self.known:
            raise UndecidedError(condition)
        return self.known[condition]

    def condition(self, node: ast.expr) -> Term:
        """Return the value of an expression that is to be true or false."""
        found = self.value(node)
        if not isinstance(found, Term) or not found.is_truth:
            self.source.refuse(node, "a comparison for a condition", "write x != 0 for a number x")
        return found

    def is_none(self, test: ast.Compare) -> bool:
        """Tell whether what is compared with None is None."""
        (right, *others) = test.comparators
        if others or not (isinstance(right, ast.Constant) and right.value is None):
            self.source.refuse(test, "`is None` or `is not None`", instead(test.ops[0]))
        value = self.value(test.left)
        if not isinstance(value, Term):
            return value is None
        if value not in self.reader.optional:
            if value.operation == "array":
                how = "say by needs= without which hyperparameter it does not"
                if value in (self.reader.arrays["p"], self.reader.arrays["g"]):
                    how = "leave the test out, as p and g always are there"
                expected = "the name of a state array that need not exist before `is None`"
                self.source.refuse(test, expected, how)
            return False
        exists = self.terms("exists", number=value.number)
        if exists not in self.known:
            raise UndecidedError(exists)
        return not self.known[exists]

    def value(self, node: ast.expr) -> Value:
        """Return the value of an expression."""
        if isinstance(node, ast.Name):
            return self.named(node)
        if isinstance(node, ast.Constant):
            return self.constant(node)
        if isinstance(node, ast.Tuple):
            return tuple([self.value(part) for part in node.elts])
        if isinstance(node, ast.BinOp):
            return self.binary(node)
        if isinstance(node, ast.UnaryOp):
            return self.unary(node)
        if isinstance(node, ast.Compare):
            return self.compared(node)
        if isinstance(node, ast.IfExp):
            return self.value(node.body if self.decided(node.test) else node.orelse)
        if isinstance(node, ast.Call):
            return self.called(node)
        if isinstance(node, ast.Attribute):
            return self.refuse_outside(node)
        word = node.op if isinstance(node, ast.BoolOp) else node
        expected = "names, + - * /, comparisons and the functions of fo"
        self.source.refuse(node, expected, instead(word))

    def number_at(self, node: ast.expr) -> Term:
        """Return the value of an expression that is to be a number."""
        return self.number(self.value(node), node)

    def number(self, value: Value, node: ast.expr) -> Term:
        """Return a value that is to be a number, or refuse it."""
        if isinstance(value, tuple):
            self.source.refuse(node, "one number", ONE_BY_ONE)
        if value is None:
            how = "write a number; None is for state that need not exist, which needs= names"
            self.source.refuse(node, "a number", how, "None")
        if value.is_truth:
            how = "write fo.where(condition, x, y) for x where it holds and y where it does not"
            self.source.refuse(node, "a number", how)
        exists = self.exists(value)
        if exists is None:
            self.refuse_untested(node, value)
        if not exists:
            expected = "a number, as this state does not exist here"
            self.source.refuse(node, expected, "write it where `is None` does not hold")
        return value

    def named(self, node: ast.Name) -> Value:
        if node.id in self.values:
            return self.values[node.id]
        if node.id in self.source.locals:
            expected = "a name that has a value on every path to here"
            self.source.refuse(node, expected, "give it a value before the if")
        return self.refuse_outside(node)

    def refuse_outside(self, node: ast.expr) -> NoReturn:
        """Raise an error for a name that is not one of the function's own."""
        expected = "the function's arguments and what it has named itself"
        try:
            found = self.source.outside(node)
        except (LookupError, AttributeError):
            how = f"there is no such name; {NAME_IT}"
            if isinstance(node, ast.Attribute) and self.is_own(node.value):
                how = AT_ITS_PLACE
            self.source.refuse(node, expected, how)
        how = f"it might change; {BY_SCALARS}"
        if isinstance(found, ModuleType) or callable(found):
            how = "write fo.where(condition, x, y), fo.sqrt(x) or fo.abs(x)"
        self.source.refuse(node, expected, how)

    def is_own(self, node: ast.expr) -> bool:
        """Tell whether an expression is of the function's own names, and no name outside of it."""
        names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
        return names <= self.source.locals

    def constant(self, node: ast.Constant) -> Value:
        value = node.value
        if value is None:
            return None
        if type(value) is not int:
            how = "write 1 for True and 0 for False" if type(value) is bool else BY_SCALARS
            self.source.refuse(node, "a whole number", how)
        return self.whole(value, node)

    def whole(self, value: int, node: ast.expr) -> Term:
        if abs(value) >= EXACT:
            self.source.refuse(node, "a whole number below 2**24", BY_SCALARS)
        return self.terms("whole", number=value)

    def binary(self, node: ast.BinOp) -> Term:
        operation = ARITHMETIC.get(type(node.op))
        if operation is None:
            self.source.refuse(node, "+ - * /", instead(node.op))
        return self.operation(
            node, operation, self.number_at(node.left), self.number_at(node.right)
        )

    def operation(self, node: ast.expr, operation: str, *parts: Term) -> Term:
        """Return a term, unless NumPy would compute it of whole numbers, in a type of its own."""
        numbers = [part for part in parts if not part.is_truth]
        if all(part.operation == "whole" for part in numbers):
            self.source.refuse(node, "a number that is not a literal among them", BY_SCALARS)
        return self.terms(operation, *parts)

    def unary(self, node: ast.UnaryOp) -> Term:
        if not isinstance(node.op, ast.USub):
            self.source.refuse(node, "no sign but -", instead(node.op))
        term = self.number_at(node.operand)
        if term.operation == "whole":
            return self.whole(-term.number, node)
        return self.terms("negated", term)

    def compared(self, node: ast.Compare) -> Term:
        if len(node.ops) > 1:
            how = "write fo.where(a < x, fo.where(x < b, y, z), z) for a < x < b"
            self.source.refuse(node, "one comparison", how)
        operation = COMPARED.get(type(node.ops[0]))
        if operation is None:
            self.source.refuse(node, "< <= > >= == !=", instead(node.ops[0]))
        parts = [self.value(part) for part in (node.left, node.comparators[0])]
        if all(isinstance(part, Term) and part.is_truth for part in parts):
            self.source.refuse(node, "a comparison of numbers", SAME)
        left, right = map(self.number, parts, (node.left, node.comparators[0]))
        return self.operation(node, operation, left, right)

    def called(self, node: ast.Call) -> Term:
        operation, count = self.function(node)
        starred = any(isinstance(argument, ast.Starred) for argument in node.args)
        if len(node.args) != count or node.keywords or starred:
            arguments = f"{count} argument{'s'[: count > 1]}"
            how = f"write fo.{operation}({'condition, x, y' if count > 1 else 'x'})"
            self.source.refuse(node, f"{arguments} of {operation}, without names", how)
        first = node.args[0]
        if operation != "where":
            return self.operation(node, operation, self.number_at(first))
        numbers = map(self.number_at, node.args[1:])
        return self.operation(node, operation, self.condition(first), *numbers)

    def function(self, node: ast.Call) -> tuple[str, int]:
        """Return the operation that a call names, and how many arguments it takes."""
        called = node.func
        try:
            found = self.source.outside(called)
        except (LookupError, AttributeError):
            found = None
        for function, operation in FUNCTIONS.items():
            if found is function:
                return operation
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        how = INSTEAD_OF_CALLS.get(name, OTHER_CALLS)
        if name in ("where", "sqrt", "abs") and self.is_own(called):
            how = "leave its name to the function, and give the value another one"
        self.source.refuse(node, "the functions fo.where, fo.sqrt and fo.abs", how)


def is_made_of(function: FunctionType, lines: Sequence[str]) -> bool:
    """Tell whether a function is what Python makes of the lines of its file, or of its cell."""
    text, file = "".join(lines), function.__code__.co_filename
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # cells of notebooks may await
            rest = [compile(text, file, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)]
    except SyntaxError:
        return False
    wanted = essence(function.__code__)
    while rest:
        code = rest.pop()
        if essence(code) == wanted:
            return True
        rest += [part for part in code.co_consts if isinstance(part, CodeType)]
    return False


def essence(code: CodeType) -> tuple[Any, ...]:
    """Return what two pieces of code have in common that do the same at the same place."""
    constants = [constant for constant in code.co_consts if not isinstance(constant, CodeType)]
    names = code.co_names, code.co_varnames, code.co_freevars
    return code.co_name, code.co_firstlineno, code.co_code, constants, names


def is_docstring(statement: ast.stmt) -> bool:
    """Tell whether a statement says nothing to the computer."""
    if isinstance(statement, ast.Pass):
        return True
    is_constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return is_constant and isinstance(statement.value.value, str)  # type: ignore[attr-defined]


def instead(node: ast.AST) -> str:
    """Return what to write instead of a part of Python's grammar."""
    return INSTEAD[type(node).__name__]


def parts_of(node: ast.expr, count: int) -> list[ast.expr]:
    """Return the nodes of some results, or as often the node of all of them."""
    if isinstance(node, ast.Tuple) and len(node.elts) == count:
        return node.elts
    return [node] * count
