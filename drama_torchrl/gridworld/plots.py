"""What the two studies found, as plots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from drama_torchrl.gridworld.study import Row
from drama_torchrl.gridworld.tables import NAMES, PAPER, peak_gb_of
from drama_torchrl.report.plots import label_decades

__all__ = ["draw_grid_world", "draw_memory"]

_TITLE: dict[str, Any] = {"loc": "left", "fontsize": "medium"}


def draw_grid_world(rows: Sequence[Row]) -> Figure:
    """Draw time, memory where it was measured, and error by length.

    Hollow markers are the paper's times.

    Args:
        rows: what was measured.
    """
    figure, panels = _panels(rows)
    for kind, color, own in _by_model(rows):
        lengths = [row.length for row in own]
        times = [(n, PAPER[kind, n]) for n in lengths if PAPER.get((kind, n))]
        points = [(n, both[0]) for n, both in times if both is not None]
        _plot(panels[0], points, color, None, mfc="none", ls=":")
        _plot_costs(panels, own, color, NAMES[kind])
        errors = [(row.length, row.errors["error"]) for row in own if row.errors]
        _plot(panels[-1], errors, color, NAMES[kind])
    _finish(panels, rows, "tokens of a sequence", "error %, A.6")
    panels[0].set_title("ms of an update (hollow: the paper)", **_TITLE)
    return figure


def draw_memory(rows: Sequence[Row]) -> Figure:
    """Draw time, memory where it was measured, and error of the goal by steps.

    Args:
        rows: what was measured.
    """
    figure, panels = _panels(rows)
    for kind, color, own in _by_model(rows):
        _plot_costs(panels, own, color, NAMES[kind])
        errors = [(row.length, row.errors["goal"]) for row in own if row.errors]
        _plot(panels[-1], errors, color, NAMES[kind])
    _finish(panels, rows, "steps since the goal was seen", "goal error %")
    return figure


def _panels(rows: Sequence[Row]) -> tuple[Figure, list[Axes]]:
    """One for time, one for memory if any row has it, one for errors."""
    count = 3 if any(peak_gb_of(row) is not None for row in rows) else 2
    figure = Figure(figsize=(4.2 * count + 1.6, 3.6), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False).flat)


def _by_model(rows: Sequence[Row]) -> Iterable[tuple[str, str, list[Row]]]:
    for i, kind in enumerate(NAMES):
        own = sorted((r for r in rows if r.model == kind), key=lambda row: row.length)
        if own:
            yield kind, f"C{i}", own


def _plot_costs(
    panels: Sequence[Axes], rows: Sequence[Row], color: str, label: str
) -> None:
    times = [(row.length, row.cost.ms) for row in rows if row.cost]
    _plot(panels[0], times, color, label)
    if len(panels) == 3:
        peaks = [(row.length, peak_gb_of(row)) for row in rows]
        known = [(n, peak) for n, peak in peaks if peak is not None]
        _plot(panels[1], known, color, label)


def _plot(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    color: str,
    label: str | None,
    **style: Any,
) -> None:
    if points:
        xs, ys = zip(*points, strict=True)
        style = {"marker": "o", "ms": 5, "lw": 1.6, **style}
        axes.plot(xs, ys, color=color, label=label, **style)


def _finish(
    panels: Sequence[Axes], rows: Sequence[Row], xlabel: str, error: str
) -> None:
    titles = ["ms of an update", "peak GB", error]
    chosen = titles if len(panels) == 3 else [titles[0], titles[2]]
    lengths = sorted({row.length for row in rows})
    for axes, title in zip(panels, chosen, strict=True):
        axes.set_title(title, **_TITLE)
        axes.set_xscale("log")
        axes.set_xticks(lengths, [str(n) for n in lengths])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(xlabel)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[:-1]:
        axes.set_yscale("log")
        label_decades(axes.yaxis)
    panels[-1].set_ylim(-3, 103)
    handles, names = panels[0].get_legend_handles_labels()
    if handles:
        legend = panels[-1].legend(handles, names, frameon=False, fontsize="small")
        legend.set_loc("center left")
        legend.set_bbox_to_anchor((1, 0.5))
