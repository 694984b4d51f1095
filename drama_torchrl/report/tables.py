"""The numbers of a report as tables."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from drama_torchrl.report.measures import (
    MEASURES,
    Comparison,
    Measure,
    compare,
    normalized_scores,
    paper_scores,
    references_of,
    scores_of,
)
from drama_torchrl.report.runs import Refusal, Run
from drama_torchrl.report.statistics import (
    Estimate,
    estimate,
    iqm_of_runs,
    mean_of_games,
    median_of_games,
    optimality_gap,
)
from drama_torchrl.report.table import Table
from drama_torchrl.report.variants import Variant

__all__ = [
    "NOTHING",
    "aggregate_table",
    "cost_table",
    "game_table",
    "refusal_table",
    "run_table",
]

NOTHING = "–"
"""In a cell that has no value."""
_AGGREGATES = {
    "Mean": mean_of_games,
    "Median": median_of_games,
    "IQM of runs": iqm_of_runs,
    "Optimality gap": optimality_gap,
}


def game_table(variants: Sequence[Variant], measure: Measure) -> Table:
    """Scores of each game: random, human, paper, and each variant with its interval.

    Args:
        variants: one column each.
        measure: which score.
    """
    rows = []
    for game in sorted({game for variant in variants for game in variant.by_game}):
        references = (f"{score:g}" for score in references_of(game))
        cells = (_game_cell(variant, measure, game) for variant in variants)
        rows.append([game, *references, *cells])
    names = [variant.name for variant in variants]
    return Table(
        measure.title,
        f"{measure.explanation} In brackets the 95 % bootstrap interval over seeds, "
        "which one seed cannot have, and in parentheses the number of seeds.",
        ["Game", "Random", "Human", "Paper", *names],
        rows,
    )


def aggregate_table(variants: Sequence[Variant]) -> Table:
    """Human-normalised aggregates of each variant beside the paper on the same games.

    Variants with different games are compared on the games that they share.

    Args:
        variants: one row each per measure and set of games.
    """
    rows = []
    comparisons = compare(variants)
    for comparison in comparisons:
        rows.append(_paper_row(comparison))
        rows += [
            _row(variant, measure, comparison)
            for measure in MEASURES
            for variant in comparison.variants
        ]
    listed = "".join(
        f" {each.label}: {', '.join(each.games)}."
        for each in comparisons
        if each.label != ", ".join(each.games)
    )
    return Table(
        "Human-normalised scores",
        "0 is random play, 1 a human tester; brackets hold 95 % stratified-bootstrap "
        "intervals (seeds are drawn anew within each game). IQM is the mean of the "
        "middle half of all runs, the optimality gap what runs lack to 1 on average "
        f"(smaller is better).{listed}",
        ["Agent", "Measure", "Games", "Runs", *_AGGREGATES],
        rows,
        words=3,
    )


def cost_table(variants: Sequence[Variant]) -> Table:
    """Wall-clock and GPU-hours of training, by variant and device."""
    rows = []
    for variant in variants:
        for hardware in sorted({run.hardware for run in variant.runs}):
            runs = [run for run in variant.runs if run.hardware == hardware]
            rows.append([variant.name, hardware, *_cost_cells(runs)])
    if len(rows) > 1:
        runs = [run for variant in variants for run in variant.runs]
        rows.append(["all", "", *_cost_cells(runs)])
    return Table(
        "Cost",
        "Wall-clock time of training, without the final episodes. A GPU-hour is an "
        "hour of a run on each of its GPUs, counted whole even if runs shared one.",
        [
            *("Agent", "Device", "Runs", "Hours per run", "Hours", "GPU-hours"),
            *("Steps per second", "Commits"),
        ],
        rows,
        words=2,
    )


def run_table(variants: Sequence[Variant]) -> Table:
    """Every run that counts, with the scores that went into the other tables."""
    return Table(
        "Runs",
        "Every run that is counted.",
        ["Agent", "Game", "Directory", "Seed", *(m.title for m in MEASURES), "Hours"],
        [
            [
                *(variant.name, run.game, str(run.path), str(run.seed)),
                *(_number(s, s) for s in (m.score(run) for m in MEASURES)),
                f"{run.hours:.2f}",
            ]
            for variant in variants
            for runs in variant.by_game.values()
            for run in runs
        ],
        words=3,
    )


def refusal_table(refused: Sequence[Refusal]) -> Table:
    """The directories that are left out, and why."""
    return Table(
        "Left out",
        "These directories are in none of the numbers."
        if refused
        else "Nothing was left out.",
        ["Directory", "Reason"],
        [[str(refusal.path), refusal.reason] for refusal in refused],
        words=2,
    )


def _number(value: float, like: float) -> str:
    """A return, with one decimal where its neighbour is below a thousand."""
    return f"{value:.{0 if abs(like) >= 1000 else 1}f}"


def _game_cell(variant: Variant, measure: Measure, game: str) -> str:
    if game not in variant.by_game:
        return NOTHING
    (scores,) = scores_of(variant, measure, [game])
    value, interval = estimate([scores], mean_of_games)
    ends = ", ".join(_number(end, value) for end in interval or ())
    return f"{_number(value, value)}{f' [{ends}]' if ends else ''} ({len(scores)})"


def _paper_row(comparison: Comparison) -> list[str]:
    scores = paper_scores(comparison.games)
    values = [f"{float(f(scores)):.3f}" for f in (mean_of_games, median_of_games)]
    # The paper gives no single runs.
    unknown = [NOTHING] * (len(_AGGREGATES) - len(values))
    head = ["Drama paper", MEASURES[0].title, comparison.label, NOTHING]
    return [*head, *values, *unknown]


def _row(variant: Variant, measure: Measure, comparison: Comparison) -> list[str]:
    scores = normalized_scores(variant, measure, comparison.games)
    runs = sum(map(len, scores))
    values = [_estimate(estimate(scores, f)) for f in _AGGREGATES.values()]
    return [variant.name, measure.title, comparison.label, str(runs), *values]


def _estimate(found: Estimate) -> str:
    if found.interval is None:
        return f"{found.value:.3f}"
    return f"{found.value:.3f} [{found.interval.low:.3f}, {found.interval.high:.3f}]"


def _cost_cells(runs: Sequence[Run]) -> list[str]:
    hours = [run.hours for run in runs]
    on_gpu = [run.hours * run.devices for run in runs if run.on_gpu]
    commits = sorted({_short(run.commit) for run in runs})
    return [
        str(len(runs)),
        f"{fmean(hours):.2f} ({min(hours):.2f} to {max(hours):.2f})",
        f"{sum(hours):.2f}",
        f"{sum(on_gpu):.2f}" if on_gpu else NOTHING,
        f"{fmean(run.steps_per_second for run in runs):.1f}",
        ", ".join(commits),
    ]


def _short(commit: str) -> str:
    digits, _, dirty = commit.partition("-")
    return f"{digits[:7]}-{dirty}" if dirty else digits[:7] or "unknown"
