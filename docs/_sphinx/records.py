"""Figures and tables of the records in ``docs/records``: what ``fastoptim bench --json`` measured.

A folder there is a machine. The directive ``record`` shows one kind of record of every machine,
with the machine and the day under it. Nothing is measured here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from docutils import nodes
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

DOCS = Path(__file__).parents[1]
RECORDS, FIGURES = DOCS / "records", DOCS / "figures"
SUBJECT, IN_PLACE = "fastoptim", "NumPy in place"
COLOURS = {
    "torch fused": "C1",
    "torch foreach": "C6",
    "DeepSpeed": "C2",
    "numba": "C4",
    "C by hand": "C7",
    IN_PLACE: "C3",
    SUBJECT: "C0",
}
Record = dict[str, Any]


def sizes(figure: Figure, record: Record) -> None:
    """Draw how many times as long others take, against the size of one array."""
    titles = {"Adam": "Adam", "SGD-momentum": "SGD with momentum", "Adagrad": "Adagrad"}
    axes = figure.subplots(1, 3, sharey=True)
    for ax, (name, title) in zip(axes, titles.items(), strict=True):
        results = [r for r in record["results"] if r["optimizer"] == name]
        rivals = dict.fromkeys(rival for r in results for rival in r["speedup_over"])
        for rival in rivals:
            points = [(r["elements"], r["speedup_over"].get(rival)) for r in results]
            ax.plot(*zip(*points, strict=True), "o-", ms=3, label=rival, color=COLOURS[rival])
        ax.axhline(1, color=COLOURS[SUBJECT], lw=2, label=SUBJECT)
        ax.set(xscale="log", yscale="log", title=title, xlabel="elements, float32")
        ax.set_yticks([0.1, 0.5, 1, 2, 5, 10, 20], ["0.1", "0.5", "1", "2", "5", "10", "20"])
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("times as long")
    axes[0].legend(fontsize=8)


def many(figure: Figure, record: Record) -> None:
    """Draw the time for each array, against their number."""
    axes = figure.subplots(1, 2, sharey=True)
    for ax, length in zip(axes, (16, 1000), strict=True):
        results = [r for r in record["results"] if r["elements"] == length * r["tensors"]]
        names = dict.fromkeys(n for r in results for n in r["median_seconds"] if n != "probe")
        for name in names:
            points = [
                (r["tensors"], 1e6 * r["median_seconds"][name] / r["tensors"])
                for r in results
                if name in r["median_seconds"]
            ]
            ax.plot(*zip(*points, strict=True), "o-", ms=3, label=name, color=COLOURS[name])
        ax.set(xscale="log", yscale="log", xlabel="arrays", title=f"{length:,} elements each")
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("Adam, us for each array")
    axes[0].legend(fontsize=8)


def loop(figure: Figure, record: Record) -> None:
    """Draw how many times as long trainings take with NumPy's update in place."""
    runs = [r for r in record["loops"] if not r["scheduled"]]
    seconds = [r["iteration_seconds"] for r in runs]
    bars(
        figure.subplots(),
        [f"{r['network']}, batch {r['batch']}" for r in runs],
        [s[IN_PLACE] / s[SUBJECT] for s in seconds],
    )


def clients(figure: Figure, record: Record) -> None:
    """Draw how many times as long trainings take with a library's own update."""
    runs = record["clients"]
    bars(
        figure.subplots(),
        [f"{r['library']}: {r['model']}" for r in runs],
        [r["ratio"] for r in runs],
    )


def bars(ax: Axes, names: list[str], ratios: list[float]) -> None:
    """Draw ratios as bars from 1 on."""
    places = range(len(names))
    ax.barh(places, [r - 1 for r in ratios], left=1, color=COLOURS[SUBJECT], height=0.6)
    ax.set_yticks(places, names, fontsize=8)
    ax.invert_yaxis()
    ax.axvline(1, color="black", lw=0.8)
    for place, ratio in zip(places, ratios, strict=True):
        ax.text(max(ratio, 1) + 0.03, place, f"{ratio:.2f}", va="center", fontsize=8)
    ax.set(xlabel="times as long without fastoptim", xlim=(0.9, max(ratios) + 0.3))


def choice(figure: Figure, record: Record) -> None:
    """Draw the time of the best fixed choice as a share of that of the engine's own."""
    axes = figure.subplots(1, 2, sharey=True)
    measured = ("steps back to back", "steps beside a process that keeps a core busy")
    for ax, kind in zip(axes, measured, strict=True):
        for name, mark in (("Adam", "o-"), ("SGD-momentum", "s-")):
            points = [
                (r["elements"], r["of_best_fixed"])
                for r in record["choices"]
                if (r["optimizer"], r["measured"]) == (name, kind)
            ]
            ax.plot(*zip(*points, strict=True), mark, ms=4, label=name)
        ax.axhline(1, color="black", lw=0.8)
        ax.set(xscale="log", ylim=(0.85, 1.15), xlabel="elements, float32")
        ax.set_title(kind, fontsize=9)
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("of the best fixed choice")
    axes[0].legend(fontsize=8)


# Of each kind: how it is drawn, its size in inches, and what one sees.
DRAWN: dict[str, tuple[Callable[[Figure, Record], None], tuple[float, float], str]] = {
    "sizes": (sizes, (9, 3.6), "Times that others take, beside fastoptim, by size"),
    "many": (many, (7.5, 3.6), "Time for each of many arrays"),
    "loop": (loop, (7.5, 3.4), "Trainings in NumPy"),
    "clients": (clients, (7.5, 5.2), "Trainings with other libraries"),
    "choice": (choice, (7.5, 3.2), "The engine's own choice beside the best fixed one"),
}


def shown(seconds: float) -> str:
    """Return a time for people."""
    unit, factor = ("ms", 1e3) if seconds >= 1e-4 else ("us", 1e6)
    return f"{seconds * factor:.2g} {unit}"


def times(ratio: float | None) -> str:
    """Return how many times as long something takes, if it was measured."""
    if ratio is None:
        return ""
    return f"{ratio:.2f}x" if ratio < 2 else f"{ratio:.1f}x" if ratio < 10 else f"{ratio:.0f}x"


def cells_of_rivals(record: Record) -> Iterable[list[str]]:
    """Return the rows of a table of all rivals, its head first."""
    columns = {
        "NumPy plain": "NumPy, plain",
        IN_PLACE: "NumPy, in place",
        "torch fused": "torch, fused",
        "DeepSpeed": "DeepSpeed",
        "numba": "numba",
        "optax": "optax",
        "thinc": "thinc",
        "scikit-learn": "scikit-learn",
    }
    yield ["Adam, float32", "a step", *columns.values()]
    for r in record["results"]:
        if (r["optimizer"], r["dtype"]) == ("Adam", "float32"):
            each = r["elements"] // r["tensors"]
            name = f"{r['tensors']:,} x {each:,}" if r["tensors"] > 1 else f"{each:,}"
            ratios = (r["speedup_over"].get(c) for c in columns)
            yield [
                name,
                shown(r["median_seconds"][SUBJECT]),
                *map(times, ratios),
            ]


def machine(record: Record) -> str:
    """Return the machine and the day of a record, in one line."""
    m = record["machine"]
    versions = [f"{name} {m[name]}" for name in ("Python", "NumPy", "torch") if name in m]
    return (
        f"{m['CPU']}, {m['CPUs']} virtual cores, {m['platform']}, {m['compiler']}; "
        f"{', '.join(versions)}; {m['date']}."
    )


class Shown(SphinxDirective):
    """What the records of one kind show, for each machine."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        kind = self.arguments[0]
        found: list[nodes.Node] = []
        for file in sorted(RECORDS.glob(f"*/{kind}.json")):
            self.env.note_dependency(str(file))
            record = json.loads(file.read_text(encoding="utf-8"))
            if kind == "rivals":
                found += [table(list(cells_of_rivals(record)))]
            else:
                found += [picture(kind, record, f"{file.parent.name}-{kind}.svg")]
            found += [nodes.caption("", machine(record), classes=["machine"])]
        return [nodes.container("", *found, classes=["record"])]


def picture(kind: str, record: Record, name: str) -> nodes.image:
    """Return the picture of a record, drawn into a file of that name."""
    draw, size, words = DRAWN[kind]
    figure = Figure(figsize=size, layout="constrained")
    draw(figure, record)
    FIGURES.mkdir(exist_ok=True)
    figure.savefig(FIGURES / name, metadata={"Date": None})
    return nodes.image(uri=f"figures/{name}", alt=f"{words}: {machine(record)}")


def table(cells: list[list[str]]) -> nodes.table:
    """Return a table, whose first row is its head."""
    rows = [
        nodes.row("", *(nodes.entry("", nodes.paragraph("", text)) for text in row))
        for row in cells
    ]
    group = nodes.tgroup(cols=len(cells[0]))
    group += [nodes.colspec(colwidth=1) for _ in cells[0]]
    group += [nodes.thead("", rows[0]), nodes.tbody("", *rows[1:])]
    return nodes.table("", group)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("record", Shown)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
