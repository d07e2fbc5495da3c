"""Trees: containers within containers, and the names of what they hold.

A branch is a mapping, a sequence or an instance of a dataclass; all else is a leaf. A tree keeps
the shape of its branches, so that what comes in branches of the same shape is brought into the
order of its leaves, and what is in that order into such branches. What leaves are is of no matter
here, but that arrays are leaves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, fields, is_dataclass
from numbers import Integral
from types import BuiltinFunctionType
from typing import Any, Literal, NamedTuple, TypeAlias, TypeGuard

import numpy as np

from ._kinds import NO_SEQUENCES, shown, with_other_names

NO_BRANCHES = np.ndarray, *NO_SEQUENCES


def is_sequence(value: Any) -> TypeGuard[Iterable[Any]]:
    """Tell whether a value has items in an order, be it an iterator that gives them once.

    What a dataclass has is in its fields, also if it is a list.
    """
    no = (Mapping, Set, *NO_BRANCHES)
    holds = isinstance(value, Iterable) and not isinstance(value, no)
    return holds and (isinstance(value, tuple) or not is_dataclass(value))


def is_branch(kind: type) -> bool:
    """Tell whether what is of this type is a branch of a tree."""
    holds = issubclass(kind, (Mapping, Sequence)) or is_dataclass(kind)
    return holds and not issubclass(kind, NO_BRANCHES)


class Item(NamedTuple):
    """The step from a mapping or a sequence to what it has under a key."""

    key: Any

    def __str__(self) -> str:
        return f"[{self.key!r}]"

    def within(self, branch: Any) -> Any:
        """Return what is there."""
        return branch[self.key]


class Field(NamedTuple):
    """The step from a namedtuple or a dataclass to what is in a field."""

    key: str

    def __str__(self) -> str:
        return f".{self.key}"

    def within(self, branch: Any) -> Any:
        """Return what is there."""
        return getattr(branch, self.key)


Path = tuple[Item | Field, ...]  # from the root of a tree
Form: TypeAlias = Literal["mapping", "sequence", "fields"]  # how a branch has its parts


@dataclass(frozen=True)
class Branch:
    """The shape of a branch: its type and form, and the steps to its parts, None where leaves are.

    In messages its index follows the name of the root.
    """

    index: str
    kind: type
    form: Form
    steps: list[Item | Field]
    parts: list[Branch | None]

    @property
    def count(self) -> int:
        """The number of leaves in it, and in the branches within it."""
        return sum(1 if part is None else part.count for part in self.parts)

    def take(self, label: str, given: Any, found: list[Any]) -> None:
        """Append what is given in the place of each leaf; None stands for a leaf or a branch."""
        for part, thing in zip(self.parts, self._things(label, given), strict=True):
            if part is None:
                found.append(thing)
            elif thing is None:
                found.extend([None] * part.count)
            else:
                part.take(label, thing, found)

    def _things(self, label: str, given: Any) -> Sequence[Any]:
        """Return what is given in the place of each part."""
        if self.form == "mapping":
            return by_names([step.key for step in self.steps], label, given, self.index)
        found = field_names(type(given))
        if self.form == "sequence" or (found is None and issubclass(self.kind, tuple)):
            return in_order(len(self.steps), label, given, self.index)
        names = [step.key for step in self.steps]
        if found != names:
            raise TypeError(
                f"{label}{self.index}: expected the fields {', '.join(names)} as "
                f"params{self.index} has, found {type(given).__name__}"
            )
        return [step.within(given) for step in self.steps]

    def filled(self, values: Iterator[Any]) -> Any:
        """Return a branch of this shape with the next values as its leaves.

        A mapping is a dict, and a sequence a list if it is no tuple. The constructor of a dataclass
        is not called: what it does to arrays, it need not be able to do to other leaves.
        """
        things = [next(values) if part is None else part.filled(values) for part in self.parts]
        if self.form == "mapping":
            return {step.key: thing for step, thing in zip(self.steps, things, strict=True)}
        if self.form == "sequence" or issubclass(self.kind, tuple):
            return sequence_of(self.kind, things)
        made = blank(self.kind)
        for step, thing in zip(self.steps, things, strict=True):
            object.__setattr__(made, step.key, thing)
        return made


class Tree:
    """The leaves of containers within containers in their order, with their paths and names.

    Parameters
    ----------
    label : str
        What messages call the root.
    root : mapping, sequence or dataclass
        The outermost container.

    Raises
    ------
    TypeError, ValueError
        If a key is neither text nor a whole number, two leaves have the same name, or a container
        holds itself.
    """

    def __init__(self, label: str, root: Any) -> None:
        self.root: Any = root
        self.leaves: list[Any] = []
        self.names: list[str] = []  # the keys of the path, with dots between them
        self.paths: list[Path] = []
        # The branches that may come to hold something else, each with what it holds now.
        self.held: list[tuple[Any, list[Any]]] = []
        self._label = label
        try:
            self.shape = self._grown(root, ())
        except RecursionError:
            raise ValueError(
                f"{label}: expected arrays in containers within containers, found a container "
                "that holds itself, or deeper ones than Python can go down to"
            ) from None
        if len(set(self.names)) < len(self.names):
            self._refuse_same_names()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the containers themselves unless all of them pickle, as far as we know."""
        kinds = {type(branch) for branch, _ in self.held}
        if all(kind in (list, dict) or is_dataclass(kind) for kind in kinds):
            return vars(self)
        return {**vars(self), "root": None, "held": []}

    def _grown(self, branch: Any, path: Path) -> Branch:
        """Return the shape of a branch, once the leaves in it are noted."""
        kind = type(branch)
        form = form_of(kind)
        steps, things = steps_of(branch, form)
        if not is_fixed(kind):
            self.held.append((branch, things))
        parts: list[Branch | None] = []
        for step, thing in zip(steps, things, strict=True):
            if is_branch(type(thing)):
                parts.append(self._grown(thing, (*path, step)))
            else:
                parts.append(None)
                self.leaves.append(thing)
                self.paths.append((*path, step))
                self.names.append(self._name(self.paths[-1]))
        return Branch(f"[{self._name(path)!r}]" if path else "", kind, form, steps, parts)

    def _name(self, path: Path) -> str:
        return ".".join(text_of(self._label, step.key) for step in path)

    def _refuse_same_names(self) -> None:
        first: dict[str, Path] = {}
        for name, path in zip(self.names, self.paths, strict=True):
            if first.setdefault(name, path) is not path:
                one, other = (self._label + written(path) for path in (first[name], path))
                raise ValueError(
                    f"{self._label}: expected keys that make other names for each array, with "
                    f"dots between them, found {name!r} for both {one} and {other}"
                )


def written(path: Path) -> str:
    """Return a path as a program writes it behind the name of the root."""
    return "".join(map(str, path))


def at(path: Path, root: Any) -> Any:
    """Return what is at a path now, None if there is no such place any more."""
    found = root
    try:
        for step in path:
            found = step.within(found)
    except (LookupError, AttributeError, TypeError):
        return None
    return found


def form_of(kind: type) -> Form:
    """Return how a branch of this type has its parts. A dataclass has them in fields, also a list.

    Of a mapping only the items count, and of a tuple that is no namedtuple.
    """
    if issubclass(kind, Mapping):
        return "mapping"
    return "sequence" if field_names(kind) is None else "fields"


def steps_of(branch: Any, form: Form) -> tuple[list[Item | Field], list[Any]]:
    """Return the steps from a branch to what it holds, and that."""
    if form == "mapping":
        return [Item(key) for key in branch], list(branch.values())
    if form == "fields":
        names = field_names(type(branch)) or []
        return [Field(name) for name in names], [getattr(branch, name, None) for name in names]
    things = list(branch)
    return [Item(i) for i in range(len(things))], things


def field_names(kind: type) -> list[str] | None:
    """Return the names of the fields of a namedtuple or a dataclass; None for other types."""
    if issubclass(kind, tuple):
        return list(kind._fields) if hasattr(kind, "_fields") else None
    return [field.name for field in fields(kind)] if is_dataclass(kind) else None


def blank(kind: type) -> Any:
    """Return an instance of a dataclass whose constructor, and `__new__` in Python, do not run.

    It is made by the type of Python's that it derives from: by list, if that is one.
    """
    constructors = (vars(base).get("__new__") for base in kind.__mro__)
    new: Any = next(n for n in constructors if isinstance(n, BuiltinFunctionType))
    return new(kind)


def is_fixed(kind: type) -> bool:
    """Tell whether what is of this type always holds what it held."""
    declared = getattr(kind, "__dataclass_params__", None)
    return issubclass(kind, tuple) or (declared is not None and declared.frozen)


def text_of(label: str, key: Any) -> str:
    """Return a key as a part of a name."""
    if isinstance(key, str):
        return str.__str__(key)
    if isinstance(key, Integral):
        return str(int(key))
    raise TypeError(
        f"{label}: expected text or whole numbers as keys in containers within each other, and in "
        f"groups that have the same keys, found {shown(key)}"
    )


def sequence_of(kind: type, things: list[Any]) -> Any:
    """Return things in a tuple or a namedtuple where the type is one, else in a list."""
    if not issubclass(kind, tuple):
        return things
    return kind._make(things) if hasattr(kind, "_make") else tuple(things)


def by_names(names: Sequence[Any], label: str, given: Any, index: str = "") -> list[Any]:
    """Return what a mapping has under some names, if it has these and no others."""
    if not isinstance(given, Mapping):
        raise TypeError(
            f"{label}{index}: expected a mapping as params{index} is, found {type(given).__name__}"
        )
    if given.keys() != set(names):
        raise ValueError(
            f"{label}{index}: expected the names of params{index} (None to skip one), "
            f"found {with_other_names(names, given)}"
        )
    return [given[name] for name in names]


def in_order(count: int, label: str, given: Any, index: str = "") -> Sequence[Any]:
    """Return what a sequence has or an iterator gives, if it is as many as there must be."""
    if not is_sequence(given):
        raise TypeError(
            f"{label}{index}: expected a sequence as params{index} is, found {type(given).__name__}"
        )
    things = given if isinstance(given, Sequence) else list(given)
    if len(things) != count:
        raise ValueError(
            f"{label}{index}: expected {count} arrays as params{index} has (None to skip one), "
            f"found {len(things)}"
        )
    return things
