"""Real and imagined rewards and ends are counted as by hand."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import cast

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from benchmarks import calibration
from benchmarks.calibration import (
    judge_imagined,
    judge_lives,
    judge_losses,
    judge_seen,
    judge_values,
    main,
)
from drama_torchrl.agent import Agent
from drama_torchrl.config import load_config
from drama_torchrl.factories import make_agent
from drama_torchrl.modules import Critic
from drama_torchrl.record.checkpoint import save_checkpoint
from drama_torchrl.record.rows import Rows
from drama_torchrl.record.run_directory import RunDirectory
from drama_torchrl.updates import BehaviourUpdate, WorldModelUpdate
from tests.reference.tiny_run import run_options

ACTIONS, STEPS, END, LENGTH = 5, 20, 5, 4


def expect_ends(agent: Agent, probability: float) -> Agent:
    """Makes the termination head say the same of everything."""
    last = agent.world_model.termination_head.net[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor(probability).logit())
    return agent


def expect_value(critic: Critic) -> float:
    """Makes the critic say the same of everything, and tells what."""
    last, bins = critic.net[-1], critic.two_hot.bins
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()[len(bins) * 3 // 5] = 1e4
    return math.expm1(bins[len(bins) * 3 // 5].item())


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    config = load_config(overrides=run_options(tmp_path))
    return make_agent(config, ACTIONS, torch.device("cpu"))


@pytest.fixture
def played() -> TensorDict:
    """A reward of 8 and an end at one step of 20."""
    once = (torch.arange(STEPS) == END).unsqueeze(-1)
    return TensorDict(
        {
            "pixels": torch.zeros(STEPS, 3, 64, 64, dtype=torch.uint8),
            "action": torch.zeros(STEPS, ACTIONS),
            "is_init": torch.zeros(STEPS, 1, dtype=torch.bool),
            "next": {"reward": 8.0 * once, "end-of-life": once},
        },
        batch_size=[STEPS],
    )


def test_what_is_seen(agent: Agent, played: TensorDict) -> None:
    world_model = expect_ends(agent, 0.25).world_model
    # Two windows of 8: the last four steps make none.
    found = judge_seen(world_model, played, window=8)
    assert (found["reward"], found["ends"]) == (8 / 16, 1 / 16)
    assert found["probability"] == pytest.approx(0.25)
    assert (found["likeliest"], found["found"]) == (0.0, 0.0)
    found = judge_seen(expect_ends(agent, 0.75).world_model, played, window=8)
    assert (found["likeliest"], found["found"]) == (1.0, 1.0)
    assert judge_seen(world_model, played[8:], window=8)["found"] is None


def test_what_is_imagined(agent: Agent, played: TensorDict) -> None:
    update = cast(BehaviourUpdate, expect_ends(agent, 0.25).learn_behaviour.update)
    # Contexts of 4 and 3 steps after them: 14 places, 2 of them just before the end.
    found = judge_imagined(update, played, contexts=100, length=LENGTH)
    assert (found["contexts"], found["horizon"]) == (14, 3)
    assert found["reward"] == pytest.approx(8 * 2 / (14 * 3))
    assert found["ends"] == pytest.approx(2 / (14 * 3))
    assert found["probability"] == pytest.approx(0.25)
    assert found["likeliest"] == 0.0
    assert found["within"] == {
        "ends": pytest.approx(2 / 14),
        "probability": pytest.approx(1 - 0.75**3),
        "likeliest": 0.0,
    }


def test_losses_of_what_is_played(
    agent: Agent, played: TensorDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each window counts alike, however they are batched."""
    expect_ends(agent, 0.25)
    loss = cast(WorldModelUpdate, agent.learn_world_model.update).loss
    monkeypatch.setattr(calibration, "_AT_ONCE", 3)
    found = judge_losses(loss, played, window=4)
    mean = -(math.log(0.25) + 19 * math.log(0.75)) / 20
    assert found["loss_termination"] == pytest.approx(mean)


def test_values_of_what_is_played(agent: Agent, played: TensorDict) -> None:
    returns = cast(BehaviourUpdate, agent.learn_behaviour.update).returns
    critic = cast(Critic, returns.critic.module)
    value = expect_value(critic)
    found = judge_values(agent.world_model, returns, played, window=4)
    # Up to the end at step 5, but for steps 0 and 4, the first of their windows.
    real = [8 * returns.discount**steps for steps in (4, 3, 2, 0)]
    error = sum((value - g) ** 2 for g in real) / 4
    assert found == {
        "value": pytest.approx(value),
        "return": pytest.approx(sum(real) / 4),
        "error": pytest.approx(math.sqrt(error)),
        "at_ends": pytest.approx(value),
    }


def test_values_where_no_end_comes(agent: Agent, played: TensorDict) -> None:
    returns = cast(BehaviourUpdate, agent.learn_behaviour.update).returns
    found = judge_values(agent.world_model, returns, played[8:], window=4)
    assert set(found.values()) == {None}


def test_lives_of_what_is_played(played: TensorDict) -> None:
    """The second episode is truncated in its first life, the third never ends."""
    played["is_init"][[0, 8, 15]] = True
    played["next", "end-of-life"].zero_()[[2, 7, 16]] = True
    played["next", "reward"] = torch.arange(20.0).unsqueeze(-1)
    first = (0 + 1 + 2, sum(range(8, 15)), 15 + 16)
    assert judge_lives(played) == [
        {"lives": 3, "steps": (3 + 7 + 2) / 3, "reward": pytest.approx(sum(first) / 3)},
        {"lives": 1, "steps": 5, "reward": sum(range(3, 8))},
    ]


def test_a_run_is_played_and_judged(tmp_path: Path) -> None:
    config = load_config(overrides=run_options(tmp_path / "run", "env.game=Pong"))
    run = RunDirectory.create(tmp_path / "run", config)
    agent = make_agent(config, 6, torch.device("cpu"))
    state = {"config": asdict(config), "num_actions": 6, "step": 3}
    save_checkpoint(run.checkpoint, {**agent.state_dict(), **state})
    with pytest.raises(FileNotFoundError, match="expected the metrics that the run"):
        main([str(run.path)])
    names = ("loss_reconstruction", "loss_reward", "loss_termination", "kl")
    rows = Rows(run.metrics, ["step", *(f"world_model/{name}" for name in names)])
    for step in range(101):  # all but the first count
        rows.append([step, *([step, 2.0, 3.0, 4.0] if step else [1e9] * 4)])
    out = tmp_path / "calibration.json"
    steps = ["--steps", "40", "--contexts", "8"]
    main([str(run.path), *steps, "--out", str(out), "replay.model_window=16"])
    report = json.loads(out.read_text())
    assert (report["game"], report["trained_steps"]) == ("Pong", 3)
    assert report["imagined"]["contexts"] == 8
    # Pong brings nothing in its first steps.
    assert report["seen"]["reward"] == report["seen"]["ends"] == 0.0
    assert list(report["losses"]["training"].values()) == [50.5, 2.0, 3.0, 4.0]
    assert report["losses"]["fresh"]["loss_reconstruction"] > 0
