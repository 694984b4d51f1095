"""Plots of speed measurements, from the JSON that the benchmarks write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from benchmarks.floor import PARTS
from benchmarks.speed_tables import (
    PART_NAMES,
    Report,
    format_number,
    measured_modes,
)
from drama_torchrl.gridworld.tables import NAMES
from drama_torchrl.report.plots import label_decades

__all__ = [
    "draw_dynamics",
    "draw_imagination",
    "draw_samplers",
    "draw_ssd",
    "draw_step",
]

_STACKED = PARTS[:3]
_SHRINKS = "(the batch shrinks as it grows)"
_LABELS = {"dynamics": f"steps of context {_SHRINKS}"}


def draw_step(report: Report) -> Figure:
    """Bars of the three parts for each mode, and for the floor."""
    bars = {
        name: [mode["parts"][part]["median_ms"] for part in _STACKED]
        for name, mode in measured_modes(report).items()
    }
    bars["floor"] = [report["floor"][part]["ms"] for part in _STACKED]
    figure = Figure(figsize=(7.5, 0.6 * len(bars) + 1.2), layout="constrained")
    axes = figure.subplots()
    ends = [0.0] * len(bars)
    for i, part in enumerate(_STACKED):
        widths = [values[i] for values in bars.values()]
        axes.barh(list(bars), widths, left=ends, label=PART_NAMES[part], height=0.6)
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    for y, end in enumerate(ends):
        axes.annotate(f" {format_number(end)}", (end, y), va="center")
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("ms of a training step")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=3, frameon=False)
    return figure


def draw_imagination(report: Report) -> Figure:
    """One panel an axis: ms over the size that varies, a line for each mode."""
    rows = [row for row in report["rows"] if "times" in row]
    names = list(dict.fromkeys(row["axis"] for row in rows))
    figure, panels = _panels(len(names))
    for axes, name in zip(panels, names, strict=True):
        found = [row for row in rows if row["axis"] == name]
        for mode in dict.fromkeys(row["mode"] for row in found):
            of_mode = [row for row in found if row["mode"] == mode]
            for kind in of_mode[0]["times"]:
                points = [
                    (row[_varied(name)], row["times"][kind]["median_ms"])
                    for row in of_mode
                ]
                label = mode if kind == "rollout" else f"{mode}, {kind}"
                _plot(axes, points, label)
        sizes = {row[_varied(name)] for row in found}
        _finish(axes, name, _LABELS.get(name, name), sizes)
    panels[0].set_ylabel("ms")
    return figure


def draw_ssd(report: Report) -> Figure:
    """Forward and backward by length, one panel a mode, a line for each form."""
    rows = [row for row in report["rows"] if "times" in row]
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    figure, panels = _panels(len(modes))
    for axes, mode in zip(panels, modes, strict=True):
        of_mode = [row for row in rows if row["mode"] == mode]
        for form in dict.fromkeys(row["form"] for row in of_mode):
            points = [
                (row["length"], row["times"]["backward"]["median_ms"])
                for row in of_mode
                if row["form"] == form
            ]
            _plot(axes, points, form)
        lengths = {row["length"] for row in of_mode}
        _finish(axes, mode, f"T {_SHRINKS}", lengths)
    panels[0].set_ylabel("ms, forward and backward")
    return figure


def draw_dynamics(report: Report) -> Figure:
    """Training and imagination by length, a line for each model (figure 10)."""
    rows = [row for row in report["rows"] if "times" in row]
    phases = list(dict.fromkeys((row["phase"], row["mode"]) for row in rows))
    figure, panels = _panels(len(phases))
    for axes, phase in zip(panels, phases, strict=True):
        found = [row for row in rows if (row["phase"], row["mode"]) == phase]
        for kind, name in NAMES.items():
            points = [
                (row["length"], row["times"]["call"]["median_ms"])
                for row in found
                if row["dynamics"] == kind
            ]
            if points:
                _plot(axes, points, name)
        xlabel = "T" if phase[0] == "training" else "steps of context"
        _finish(axes, ", ".join(phase), xlabel, {row["length"] for row in found})
    panels[0].set_ylabel("ms")
    return figure


def draw_samplers(report: Report) -> Figure:
    """Samples by stored transitions, one panel a device, a line for each sampler."""
    rows = [row for row in report["rows"] if "sample" in row]
    devices = list(dict.fromkeys(row["device"] for row in rows))
    figure, panels = _panels(len(devices))
    for axes, device in zip(panels, devices, strict=True):
        found = [row for row in rows if row["device"] == device]
        lines = dict.fromkeys((r["sampler"], r["windows"], r["length"]) for r in found)
        for line in lines:
            points = [
                (row["transitions"], row["sample"]["median_ms"])
                for row in found
                if (row["sampler"], row["windows"], row["length"]) == line
            ]
            _plot(axes, points, f"{line[0]}, {line[1]} × {line[2]}")
        axes.axhline(1.0, color="0.75", lw=1.0, zorder=0)
        sizes = {row["transitions"] for row in found}
        _finish(axes, device, "stored transitions", sizes)
    panels[0].set_ylabel("ms of a sample")
    return figure


def _varied(axis: str) -> str:
    """What varies along an axis of bench_imagination."""
    return "context" if axis == "dynamics" else axis


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(6.4 * count, 3.8), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False).flat)


def _plot(axes: Axes, points: Sequence[tuple[float, float]], label: str) -> None:
    xs, ys = zip(*sorted(points), strict=True)
    axes.plot(xs, ys, marker="o", ms=4, lw=1.6, label=label)


def _finish(axes: Axes, title: str, xlabel: str, measured: Iterable[float]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(list(measured), [f"{x:g}" for x in measured], rotation=40)
    axes.xaxis.set_minor_locator(NullLocator())
    label_decades(axes.yaxis)
    axes.set_title(title, loc="left", fontsize="medium")
    axes.set_xlabel(xlabel)
    axes.spines[["top", "right"]].set_visible(False)
    # Beside the panel, where no line runs through it.
    axes.legend(
        loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize="small"
    )
