"""A learner that was saved and loaded goes on as if nothing had happened."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from tensordict import TensorDictBase

from drama_torchrl.factories import (
    make_actor,
    make_behaviour_learner,
    make_critic,
    make_world_model,
    make_world_model_learner,
)
from drama_torchrl.learner import Learner
from drama_torchrl.modules.world_model import WorldModel
from tests.reference.tiny import ACTIONS, real_batch, tiny_config


def make_learners(seed: int) -> tuple[WorldModel, dict[str, Learner]]:
    torch.manual_seed(seed)
    # Warm-up goes on after the reload; a fast scale of returns leaves its bound.
    config = tiny_config(
        "world_model.warmup_steps=10",
        "behaviour.warmup_steps=10",
        "behaviour.return_decay=0.5",
    )
    world_model = make_world_model(config, ACTIONS)
    actor, critic = make_actor(config, ACTIONS), make_critic(config)
    behaviour = make_behaviour_learner(
        config, world_model, actor, critic, num_actions=ACTIONS
    )
    return world_model, {
        "model": make_world_model_learner(config, world_model),
        "behaviour": behaviour,
    }


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def learn(learner: Learner, seed: int, times: int) -> list[TensorDictBase]:
    torch.manual_seed(seed)
    return [learner(real_batch()).clone() for _ in range(times)]


@pytest.mark.parametrize("kind", ["model", "behaviour"])
class TestReload:
    def test_the_next_metrics_are_the_same_bits(self, kind: str) -> None:
        world_model, learners = make_learners(seed=1)
        other_model, others = make_learners(seed=2)
        other_model.load_state_dict(world_model.state_dict())
        learn(learners[kind], seed=5, times=4)
        state = through_a_file(learners[kind].state_dict())
        others[kind].load_state_dict(state)
        expected = learn(learners[kind], seed=6, times=3)
        given = learn(others[kind], seed=6, times=3)
        if kind == "behaviour":
            assert expected[0]["return_scale"] > 1  # the scale of returns counts
        for one, other in zip(expected, given, strict=True):
            assert (one == other).all()

    def test_the_whole_state_is_the_same_afterwards(self, kind: str) -> None:
        _, learners = make_learners(seed=1)
        _, others = make_learners(seed=2)
        learn(learners[kind], seed=5, times=3)
        others[kind].load_state_dict(through_a_file(learners[kind].state_dict()))
        saved, loaded = learners[kind].state_dict(), others[kind].state_dict()
        torch.testing.assert_close(loaded, saved, rtol=0, atol=0)


def test_statistics_and_slow_critic_are_saved() -> None:
    _, learners = make_learners(seed=1)
    names = " ".join(learners["behaviour"].state_dict()["modules"])
    for part in ("normalizer.mean", "normalizer.count", "return_norm.low", "target_"):
        assert part in names
    assert "running_var" in " ".join(learners["model"].state_dict()["modules"])


def test_the_learning_rate_rises_after_each_update() -> None:
    learner = make_learners(seed=1)[1]["model"]
    rates = []
    for _ in range(3):
        rates.append(float(learner.optimizer.param_groups[0]["lr"]))
        learner(real_batch())
    assert rates == pytest.approx([3e-5, 6e-5, 9e-5])
