"""The command line: ``fastoptim``, which is also ``python -m fastoptim``."""

from __future__ import annotations

import argparse
import importlib
import sys

from ._config import __version__

__all__ = ["CommandError", "main"]

# Each command is a package in this one, with `add_arguments(parser)` and `main(args)`, that
# can be imported without the packages of its extra, which has the command's name.
COMMANDS = {
    "demo": "train a network on MNIST with each optimizer, by NumPy and by fastoptim",
    "bench": "time the optimizers on this machine, beside NumPy and other libraries",
}


def __dir__() -> list[str]:
    return __all__


class CommandError(Exception):
    """What the user can put right: `main` prints it on one line and returns 2."""


def main(argv: list[str] | None = None) -> int:
    """Run one command.

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
        return int(args.run(args))
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
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name, summary in COMMANDS.items():
        module = importlib.import_module(f"fastoptim.{name}")
        command = commands.add_parser(name, help=summary)
        module.add_arguments(command)
        command.set_defaults(run=module.main)
    return parser
