"""What the arguments of schedules may be, and the checks that several classes share.

It knows the kinds of arguments, and no schedule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any, cast, get_type_hints

from .._kinds import Above, Count, Maybe, checked, items_of, shown

Positive = Annotated[float, Above(0)]
Natural = Annotated[int, Count(1)]
MaybeNatural = Annotated[int | None, Maybe(Count(1))]
STEP = Count(0)


def check_fields(instance: Any) -> None:
    """Check the fields of a dataclass that are annotated with a kind, and store what it returns."""
    hints = get_type_hints(type(instance), include_extras=True)
    for f in fields(instance):
        for kind in getattr(hints[f.name], "__metadata__", ()):
            value = checked(f.name, kind, getattr(instance, f.name))
            object.__setattr__(instance, f.name, value)  # it may be frozen


def checked_items(name: str, values: Any, check: Callable[[str, Any], Any]) -> tuple[Any, ...]:
    """Return the values as a tuple, each of them checked under its own name."""
    try:
        items = items_of(values)
    except TypeError:
        raise TypeError(f"{name}: expected a sequence, found {shown(values)}") from None
    return tuple(check(f"{name}[{i}]", item) for i, item in enumerate(items))


def checked_step(name: str, value: Any) -> int:
    return cast("int", checked(name, STEP, value))


def checked_callable(name: str, value: Any) -> Any:
    if not callable(value):
        raise TypeError(f"{name}: expected a callable from a step to a value, found {shown(value)}")
    return value
