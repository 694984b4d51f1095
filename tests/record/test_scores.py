"""Reference scores and the measures made of them."""

from __future__ import annotations

from statistics import fmean, median

import pytest

from drama_torchrl.envs.games import list_games
from drama_torchrl.record.scores import (
    human_normalized,
    reference_scores,
    training_score,
)

# The benchmark's games, arXiv:1903.00374.
ATARI_100K = [
    *("Alien", "Amidar", "Assault", "Asterix", "BankHeist", "BattleZone", "Boxing"),
    *("Breakout", "ChopperCommand", "CrazyClimber", "DemonAttack", "Freeway"),
    *("Frostbite", "Gopher", "Hero", "Jamesbond", "Kangaroo", "Krull", "KungFuMaster"),
    *("MsPacman", "Pong", "PrivateEye", "Qbert", "RoadRunner", "Seaquest", "UpNDown"),
]


@pytest.mark.parametrize("game", ATARI_100K)
def test_every_game_of_the_benchmark_has_scores(game: str) -> None:
    assert game in list_games()
    assert reference_scores(game) is not None


def test_no_game_outside_the_benchmark_has_scores() -> None:
    others = set(list_games()) - set(ATARI_100K)
    assert not [game for game in others if human_normalized(game, 1.0) is not None]


def test_the_papers_scores_give_the_papers_aggregates() -> None:
    # Drama table 1: normalised mean 105 %, normalised median 27 %.
    scores = []
    for game in ATARI_100K:
        reference = reference_scores(game)
        assert reference is not None
        score = human_normalized(game, reference.paper_score)
        assert score is not None
        scores.append(score)
    assert round(100 * fmean(scores)) == 105
    assert round(100 * median(scores)) == 27


@pytest.mark.parametrize(
    ("game", "score", "expected"),
    [
        ("Boxing", 78.0, 6.5),
        ("Boxing", 12.0, 1.0),
        ("Pong", -21.0, 0.0),
        ("Pong", -39.0, -0.5),
        ("Krull", 9693.0, 8095 / 1068),
        ("Tennis", 1.0, None),
        ("Boxing", None, None),
    ],
)
def test_scores_are_normalised_between_random_and_human(
    game: str, score: float | None, expected: float | None
) -> None:
    assert human_normalized(game, score) == pytest.approx(expected)


@pytest.mark.parametrize("spelling", ["MsPacman", "ms_pacman", "mspacman"])
def test_a_game_is_known_in_every_spelling_of_the_emulator(spelling: str) -> None:
    assert reference_scores(spelling) == (307.0, 6952.0, 2270.0)


@pytest.mark.parametrize(
    ("returns", "expected"),
    [
        pytest.param([], None, id="none"),
        pytest.param([3.0], 3.0, id="one"),
        pytest.param([1.0, 2.0, 6.0], 3.0, id="fewer than five"),
        pytest.param([99.0, 1.0, 2.0, 3.0, 4.0, 0.0], 2.0, id="more than five"),
    ],
)
def test_the_training_score_is_the_mean_of_the_newest_episodes(
    returns: list[float], expected: float | None
) -> None:
    assert training_score(returns) == expected
