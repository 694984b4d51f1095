"""What is not finite is not applied: no parameter, moment or statistic moves."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from drama_torchrl.agent import Agent
from drama_torchrl.factories import make_agent
from drama_torchrl.finite import FiniteSteps, is_finite
from tests.reference.stopping import different, flat
from tests.reference.tiny import ACTIONS, real_batch, tiny_config

CPU = torch.device("cpu")


def new_agent(updates: str) -> Agent:
    torch.manual_seed(0)
    fast = ("world_model.warmup_steps=0", "behaviour.warmup_steps=0")
    return make_agent(tiny_config(f"training.updates={updates}", *fast), ACTIONS, CPU)


def learn(agent: Agent, seed: int, *, windows: float = 1.0) -> dict[str, TensorDict]:
    torch.manual_seed(seed)
    batch, context = real_batch(), real_batch(time=4)
    batch["next", "reward"] *= windows
    return agent.learn(batch, context)


def state_of(agent: Agent, name: str) -> dict[str, Any]:
    """Without the schedule, which counts what was tried."""
    state = copy.deepcopy(agent.state_dict()[name])
    del state["schedule"]
    for group in state["optimizer"]["param_groups"]:
        del group["lr"]
    return flat(state)


both_orders = pytest.mark.parametrize("updates", ["in_turn", "at_once"])


@both_orders
def test_a_window_that_is_not_finite_leaves_the_world_model_as_it_was(
    updates: str,
) -> None:
    agent = new_agent(updates)
    learn(agent, 1)
    before, behaviour = (state_of(agent, n) for n in ("world_model", "behaviour"))
    for count in (1.0, 2.0):
        metrics = learn(agent, 2, windows=float("nan"))
        assert not metrics["world_model"]["grad_norm"].isfinite()
        assert metrics["world_model"]["not_applied"] == count
        assert metrics["behaviour"]["not_applied"] == 0
    assert different(state_of(agent, "world_model"), before) == []
    assert different(state_of(agent, "behaviour"), behaviour) != []
    assert learn(agent, 3)["world_model"]["not_applied"] == 0
    assert different(state_of(agent, "world_model"), before) != []


@both_orders
def test_a_loss_that_is_not_finite_leaves_the_behaviour_as_it_was(updates: str) -> None:
    agent = new_agent(updates)
    learn(agent, 1)
    # What is kept are the tensors in use, after a load too.
    agent.load_state_dict(copy.deepcopy(agent.state_dict()))
    before = state_of(agent, "behaviour")
    assert any("target" in name for name in before)  # the slow critic is looked at
    head = agent.world_model.reward_head
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.fill_(float("nan"))
    metrics = learn(agent, 2)
    assert metrics["behaviour"]["not_applied"] == 1
    assert different(state_of(agent, "behaviour"), before) == []
    state = agent.learn_behaviour.modules.state_dict()
    assert all(value.isfinite().all() for value in state.values())


def test_an_agent_goes_on_as_if_the_step_had_not_been_tried() -> None:
    agent, other = new_agent("in_turn"), new_agent("in_turn")
    for each in (agent, other):
        torch.manual_seed(1)
        each.learn_world_model(real_batch())
    bad = real_batch()
    bad["next", "reward"] *= float("nan")
    agent.learn_world_model(bad)
    for each in (agent, other):
        torch.manual_seed(3)
        each.learn_world_model(real_batch())
    one, two = (state_of(each, "world_model") for each in (agent, other))
    assert different(one, two) == []


@pytest.mark.parametrize(
    ("loss", "norm", "finite"),
    [
        (1.0, 2.0, True),
        (float("nan"), 2.0, False),
        (float("-inf"), 2.0, False),
        (1.0, float("inf"), False),
    ],
)
def test_losses_and_the_norm_count(loss: float, norm: float, finite: bool) -> None:
    metrics = {"loss_a": torch.tensor(loss), "loss_b": torch.ones(()), "other": norm}
    metrics["other"] = torch.tensor(float("nan"))
    assert is_finite(TensorDict(metrics), torch.tensor(norm)).item() is finite


def test_statistics_that_count_come_back_too() -> None:
    norm = nn.BatchNorm1d(2)
    steps = FiniteSteps(norm)
    for applied, tracked in ((True, 1), (False, 1), (True, 2)):
        steps.begin()
        norm(torch.randn(3, 2))
        steps.end(torch.tensor(applied))
        assert norm.num_batches_tracked == tracked
