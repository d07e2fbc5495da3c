"""The figure of a record: time against elements, and against tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LENGTHS = (16, 1000)  # of the tensors whose number grows


def draw(record: Mapping[str, Any], file: Path) -> None:
    """Draw what a record has of the sections ``scale`` and ``many``, if anything, into a file.

    Parameters
    ----------
    record : mapping
        What ``--json`` writes.
    file : Path
        The figure, in a format that its name tells, such as PNG.
    """
    from matplotlib.figure import Figure

    scale, many = (
        [result for result in record["results"] if result["section"] == section]
        for section in ("scale", "many")
    )
    panels = [("one tensor", "elements", scale)]
    for length in LENGTHS:
        some = [r for r in many if r["elements"] == length * r["tensors"]]
        panels.append((f"tensors of {length:,} elements", "tensors", some))
    panels = [panel for panel in panels if panel[-1]]
    if not panels:
        return
    figure = Figure(figsize=(5 * len(panels), 4.2), layout="constrained")
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, field, results) in zip(row, panels, strict=True):
        _draw_times(axes, field, results)
        axes.set(title=f"{results[0]['optimizer']} float32, {title}", xlabel=field)
    figure.suptitle(f"{record['machine']['CPU']}, {record['machine']['threads']} threads")
    figure.savefig(file, dpi=150)


def _draw_times(axes: Any, field: str, results: Sequence[Mapping[str, Any]]) -> None:
    names = dict.fromkeys(name for result in results for name in result["median_seconds"])
    for name in names:
        points = [
            (result[field], result["median_seconds"][name])
            for result in results
            if name in result["median_seconds"]
        ]
        thick = {"linewidth": 2.5, "zorder": 3} if name == "fastoptim" else {}
        style = "k:" if name == "probe" else "o-"
        axes.plot(*zip(*points, strict=True), style, markersize=4, label=name, **thick)
    axes.set(xscale="log", yscale="log", ylabel="seconds a step")
    axes.grid(alpha=0.3)
    axes.legend()
