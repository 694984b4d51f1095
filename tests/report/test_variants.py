"""Experiments are kept apart and named by what differs."""

from __future__ import annotations

from pathlib import Path

from drama_torchrl.envs.games import list_games
from drama_torchrl.record.scores import reference_scores
from drama_torchrl.report.measures import (
    MEASURES,
    compare,
    normalized_scores,
    paper_scores,
)
from drama_torchrl.report.runs import collect_runs
from drama_torchrl.report.statistics import mean_of_games, median_of_games
from drama_torchrl.report.variants import Variant, group_variants
from tests.report.run_files import forget_option, write_run


def variants_of(folder: Path, *specs: tuple[str, int, list[str]]) -> list[Variant]:
    paths = [
        write_run(folder / str(i), game, seed, options=options)
        for i, (game, seed, options) in enumerate(specs)
    ]
    found = collect_runs(paths)
    assert found.refused == []
    return group_variants(found.runs)


def names(variants: list[Variant]) -> dict[str, list[tuple[str, int]]]:
    return {v.name: [(run.game, run.seed) for run in v.runs] for v in variants}


def test_games_seeds_places_and_devices_make_no_variants(tmp_path: Path) -> None:
    variants = variants_of(
        tmp_path,
        ("Pong", 2, ["execution.compile=true"]),
        ("Boxing", 2, ["run_dir=elsewhere"]),
        ("Boxing", 1, ["log.every=9", "training.max_minutes=600"]),
        ("Boxing", 3, ["replay.device=cpu", "evaluation.greedy_episodes=3"]),
    )
    boxing = [("Boxing", seed) for seed in (2, 1, 3)]
    assert names(variants) == {"ours": [("Pong", 2), *boxing]}
    by_game = variants[0].by_game
    assert list(by_game) == ["Boxing", "Pong"]
    assert [run.seed for run in by_game["Boxing"]] == [1, 2, 3]


def test_an_option_that_came_after_a_run_has_its_default(tmp_path: Path) -> None:
    drawn = ["world_model.termination=drawn"]
    paths = [
        write_run(tmp_path / "before", "Pong"),
        write_run(tmp_path / "now", "Boxing"),
        write_run(tmp_path / "other", "Boxing", options=drawn),
    ]
    forget_option(paths[0], "world_model", "termination")
    found = collect_runs(paths)
    assert found.refused == []
    assert names(group_variants(found.runs)) == {
        "ours": [("Pong", 1), ("Boxing", 1)],
        "world_model.termination=drawn": [("Boxing", 1)],
    }


def test_a_setting_that_differs_names_the_variant(tmp_path: Path) -> None:
    variants = variants_of(
        tmp_path,
        ("Boxing", 1, []),
        ("Boxing", 1, ["acting.latent=prior"]),
        ("Pong", 1, []),
    )
    assert names(variants) == {
        "ours": [("Boxing", 1), ("Pong", 1)],
        "acting.latent=prior": [("Boxing", 1)],
    }


def test_all_settings_that_differ_are_named(tmp_path: Path) -> None:
    variants = variants_of(
        tmp_path,
        ("Boxing", 1, []),
        ("Boxing", 1, ["acting.latent=prior"]),
        ("Boxing", 1, ["replay.sampling=uniform"]),
        ("Boxing", 1, ["replay.sampling=uniform", "acting.latent=prior"]),
    )
    assert list(names(variants)) == [
        "ours",
        "acting.latent=prior",
        "replay.sampling=uniform",
        "acting.latent=prior, replay.sampling=uniform",
    ]


def test_of_presets_only_the_name_is_named(tmp_path: Path) -> None:
    variants = variants_of(
        tmp_path,
        ("Boxing", 1, []),
        ("Boxing", 1, ["acting.latent=prior"]),
        ("Boxing", 1, ["preset=s"]),
    )
    assert list(names(variants)) == [
        "preset=xs",
        "preset=xs, acting.latent=prior",
        "preset=s",
    ]


class TestComparison:
    def test_is_on_shared_games(self, tmp_path: Path) -> None:
        prior, uniform = ["acting.latent=prior"], ["replay.sampling=uniform"]
        most, first, second = variants_of(
            tmp_path,
            *((game, 1, []) for game in ("Boxing", "Krull", "Pong")),
            *((game, 1, prior) for game in ("Boxing", "Pong")),
            *((game, 1, uniform) for game in ("Boxing", "Kangaroo")),
        )
        found = {c.games: c.variants for c in compare([most, first, second])}
        assert found == {
            ("Boxing", "Krull", "Pong"): (most,),
            ("Boxing", "Kangaroo"): (second,),
            ("Boxing", "Pong"): (most, first),
            ("Boxing",): (most, first, second),
        }

    def test_of_one_variant_is_one(self, tmp_path: Path) -> None:
        (only,) = variants_of(tmp_path, ("Boxing", 1, []), ("Pong", 1, []))
        (found,) = compare([only])
        assert (found.label, found.variants) == ("Boxing, Pong", (only,))

    def test_without_a_shared_game_each_stands_alone(self, tmp_path: Path) -> None:
        ours, other = variants_of(
            tmp_path, ("Boxing", 1, []), ("Pong", 1, ["acting.latent=prior"])
        )
        assert [c.variants for c in compare([ours, other])] == [(ours,), (other,)]


def test_scores_are_normalized_by_game(tmp_path: Path) -> None:
    (only,) = variants_of(tmp_path, ("Boxing", 1, []), ("Pong", 1, []))
    boxing, pong = normalized_scores(only, MEASURES[0], ["Boxing", "Pong"])
    # 6 of 12 points above random, and 27 of 36.
    assert (boxing.tolist(), pong.tolist()) == ([0.5], [0.75])


def test_the_paper_scores_what_it_says_it_scores() -> None:
    # Table 1: mean 105 %, median 27 %.
    games = [game for game in list_games() if reference_scores(game)]
    assert len(games) == 26
    scores = paper_scores(games)
    assert round(100 * float(mean_of_games(scores))) == 105
    assert round(100 * float(median_of_games(scores))) == 27
