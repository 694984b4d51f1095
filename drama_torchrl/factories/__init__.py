"""Where configuration becomes objects: nothing below this package knows of it."""

from drama_torchrl.factories.acting import (
    make_atari,
    make_collector,
    make_env,
    make_policy,
    with_agent_transforms,
)
from drama_torchrl.factories.learners import (
    make_agent,
    make_behaviour_learner,
    make_world_model_learner,
)
from drama_torchrl.factories.machine import check_environment, make_device, make_logger
from drama_torchrl.factories.memory import describe_replay
from drama_torchrl.factories.networks import (
    make_actor,
    make_critic,
    make_dynamics,
    make_world_model,
)
from drama_torchrl.factories.replay import make_replay

__all__ = [
    "check_environment",
    "describe_replay",
    "make_actor",
    "make_agent",
    "make_atari",
    "make_behaviour_learner",
    "make_collector",
    "make_critic",
    "make_device",
    "make_dynamics",
    "make_env",
    "make_logger",
    "make_policy",
    "make_replay",
    "make_world_model",
    "make_world_model_learner",
    "with_agent_transforms",
]
