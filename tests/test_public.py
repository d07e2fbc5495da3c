"""What is public, and only that, is what dir(), completion and a star import show."""

from __future__ import annotations

import pkgutil
import rlcompleter

import pytest

import fastoptim as fo
from fastoptim import integrations

MODULES = [
    "fastoptim",
    *(
        f"{package.__name__}.{module.name}"
        for package in (fo, integrations)
        for module in pkgutil.iter_modules(package.__path__)
        # these two are folders, of modules to import and of programs to run
        if not module.name.startswith("_") and module.name not in ("integrations", "examples")
    ),
]


# Public, but not of a star import, since Python has another function of that name.
APART = {"fastoptim": ["abs"], "fastoptim.rules": ["abs"]}


def test_there_are_public_modules():
    assert {"fastoptim.schedules", "fastoptim.typing", "fastoptim.integrations.torch"} < {*MODULES}


@pytest.mark.parametrize("name", MODULES)
def test_dir_shows_what_is_public(name):
    module = pytest.importorskip(name, exc_type=ImportError)
    public_names = [*module.__all__, *APART.get(name, [])]
    assert dir(module) == sorted(public_names)
    assert len(set(public_names)) == len(public_names)
    shown = [n for n in public_names if n != "__version__"]
    assert shown
    assert [n for n in shown if n.startswith("_") or not hasattr(module, n)] == []
    completer = rlcompleter.Completer({"module": module})
    completed = {match.rstrip("()").removeprefix("module.") for match in public(completer)}
    assert completed == set(shown)


def public(completer: rlcompleter.Completer) -> list[str]:
    return [match for match in completer.attr_matches("module.") if "._" not in match]
