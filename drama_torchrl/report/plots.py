"""Learning curves of all games on one sheet, and performance profiles."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from drama_torchrl.record.curve import running_means
from drama_torchrl.report.measures import (
    MEASURES,
    Comparison,
    Measure,
    compare,
    normalized_scores,
    paper_scores,
    references_of,
)
from drama_torchrl.report.runs import Run
from drama_torchrl.report.statistics import (
    Floats,
    Scores,
    bootstrap_interval,
    performance_profile,
)
from drama_torchrl.report.variants import Variant

__all__ = [
    "average_curves",
    "draw_learning_curves",
    "draw_profiles",
    "label_decades",
    "to_png",
]

_COLUMNS = 4
_PAPER = "C1"
_COLORS = ("C0", "C2", "C3", "C4", "C5", "C6", "C8", "C9")


def average_curves(
    curves: Sequence[Sequence[tuple[int, float]]],
) -> tuple[Floats, Floats]:
    """Average curves whose points lie at different steps.

    A curve keeps its value until its next point. The average begins where the last
    curve begins and has a point wherever a curve has one.

    Args:
        curves: steps, ascending, and values; at least one curve, none empty.

    Returns:
        Steps ``[K]`` and means ``[K]``.

    Example:
        >>> steps, means = average_curves([[(1, 0.0), (4, 8.0)], [(2, 2.0), (3, 4.0)]])
        >>> steps.tolist(), means.tolist()
        ([2.0, 3.0, 4.0], [1.0, 2.0, 6.0])
    """
    points = [np.asarray(curve, dtype=np.float64) for curve in curves]
    begin = max(curve[0, 0] for curve in points)
    steps = np.unique(np.concatenate([curve[:, 0] for curve in points]))
    steps = steps[steps >= begin]
    held = [
        curve[np.searchsorted(curve[:, 0], steps, side="right") - 1, 1]
        for curve in points
    ]
    return steps, np.mean(held, axis=0)


def draw_learning_curves(variants: Sequence[Variant]) -> Figure:
    """Draw the running mean of five training episodes, one panel per game.

    Thin lines are seeds, thick ones their mean; the paper's score is a line. Human and
    random play are lines only where they would not flatten the curves.

    Args:
        variants: one colour each.
    """
    games = sorted({game for variant in variants for game in variant.by_game})
    columns = min(_COLUMNS, len(games))
    rows = -(-len(games) // columns)
    figure = Figure(
        figsize=(max(7.0, 3.4 * columns), 2.7 * rows + 0.7), layout="constrained"
    )
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, game in zip(grid.flat, games, strict=False):
        for variant, color in zip(variants, _cycle(variants), strict=True):
            _draw_runs(axes, variant.by_game.get(game, []), color, variant.name)
        _draw_references(axes, game)
    for axes in list(grid.flat)[len(games) :]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_ylabel("return")
    figure.supxlabel("environment steps", fontsize="medium")
    _add_legend(figure, list(grid.flat))
    return figure


def draw_profiles(variants: Sequence[Variant]) -> Figure:
    """Draw the share of runs above each human-normalised score, by both measures.

    Shades are 95 % stratified-bootstrap intervals at each threshold. The paper has
    means of 5 seeds alone, one for each game.

    Args:
        variants: one curve each in every row of games that they have.
    """
    rows = compare(variants)
    colors = dict(zip((v.name for v in variants), _cycle(variants), strict=True))
    figure = Figure(figsize=(13.0, 3.6 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(MEASURES), sharey=True, squeeze=False)
    for panels, comparison in zip(grid, rows, strict=True):
        for axes, measure in zip(panels, MEASURES, strict=True):
            _draw_profile(axes, comparison, measure, colors)
        panels[0].set_ylabel("share of runs above τ")
        panels[-1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def label_decades(axis: Axis) -> None:
    """Number a logarithmic axis at 1, 2 and 5 of each decade, without exponents.

    Args:
        axis: its ticks are set.

    Example:
        >>> axes = Figure().subplots()
        >>> axes.set_yscale("log")
        >>> label_decades(axes.yaxis)
        >>> axes.yaxis.get_major_formatter().format_data(0.2)
        '0.2'
    """
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def to_png(figure: Figure) -> bytes:
    """Render a figure.

    Example:
        >>> to_png(Figure())[1:4]
        b'PNG'
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _cycle(variants: Sequence[Variant]) -> list[str]:
    return [_COLORS[i % len(_COLORS)] for i in range(len(variants))]


def _draw_runs(axes: Axes, runs: Sequence[Run], color: str, name: str) -> None:
    curves = []
    for run in runs:
        steps = [step for step, _ in run.episodes]
        means = running_means([value for _, value in run.episodes])
        curves.append(list(zip(steps, means, strict=True)))
        axes.plot(steps, means, color=color, lw=0.8, alpha=0.5)
    if curves:
        axes.plot(*average_curves(curves), color=color, lw=2.0, label=name)


def _draw_references(axes: Axes, game: str) -> None:
    random, human, paper = references_of(game)
    axes.axhline(paper, color=_PAPER, ls="--", lw=1.4, label="Drama paper", zorder=3)
    low, high = axes.get_ylim()
    beyond = []
    for name, score, color in (("human", human, "C7"), ("random", random, "0.75")):
        if low - (high - low) <= score <= high + (high - low):
            axes.axhline(score, color=color, ls=":", lw=1.2, label=name)
        else:
            beyond.append(f"{name} {score:g} {'↑' if score > high else '↓'}")
    axes.set_title(game, loc="left", fontsize="medium")
    axes.set_title("  ".join(beyond), loc="right", fontsize="small", color="C7")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.spines[["top", "right"]].set_visible(False)


def _add_legend(figure: Figure, panels: Sequence[Axes]) -> None:
    shown: dict[str, Artist] = {}
    for axes in panels:
        for line, label in zip(*axes.get_legend_handles_labels(), strict=True):
            shown.setdefault(label, line)
    widest = 0.6 + 0.1 * max(map(len, shown))  # inches, with its line
    figure.legend(
        list(shown.values()),
        list(shown),
        loc="outside upper left",
        ncols=max(1, min(5, int(figure.get_figwidth() / widest))),
        frameon=False,
    )


def _draw_profile(
    axes: Axes, comparison: Comparison, measure: Measure, colors: Mapping[str, str]
) -> None:
    games = comparison.games
    scored = {
        variant.name: normalized_scores(variant, measure, games)
        for variant in comparison.variants
    }
    paper = paper_scores(games)
    thresholds = _thresholds([paper, *scored.values()])
    for name, scores in scored.items():
        label = f"{name} (n = {sum(map(len, scores))})".replace(", ", ",\n")
        shares = performance_profile(scores, thresholds)
        axes.plot(thresholds, shares, color=colors[name], lw=2.0, label=label)
        low, high = bootstrap_interval(
            scores, lambda drawn: performance_profile(drawn, thresholds), resamples=2000
        )
        axes.fill_between(thresholds, low, high, color=colors[name], alpha=0.18, lw=0)
    shares = performance_profile(paper, thresholds)
    axes.plot(thresholds, shares, color=_PAPER, ls="--", lw=1.4, label="Drama paper")
    axes.axvline(1.0, color="0.75", lw=1.0, zorder=0)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("human-normalised score τ")
    title = f"{measure.title}, {comparison.label}"
    axes.set_title(title, loc="left", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)


def _thresholds(scored: Sequence[Scores]) -> Floats:
    """From just below the lowest score, or 0, to just above the highest."""
    every = np.concatenate([game for scores in scored for game in scores])
    low, high = min(0.0, every.min()), max(1.0, every.max())
    margin = 0.02 * (high - low)
    return np.linspace(low - margin, high + margin, 301)
