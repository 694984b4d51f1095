"""What the world model learns: pixels, rewards, terminations and its own latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor
from torch.nn import functional as F
from torchrl.objectives import LossModule

from drama_torchrl.modules.distributions import categorical_entropy, categorical_kl
from drama_torchrl.modules.world_model import WorldModel
from drama_torchrl.parallel import all_mean
from drama_torchrl.streams import Branch

__all__ = ["WorldModelLoss", "reconstruction_error"]


def reconstruction_error(reconstruction: Tensor, pixels: Tensor) -> Tensor:
    """Squared error of frames, summed over each frame.

    Σ_{c,h,w} (x̂ - x)²   (Drama eq. 6)

    Args:
        reconstruction: frames in [0, 1], ``[*, 3, F, F]``.
        pixels: uint8 frames, ``[*, 3, F, F]``.

    Returns:
        Errors ``[*]``.

    Example:
        >>> import torch
        >>> reconstruction_error(
        ...     torch.full((1, 3, 2, 2), 0.5), torch.zeros(1, 3, 2, 2).byte()
        ... )
        tensor([3.])
    """
    error = reconstruction.float() - pixels / 255.0
    return error.square().sum((-3, -2, -1))


class WorldModelLoss(LossModule):
    """Train a :class:`~drama_torchrl.modules.WorldModel` on real sequences.

    L = Σ_pixels (x̂-x)² + CE(r̂, r) + BCE(ê, e)
      + β_dyn max(1, KL[sg(q(z_{t+1}|o_{t+1})) ‖ p(ẑ_{t+1}|d_t)])
      + β_rep max(1, KL[q(z_{t+1}|o_{t+1}) ‖ sg(p(ẑ_{t+1}|d_t))])   (Drama eq. 6-7)

    The divergences are averaged over the batch before the free nats are taken, over the
    batches of all processes where there are several.
    Targets of reward and termination are those that a_t caused (decision D1).

    Args:
        world_model: the model, called in the mode it is in.
        dynamics_scale: β_dyn.
        representation_scale: β_rep.
        free_nats: divergence below which there is no gradient, in nats.

    The loss terms are ``loss_reconstruction``, ``loss_reward``,
    ``loss_termination``, ``loss_dynamics`` and ``loss_representation``; sum them.
    ``kl``, ``posterior_entropy``, ``prior_entropy`` and ``reward_error`` are detached.

    Example:
        >>> import torch
        >>> from drama_torchrl.config import load_config
        >>> from drama_torchrl.factories import make_world_model
        >>> loss = WorldModelLoss(make_world_model(load_config("quick"), 6))
        >>> loss.set_keys(terminated=("next", "end-of-life"))
        >>> batch = TensorDict(
        ...     {
        ...         "pixels": torch.zeros(2, 5, 3, 64, 64, dtype=torch.uint8),
        ...         "action": torch.zeros(2, 5, 6),
        ...         ("next", "reward"): torch.zeros(2, 5, 1),
        ...         ("next", "end-of-life"): torch.zeros(2, 5, 1, dtype=torch.bool),
        ...     },
        ...     batch_size=[2, 5],
        ... )
        >>> sorted(loss(batch).keys())[:3]
        ['kl', 'loss_dynamics', 'loss_reconstruction']
    """

    @dataclass
    class _AcceptedKeys:
        """Targets; the model's own keys are set by ``WorldModel.set_keys``."""

        reward: NestedKey = ("next", "reward")
        terminated: NestedKey = ("next", "terminated")

    tensor_keys: _AcceptedKeys
    default_keys = _AcceptedKeys
    world_model: WorldModel

    def __init__(
        self,
        world_model: WorldModel,
        *,
        dynamics_scale: float = 1.0,
        representation_scale: float = 0.1,
        free_nats: float = 1.0,
    ) -> None:
        super().__init__()
        self.world_model = world_model
        self.dynamics_scale = dynamics_scale
        self.representation_scale = representation_scale
        self.free_nats = free_nats

    @property
    def in_keys(self) -> list[NestedKey]:
        """Keys that :meth:`forward` reads."""
        return [
            *self.world_model.in_keys,
            self.tensor_keys.reward,
            self.tensor_keys.terminated,
        ]

    out_keys: ClassVar[list[NestedKey]] = [
        "loss_reconstruction",
        "loss_reward",
        "loss_termination",
        "loss_dynamics",
        "loss_representation",
        "kl",
        "posterior_entropy",
        "prior_entropy",
        "reward_error",
    ]

    def _forward_value_estimator_keys(self, **kwargs: NestedKey) -> None:
        """The loss has no value estimator to pass its keys on to."""

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Compute the loss terms of real sequences ``[B, T]``; the input is kept."""
        if tensordict.ndim != 2 or tensordict.shape[1] < 2:
            raise ValueError(
                "WorldModelLoss expects sequences [B, T] of at least two steps, since "
                "a prior is compared with the frame after it; got batch size "
                f"{list(tensordict.shape)}."
            )
        out = self.encode(tensordict.select(*self.in_keys))
        # Frames are drawn from latents alone: beside the sequence model, not after it,
        # whose chain of small kernels goes before all others.
        with Branch(out.device, priority=-3) as predicting:
            predicted = self.prediction(out)
        losses = self.reconstruction(out)
        predicting.join()
        return losses.update(predicted)

    def encode(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Add posteriors and latents to real sequences ``[B, T]``."""
        return self.world_model.encode(tensordict.copy())

    def reconstruction(self, tensordict: TensorDictBase) -> TensorDict:
        """Compute the term that needs latents and frames alone."""
        keys = self.world_model.tensor_keys
        drawn = self.world_model.decode(tensordict.select(keys.latent))
        error = reconstruction_error(
            drawn.get(keys.reco_pixels), tensordict[keys.pixels]
        )
        return TensorDict({"loss_reconstruction": error.mean()})

    def prediction(self, tensordict: TensorDictBase) -> TensorDict:
        """Compute the terms of what follows from latents and actions."""
        model, keys = self.world_model, self.world_model.tensor_keys
        out, _ = model.observe(tensordict.copy())
        reward = tensordict[self.tensor_keys.reward]
        terminated = tensordict[self.tensor_keys.terminated]
        two_hot = model.reward_head.two_hot
        reward_logits = out.get(keys.next_reward_logits)
        reward_loss = two_hot.cross_entropy(reward_logits, reward)
        termination_loss = F.binary_cross_entropy_with_logits(
            out.get(keys.next_terminated_logits).float(), terminated.float()
        )
        # The prior after a_t is about o_{t+1}: shift by one. [B, T-1, K, M]
        posterior = out.get(keys.posterior_logits)[:, 1:]
        prior = out.get(keys.next_prior_logits)[:, :-1]
        dynamics = categorical_kl(posterior.detach(), prior).mean()
        representation = categorical_kl(posterior, prior.detach()).mean()
        dynamics, representation = all_mean(dynamics, representation)
        with torch.no_grad():
            reward_error = (two_hot(reward_logits) - reward).abs().mean()
            posterior_entropy = categorical_entropy(posterior).mean()
            prior_entropy = categorical_entropy(prior).mean()
        return TensorDict(
            {
                "loss_reward": reward_loss.mean(),
                "loss_termination": termination_loss,
                "loss_dynamics": self.dynamics_scale
                * dynamics.clamp_min(self.free_nats),
                "loss_representation": self.representation_scale
                * representation.clamp_min(self.free_nats),
                "kl": dynamics.detach(),
                "posterior_entropy": posterior_entropy,
                "prior_entropy": prior_entropy,
                "reward_error": reward_error,
            }
        )
