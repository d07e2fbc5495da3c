"""The arguments of ``fastoptim bench``, and what happens then."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from fastoptim.cli import CommandError

from . import clients, loop, plot, report, sections, timing
from .cases import CASES
from .clients import Client, ClientResult
from .contenders import WrongResultError
from .loop import LoopResult, Training
from .sections import Section
from .timing import BUDGET, Result

T = TypeVar("T")


class Todo(NamedTuple):
    """What is asked for."""

    sections: list[Section]
    trainings: list[Training]
    clients: list[Client]
    absent: dict[str, str]  # clients that are left out, and why

    @property
    def left_out(self) -> dict[str, str]:
        """What cannot be measured, and why."""
        cells = {str(cell): why for s in self.sections for cell, why in s.left_out.items()}
        return cells | self.absent


class Found(NamedTuple):
    """What was measured."""

    cells: dict[tuple[str, Any], Result]  # by a section's name and a cell
    loops: list[LoopResult]
    clients: list[ClientResult]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``fastoptim bench``."""
    parser.description = (
        "Time the step of an optimizer beside a memory probe, NumPy and torch, in float32 and "
        "float64, and then the steps of all other rules. The options --rivals, --loop, --many, "
        "--scale and --clients measure something else instead, and can be combined. Every result "
        "is checked before it is timed. The exit status is 1 if a result was wrong, 2 if the "
        "benchmark cannot run."
    )
    parser.add_argument(
        "--rivals",
        action="store_true",
        help="Adam and SGD beside all other libraries that are installed (the extras rivals, torch "
        "and deepspeed bring them); the others are named as absent",
    )
    parser.add_argument(
        "--loop",
        action="store_true",
        help="training loops of networks of five sizes: products and steps in alternation",
    )
    parser.add_argument(
        "--many",
        action="store_true",
        help="1 to 100,000 tensors of 16 to 100,000 elements: takes some minutes",
    )
    parser.add_argument(
        "--scale",
        action="store_true",
        help="one tensor of 100 to 250,000,000 elements, as the memory allows",
    )
    parser.add_argument(
        "--clients",
        action="store_true",
        help="trainings with other libraries, as far as they are installed, each with its own "
        "update and with fastoptim's in its place",
    )
    parser.add_argument(
        "--optimizer",
        choices=list(CASES),
        metavar="NAME",
        help=f"time this one only: {', '.join(CASES)} (default: Adam, then the others briefly)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="fewest rounds, no more than 1,000,000 elements, the smallest networks",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record to this file")
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="with --scale or --many: draw time against elements or tensors, as a PNG",
    )


def main(args: argparse.Namespace) -> int:
    """Measure, print the tables, write the record; return 1 if a contender was wrong."""
    _check_files(args)
    machine = report.environment()
    todo = _chosen(args)
    try:
        found = _measured(todo, args.quick)
    except WrongResultError as error:
        print(f"fastoptim bench: wrong result of {error}", file=sys.stderr)
        return 1
    report.show(machine, todo.sections, found.cells, found.loops)
    if args.clients:
        report.show_clients(found.clients, todo.absent)
    record = {
        "machine": machine,
        "results": [{"section": name, **r.record()} for (name, _), r in found.cells.items()],
        "loops": [loop.record() for loop in found.loops],
        "clients": [client.record() for client in found.clients],
        "left_out": todo.left_out,
    }
    if args.json:
        args.json.write_text(json.dumps(record, indent=2) + "\n")
    if args.plot:
        plot.draw(record, args.plot)
    return 0


def _check_files(args: argparse.Namespace) -> None:
    """Refuse, before anything is measured, what could not be written afterwards."""
    if args.plot:
        if not (args.scale or args.many):
            raise CommandError("--plot: expected --scale or --many with it")
        if args.plot.suffix.lower() != ".png":
            raise CommandError(f"--plot: expected a file named *.png, found {args.plot}")
        try:
            importlib.import_module("matplotlib.figure")
        except ModuleNotFoundError:
            raise CommandError(
                '--plot: needs matplotlib: python -m pip install "fastoptim[plot]"'
            ) from None
    for option in ("json", "plot"):
        file = getattr(args, option)
        if file is None:
            continue
        try:
            file.open("a").close()
        except OSError as error:
            raise CommandError(f"--{option}: cannot write {file}: {error.strerror}") from None


def _chosen(args: argparse.Namespace) -> Todo:
    case, quick = CASES[args.optimizer or "Adam"], args.quick
    found = [
        getattr(sections, name)(case, quick)
        for name in ("rivals", "many", "scale")
        if getattr(args, name)
    ]
    trainings = loop.trainings(case, quick) if args.loop else []
    programs, absent = clients.find(quick) if args.clients else ([], {})
    if not found and not args.loop and not args.clients:
        found = sections.steps(case, quick)
        if args.optimizer is None:
            found.append(sections.rules(case))
    return Todo(found, trainings, programs, absent)


def _measured(todo: Todo, quick: bool) -> Found:
    """Measure everything, and show on stderr how far that is."""
    from rich.console import Console
    from rich.progress import Progress

    found = Found({}, [], [])
    console = Console(stderr=True)
    # Drawn between the cells only: a thread that draws would take a core from the contenders.
    with Progress(
        console=console, auto_refresh=False, transient=True, disable=not console.is_terminal
    ) as progress:
        cells = [(section, cell) for section in todo.sections for cell in section.cells]
        total = len(cells) + len(todo.trainings) + len(todo.clients)
        task = progress.add_task("", total=total)

        def shown(things: Iterable[T], name: Callable[[T], str] = str) -> Iterator[T]:
            for thing in things:
                progress.update(task, description=name(thing), refresh=True)
                yield thing
                progress.advance(task)

        for section, cell in shown(cells, lambda pair: str(pair[1])):
            budget = 0 if quick else section.budget
            found.cells[section.name, cell] = timing.measure(cell, section.rivals, budget)
        for training in shown(todo.trainings):
            found.loops.append(loop.measure(training, 0 if quick else BUDGET))
        for client in shown(todo.clients):
            found.clients.append(clients.measure(client, 1 if quick else clients.ROUNDS))
    return found
