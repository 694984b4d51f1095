"""The smallest agent that still has every part, and batches for it."""

from __future__ import annotations

import torch
from tensordict import TensorDict

from drama_torchrl.config import DramaConfig, load_config

ACTIONS = 3
CATEGORICALS, CLASSES = 6, 5  # different, or a mistaken denominator would not show
LATENT = CATEGORICALS * CLASSES
WIDTH = 32
FRAME = 16

_OVERRIDES = (
    f"env.frame_size={FRAME}",
    "world_model.filters=[4,8,8]",
    f"world_model.num_categoricals={CATEGORICALS}",
    f"world_model.num_classes={CLASSES}",
    f"world_model.d_model={WIDTH}",
    "world_model.head_dim=16",
    "world_model.num_layers=2",
    "world_model.head_units=16",
    "world_model.num_bins=41",
    "behaviour.horizon=4",
    "behaviour.actor_units=[16,16]",
    "behaviour.critic_units=[16,16]",
)


def tiny_config(*overrides: str) -> DramaConfig:
    return load_config("quick", [*_OVERRIDES, *overrides])


def random_actions(*shape: int) -> torch.Tensor:
    """One-hot actions ``[*shape, A]``, bool as the environment gives them."""
    return torch.eye(ACTIONS).bool()[torch.randint(ACTIONS, shape)]


def real_batch(batch: int = 4, time: int = 8) -> TensorDict:
    """What a replay buffer returns: frames, actions and what they caused."""
    shape = (batch, time)
    pixels = torch.randint(256, (*shape, 3, FRAME, FRAME)).to(torch.uint8)
    return TensorDict(
        {
            "pixels": pixels,
            "action": random_actions(*shape),
            "is_init": torch.zeros(*shape, 1, dtype=torch.bool),
            ("next", "reward"): torch.randn(*shape, 1),
            ("next", "terminated"): torch.rand(*shape, 1) < 0.2,
            ("next", "end-of-life"): torch.rand(*shape, 1) < 0.2,
        },
        batch_size=shape,
    )


def imagined_batch(rollouts: int = 4, horizon: int = 5) -> TensorDict:
    """What imagination and the λ-returns give, with random numbers."""
    shape = (rollouts, horizon)
    states = {
        "latent": torch.rand(rollouts, horizon + 1, LATENT),
        "belief": torch.randn(rollouts, horizon + 1, WIDTH),
    }
    batch = TensorDict(
        {
            "action": random_actions(*shape).long(),  # as the actor draws them
            ("next", "reward"): torch.randn(*shape, 1),
            ("next", "terminated"): torch.rand(*shape, 1) < 0.2,
            "advantage": torch.randn(*shape, 1),
            "value_target": 3 * torch.randn(*shape, 1),
        },
        batch_size=shape,
    )
    for key, value in states.items():
        batch.set(key, value[:, :-1])
        batch.set(("next", key), value[:, 1:])
    return batch
