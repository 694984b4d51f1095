"""What the collector hands out is what the loop and the replay buffer read."""

from __future__ import annotations

import torch

from drama_torchrl.factories import make_agent, make_collector, make_env, make_policy
from tests.reference.tiny import tiny_config


def test_transitions_come_singly_and_name_no_trajectories() -> None:
    config = tiny_config()
    env = make_env(config, seed=0)
    agent = make_agent(config, env.action_spec.shape[-1], torch.device("cpu"))
    collector = make_collector(config, env, make_policy(config, agent))
    transition = next(iter(collector))
    collector.shutdown()
    assert transition.batch_size == torch.Size([1])
    assert "collector" not in transition
    assert {"pixels", "action", "is_init", "episode_seed"} <= set(transition.keys())
