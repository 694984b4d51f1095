"""Scores to compare with: random play, human play and the Drama paper's agent."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from statistics import fmean
from typing import NamedTuple

__all__ = ["ReferenceScores", "human_normalized", "reference_scores", "training_score"]


class ReferenceScores(NamedTuple):
    """Returns of random play, human play and Drama XS (Drama table 1).

    Args:
        random_score: mean return of uniformly random actions.
        human_score: return of a human tester.
        paper_score: the paper's mean of 5 seeds after 100 000 steps.
    """

    random_score: float
    human_score: float
    paper_score: float


def reference_scores(game: str) -> ReferenceScores | None:
    """Look a game up in the paper's table of results (Drama table 1).

    Args:
        game: name in any spelling of the ALE: ``"MsPacman"`` or ``"ms_pacman"``.

    Returns:
        Its scores, or ``None`` for a game outside the 26 of Atari100k.

    Example:
        >>> reference_scores("Boxing")
        ReferenceScores(random_score=0.0, human_score=12.0, paper_score=78.0)
    """
    return _table().get(_plain(game))


def human_normalized(game: str, score: float | None) -> float | None:
    """Place a score between random play (0) and human play (1).

    (score - random) / (human - random)   (Drama section 3.1)

    Args:
        game: name in any spelling of the ALE.
        score: mean return; ``None`` where there is none.

    Returns:
        The normalised score; ``None`` without a score and for a game outside the 26
        of Atari100k.

    Example:
        >>> human_normalized("Boxing", 78.0)
        6.5
    """
    reference = reference_scores(game)
    if reference is None or score is None:
        return None
    random_score, human_score, _ = reference
    return (score - random_score) / (human_score - random_score)


def training_score(returns: Sequence[float], last: int = 5) -> float | None:
    """Average the newest training episodes: the measure of the paper's table 1.

    Args:
        returns: returns of the finished training episodes, oldest first.
        last: how many of the newest to average (Drama section 3.1).

    Returns:
        Their mean, of all if there are fewer; ``None`` if no episode has finished.

    Example:
        >>> training_score([100.0, 1.0, 2.0, 3.0, 4.0, 5.0])
        3.0
    """
    newest = returns[-last:]
    return fmean(newest) if newest else None


def _plain(game: str) -> str:
    return game.replace("_", "").lower()


@cache
def _table() -> dict[str, ReferenceScores]:
    text = files("drama_torchrl").joinpath("record", "atari_scores.csv").read_text()
    rows = csv.DictReader(text.splitlines())
    return {
        _plain(row["game"]): ReferenceScores(
            *(float(row[column]) for column in ("random", "human", "drama"))
        )
        for row in rows
    }
