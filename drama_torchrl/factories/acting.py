"""Environments, and what acts in them."""

from __future__ import annotations

from typing import Any

from torchrl.collectors import Collector
from torchrl.envs import (
    Compose,
    EnvBase,
    InitTracker,
    RewardSum,
    StepCounter,
    TransformedEnv,
)

from drama_torchrl.agent import Agent
from drama_torchrl.config import DramaConfig
from drama_torchrl.envs import AtariEnv, CheckTransition, make_atari_env
from drama_torchrl.factories.machine import capture_if_possible
from drama_torchrl.policies import (
    CarriedMemory,
    Memory,
    PosteriorPolicy,
    PriorPolicy,
    WindowMemory,
)

__all__ = [
    "make_atari",
    "make_collector",
    "make_env",
    "make_policy",
    "with_agent_transforms",
]


def make_atari(config: DramaConfig, *, seed: int) -> AtariEnv:
    """Build the configured Atari game as it is."""
    env = config.env
    return make_atari_env(
        env.game,
        seed=seed,
        frame_size=env.frame_size,
        frame_skip=env.frame_skip,
        repeat_action_probability=env.repeat_action_probability,
        max_noops=env.max_noops,
        max_frames=env.max_frames,
    )


def make_env(config: DramaConfig, *, seed: int) -> EnvBase:
    """Build the configured Atari game with the transforms the agent relies on.

    Example:
        >>> from drama_torchrl.config import load_config
        >>> env = make_env(load_config("quick"), seed=0)
        >>> env.reset()["pixels"].shape
        torch.Size([3, 64, 64])
        >>> env.close()
    """
    atari = make_atari(config, seed=seed)
    return with_agent_transforms(atari, frame_size=config.env.frame_size)


def with_agent_transforms(env: EnvBase, *, frame_size: int) -> EnvBase:
    """Add to any pixel environment what the agent needs to know of its steps.

    That is ``"is_init"``, ``"episode_reward"`` and ``"step_count"``; broken
    transitions are refused.
    """
    frame_shape = (3, frame_size, frame_size)
    transforms = [
        CheckTransition(frame_shape),
        InitTracker(),
        RewardSum(),
        StepCounter(),
    ]
    return TransformedEnv(env, Compose(*transforms))


def make_policy(
    config: DramaConfig, agent: Agent, *, batch_size: int = 1, **options: Any
) -> PosteriorPolicy | PriorPolicy:
    """Build the policy of decisions D4 and D5 for ``batch_size`` environments.

    Args:
        config: which policy, and which memory.
        agent: what acts.
        batch_size: number of environments.
        options: ``meanwhile`` of the policy.
    """
    memory: Memory
    if config.acting.memory == "carried":
        memory = CarriedMemory(agent.imagined, batch_size)
    else:
        memory = WindowMemory(
            agent.imagined, batch_size, agent.num_actions, config.acting.window
        )
    policies = {"posterior": PosteriorPolicy, "prior": PriorPolicy}
    policy = policies[config.acting.latent]
    return policy(agent.imagined, agent.actor, memory, **options)


def make_collector(
    config: DramaConfig, env: EnvBase, policy: PosteriorPolicy | PriorPolicy
) -> Collector:
    """Build the collector: one real step at a time, the first ones random.

    It is given no device: the policy moves what crosses between devices itself. On a
    GPU the policy decides in one launch. Trajectories get no numbers, which nothing
    reads: ``"is_init"`` tells where an episode begins.
    """
    device = next(policy.actor.parameters()).device
    decide = capture_if_possible(policy.decide, config, device)
    policy.decide = decide  # type: ignore[method-assign, assignment]
    return Collector(
        env,
        policy,
        frames_per_batch=1,
        total_frames=config.training.total_steps,
        init_random_frames=config.training.random_steps,
        trust_policy=True,
        track_traj_ids=False,
    )
