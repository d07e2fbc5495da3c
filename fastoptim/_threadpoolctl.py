"""The controller by which threadpoolctl limits steps where no OpenMP runtime does.

It knows threadpoolctl, and of the engine the limit alone. threadpoolctl is not imported here, since
importing it sets an environment variable. It is given the controller when it is there already, or
as soon as somebody imports it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from ._config import __version__
from ._engine import threads


def register(threadpoolctl: ModuleType) -> None:
    """Give threadpoolctl a controller of ours, as it has one of each library with threads."""
    if not hasattr(threadpoolctl, "register"):  # it is old
        return

    class Controller(threadpoolctl.LibController):  # type: ignore[name-defined, misc]
        user_api = "openmp"  # which is what is limited where a runtime of it is loaded
        internal_api = "fastoptim"
        filename_prefixes = (Path(threads.__file__).name.lower(),)

        def get_num_threads(self) -> int:
            return threads.controlled_here.get() or threads.cpus()

        def set_num_threads(self, num_threads: int) -> None:
            threads.controlled_here.set(num_threads)

        def get_version(self) -> str:
            return __version__

    threadpoolctl.register(Controller)


class Finder:
    """Stands before the finders of modules until one of them finds threadpoolctl."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return what the next finder finds; once it is loaded, it is given the controller."""
        if name != "threadpoolctl":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (f.find_spec(name, path, target) for f in others)), None)
        if spec and spec.loader:
            loader: Any = spec.loader
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                register(module)
                with suppress(ValueError):
                    sys.meta_path.remove(self)

            loader.exec_module = exec_module
        return spec


def install() -> None:
    """Register the controller now or, at the import of threadpoolctl, later."""
    if threadpoolctl := sys.modules.get("threadpoolctl"):
        register(threadpoolctl)
    else:
        sys.meta_path.insert(0, Finder())
