"""The command line: ``fastoptim``, which is also ``python -m fastoptim``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ._config import __version__, show_config

__all__ = ["CommandError", "main"]

# Each of these commands is a package of that name in fastoptim, with functions
# `add_arguments(parser)` and `main(args)`. What it needs beyond NumPy comes with the extra of that
# name; the package can be imported without it, and `main` then raises ModuleNotFoundError.
COMMANDS = {
    "demo": "train a network on digits with each optimizer, by NumPy and by fastoptim",
    "bench": "time the optimizers on this machine, beside NumPy and other libraries",
}


def __dir__() -> list[str]:
    return __all__


class CommandError(Exception):
    """An error that the user can put right: `main` prints it on one line and returns 2."""


def reason(error: Exception) -> str:
    """Return what an error says, of an OSError without its number and path."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


@contextmanager
def writing(option: str, path: Path) -> Iterator[None]:
    """Let an OSError inside say which option named the file that cannot be written."""
    try:
        yield
    except OSError as error:
        raise CommandError(f"{option} {path}: {reason(error)}") from None


def check_writable(option: str, path: Path) -> None:
    """Raise now if a file could not be written later; leave the file as it is."""
    existed = path.exists()
    with writing(option, path):
        path.open("ab").close()
    if not existed:
        path.unlink()


def check_plot(path: Path) -> None:
    """Raise now if a plot could not be drawn or written later."""
    try:
        importlib.import_module("matplotlib.figure")
    except ModuleNotFoundError:
        raise CommandError(
            '--plot: needs matplotlib: python -m pip install "fastoptim[plot]"'
        ) from None
    check_writable("--plot", path)


def main(argv: list[str] | None = None) -> int:
    """Run one command, or show which there are.

    Parameters
    ----------
    argv : list of str, optional
        The arguments; by default those of the process.

    Returns
    -------
    int
        The exit status: 0, 1 if the command found something wrong, 2 if it could not run.

    Raises
    ------
    SystemExit
        As argparse does: after ``--help`` and ``--version``, and for unknown arguments.
    """
    args = _parser().parse_args(argv)
    try:
        return int(args.run(args) or 0)
    except CommandError as error:
        problem = str(error)
    except ModuleNotFoundError as error:
        extra = f'python -m pip install "fastoptim[{args.command}]"'
        problem = f"the module {error.name} is not installed: {extra}"
    except KeyboardInterrupt:
        return 130  # what a shell reports for a command that was interrupted
    print(f"fastoptim {args.command}: {' '.join(problem.split())}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastoptim", description="Optimizer steps on NumPy arrays in one pass over memory."
    )
    parser.add_argument("--version", action="version", version=f"fastoptim {__version__}")
    parser.set_defaults(run=lambda _: parser.print_help())
    commands = parser.add_subparsers(dest="command", metavar="command")
    info = commands.add_parser(
        "info", help="say what this installation is, for a report of a fault"
    )
    info.set_defaults(run=lambda _: show_config())
    for name, summary in COMMANDS.items():
        module = importlib.import_module(f"fastoptim.{name}")
        command = commands.add_parser(name, help=summary)
        module.add_arguments(command)
        command.set_defaults(run=module.main)
    return parser
