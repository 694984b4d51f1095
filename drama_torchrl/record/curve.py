"""The learning curve of a run, beside the scores it is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from drama_torchrl.record.atomic import replacing
from drama_torchrl.record.scores import training_score

__all__ = ["plot_learning_curve", "running_means"]


def running_means(returns: Sequence[float], last: int = 5) -> list[float]:
    """Average each episode with those before it: the paper's training score over time.

    Args:
        returns: returns of the episodes, oldest first.
        last: most episodes to average, the newest included.

    Returns:
        One mean for each episode.

    Example:
        >>> running_means([0.0, 2.0, 4.0, 6.0], last=2)
        [0.0, 1.0, 3.0, 5.0]
    """
    scores = (training_score(returns[: i + 1], last) for i in range(len(returns)))
    return [score for score in scores if score is not None]


def plot_learning_curve(
    episodes: Sequence[tuple[int, float]],
    path: str | Path,
    *,
    game: str,
    paper_score: float | None = None,
    human_score: float | None = None,
    random_score: float | None = None,
) -> None:
    """Draw the training returns, their running mean of 5 and the scores to compare.

    A human score far above all else is named at the edge instead of flattening the
    curve.

    Args:
        episodes: environment step at the end of each episode and its return.
        path: the PNG file; its directory must exist.
        game: named in the title.
        paper_score: the paper's agent after 100 000 steps.
        human_score: a human tester.
        random_score: uniformly random actions.
    """
    figure = Figure(figsize=(8.0, 4.5), layout="constrained")
    axes = figure.add_subplot()
    steps = [step for step, _ in episodes]
    returns = [value for _, value in episodes]
    if episodes:
        axes.plot(steps, returns, "o", color="C0", alpha=0.35, ms=4, label="episode")
        mean = running_means(returns)
        axes.plot(steps, mean, "-", color="C0", lw=2, label="mean of the last 5")
        axes.legend(
            ncols=2, frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0)
        )
    else:
        axes.text(
            0.5, 0.5, "no episode has ended", ha="center", transform=axes.transAxes
        )
    references = {
        "Drama paper": (paper_score, "C1"),
        "human": (human_score, "C2"),
        "random": (random_score, "C7"),
    }
    known = {n: (s, color) for n, (s, color) in references.items() if s is not None}
    near = [score for name, (score, _) in known.items() if name != "human"]
    _set_limits(axes, [*returns, *near], human_score)
    _draw_references(axes, known)
    axes.set_xlim(left=0)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return of a training episode")
    axes.set_title(game, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _set_limits(axes: Axes, values: list[float], human: float | None) -> None:
    values = values or [human if human is not None else 0.0]
    low, high = min(values), max(values)
    if human is not None and low - (high - low) <= human <= high + (high - low):
        low, high = min(low, human), max(high, human)
    margin = 0.06 * (high - low) or 1.0
    axes.set_ylim(low - margin, high + margin)


def _draw_references(axes: Axes, scores: dict[str, tuple[float, str]]) -> None:
    """Lines at the scores; their labels, right of the plot, are kept apart."""
    low, high = axes.get_ylim()
    lowest = 0.0
    for name, (score, color) in sorted(scores.items(), key=lambda item: item[1][0]):
        inside = low <= score <= high
        if inside:
            axes.axhline(score, color=color, ls="--", lw=1)
        place = (min(max(score, low), high) - low) / (high - low)
        place = max(place, lowest)
        lowest = place + 0.06
        arrow = "" if inside else (" ↑" if score > high else " ↓")
        axes.annotate(
            f"{name} {score:g}{arrow}",
            (1.01, place),
            xycoords="axes fraction",
            color=color,
            va="center",
        )
