"""The recipe runs from the first frame to a scored checkpoint, the same way twice."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from drama_torchrl.config import load_config, read_config
from drama_torchrl.estimate import warn_if_long
from drama_torchrl.record.checkpoint import load_checkpoint
from drama_torchrl.record.new_directory import RunExistsError
from recipes.drama_atari100k import main
from tests.reference.tiny_run import EPISODE, RANDOM_STEPS, STEPS, run_options

REPOSITORY = Path(__file__).parents[2]
CPU = torch.device("cpu")
UPDATES = list(range(RANDOM_STEPS + 4, STEPS + 1, 4))


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def read_result(run: Path) -> dict[str, Any]:
    return json.loads((run / "result.json").read_text())


def all_bytes(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def metrics_without_time(run: Path) -> list[dict[str, str]]:
    rows = read_rows(run / "metrics.csv")
    for row in rows:
        del row["minutes"]
    return rows


class TestFinishedRun:
    def test_it_leaves_these_files_and_no_others(self, finished_run: Path) -> None:
        assert {name for name in all_bytes(finished_run) if "evalu" not in name} == {
            ".lock",
            "config.yaml",
            "metrics.csv",
            "episodes.csv",
            "checkpoint.pt",
            "learning_curve.png",
            "result.json",
            "films/step-0000040.gif",
            "films/step-0000040.png",
            f"films/step-{STEPS:07d}.gif",
            f"films/step-{STEPS:07d}.png",
        }

    def test_its_configuration_reads_back(self, finished_run: Path) -> None:
        given = load_config(overrides=run_options(finished_run))
        assert read_config(finished_run / "config.yaml") == given
        assert read_result(finished_run)["config"] == asdict(given)

    def test_every_metric_of_every_update_is_finite(self, finished_run: Path) -> None:
        rows = read_rows(finished_run / "metrics.csv")
        assert [int(row["step"]) for row in rows] == UPDATES
        names = list(rows[0])
        assert names[0] == "step"
        assert names[-1] == "minutes"
        for part in ("world_model/loss_reconstruction", "behaviour/loss_actor"):
            assert part in names
        assert all(math.isfinite(float(v)) for row in rows for v in row.values())

    def test_every_update_changes_the_agent(self, finished_run: Path) -> None:
        rows = read_rows(finished_run / "metrics.csv")
        for name in ("world_model/loss_reconstruction", "behaviour/loss_critic"):
            assert len({row[name] for row in rows}) == len(UPDATES)

    def test_the_finished_episode_is_listed(self, finished_run: Path) -> None:
        (row,) = read_rows(finished_run / "episodes.csv")
        assert (int(row["step"]), int(row["length"])) == (EPISODE, EPISODE)
        assert int(row["seed"]) >= 0

    def test_the_checkpoint_is_that_of_the_last_step(self, finished_run: Path) -> None:
        state = load_checkpoint(finished_run / "checkpoint.pt", "cpu")
        assert state["step"] == STEPS
        assert state["num_actions"] == 18
        assert state["world_model"]["schedule"]["last_epoch"] == len(UPDATES)

    def test_films_are_as_long_as_what_is_remembered(self, finished_run: Path) -> None:
        for step, length in ((40, 40), (STEPS, 64)):
            with Image.open(finished_run / f"films/step-{step:07d}.gif") as film:
                assert film.n_frames == length  # type: ignore[attr-defined]
                assert film.size == (3 * (3 * 64 + 4), 3 * 64)
            with Image.open(finished_run / f"films/step-{step:07d}.png") as strip:
                strip.verify()
        with Image.open(finished_run / "learning_curve.png") as curve:
            curve.verify()

    def test_the_result_says_what_was_reached_and_how(self, finished_run: Path) -> None:
        result = read_result(finished_run)
        assert (result["game"], result["preset"], result["seed"]) == (
            "Alien",
            "quick",
            0,
        )
        assert result["steps"] == STEPS
        assert result["complete"] is True
        assert result["training_minutes"] > 0
        speed = STEPS / (60 * result["training_minutes"])
        assert result["steps_per_second"] == pytest.approx(speed)
        assert set(result["provenance"]) >= {"commit", "versions", "device", "written"}

    def test_the_result_has_the_scores_of_both_measures(
        self, finished_run: Path
    ) -> None:
        result = read_result(finished_run)
        episodes = read_rows(finished_run / "episodes.csv")
        returns = [float(row["return"]) for row in episodes]
        assert result["training"]["returns"] == returns
        for name in ("training", "sampled", "greedy"):
            scores = result[name]
            assert scores["episodes"] == len(scores["returns"]) == 1
            assert scores["mean"] == scores["returns"][0]
            # Random play earns 228 points and a human 7128.
            normalized = (scores["mean"] - 228) / (7128 - 228)
            assert scores["human_normalized"] == pytest.approx(normalized)


class TestSeeds:
    def test_the_same_seed_gives_the_same_bits(
        self, finished_run: Path, tmp_path: Path
    ) -> None:
        again = tmp_path / "again"
        main(run_options(again))
        assert metrics_without_time(again) == metrics_without_time(finished_run)
        episodes = (again / "episodes.csv").read_bytes()
        assert episodes == (finished_run / "episodes.csv").read_bytes()
        for name in ("sampled", "greedy"):
            assert read_result(again)[name] == read_result(finished_run)[name]

    def test_another_seed_gives_another_run(
        self, finished_run: Path, tmp_path: Path
    ) -> None:
        other = tmp_path / "other"
        # No more than what is compared.
        main(run_options(other, "seed=1", "log.film_every=1000"))
        assert metrics_without_time(other) != metrics_without_time(finished_run)
        (row,) = read_rows(other / "episodes.csv")
        assert row["seed"] != read_rows(finished_run / "episodes.csv")[0]["seed"]
        assert read_result(other)["seed"] == 1


# The finished run acts on the posterior with a carried memory, draws by DFS and
# imagines with Mamba-2.
VARIANTS = {
    "posterior, window": ["acting.latent=posterior", "acting.memory=window"],
    "prior, carried": ["acting.latent=prior", "acting.memory=carried"],
    "prior, window": ["acting.latent=prior", "acting.memory=window"],
    "uniform": ["replay.sampling=uniform"],
    "reset": ["world_model.reset_at_episode_start=true"],
    "mamba3": ["world_model.dynamics=mamba3"],
    "mamba": ["world_model.dynamics=mamba"],
    "gru": ["world_model.dynamics=gru"],
    # Its window is full after three steps and slides from then on.
    "transformer": [
        "world_model.dynamics=transformer",
        "world_model.attention_window=3",
    ],
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_each_variant_runs_from_start_to_score(
    tmp_path: Path, options: list[str]
) -> None:
    run = tmp_path / "run"
    # Two episodes in 32 steps: a memory that is cleared at their border shows.
    short = (
        "env.max_frames=80",
        "training.total_steps=32",
        "training.random_steps=20",
        "log.film_every=1000",
    )
    result = main(run_options(run, *short, *options))
    assert result["complete"] is True
    rows = read_rows(run / "metrics.csv")
    assert [int(row["step"]) for row in rows] == [24, 28, 32]
    assert all(math.isfinite(float(v)) for row in rows for v in row.values())
    assert result["sampled"]["episodes"] == result["greedy"]["episodes"] == 1


def test_a_run_out_of_time_is_scored_and_says_that_it_is_partial(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    options = ("training.max_minutes=1e-6", "evaluation.greedy_episodes=0")
    main(run_options(run, *options))
    result = read_result(run)
    assert result["complete"] is False
    assert result["steps"] == 1
    assert result["training"]["mean"] is None
    assert result["sampled"]["episodes"] == 1
    assert result["greedy"]["episodes"] == 0
    assert load_checkpoint(run / "checkpoint.pt", "cpu")["step"] == 1


def test_another_run_is_not_touched(finished_run: Path) -> None:
    before = all_bytes(finished_run)
    with pytest.raises(RunExistsError, match=r"holds checkpoint\.pt, config\.yaml"):
        main(run_options(finished_run, "seed=1"))
    assert all_bytes(finished_run) == before


class TestWarning:
    def test_hours_on_a_cpu_are_told_beforehand(self, tmp_path: Path) -> None:
        endless = run_options(tmp_path, "training.total_steps=1000000000")
        message = r"preset=quick will take about [\d,]+ hours.*preset=quick shows"
        with pytest.warns(UserWarning, match=message):
            warn_if_long(load_config(overrides=endless), num_actions=18, device=CPU)

    def test_the_quick_preset_is_quick(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warn_if_long(load_config("quick"), num_actions=6, device=CPU)


@pytest.mark.parametrize(
    ("script", "argument", "message"),
    [
        ("drama_atari100k.py", "env.game=Bixing", "Boxing"),
        ("evaluate.py", "runs/none", "expected a checkpoint, got no such file"),
    ],
    ids=["train", "evaluate"],
)
def test_bad_input_at_the_command_line_is_one_line(
    script: str, argument: str, message: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "recipes" / script), argument],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert list(tmp_path.iterdir()) == []
