"""Losses of the world model, the actor and the critic as TorchRL loss modules."""

from drama_torchrl.objectives.actor import ActorLoss
from drama_torchrl.objectives.critic import CriticLoss
from drama_torchrl.objectives.returns import (
    LambdaReturns,
    lambda_returns,
    rollout_values,
)
from drama_torchrl.objectives.world_model import WorldModelLoss, reconstruction_error

__all__ = [
    "ActorLoss",
    "CriticLoss",
    "LambdaReturns",
    "WorldModelLoss",
    "lambda_returns",
    "reconstruction_error",
    "rollout_values",
]
