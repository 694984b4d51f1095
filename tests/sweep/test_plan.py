"""A sweep is read and checked before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from drama_torchrl.config import ConfigError, load_config
from drama_torchrl.record.scores import reference_scores
from drama_torchrl.sweep.plan import make_plan, parse_games


def test_a_run_is_trained_by_the_recipe_with_the_options_that_were_given() -> None:
    plan = make_plan(
        ["games=Pong", "preset=quick", "seeds=7", "out=x/y", "behaviour.horizon=3"]
    )
    (run,) = plan.runs
    assert run.overrides == (
        "preset=quick",
        "behaviour.horizon=3",
        "env.game=Pong",
        "seed=7",
        "run_dir=x/y/Pong-seed7",
        "log.progress=false",
    )
    assert run.config == load_config(overrides=run.overrides)
    assert run.config.run_path == run.path == Path("x/y/Pong-seed7")
    assert run.log == Path("x/y/Pong-seed7.log")


def test_every_game_meets_every_seed_and_all_games_come_before_the_next_seed() -> None:
    plan = make_plan(["games=Boxing, krull", "seeds=3,1,3"])
    assert [(run.game, run.seed) for run in plan.runs] == [
        ("Boxing", 3),
        ("Krull", 3),
        ("Boxing", 1),
        ("Krull", 1),
    ]


def test_all_games_are_the_26_with_a_score_in_the_paper() -> None:
    games = parse_games("all")
    assert len(games) == len(set(games)) == 26
    assert all(reference_scores(game) for game in games)
    assert parse_games("Enduro,all,Pong") == ["Enduro", *games]


def test_a_cluster_is_told_where_the_directory_is_wherever_the_sweep_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (run,) = make_plan(["games=Pong", "seeds=1", "cluster=ray"]).runs
    assert run.path == tmp_path / "runs" / "sweep" / "Pong-seed1"
    assert f"run_dir={run.path}" in run.overrides
    assert run.log == run.path.with_suffix(".log")


def test_a_directory_may_have_a_name_that_yaml_reads_as_something_else() -> None:
    (run,) = make_plan(["games=Pong", "seeds=1", "out=a # b: 1"]).runs
    assert run.config.run_path == run.path == Path("a # b: 1", "Pong-seed1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["seeds=1"], "games: expected for example games=Boxing,Pong, got nothing"),
        (["games=Pong"], "seeds: expected for example seeds=1,2,3, got nothing"),
        (["games=Pong,Bixing", "seeds=1"], "got 'Bixing'. Did you mean Boxing"),
        (["games=Pong", "seeds=1,x"], "seed: expected int, got 'x'"),
        (["games=Pong", "seeds=-1"], "seed: expected a whole number in"),
        (["games=Pong", "seeds=1", "behaviour.horizn=3"], "'behaviour.horizon'"),
        (["games=Pong", "seeds=1", "preset=xl"], "unknown preset 'xl'"),
        (["games=Pong", "seeds=1", "xs"], "expected key=value, got 'xs'"),
        (["games=Pong", "seeds=1", "seed=2"], "seed: .* use seeds=1,2,3"),
        (["games=Pong", "seeds=1", "env.game=Krull"], "use games=Boxing,Pong"),
        (["games=Pong", "seeds=1", "run_dir=x"], "run_dir: .* use out=runs/sweep"),
        (["games=Pong", "seeds=1", "log.progress=true"], "log.progress: expected"),
        (["games=Pong", "seeds=1", "workers=0"], "workers: expected a whole number"),
        (["games=Pong", "seeds=1", "per_gpu=two"], "per_gpu: .* got 'two'"),
        (["games=Pong", "seeds=1", "cluster=slurm"], "cluster: expected local or ray"),
        (["games=Pong", "seeds=1", "cpus=2"], "cpus: expected with cluster=ray alone"),
        (["games=Pong", "seeds=1", "ray_address=a:1"], "ray_address: expected with"),
        (["games=Pong", "seeds=1", "cluster=ray", "cpus=0"], "cpus: expected a whole"),
        (
            ["games=Pong", "seeds=1", "cluster=ray", "workers=2"],
            "workers: expected with cluster=local alone, got workers=2",
        ),
        (["games=Pong", "seeds=1", f"out={__file__}"], "expected a directory, got a"),
    ],
)
def test_what_cannot_work_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_plan(arguments)
