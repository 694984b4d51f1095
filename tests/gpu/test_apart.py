"""The behaviour on a second GPU, in a copy of the world model."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from drama_torchrl.agent import Agent
from drama_torchrl.config import DramaConfig
from drama_torchrl.factories import make_agent, make_policy, make_replay
from tests.reference.tiny import ACTIONS, FRAME, real_batch, tiny_config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs"),
]
WORLD, BEHAVIOUR = torch.device("cuda", 0), torch.device("cuda", 1)
APART = "execution.behaviour_device=own"


def agent_apart(*options: str) -> tuple[DramaConfig, Agent]:
    torch.manual_seed(0)
    config = tiny_config(APART, *options)
    return config, make_agent(config, ACTIONS, WORLD)


def state_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.cpu() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("graphs", ["true", "false"])
@pytest.mark.parametrize("updates", ["in_turn", "at_once"])
def test_the_copy_is_the_world_model_after_each_update(
    updates: str, graphs: str
) -> None:
    options = f"execution.cudagraphs={graphs}", f"training.updates={updates}"
    _, agent = agent_apart(*options)
    windows, contexts = real_batch().to(WORLD), real_batch(time=4).to(BEHAVIOUR)
    before = state_of(agent.actor)
    for _ in range(8):
        metrics = agent.learn(windows, contexts)
        model, copied = state_of(agent.world_model), state_of(agent.imagined)
        assert all(torch.equal(copied[name], value) for name, value in model.items())
    assert metrics["world_model"]["loss_reconstruction"].device == WORLD
    assert metrics["behaviour"]["loss_actor"].device == BEHAVIOUR
    assert all(m.isfinite().all() for part in metrics.values() for m in part.values())
    assert any(not torch.equal(before[n], v) for n, v in state_of(agent.actor).items())


def test_an_update_of_the_world_model_alone_renews_the_copy() -> None:
    _, agent = agent_apart()
    windows = real_batch().to(WORLD)
    for _ in range(6):  # ordinary calls, one that is recorded, replays
        before = state_of(agent.imagined)
        agent.learn_world_model(windows)
        model, copied = state_of(agent.world_model), state_of(agent.imagined)
        assert all(torch.equal(copied[name], value) for name, value in model.items())
        assert any(not torch.equal(before[name], v) for name, v in copied.items())


def test_loading_renews_the_copy() -> None:
    _, agent = agent_apart()
    _, other = agent_apart()
    other.learn_world_model(real_batch().to(WORLD))
    agent.load_state_dict(other.state_dict())
    model, copied = state_of(other.world_model), state_of(agent.imagined)
    assert all(torch.equal(copied[name], value) for name, value in model.items())


def test_it_acts_where_it_imagines() -> None:
    config, agent = agent_apart()
    policy = make_policy(config, agent)
    seen = TensorDict(
        pixels=torch.zeros(3, FRAME, FRAME, dtype=torch.uint8),
        is_init=torch.ones(1, dtype=torch.bool),
    )
    action = policy(seen)["action"]
    assert action.device.type == "cpu"
    assert action.sum() == 1


def test_contexts_come_to_the_behaviour_and_windows_to_the_world_model() -> None:
    config, agent = agent_apart("training.random_steps=400")
    replay, contexts = make_replay(config, agent.device)
    replay.extend(real_batch(1, 400)[0])
    windows, starts = replay.sample(), contexts.sample()
    assert windows["pixels"].device == WORLD
    assert starts["pixels"].device == BEHAVIOUR


def test_the_world_model_does_not_wait_for_the_behaviour() -> None:
    config, agent = agent_apart(
        "training.random_steps=400", "execution.cudagraphs=false"
    )
    replay, contexts = make_replay(config, agent.device)
    replay.extend(real_batch(1, 400)[0])
    for _ in range(4):  # loads what CUDA loads lazily
        replay.extend(real_batch(1, 1)[0])
        agent.learn(replay.sample(), contexts.sample())
    for device in (WORLD, BEHAVIOUR):
        torch.cuda.synchronize(device)
    with torch.cuda.device(BEHAVIOUR):
        torch.cuda._sleep(4_000_000_000)
    for _ in range(2):
        replay.extend(real_batch(1, 1)[0])
        windows, starts = replay.sample(), contexts.sample()
        agent.learn_world_model.update(windows)  # renewing the copy would wait
    torch.cuda.current_stream(WORLD).synchronize()
    assert not torch.cuda.current_stream(BEHAVIOUR).query()
    assert starts["pixels"].sum() > 0  # reading waits for what comes before
    assert torch.cuda.current_stream(BEHAVIOUR).query()
