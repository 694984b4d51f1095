"""A run that is not finite any more names the term, the step and what is kept."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from drama_torchrl.config import list_options
from drama_torchrl.record.checkpoint import load_tensors
from drama_torchrl.record.divergence import RunDivergedError, stop_if_diverged
from drama_torchrl.record.run_directory import RunDirectory
from tests.reference.file_size import no_file_beyond
from tests.reference.stopping import run_training
from tests.reference.tiny import real_batch
from tests.reference.tiny_run import run_options


def row(lost: float) -> dict[str, float]:
    return {
        "world_model/loss_reward": float("nan"),
        "world_model/loss_reconstruction": 3.0,
        "world_model/grad_norm": float("nan"),
        "world_model/not_applied": lost,
        "behaviour/loss_actor": float("inf"),
        "behaviour/not_applied": 1.0,
        "minutes": 2.0,
    }


def test_too_many_in_a_row_stop_it_with_their_batch(tmp_path: Path) -> None:
    run, batches = RunDirectory(tmp_path), {"windows": real_batch()}
    stop_if_diverged(run, 300, row(9.0), batches, limit=10)
    assert list(tmp_path.iterdir()) == []
    (run.snapshots / "step-0000200").mkdir(parents=True)
    message = (
        r"^step 300: .*got world_model/loss_reward=nan, world_model/grad_norm=nan in "
        r"the last of 12 updates in a row.*diverged-0000300\.pt; last checkpoint: step "
        r"200; resume= would come to this again: start a new run with a lower "
        r"world_model\.learning_rate in another run_dir$"
    )
    with pytest.raises(RunDivergedError, match=message) as caught:
        stop_if_diverged(run, 300, row(12.0), batches, limit=10)
    assert caught.value.exit_code == 70
    saved = load_tensors(tmp_path / "diverged-0000300.pt", "cpu")
    assert torch.equal(saved["windows"]["pixels"], batches["windows"]["pixels"])


def test_a_full_disk_does_not_hide_it(tmp_path: Path) -> None:
    run, batches = RunDirectory(tmp_path), {"windows": real_batch()}
    message = (
        r"^step 300: .*loss_reward=nan.* batches cannot be written \(File too large"
    )
    with pytest.raises(RunDivergedError, match=message), no_file_beyond(100):
        stop_if_diverged(run, 300, row(12.0), batches, limit=10)
    assert list(tmp_path.iterdir()) == []


def test_the_learning_rates_of_all_that_diverged_are_named(tmp_path: Path) -> None:
    both = row(12.0) | {"behaviour/not_applied": 10.0}
    message = (
        r"lower world_model\.learning_rate and behaviour\.learning_rate in another"
    )
    with pytest.raises(RunDivergedError, match=message) as caught:
        stop_if_diverged(RunDirectory(tmp_path), 300, both, {}, limit=10)
    named = re.findall(r"\w+\.learning_rate", str(caught.value))
    assert len(named) == len({*named} & {*list_options()}) == 2


def test_a_run_that_learns_too_fast_stops_by_itself(tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = (
        "env.max_frames=80",
        "training.total_steps=200",
        "training.random_steps=20",
        "training.max_lost_updates=3",
        "world_model.learning_rate=1e30",
        "world_model.warmup_steps=0",
        "log.checkpoint_every=10",
        "log.film_every=1000",
    )
    with pytest.raises(RunDivergedError, match=r"got .*/loss_.*=nan") as caught:
        run_training(run_options(run, *options))
    step = int(str(caught.value).split(":")[0].removeprefix("step "))
    assert step < 60
    saved = load_tensors(run / f"diverged-{step:07d}.pt", "cpu")
    assert set(saved) == {"windows", "contexts"}
    agent = load_tensors(run / "checkpoint.pt", "cpu")["world_model"]["modules"]
    assert all(value.isfinite().all() for value in agent.values())
