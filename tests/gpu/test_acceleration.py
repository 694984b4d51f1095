"""Captured updates do what the plain ones do."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict, TensorDictBase

from drama_torchrl.acceleration import CapturedUpdate
from drama_torchrl.agent import Agent
from drama_torchrl.config import load_config
from drama_torchrl.estimate import random_batches
from drama_torchrl.factories import make_agent

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
DEVICE = torch.device("cuda")


def agent_and_batches(*overrides: str) -> tuple[Agent, TensorDict, TensorDict]:
    torch.manual_seed(0)
    small = ["world_model.dropout=0", "replay.imagination_batch=16"]
    config = load_config("quick", [*small, *overrides])
    return make_agent(config, 6, DEVICE), *random_batches(config, 6, DEVICE)


def test_each_replay_draws_fresh_random_numbers() -> None:
    update = CapturedUpdate(lambda batch: TensorDict(x=torch.rand_like(batch["x"])))
    batch = TensorDict(x=torch.zeros(8, device=DEVICE), batch_size=[8])
    draws = {update(batch)["x"].sum().item() for _ in range(10)}
    assert len(draws) == 10


def test_a_replay_reads_the_new_batch() -> None:
    update = CapturedUpdate(lambda batch: batch.apply(lambda x: 2 * x))
    for value in range(8):
        x = torch.full((3,), float(value), device=DEVICE)
        assert (
            update(TensorDict(x=x, batch_size=[3]))["x"].tolist() == [2.0 * value] * 3
        )


def losses(learner: object, batch: TensorDictBase, name: str) -> list[float]:
    return [learner(batch)[name].item() for _ in range(24)]  # type: ignore[operator]


@pytest.mark.parametrize("autocast", ["true", "false"])
def test_graphs_change_nothing_but_the_speed(autocast: str) -> None:
    curves = {}
    for graphs in ("true", "false"):
        agent, batch, context = agent_and_batches(
            f"execution.cudagraphs={graphs}", f"execution.autocast={autocast}"
        )
        curves[graphs] = (
            losses(agent.learn_world_model, batch, "loss_reconstruction"),
            losses(agent.learn_behaviour, context, "loss_critic"),
        )
    for captured, plain in zip(curves["true"], curves["false"], strict=True):
        assert captured == pytest.approx(plain, rel=0.02)
    assert curves["true"][0][-1] < 0.98 * curves["true"][0][0]


def test_the_warm_up_reaches_a_captured_update() -> None:
    agent, batch, _ = agent_and_batches("world_model.warmup_steps=20")
    learner = agent.learn_world_model
    parameter = learner.optimizer.param_groups[0]["params"][0]
    moves = []
    for _ in range(12):
        before = parameter.detach().clone()
        learner(batch)
        moves.append((parameter - before).norm().item())
    # With LaProp's normalised steps the move grows as the learning rate does.
    assert moves[11] > 1.5 * moves[5]


def test_batch_norm_statistics_move_under_capture() -> None:
    agent, batch, _ = agent_and_batches()
    for _ in range(6):
        agent.learn_world_model(batch)
    norms = [m for m in agent.world_model.modules() if hasattr(m, "running_mean")]
    before = [m.running_mean.clone() for m in norms]
    tracked = norms[0].num_batches_tracked.item()
    agent.learn_world_model(batch)
    assert norms[0].num_batches_tracked.item() == tracked + 1
    assert all(
        not torch.equal(m.running_mean, b) for m, b in zip(norms, before, strict=True)
    )
