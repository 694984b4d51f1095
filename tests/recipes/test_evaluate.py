"""A finished run can be scored and filmed again from its checkpoint alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from drama_torchrl.config import ConfigError, config_from_dict
from drama_torchrl.record.checkpoint import CheckpointError
from drama_torchrl.record.run_directory import RunDirectory
from recipes.evaluate import load_agent, main
from tests.reference.tiny_run import STEPS

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A checkpoint and nothing else."""
    shutil.copy(finished_run / "checkpoint.pt", tmp_path)
    return tmp_path


def scores_of(run: Path, *options: str) -> dict[str, Any]:
    returned = main([str(run), *options])
    assert json.loads((run / "evaluation.json").read_text()) == returned
    return {name: returned[name] for name in ("sampled", "greedy")}


def test_it_writes_scores_and_a_film(run: Path) -> None:
    main([str(run), "env.max_frames=40"])
    written = json.loads((run / "evaluation.json").read_text())
    assert (written["game"], written["preset"]) == ("Alien", "quick")
    assert (written["seed"], written["steps"]) == (0, STEPS)
    assert config_from_dict(written["config"]).env.max_frames == 40
    assert written["provenance"]["commit"]
    for name in ("sampled", "greedy"):
        assert set(written[name]) == {
            "episodes",
            "mean",
            "human_normalized",
            "returns",
        }
    with Image.open(run / "films" / "episode.gif") as film:
        assert film.n_frames == 10  # type: ignore[attr-defined]


def test_twice_gives_the_same_and_another_seed_gives_other_episodes(run: Path) -> None:
    options = ("evaluation.episodes=4", "evaluation.greedy_episodes=2")
    first = scores_of(run, *options)
    assert first["sampled"]["episodes"] == 4
    assert first["greedy"]["episodes"] == 2
    assert len(set(first["sampled"]["returns"])) > 1
    assert scores_of(run, *options) == first
    assert scores_of(run, *options, "seed=3") != first


def test_another_way_of_acting_has_files_of_its_own(run: Path) -> None:
    short = ("env.max_frames=40", "evaluation.greedy_episodes=0")
    own = main([str(run), *short, "acting.memory=carried"])
    film = (run / "films" / "episode.gif").read_bytes()
    other = main([str(run), *short, "acting.latent=prior", "acting.memory=window"])
    name = "latent=prior-memory=window"
    for file, scores in (("evaluation", own), (f"evaluation-{name}", other)):
        assert json.loads((run / f"{file}.json").read_text()) == scores
    assert own["config"]["acting"]["latent"] == "posterior"
    assert other["config"]["acting"]["latent"] == "prior"
    assert sorted(path.name for path in (run / "films").iterdir()) == [
        f"episode-{name}.gif",
        "episode.gif",
    ]
    assert (run / "films" / "episode.gif").read_bytes() == film


def test_the_agent_is_the_one_that_was_saved(run: Path) -> None:
    _, agent, state = load_agent(RunDirectory(run), ["execution.device=cpu"])
    saved = torch.load(run / "checkpoint.pt", weights_only=True)
    assert state["step"] == saved["step"] == STEPS
    for part in ("world_model", "behaviour"):
        torch.testing.assert_close(agent.state_dict()[part], saved[part])


def test_a_run_on_two_gpus_needs_one_device(run: Path) -> None:
    saved = torch.load(run / "checkpoint.pt", weights_only=True)
    saved["config"]["execution"]["behaviour_device"] = "own"
    torch.save(saved, run / "checkpoint.pt")
    _, agent, _ = load_agent(RunDirectory(run), ["execution.device=cpu"])
    assert {weight.device.type for weight in agent.actor.parameters()} == {"cpu"}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ([], ConfigError, "expects a run directory first, got nothing"),
        (["seed=1"], ConfigError, "expects a run directory first, got seed=1"),
        (["{run}/none"], CheckpointError, "none/checkpoint.pt: .* got no such file"),
        (["x" * 300], CheckpointError, "x/checkpoint.pt: .* got no such file"),
        (["{run}", "evaluation.episods=3"], ConfigError, "'evaluation.episodes'"),
        (["{run}", "evaluation.episodes=0"], ConfigError, "at least 1, got 0"),
        (
            ["{run}", "world_model.d_model=64"],
            CheckpointError,
            r"expected weights of the networks.*drop \['world_model.d_model=64'\]",
        ),
        (["{run}", "env.game=Bixing"], ValueError, "got 'Bixing'. Did you mean Boxing"),
        (
            ["{run}", "env.game=Pong"],
            ValueError,
            r"action of shape \(6,\), got \(18,\)",
        ),
    ],
    ids=[
        "nothing",
        "option",
        "no run",
        "no possible run",
        "misspelt",
        "impossible",
        "other networks",
        "unknown game",
        "other actions",
    ],
)
def test_bad_arguments_are_explained_and_leave_nothing(
    run: Path, arguments: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        main([argument.format(run=run) for argument in arguments])
    assert [path.name for path in run.iterdir()] == ["checkpoint.pt"]


def test_a_damaged_checkpoint_is_explained(run: Path) -> None:
    path = run / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: .*damaged"):
        main([str(run)])


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_says_how_it_is_called(flag: str) -> None:
    done = subprocess.run(
        [sys.executable, REPOSITORY / "recipes" / "evaluate.py", flag],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "recipes/evaluate.py runs/" in done.stdout
    assert "acting.latent" in done.stdout
