"""Captured updates do what the plain ones do."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

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


def test_a_replay_refuses_a_batch_of_another_size() -> None:
    update = CapturedUpdate(lambda batch: batch.apply(lambda x: 2 * x))
    for _ in range(5):
        update(TensorDict(x=torch.ones(4, device=DEVICE), batch_size=[4]))
    with pytest.raises(
        ValueError, match=r"recorded with, x of \(4,\), got x of \(1,\)"
    ):
        update(TensorDict(x=torch.ones(1, device=DEVICE), batch_size=[1]))


@pytest.mark.parametrize("updates", ["in_turn", "at_once"])
@pytest.mark.parametrize(
    ("fast", "autocast"),
    [
        ("execution.cudagraphs=true", "true"),
        ("execution.cudagraphs=true", "false"),
        pytest.param("execution.compile=true", "true", marks=pytest.mark.slow),
    ],
    ids=["graphs-bf16", "graphs-fp32", "compile+graphs-bf16"],
)
def test_speed_changes_no_losses(fast: str, autocast: str, updates: str) -> None:
    common = (f"execution.autocast={autocast}", f"training.updates={updates}")
    plain = ("execution.cudagraphs=false", "execution.compile=false")
    curves = [
        both_losses(*agent_and_batches(*options, *common))
        for options in ((fast,), plain)
    ]
    for name in ("loss_reconstruction", "loss_critic"):
        quick, slow = (curve[name] for curve in curves)
        assert quick == pytest.approx(slow, rel=0.02)
    start, *_, end = curves[0]["loss_reconstruction"]
    assert end < 0.98 * start


def both_losses(
    agent: Agent, windows: TensorDict, contexts: TensorDict
) -> dict[str, list[float]]:
    losses: dict[str, list[float]] = {"loss_reconstruction": [], "loss_critic": []}
    for _ in range(24):
        metrics = agent.learn(windows, contexts)
        for values in metrics.values():
            for name in losses.keys() & set(values.keys()):
                losses[name].append(values[name].item())
    return losses


@pytest.mark.parametrize("updates", ["in_turn", "at_once"])
def test_a_step_waits_for_nothing(updates: str) -> None:
    agent, windows, contexts = agent_and_batches(f"training.updates={updates}")
    for _ in range(6):
        agent.learn(windows, contexts)
    torch.cuda.set_sync_debug_mode("error")
    try:
        agent.learn(windows, contexts)
    finally:
        torch.cuda.set_sync_debug_mode("default")


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
