"""What counts as the score of a run: the two measures of the protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from drama_torchrl.record.scores import ReferenceScores, reference_scores
from drama_torchrl.report.runs import Run
from drama_torchrl.report.statistics import Scores
from drama_torchrl.report.variants import Variant

__all__ = [
    "MEASURES",
    "Comparison",
    "Measure",
    "compare",
    "normalized_scores",
    "paper_scores",
    "references_of",
    "scores_of",
]


@dataclass(frozen=True)
class Measure:
    """A score of a run.

    Args:
        title: two words.
        explanation: one sentence.
        score: reads it from a run.
    """

    title: str
    explanation: str
    score: Callable[[Run], float]


MEASURES = (
    Measure(
        "Training score",
        "Mean return of the last five training episodes: the measure of the paper.",
        attrgetter("training"),
    ),
    Measure(
        "Final score",
        "Mean return of complete episodes that the last checkpoint plays with drawn "
        "actions. The paper's column is by its own measure, the training score.",
        attrgetter("final"),
    ),
)
"""The paper's measure, and that of the frozen agent."""


def references_of(game: str) -> ReferenceScores:
    """Scores of random play, human play and the paper for a game of a run.

    Example:
        >>> references_of("Pong").paper_score
        15.0
    """
    found = reference_scores(game)
    if found is None:
        raise ValueError(f"Expected one of the 26 games of Atari100k, got {game!r}.")
    return found


def scores_of(variant: Variant, measure: Measure, games: Iterable[str]) -> Scores:
    """Returns of a variant's runs, one array ``[runs]`` per game."""
    return [
        np.array([measure.score(run) for run in variant.by_game[game]], dtype=float)
        for game in games
    ]


def normalized_scores(
    variant: Variant, measure: Measure, games: Sequence[str]
) -> Scores:
    """Human-normalised scores of a variant's runs, one array ``[runs]`` per game.

    (score - random) / (human - random)   (Drama section 3.1)
    """
    found = []
    for game, scores in zip(games, scores_of(variant, measure, games), strict=True):
        random, human, _ = references_of(game)
        found.append((scores - random) / (human - random))
    return found


def paper_scores(games: Iterable[str]) -> Scores:
    """Human-normalised scores of the paper, its mean of 5 seeds as one run per game.

    Example:
        >>> float(paper_scores(["Boxing"])[0][0])
        6.5
    """
    references = [references_of(game) for game in games]
    return [
        np.array([(paper - random) / (human - random)])
        for random, human, paper in references
    ]


@dataclass(frozen=True)
class Comparison:
    """Variants on games that all of them have.

    Args:
        games: by name.
        variants: those with runs of all of the games.
    """

    games: tuple[str, ...]
    variants: tuple[Variant, ...]

    @property
    def label(self) -> str:
        """The games if they are few, else their number."""
        few = len(self.games) < 4
        return ", ".join(self.games) if few else f"{len(self.games)} games"


def compare(variants: Sequence[Variant]) -> list[Comparison]:
    """Choose sets of games on which aggregates of variants can be compared.

    Aggregates over different games say nothing about each other. The sets are the games
    of each variant, and what each shares with the one that has most.

    Args:
        variants: at least one.

    Returns:
        A comparison for each different set that is not empty, largest first.
    """
    most = max(variants, key=lambda variant: len(variant.by_game)).by_game
    sets = {
        tuple(sorted(games))
        for variant in variants
        for games in (set(variant.by_game), set(variant.by_game) & set(most))
        if games
    }
    return [
        Comparison(games, tuple(v for v in variants if set(games) <= set(v.by_game)))
        for games in sorted(sets, key=lambda games: (-len(games), games))
    ]
