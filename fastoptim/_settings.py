"""Settings: what belongs to an optimizer as a whole, not to a param group.

That is how all gradients together are judged before a step, and what computes the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from ._engine.changes import change
from ._kinds import Choice, Flag, Kind, Maybe, Real, checked, environment

if TYPE_CHECKING:
    from ._engine.changes import Change

Nonfinite = Literal["ignore", "raise", "skip"]
Read = TypeVar("Read")

BACKENDS = Choice(("compiled", "reference"))
SETTINGS: dict[str, Kind] = {
    "max_grad_norm": Maybe(Real(0)),
    "nonfinite": Choice(("ignore", "raise", "skip")),
    "flush_denormals": Flag(),
    "cast_grads": Flag(),
}
DEFAULT_SETTINGS = {
    "max_grad_norm": None,
    "nonfinite": "ignore",
    "flush_denormals": False,
    "cast_grads": False,
}
SINCE = ("flush_denormals", "cast_grads")  # what older versions did not have, nor have saved


def all_settings(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings that an older version may have saved, with those that came later."""
    return {name: DEFAULT_SETTINGS[name] for name in SINCE} | {**saved}


def pop_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Take the settings out of keyword arguments, and return all of them, checked."""
    return {
        name: checked(name, kind, options.pop(name, DEFAULT_SETTINGS[name]))
        for name, kind in SETTINGS.items()
    }


def chosen_backend(backend: str | None = None) -> str:
    """Return the backend that is asked for, here or by the environment."""
    label = "FASTOPTIM_BACKEND" if backend is None else "backend"
    if backend is None:
        backend = environment("FASTOPTIM_BACKEND") or "compiled"
    return str(checked(label, BACKENDS, backend))


class Setting(Generic[Read]):
    """An attribute that reads and sets one of the settings of what is `WithSettings`."""

    def __init__(self, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, opt: None, owner: type[WithSettings]) -> Setting[Read]: ...
    @overload
    def __get__(self, opt: WithSettings, owner: type[WithSettings]) -> Read: ...
    def __get__(self, opt: WithSettings | None, owner: type[WithSettings]) -> Any:
        return self if opt is None else opt._settings[self._name]

    def __set__(self, opt: WithSettings, value: Read) -> None:
        value = checked(self._name, SETTINGS[self._name], value)
        change([opt._adopting({**opt._settings, self._name: value})])


class WithSettings:
    """What has settings: an optimizer, or one of another library that takes its steps with ours."""

    max_grad_norm = Setting[float | None]("max_grad_norm")
    nonfinite = Setting[Nonfinite]("nonfinite")
    flush_denormals = Setting[bool]("flush_denormals")
    cast_grads = Setting[bool]("cast_grads")

    _settings: dict[str, Any]

    def _adopting(self, settings: dict[str, Any]) -> Change:
        """Return what to change to take settings that have been checked."""
        return self, {"_settings": settings}
