"""One training step of the world model and one of the behaviour."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torchrl.objectives import TargetNetUpdater

from drama_torchrl.envs.imagination import ImaginationEnv, imagine
from drama_torchrl.finite import FiniteSteps, is_finite
from drama_torchrl.modules.mode import evaluating, training
from drama_torchrl.objectives import (
    ActorLoss,
    CriticLoss,
    LambdaReturns,
    WorldModelLoss,
)
from drama_torchrl.optim import LaProp, clip_gradients, differentiate
from drama_torchrl.precision import Precision
from drama_torchrl.streams import Branch

__all__ = [
    "BehaviourUpdate",
    "Update",
    "UpdatesApart",
    "UpdatesApartAtOnce",
    "UpdatesAtOnce",
    "UpdatesInTurn",
    "WorldModelUpdate",
]

Update = Callable[[TensorDictBase], TensorDictBase]
"""Takes a batch, changes modules in place, returns detached metrics."""


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
        optimizer: LaProp,
        *,
        max_grad_norm: float,
        precision: Precision,
    ) -> None:
        self.loss = loss
        self.optimizer = optimizer
        self.max_grad_norm = max_grad_norm
        self.precision = precision
        self.finite = FiniteSteps(loss)

    @property
    def regions(self) -> list[tuple[Any, str]]:
        """Owners and names of the methods that hold the arithmetic."""
        methods = ("encode", "reconstruction", "prediction")
        return [*((self.loss, name) for name in methods), (self.optimizer, "move")]

    def __call__(self, batch: TensorDictBase) -> TensorDict:
        """Update on ``batch`` ``[B, T]`` and return detached metrics."""
        return self.step(self.differentiate(batch))

    def differentiate(self, batch: TensorDictBase) -> TensorDict:
        """Form the gradients of ``batch`` ``[B, T]`` and return detached metrics."""
        self.finite.begin()
        with training(self.loss), self.precision():
            losses = self.loss(batch)
        return differentiate(losses, self.optimizer)

    def step(self, losses: TensorDict) -> TensorDict:
        """Apply the gradients of ``losses`` and return metrics."""
        return _apply(losses, self.optimizer, self.max_grad_norm, self.finite)


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
        optimizer: LaProp,
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
        self.finite = FiniteSteps(nn.ModuleList([actor_loss, critic_loss]))

    @property
    def regions(self) -> list[tuple[Any, str]]:
        """Owners and names of the methods that hold the arithmetic."""
        return [
            (self.env, "look"),
            (self, "act"),
            (self.env, "advance"),
            (self.env, "outcomes"),
            (self, "losses"),
            (self.optimizer, "move"),
        ]

    def __call__(self, context: TensorDictBase) -> TensorDict:
        """Update from ``context`` ``[N, C]`` and return detached metrics."""
        return self.learn(self.imagine(context))

    def imagine(self, context: TensorDictBase) -> TensorDictBase:
        """Roll out ``[N, H]`` from ``context`` ``[N, C]``."""
        imagining = (self.env.world_model, self.actor_loss)
        with (
            evaluating(*imagining),
            self.precision(),
            self.precision.rounding(*imagining),
        ):
            return imagine(self.env, self.act, context, self.horizon)

    def learn(self, rollout: TensorDictBase) -> TensorDict:
        """Update on imagined rollouts ``[N, H]`` and return detached metrics."""
        self.finite.begin()
        with training(self.actor_loss):
            losses = self.losses(rollout)
        losses.set("imagined_reward", rollout.get(("next", "reward")).mean())
        ended = rollout.get(("next", "terminated")).float().mean()
        losses.set("imagined_termination", ended)
        losses = differentiate(losses, self.optimizer)
        return _apply(
            losses, self.optimizer, self.max_grad_norm, self.finite, self.slow_critic
        )

    def act(self, state: TensorDictBase) -> TensorDictBase:
        """Add an ``"action"`` to imagined states ``[N]``."""
        return self.actor_loss.actor_network(state.copy())

    def losses(self, rollout: TensorDictBase) -> TensorDict:
        """Compute the loss terms of imagined rollouts ``[N, H]``."""
        with self.precision():
            rollout = self.returns(rollout.copy())
        with self.precision():
            losses = self.actor_loss(rollout)
        with self.precision():
            losses.update(self.critic_loss(rollout))
        return losses


class UpdatesInTurn:
    """Train the world model, then the behaviour inside it (Drama algorithm 1).

    Takes ``"windows"`` ``[B, T]`` and ``"contexts"`` ``[N, C]``; returns the metrics
    of both updates under ``"world_model"`` and ``"behaviour"``.

    Args:
        world_model: its update.
        behaviour: its update.
    """

    def __init__(
        self, world_model: WorldModelUpdate, behaviour: BehaviourUpdate
    ) -> None:
        self.world_model = world_model
        self.behaviour = behaviour

    def __call__(self, batches: TensorDictBase) -> TensorDict:
        """Update both and return detached metrics."""
        world_model = self.world_model(batches["windows"])
        behaviour = self.behaviour(batches["contexts"])
        return TensorDict({"world_model": world_model, "behaviour": behaviour})


class UpdatesAtOnce(UpdatesInTurn):
    """Train both beside each other.

    Imagination runs in the world model as it was before this step's update of it: its
    chain of small kernels fills what the world model's large ones leave idle. Actor and
    critic go on where it ends, but are queued behind the world model's gradients:
    processes make their exchanges in that order, and imagination makes none.

    Args:
        world_model: its update.
        behaviour: its update.
    """

    def __call__(self, batches: TensorDictBase) -> TensorDict:
        """Update both and return detached metrics."""
        contexts = batches["contexts"]
        with (
            _held_statistics(self.world_model.loss) as held,
            Branch(contexts.device, priority=-2) as imagining,
        ):
            rollout = self.behaviour.imagine(contexts)
        world_model = self.world_model.differentiate(batches["windows"])
        imagining.join()
        del held  # until here the branch reads them
        with imagining:
            behaviour = self.behaviour.learn(rollout)
        world_model = self.world_model.step(world_model)
        imagining.join()
        return TensorDict({"world_model": world_model, "behaviour": behaviour})


class UpdatesApart:
    """Train the world model, then the behaviour on another device inside a copy of it.

    The updates are those of :class:`UpdatesInTurn`, to the bit on one kind of device.
    What is queued for the world model afterwards does not wait for the behaviour: its
    next update runs beside imagination, once it has the transitions that it needs.

    Args:
        world_model: its update, as it is run; it renews the copy.
        behaviour: its update inside the copy, as it is run.
        device: of the behaviour.
    """

    def __init__(
        self, world_model: Update, behaviour: Update, *, device: torch.device
    ) -> None:
        self.world_model = world_model
        self.behaviour = behaviour
        self.device = device

    def __call__(self, batches: TensorDictBase) -> TensorDict:
        """Update both and return detached metrics."""
        world_model = self.world_model(batches["windows"])
        behaviour = self.behaviour(self._delivered(batches["contexts"]))
        return TensorDict({"world_model": world_model, "behaviour": behaviour})

    def _delivered(self, contexts: TensorDictBase) -> TensorDictBase:
        return contexts.to(self.device, non_blocking=True)


class UpdatesApartAtOnce(UpdatesApart):
    """Train both beside each other, on two devices.

    The updates are those of :class:`UpdatesAtOnce`: the behaviour imagines in the world
    model as it was before this step's update of it. Neither waits for the other before
    the copy is renewed.
    """

    def __call__(self, batches: TensorDictBase) -> TensorDict:
        """Update both and return detached metrics."""
        behaviour = self.behaviour(self._delivered(batches["contexts"]))
        world_model = self.world_model(batches["windows"])
        return TensorDict({"world_model": world_model, "behaviour": behaviour})


def _apply(
    losses: TensorDict,
    optimizer: LaProp,
    max_grad_norm: float,
    finite: FiniteSteps,
    *followers: TargetNetUpdater,
) -> TensorDict:
    """Step if all is finite; add the gradient's norm and the steps lost in a row.

    Slow networks follow. They are buffers of the losses, so where the step is not
    applied they come back together with the statistics.
    """
    norm = clip_gradients(optimizer, max_grad_norm)
    optimizer.applied = is_finite(losses, norm)
    optimizer.step()
    for follower in followers:
        follower.step()
    finite.end(optimizer.applied)
    return losses.set("grad_norm", norm).set("not_applied", finite.in_a_row.float())


@contextmanager
def _held_statistics(module: nn.Module) -> Iterator[list[Tensor | None]]:
    """Let normalisation layers read copies of their statistics, not what comes."""
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    names = ("running_mean", "running_var")
    places = [(norm._buffers, name) for norm in norms for name in names]
    statistics = [buffers[name] for buffers, name in places]
    copies = [None if value is None else value.clone() for value in statistics]
    for (buffers, name), value in zip(places, copies, strict=True):
        buffers[name] = value
    try:
        yield copies
    finally:
        for (buffers, name), value in zip(places, statistics, strict=True):
            buffers[name] = value
