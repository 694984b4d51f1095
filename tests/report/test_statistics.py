"""Statistics against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from drama_torchrl.report.statistics import (
    Estimate,
    Scores,
    Statistic,
    bootstrap_interval,
    estimate,
    iqm_of_runs,
    mean_of_games,
    median_of_games,
    optimality_gap,
    performance_profile,
    stratified_resamples,
)

STATISTICS = {
    "mean": mean_of_games,
    "median": median_of_games,
    "iqm": iqm_of_runs,
    "gap": optimality_gap,
}


def games(*scores: list[float]) -> Scores:
    return [np.array(each) for each in scores]


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        # 8 runs: 2 and 2 are left out; (3 + 4 + 5 + 6) / 4.
        ([[8.0, 1.0, 7.0, 2.0], [6.0, 3.0, 5.0, 4.0]], 4.5),
        # The extremes count for nothing, in whichever game they are.
        ([[800.0, -99.0, 7.0, 2.0], [6.0, 3.0, 5.0, 4.0]], 4.5),
        # 5 runs: ⌊5/4⌋ = 1 and 1; (2 + 3 + 7) / 3.
        ([[1.0, 2.0], [3.0], [7.0, 50.0]], 4.0),
        # Fewer than 4: all.
        ([[1.0], [2.0, 6.0]], 3.0),
    ],
    ids=["eight", "outliers", "five", "three"],
)
def test_iqm_is_the_mean_of_the_middle_half_of_all_runs(
    runs: list[list[float]], expected: float
) -> None:
    assert float(iqm_of_runs(games(*runs))) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("count", [1, 4, 7, 26])
def test_iqm_agrees_with_scipy(count: int) -> None:
    scores = np.random.default_rng(count).normal(size=(count, 5))
    expected = stats.trim_mean(scores, 0.25, axis=None)
    assert float(iqm_of_runs(list(scores))) == pytest.approx(expected)


def test_mean_counts_games_not_runs() -> None:
    # (2 + 8) / 2, where the mean over runs would be (1 + 2 + 3 + 8) / 4 = 3.5.
    assert float(mean_of_games(games([1.0, 2.0, 3.0], [8.0]))) == 5.0


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        # Means 2, 10, 3.
        ([[0.0, 4.0], [10.0], [3.0]], 3.0),
        # Means 2, 10, 3, 5: between 3 and 5.
        ([[0.0, 4.0], [10.0], [3.0], [5.0]], 4.0),
    ],
    ids=["odd", "even"],
)
def test_median_is_over_the_means_of_games(
    runs: list[list[float]], expected: float
) -> None:
    assert float(median_of_games(games(*runs))) == expected


def test_optimality_gap_ignores_what_is_above_human() -> None:
    # 1 - ((0.25 + 1) / 2 + 1 + 0.5) / 3; runs count before games do.
    gap = optimality_gap(games([0.25, 4.0], [9.0], [0.5]))
    assert float(gap) == pytest.approx(1 - 2.125 / 3)


class TestResamples:
    def test_a_game_is_drawn_from_its_own_runs(self) -> None:
        given = games([1.0, 2.0, 3.0], [10.0, 20.0], [100.0])
        drawn = stratified_resamples(given, resamples=500, seed=3)
        assert [game.shape for game in drawn] == [(500, 3), (500, 2), (500, 1)]
        for game, source in zip(drawn, given, strict=True):
            assert set(game.flat) == set(source)

    def test_every_run_is_drawn_equally_often(self) -> None:
        (drawn,) = stratified_resamples(games([0.0, 1.0, 2.0]), resamples=20_000)
        shares = np.bincount(drawn.astype(int).flat) / drawn.size
        assert shares == pytest.approx([1 / 3] * 3, abs=0.01)

    def test_the_seed_decides(self) -> None:
        given = games([1.0, 2.0, 3.0])
        first, again, other = (
            stratified_resamples(given, resamples=20, seed=seed)[0]
            for seed in (1, 1, 2)
        )
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)


class TestIntervals:
    @pytest.mark.parametrize("statistic", STATISTICS.values(), ids=STATISTICS)
    def test_of_constant_runs_is_their_statistic(self, statistic: Statistic) -> None:
        # A resample that mixed games would change every one of these.
        given = games([0.25] * 4, [0.5] * 3, [0.75] * 5)
        value, interval = estimate(given, statistic)
        assert interval == (value, value)

    def test_of_two_runs_is_worked_out_by_hand(self) -> None:
        # Means 0, 1, 2 with probabilities 1/4, 1/2, 1/4: both tails hold 2.5 %.
        low, high = bootstrap_interval(games([0.0, 2.0]), mean_of_games)
        assert (float(low), float(high)) == (0.0, 2.0)
        # At 40 % the tails of 30 % reach into the middle.
        low, high = bootstrap_interval(games([0.0, 2.0]), mean_of_games, confidence=0.4)
        assert (float(low), float(high)) == (1.0, 1.0)

    def test_is_near_the_normal_one_for_many_runs(self) -> None:
        scores = np.random.default_rng(0).normal(size=400)
        low, high = bootstrap_interval([scores], mean_of_games)
        half = 1.96 * scores.std() / 20
        expected = [scores.mean() - half, scores.mean() + half]
        assert [float(low), float(high)] == pytest.approx(expected, abs=0.01)

    @pytest.mark.parametrize("name", ["mean", "iqm"])
    def test_holds_the_truth_about_as_often_as_promised(self, name: str) -> None:
        generator = np.random.default_rng(0)
        hits = 0
        for _ in range(300):
            # Symmetric about 0, so that this is the truth of either statistic.
            given = list(generator.normal(size=(6, 10)))
            low, high = bootstrap_interval(given, STATISTICS[name], resamples=400)
            hits += bool(low <= 0.0 <= high)
        assert 0.90 <= hits / 300 <= 0.98

    def test_one_run_has_none(self) -> None:
        assert estimate(games([3.0], [5.0]), mean_of_games) == Estimate(4.0, None)

    def test_one_game_with_two_runs_is_enough(self) -> None:
        interval = estimate(games([3.0], [5.0, 7.0]), mean_of_games).interval
        assert interval == (4.0, 5.0)


class TestProfile:
    def test_is_the_share_of_runs_above_averaged_over_games(self) -> None:
        given = games([0.0, 1.0, 2.0, 3.0], [1.0])
        shares = performance_profile(given, [-1.0, 0.0, 0.5, 1.0, 2.5, 3.0])
        # A score that equals the threshold is not above it.
        assert shares.tolist() == [1.0, 0.875, 0.875, 0.25, 0.125, 0.0]

    def test_never_rises_and_runs_from_one_to_zero(self) -> None:
        given = list(np.random.default_rng(0).normal(size=(7, 3)))
        shares = performance_profile(given, np.linspace(-5.0, 5.0, 101))
        assert (np.diff(shares) <= 0).all()
        assert (shares[0], shares[-1]) == (1.0, 0.0)

    def test_its_area_is_the_mean(self) -> None:
        given = list(np.random.default_rng(0).uniform(size=(5, 4)))
        thresholds = (np.arange(100_000) + 0.5) / 100_000
        area = performance_profile(given, thresholds).mean()
        assert area == pytest.approx(float(mean_of_games(given)), abs=1e-4)

    def test_its_interval_surrounds_it(self) -> None:
        given = list(np.random.default_rng(0).normal(size=(4, 5)))
        thresholds = np.linspace(-2.0, 2.0, 21)
        low, high = bootstrap_interval(
            given, lambda drawn: performance_profile(drawn, thresholds), resamples=200
        )
        shares = performance_profile(given, thresholds)
        assert low.shape == high.shape == shares.shape
        assert ((low <= shares) & (shares <= high)).all()
        assert (low < high).any()
