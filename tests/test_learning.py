"""The whole agent learns: pixels, memory, imagination and credit over several steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from drama_torchrl.config import load_config
from drama_torchrl.factories import make_agent, with_agent_transforms
from drama_torchrl.record import RunDirectory
from drama_torchrl.record.stopping import StopSignals
from drama_torchrl.seeding import seed_everything
from recipes.drama_atari100k import train
from tests.reference.lit_side import FRAME_SIZE, LitSideEnv

OPTIONS = [
    f"env.frame_size={FRAME_SIZE}",
    "world_model.filters=[8,16,16]",
    "world_model.num_categoricals=8",
    "world_model.num_classes=8",
    "world_model.d_model=64",
    "world_model.num_layers=1",
    "world_model.head_dim=16",
    "world_model.dropout=0",
    "world_model.learning_rate=1e-3",
    "behaviour.learning_rate=5e-4",
    "behaviour.horizon=8",
    "replay.model_batch=8",
    "replay.model_window=16",
    "replay.imagination_batch=128",
    "replay.imagination_window=4",
    "training.total_steps=1300",
    "training.random_steps=256",
    "training.steps_per_update=2",
    "execution.device=cpu",
    "log.progress=false",
    "log.every=100",
    "log.film_every=100000",
    "log.checkpoint_every=100000",
]


@pytest.mark.slow
def test_the_agent_walks_to_the_lit_side(tmp_path: Path) -> None:
    # A random walk earns 0.5; an agent that cannot imagine, remember or value stays
    # near that.
    config = load_config("quick", OPTIONS)
    seed_everything(0)
    env = with_agent_transforms(LitSideEnv(seed=0), frame_size=FRAME_SIZE)
    agent = make_agent(config, 2, torch.device("cpu"))
    run = RunDirectory.create(tmp_path / "run", config)
    journal = train(config, agent, env, run, StopSignals(run.path))
    last = [episode_return for _, episode_return in journal.episodes][-100:]
    assert sum(last) / len(last) > 0.9
