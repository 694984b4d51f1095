"""One training step of the world model and one of the behaviour."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.objectives import TargetNetUpdater

from drama_torchrl.envs.imagination import ImaginationEnv, imagine
from drama_torchrl.modules.mode import training
from drama_torchrl.objectives import (
    ActorLoss,
    CriticLoss,
    LambdaReturns,
    WorldModelLoss,
)
from drama_torchrl.optim import apply_gradients

__all__ = ["BehaviourUpdate", "Precision", "WorldModelUpdate"]


class Precision:
    """bfloat16 autocast on a device type, or none.

    Args:
        device_type: ``"cuda"`` or ``"cpu"``.
        enabled: whether matrix products run in bfloat16; parameters stay float32.

    Example:
        >>> import torch
        >>> with Precision("cpu", enabled=True)():
        ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        torch.bfloat16
    """

    def __init__(self, device_type: str, *, enabled: bool) -> None:
        self.device_type = device_type
        self.enabled = enabled

    def __call__(self) -> AbstractContextManager[None]:
        """Open a context of this precision.

        The weights cast inside are kept until it closes. One context must not span
        a pass without gradients and one with them over the same weights: the second
        would find casts that carry no gradient.
        """
        return torch.autocast(
            self.device_type, dtype=torch.bfloat16, enabled=self.enabled
        )


class WorldModelUpdate:
    """Train the world model on a batch of real sequences (Drama section 2.2).

    Args:
        loss: the world model's losses.
        optimizer: over the world model's parameters.
        max_grad_norm: bound of the gradient's norm.
        precision: of the forward pass.
    """

    def __init__(
        self,
        loss: WorldModelLoss,
        optimizer: torch.optim.Optimizer,
        *,
        max_grad_norm: float,
        precision: Precision,
    ) -> None:
        self.loss = loss
        self.optimizer = optimizer
        self.max_grad_norm = max_grad_norm
        self.precision = precision

    def __call__(self, batch: TensorDictBase) -> TensorDict:
        """Update on ``batch`` ``[B, T]`` and return detached metrics."""
        with training(self.loss), self.precision():
            losses = self.loss(batch)
        norm = apply_gradients(losses, self.optimizer, self.max_grad_norm)
        return losses.detach().set("grad_norm", norm)


class BehaviourUpdate:
    """Imagine from real contexts and train actor and critic (Drama section 2.3).

    Args:
        env: the imagination.
        returns: values, λ-returns and advantages of a rollout.
        actor_loss: REINFORCE with entropy.
        critic_loss: two-hot regression with a slow critic.
        slow_critic: moves the slow critic.
        optimizer: over the actor's and critic's parameters.
        horizon: number H of imagined steps.
        max_grad_norm: bound of the gradient's norm.
        precision: of the forward passes.
    """

    def __init__(
        self,
        env: ImaginationEnv,
        returns: LambdaReturns,
        actor_loss: ActorLoss,
        critic_loss: CriticLoss,
        slow_critic: TargetNetUpdater,
        optimizer: torch.optim.Optimizer,
        *,
        horizon: int,
        max_grad_norm: float,
        precision: Precision,
    ) -> None:
        self.env = env
        self.returns = returns
        self.actor_loss = actor_loss
        self.critic_loss = critic_loss
        self.slow_critic = slow_critic
        self.optimizer = optimizer
        self.horizon = horizon
        self.max_grad_norm = max_grad_norm
        self.precision = precision

    def __call__(self, context: TensorDictBase) -> TensorDict:
        """Update from ``context`` ``[N, C]`` and return detached metrics."""
        with self.precision():
            rollout = imagine(
                self.env, self.actor_loss.actor_network, context, self.horizon
            )
        with self.precision():
            rollout = self.returns(rollout)
        with training(self.actor_loss), self.precision():
            losses = self.actor_loss(rollout)
        with self.precision():
            losses.update(self.critic_loss(rollout))
        norm = apply_gradients(losses, self.optimizer, self.max_grad_norm)
        self.slow_critic.step()
        metrics = losses.detach().set("grad_norm", norm)
        metrics.set("imagined_reward", rollout.get(("next", "reward")).mean())
        ended = rollout.get(("next", "terminated")).float().mean()
        return metrics.set("imagined_termination", ended)
