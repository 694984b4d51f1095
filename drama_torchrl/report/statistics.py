"""Statistics of few runs on several games, as of Agarwal et al. (arXiv:2108.13264).

Scores are one array per game with the runs along the last axis. Leading axes, if any,
are those of bootstrap resamples, and every statistic keeps them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "CONFIDENCE",
    "RESAMPLES",
    "SEED",
    "Estimate",
    "Floats",
    "Interval",
    "Scores",
    "Statistic",
    "bootstrap_interval",
    "estimate",
    "iqm_of_runs",
    "mean_of_games",
    "median_of_games",
    "optimality_gap",
    "performance_profile",
    "stratified_resamples",
]

CONFIDENCE = 0.95
"""Probability that an interval is made for."""
RESAMPLES = 10_000
"""Bootstrap resamples behind an interval."""
SEED = 0
"""Of the resampling: a report of the same runs says the same."""

Floats: TypeAlias = NDArray[np.float64]
Scores: TypeAlias = Sequence[Floats]
Statistic: TypeAlias = Callable[[Scores], Floats]


class Interval(NamedTuple):
    """Ends of a confidence interval.

    Args:
        low: lower end.
        high: upper end.
    """

    low: float
    high: float


class Estimate(NamedTuple):
    """A statistic and how far it may be off.

    Args:
        value: the statistic of the runs.
        interval: its confidence interval; ``None`` where no game has two runs, since
            one run tells nothing about another.
    """

    value: float
    interval: Interval | None


def mean_of_games(scores: Scores) -> Floats:
    """Average over games of the mean over a game's runs.

    Args:
        scores: one array ``[..., runs]`` per game.

    Returns:
        The mean ``[...]``; every game counts the same, however many runs it has.

    Example:
        >>> float(mean_of_games([np.array([1.0, 3.0]), np.array([5.0])]))
        3.5
    """
    return np.mean(_game_means(scores), axis=-1)


def median_of_games(scores: Scores) -> Floats:
    """Median over games of the mean over a game's runs.

    Args:
        scores: one array ``[..., runs]`` per game.

    Returns:
        The median ``[...]``.

    Example:
        >>> games = [np.array([0.0, 2.0]), np.array([7.0]), np.array([3.0])]
        >>> float(median_of_games(games))
        3.0
    """
    return np.median(_game_means(scores), axis=-1)


def iqm_of_runs(scores: Scores) -> Floats:
    """Mean of the middle half of all runs of all games, the interquartile mean.

    Of n runs the ⌊n/4⌋ lowest and as many of the highest are left out.

    Args:
        scores: one array ``[..., runs]`` per game.

    Returns:
        The mean ``[...]``; every run counts the same.

    Example:
        >>> float(iqm_of_runs([np.array([1.0, 2.0]), np.array([4.0, 900.0])]))
        3.0
    """
    runs = np.sort(np.concatenate(scores, axis=-1), axis=-1)
    cut = runs.shape[-1] // 4
    return np.mean(runs[..., cut : runs.shape[-1] - cut], axis=-1)


def optimality_gap(scores: Scores) -> Floats:
    """How far runs fall short of a human on average; what is above counts as 1.

    1 - mean over games of mean over runs of min(score, 1)

    Args:
        scores: human-normalised, one array ``[..., runs]`` per game.

    Returns:
        The gap ``[...]``; smaller is better.

    Example:
        >>> float(optimality_gap([np.array([0.5, 6.0])]))
        0.25
    """
    return 1.0 - mean_of_games([np.minimum(game, 1.0) for game in scores])


def performance_profile(scores: Scores, thresholds: ArrayLike) -> Floats:
    """Share of runs above each threshold, averaged over games.

    F(τ) = mean over games of the share of the game's runs with score > τ

    Args:
        scores: one array ``[..., runs]`` per game.
        thresholds: values of τ ``[K]``.

    Returns:
        The shares ``[..., K]``, which never rise with τ.

    Example:
        >>> games = [np.array([0.5, 1.5]), np.array([2.0])]
        >>> performance_profile(games, [0.0, 1.0, 2.0]).tolist()
        [1.0, 0.75, 0.0]
    """
    levels = np.asarray(thresholds, dtype=np.float64)
    shares = [np.mean(game[..., None] > levels, axis=-2) for game in scores]
    return np.mean(np.stack(shares), axis=0)


def stratified_resamples(
    scores: Scores, *, resamples: int = RESAMPLES, seed: int = SEED
) -> list[Floats]:
    """Draw each game's runs anew from that game's runs, with replacement.

    Args:
        scores: one array ``[runs]`` per game.
        resamples: number R of draws.
        seed: of the draws.

    Returns:
        One array ``[R, runs]`` per game.

    Example:
        >>> drawn = stratified_resamples([np.zeros(3), np.ones(2)], resamples=4)
        >>> [game.shape for game in drawn]
        [(4, 3), (4, 2)]
    """
    generator = np.random.default_rng(seed)
    return [
        game[generator.integers(len(game), size=(resamples, len(game)))]
        for game in scores
    ]


def bootstrap_interval(
    scores: Scores,
    statistic: Statistic,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> tuple[Floats, Floats]:
    """Percentile interval of a statistic over stratified resamples.

    Args:
        scores: one array ``[runs]`` per game.
        statistic: maps scores with leading axes to values ``[R, ...]``.
        confidence: probability that the interval is made for.
        resamples: number R of resamples.
        seed: of the resampling.

    Returns:
        The lower and the upper end, each ``[...]``.

    Example:
        >>> low, high = bootstrap_interval([np.array([2.0, 2.0])], mean_of_games)
        >>> float(low), float(high)
        (2.0, 2.0)
    """
    drawn = stratified_resamples(scores, resamples=resamples, seed=seed)
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(statistic(drawn), [tail, 1.0 - tail], axis=0)
    return low, high


def estimate(scores: Scores, statistic: Statistic) -> Estimate:
    """A statistic of the runs with its confidence interval.

    Args:
        scores: one array ``[runs]`` per game.
        statistic: one of those above that gives a number.

    Returns:
        The value and the interval, if there is one.

    Example:
        >>> estimate([np.array([1.0]), np.array([3.0])], mean_of_games)
        Estimate(value=2.0, interval=None)
    """
    value = float(statistic(scores))
    if all(len(game) < 2 for game in scores):
        return Estimate(value, None)
    low, high = bootstrap_interval(scores, statistic)
    return Estimate(value, Interval(float(low), float(high)))


def _game_means(scores: Scores) -> Floats:
    return np.stack([np.mean(game, axis=-1) for game in scores], axis=-1)
