"""The smallest dynamics of every kind, with weights that all matter."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor

from drama_torchrl.config import WorldModelConfig
from drama_torchrl.factories import make_dynamics
from drama_torchrl.modules import Dynamics

KINDS = ("mamba2", "mamba3", "mamba", "gru", "transformer")
LATENT, ACTIONS, WIDTH = 10, 4, 8
WINDOW = 6  # shorter than most sequences of the tests: it has to slide


def tiny_dynamics(kind: str, *, dropout: float = 0.1) -> Dynamics:
    """Dynamics in float64 and evaluation mode, away from their initialisation."""
    config = WorldModelConfig(
        dynamics=kind,
        d_model=WIDTH,
        num_layers=2,
        d_state=5,
        head_dim=4,
        attention_heads=2,
        attention_window=WINDOW,
        dropout=dropout,
    )
    dynamics = make_dynamics(config, LATENT, ACTIONS).double().eval()
    with torch.no_grad():  # what starts at one or near zero would hide a mistake
        for parameter in dynamics.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return dynamics


def sequence(batch: int, time: int) -> tuple[Tensor, Tensor]:
    """Random latents ``[B, T, K·M]`` and one-hot actions ``[B, T, A]`` in float64."""
    actions = torch.eye(ACTIONS).double()[torch.randint(ACTIONS, (batch, time))]
    return torch.rand(batch, time, LATENT).double(), actions


def warm_state(dynamics: Dynamics, batch: int) -> TensorDict:
    """What the dynamics remember of eight random steps."""
    with torch.no_grad():
        _, state = dynamics(*sequence(batch, 8))
    return state


def leaves(state: TensorDict) -> dict[str, Tensor]:
    """Entries of a state by their dotted names."""
    return dict(state.flatten_keys(".").items())
