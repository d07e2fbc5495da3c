"""The arguments of ``fastoptim bench``, and what happens then."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from fastoptim.cli import CommandError, check_plot, check_writable, writing

from . import choice, clients, disk, loop, mpi, plot, report, rows, sections, timing
from .cases import CASES, Cell
from .choice import ChoiceResult
from .clients import ClientResult, Programs
from .contenders import WrongResultError, one_line
from .disk import DiskResult
from .loop import LoopResult, Training
from .rows import RowsCell, RowsResult
from .sections import Section
from .timing import BUDGET, Result


class Todo(NamedTuple):
    """What is asked for."""

    sections: list[Section]
    choices: list[Cell]
    trainings: list[Training]
    rows: list[RowsCell]
    on_disk: list[Cell]
    programs: Programs

    @property
    def left_out(self) -> dict[str, str]:
        """What cannot be measured, and why."""
        cells = {str(cell): why for s in self.sections for cell, why in s.left_out.items()}
        return cells | self.programs.absent | (rows.left_out() if self.rows else {})


class Found(NamedTuple):
    """What was measured, and why the rest was not."""

    cells: dict[tuple[str, Any], Result]  # by a section's name and a cell
    choices: list[ChoiceResult]
    loops: list[LoopResult]
    rows: list[RowsResult]
    on_disk: list[DiskResult]
    clients: list[ClientResult]
    failed: dict[Any, str]  # by a cell, a training, a client, or the name of a client's library


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``fastoptim bench``."""
    parser.description = (
        "Time the step of an optimizer beside a memory probe, NumPy and torch, in float32 and "
        "float64, and then the steps of all other rules. The options --rivals, --sizes, --choice, "
        "--loop, --many, --scale, --disk, --rows and --clients measure something else instead, and "
        "can be combined, and --mpi nothing else. Every result is checked before it is timed. What "
        "fails is named and the rest goes on; then the exit status is 1, and 2 if the benchmark "
        "cannot run."
    )
    parser.add_argument(
        "--rivals",
        action="store_true",
        help="Adam and SGD beside all other libraries that are installed (the extras rivals, torch "
        "and deepspeed bring them) and loops by hand in C; the others are named as absent. "
        "4 minutes",
    )
    parser.add_argument(
        "--sizes",
        action="store_true",
        help="Adam, AdamW, SGD with momentum and Adagrad on 64 to 16,000,000 elements, beside the "
        "compiled steps of torch, DeepSpeed and numba and loops by hand in C: 7 minutes",
    )
    parser.add_argument(
        "--choice",
        action="store_true",
        help="the level and the number of threads that the engine chooses, beside all that one "
        "could fix, for Adam and SGD with momentum: back to back, between matrix products, and "
        "beside a process that keeps a core busy: 6 minutes",
    )
    parser.add_argument(
        "--loop",
        action="store_true",
        help="training loops of networks of five sizes: products and steps in alternation; the "
        "smallest also with a learning rate that changes from step to step: 4 minutes",
    )
    parser.add_argument(
        "--many",
        action="store_true",
        help="1 to 100,000 tensors of 16 to 100,000 elements: 4 minutes",
    )
    parser.add_argument(
        "--scale",
        action="store_true",
        help="one tensor of 100 to 250,000,000 elements, as the memory allows: 2 minutes",
    )
    parser.add_argument(
        "--rows",
        action="store_true",
        help="Adagrad and lazy Adam on tables of which a gradient has 16 to 65,536 rows, beside a "
        "probe, a dense step and torch's sparse optimizers: 3 minutes",
    )
    parser.add_argument(
        "--disk",
        type=Path,
        nargs="?",
        const=Path(),
        metavar="FOLDER",
        help="steps whose state is in a file in this folder (default: the current one), beside a "
        "plain loop that reads and writes as much: 2 minutes, and 2 GB",
    )
    parser.add_argument(
        "--clients",
        action="store_true",
        help="trainings with other libraries, as far as they are installed, each with its own "
        "update and with fastoptim's in its place: 7 minutes",
    )
    parser.add_argument(
        "--mpi",
        action="store_true",
        help="under mpiexec, as in mpiexec -n 4 fastoptim bench --mpi: steps that ranks share, "
        "beside the bare exchange of the same bytes, and a model of more ranks; nothing else is "
        "measured then. 1 minute",
    )
    parser.add_argument(
        "--optimizer",
        choices=list(CASES),
        metavar="NAME",
        help=f"time this one only: {', '.join(CASES)} (default: Adam, then the others briefly, or "
        "those that an option names)",
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
    """Measure, print the tables, write the record; return 1 if anything failed."""
    _check_files(args)
    if args.mpi:
        return _share(args)
    machine = report.environment()
    todo = _chosen(args)
    found = Found({}, [], [], [], [], [], dict(todo.programs.failed))
    try:
        _measure(todo, args, found)
    finally:  # an interrupt does not lose what was measured before
        _publish(args, machine, todo, found)
    if found.failed:
        print(f"fastoptim bench: failed: {'; '.join(map(str, found.failed))}", file=sys.stderr)
    return int(bool(found.failed))


def _share(args: argparse.Namespace) -> int:
    """Measure steps that ranks share, and write the record."""
    rows = mpi.main(args.quick)
    if args.json and rows:
        record = {"machine": report.environment(), "mpi": [row.record() for row in rows]}
        with writing("--json", args.json):
            args.json.write_text(json.dumps(record, indent=2) + "\n")
    return 0


def _publish(args: argparse.Namespace, machine: dict[str, Any], todo: Todo, found: Found) -> None:
    """Print the tables, write the record and the plot."""
    report.show(machine, todo.sections, found.cells, found.failed)
    report.show_choices(found.choices)
    report.show_loops(found.loops, found.failed)
    report.show_rows(found.rows, found.failed)
    report.show_disk(found.on_disk)
    if args.clients:
        report.show_clients(found.clients, found.failed, todo.programs.absent)
    record = {
        "machine": machine,
        "results": [{"section": name, **r.record()} for (name, _), r in found.cells.items()],
        "choices": [chosen.record() for chosen in found.choices],
        "loops": [loop.record() for loop in found.loops],
        "rows": [result.record() for result in found.rows],
        "disk": [result.record() for result in found.on_disk],
        "clients": [client.record() for client in found.clients],
        "left_out": todo.left_out,
        "failed": {str(thing): why for thing, why in found.failed.items()},
    }
    if args.json:
        with writing("--json", args.json):
            args.json.write_text(json.dumps(record, indent=2) + "\n")
    if args.plot:
        with writing("--plot", args.plot):
            plot.draw(record, args.plot)


def _check_files(args: argparse.Namespace) -> None:
    """Refuse, before anything is measured, what could not be written afterwards."""
    if args.plot:
        if not (args.scale or args.many):
            raise CommandError("--plot: expected --scale or --many with it")
        if args.plot.suffix.lower() != ".png":
            raise CommandError(f"--plot: expected a file named *.png, found {args.plot}")
        check_plot(args.plot)
    if args.json:
        check_writable("--json", args.json)
    if args.disk:
        check_writable("--disk", args.disk / ".fastoptim-probe")


def _chosen(args: argparse.Namespace) -> Todo:
    asked, quick = CASES.get(args.optimizer), args.quick
    case = asked or CASES["Adam"]
    found = [
        getattr(sections, name)(case, quick)
        for name in ("rivals", "many", "scale")
        if getattr(args, name)
    ]
    if args.sizes:
        found.append(sections.sizes([asked] if asked else sections.default_cases(), quick))
    choices = choice.cells([asked] if asked else choice.default_cases(), quick)
    trainings = loop.trainings(case, quick)
    todo = Todo(
        found,
        choices if args.choice else [],
        trainings if args.loop else [],
        rows.cells(quick) if args.rows else [],
        disk.cells(case, quick) if args.disk else [],
        clients.find(quick) if args.clients else Programs([], {}, {}),
    )
    if any((found, args.choice, args.loop, args.rows, args.disk, args.clients)):
        return todo
    return todo._replace(
        sections=sections.steps(case, quick) + ([] if asked else [sections.rules(case)])
    )


def _measure(todo: Todo, args: argparse.Namespace, found: Found) -> None:
    """Measure one thing after the other, and show on stderr how far that is."""
    quick = args.quick
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    # Drawn between the cells only: a thread that draws would take a core from the contenders.
    with Progress(
        console=console, auto_refresh=False, transient=True, disable=not console.is_terminal
    ) as progress:
        cells = [(section, cell) for section in todo.sections for cell in section.cells]
        rest = [*todo.choices, *todo.trainings, *todo.rows, *todo.on_disk, *todo.programs.clients]
        total = len(cells) + len(rest)
        task = progress.add_task("", total=total)

        @contextmanager
        def attempt(thing: Any) -> Iterator[None]:
            progress.update(task, description=str(thing), refresh=True)
            try:
                yield
            except KeyboardInterrupt:
                found.failed[thing] = "interrupted"
                raise
            except Exception as error:
                if not isinstance(error, WrongResultError):
                    traceback.print_exc()
                found.failed[thing] = one_line(error)
            progress.advance(task)

        for section, cell in cells:
            with attempt(cell):
                budget = 0 if quick else section.budget
                found.cells[section.name, cell] = timing.measure(cell, section.rivals, budget)
        for cell in todo.choices:
            with attempt(cell):
                found.choices.extend(choice.measure(cell, 0 if quick else choice.BUDGET))
        for training in todo.trainings:
            with attempt(training):
                found.loops.append(loop.measure(training, 0 if quick else BUDGET))
        for cell_of_rows in todo.rows:
            with attempt(cell_of_rows):
                found.rows.append(rows.measure(cell_of_rows, 0 if quick else BUDGET))
        for cell in todo.on_disk:
            with attempt(cell):
                found.on_disk.append(disk.measure(cell, args.disk, 0 if quick else disk.BUDGET))
        for client in todo.programs.clients:
            with attempt(client):
                found.clients.append(clients.measure(client, 1 if quick else clients.ROUNDS))
