"""The world model: encode frames, observe sequences, imagine steps, decode frames."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor, nn

from drama_torchrl.modules.distributions import (
    sample_one_hot,
    straight_through,
    unimix,
)
from drama_torchrl.modules.dynamics import Dynamics
from drama_torchrl.modules.heads import RewardHead, TerminationHead
from drama_torchrl.modules.tensor_keys import rename

__all__ = ["WorldModel"]


class WorldModel(TensorDictModuleBase):
    """Drama's world model over tensordicts.

    z_t ~ q(z_t | o_t), d_t = f(z_≤t, a_≤t), ẑ_{t+1} ~ p(ẑ_{t+1} | d_t),
    r̂_t and ê_t from d_t, ô_t from z_t   (Drama eq. 3-5)

    All that action a_t causes lies under ``"next"``: the belief d_t, the prior of
    ẑ_{t+1}, the reward and the termination (decision D1). The root ``"belief"`` of
    step t is d_{t-1}, so that (``"latent"``, ``"belief"``) is the agent's state s_t.

    Args:
        encoder: frames ``[*, 3, F, F]`` to posterior logits ``[*, K·M]``.
        decoder: latents ``[*, K·M]`` to frames in [0, 1].
        dynamics: latents and actions to beliefs.
        reward_head: beliefs to reward logits.
        termination_head: beliefs to termination logits.
        num_categoricals: number K of categoricals.
        num_classes: number M of classes of each.
        unimix: share of the uniform distribution in q and p.
        reset_at_episode_start: forget the past where ``"is_init"`` is set instead
            of trusting the dynamics to do so (decision D10).

    The keys it reads and writes are ``tensor_keys``; :meth:`set_keys` renames them.

    Example:
        >>> from drama_torchrl.config import load_config
        >>> from drama_torchrl.factories import make_world_model
        >>> import torch
        >>> from tensordict import TensorDict
        >>> world_model = make_world_model(load_config("quick"), num_actions=6)
        >>> batch = TensorDict(
        ...     pixels=torch.zeros(2, 5, 3, 64, 64, dtype=torch.uint8),
        ...     action=torch.zeros(2, 5, 6),
        ...     batch_size=[2, 5],
        ... )
        >>> batch = world_model(batch)
        >>> batch["reco_pixels"].shape, batch["next", "reward_logits"].shape
        (torch.Size([2, 5, 3, 64, 64]), torch.Size([2, 5, 255]))
    """

    @dataclass
    class _AcceptedKeys:
        """Keys of the world model's entries (see ``ARCHITECTURE.md``)."""

        pixels: NestedKey = "pixels"
        action: NestedKey = "action"
        is_init: NestedKey = "is_init"
        posterior_logits: NestedKey = "posterior_logits"
        latent: NestedKey = "latent"
        reco_pixels: NestedKey = "reco_pixels"
        next_belief: NestedKey = ("next", "belief")
        next_prior_logits: NestedKey = ("next", "prior_logits")
        next_latent: NestedKey = ("next", "latent")
        next_reward_logits: NestedKey = ("next", "reward_logits")
        next_terminated_logits: NestedKey = ("next", "terminated_logits")
        next_reward: NestedKey = ("next", "reward")
        next_terminated: NestedKey = ("next", "terminated")

    def __init__(
        self,
        *,
        encoder: nn.Module,
        decoder: nn.Module,
        dynamics: Dynamics,
        reward_head: RewardHead,
        termination_head: TerminationHead,
        num_categoricals: int = 32,
        num_classes: int = 32,
        unimix: float = 0.01,
        reset_at_episode_start: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.dynamics = dynamics
        self.prior_head = nn.Linear(dynamics.d_model, num_categoricals * num_classes)
        self.reward_head = reward_head
        self.termination_head = termination_head
        self.num_categoricals = num_categoricals
        self.num_classes = num_classes
        self.unimix = unimix
        self.reset_at_episode_start = reset_at_episode_start
        self.tensor_keys = self._AcceptedKeys()

    @property
    def latent_dim(self) -> int:
        """Width K·M of the latent."""
        return self.num_categoricals * self.num_classes

    @property
    def belief_dim(self) -> int:
        """Width D of the belief."""
        return self.dynamics.d_model

    @property
    def in_keys(self) -> list[NestedKey]:
        """Keys that :meth:`forward` reads."""
        keys = self.tensor_keys
        reset = [keys.is_init] if self.reset_at_episode_start else []
        return [keys.pixels, keys.action, *reset]

    @property
    def out_keys(self) -> list[NestedKey]:
        """Keys that :meth:`forward` writes."""
        keys = self.tensor_keys
        return [
            keys.posterior_logits,
            keys.latent,
            keys.reco_pixels,
            keys.next_belief,
            keys.next_prior_logits,
            keys.next_reward_logits,
            keys.next_terminated_logits,
        ]

    def set_keys(self, **keys: NestedKey) -> None:
        """Rename entries, as in TorchRL's loss modules.

        Raises:
            ValueError: if a name is not among ``tensor_keys``.
        """
        rename(self.tensor_keys, keys, owner="WorldModel")

    def initial_state(self, batch_size: int | torch.Size) -> TensorDict:
        """Recurrent state of an empty past, of batch size ``[B]``."""
        return self.dynamics.initial_state(batch_size)

    def sample_latent(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Draw a latent from unmixed logits ``[*, K·M]``.

        Returns:
            Mixed log-probabilities ``[*, K, M]`` and the straight-through sample
            ``[*, K·M]``.
        """
        logits = logits.unflatten(-1, (self.num_categoricals, self.num_classes))
        log_probs = unimix(logits, self.unimix)
        sample = straight_through(sample_one_hot(log_probs), log_probs)
        return log_probs, sample.flatten(-2)

    def encode(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the posterior of ``"pixels"`` and a draw from it.

        Writes ``"posterior_logits"`` ``[*, K, M]`` (normalised and mixed) and
        ``"latent"`` ``[*, K·M]``.
        """
        keys = self.tensor_keys
        logits, latent = self.sample_latent(self.encoder(tensordict[keys.pixels]))
        tensordict.set(keys.posterior_logits, logits)
        return tensordict.set(keys.latent, latent)

    def believe(
        self, tensordict: TensorDictBase, state: TensorDict | None = None
    ) -> tuple[Tensor, TensorDict]:
        """Run ``"latent"`` and ``"action"`` ``[B, T]`` through time in parallel.

        Args:
            tensordict: batch size ``[B, T]``.
            state: recurrent state before the sequence; empty past by default.

        Returns:
            Beliefs ``[B, T, D]`` and the recurrent state after the sequence.
        """
        keys = self.tensor_keys
        is_init = None
        if self.reset_at_episode_start:
            is_init = tensordict[keys.is_init].squeeze(-1)
        latent, action = tensordict[keys.latent], tensordict[keys.action]
        return self.dynamics(latent, action, state, is_init=is_init)

    def observe(
        self, tensordict: TensorDictBase, state: TensorDict | None = None
    ) -> tuple[TensorDictBase, TensorDict]:
        """Predict what follows each ``"latent"`` and ``"action"`` ``[B, T]``.

        Writes ``("next", "belief")`` and what is predicted from it:
        ``("next", "prior_logits")``, ``("next", "reward_logits")`` and
        ``("next", "terminated_logits")``.

        Args:
            tensordict: batch size ``[B, T]``.
            state: recurrent state before the sequence; empty past by default.

        Returns:
            The tensordict and the recurrent state after the sequence.
        """
        keys = self.tensor_keys
        belief, state = self.believe(tensordict, state)
        prior_logits = self.prior_head(belief).unflatten(
            -1, (self.num_categoricals, self.num_classes)
        )
        tensordict.set(keys.next_belief, belief)
        tensordict.set(keys.next_prior_logits, unimix(prior_logits, self.unimix))
        tensordict.set(keys.next_reward_logits, self.reward_head(belief))
        tensordict.set(keys.next_terminated_logits, self.termination_head(belief))
        return tensordict, state

    def step(
        self, tensordict: TensorDictBase, state: TensorDict
    ) -> tuple[TensorDictBase, TensorDict]:
        """Imagine what ``"action"`` does to ``"latent"``, in O(1).

        Writes ``("next", "belief")``, a draw ``("next", "latent")`` from the prior,
        the expected ``("next", "reward")`` and the hard prediction
        ``("next", "terminated")``.

        Args:
            tensordict: batch size ``[B]``.
            state: recurrent state before the step.

        Returns:
            The tensordict and the recurrent state after the step.
        """
        keys = self.tensor_keys
        belief, latent, state = self.advance(
            tensordict[keys.latent], tensordict[keys.action], state
        )
        reward, terminated = self.outcomes(belief)
        tensordict.set(keys.next_belief, belief)
        tensordict.set(keys.next_latent, latent)
        tensordict.set(keys.next_reward, reward)
        tensordict.set(keys.next_terminated, terminated)
        return tensordict, state

    def advance(
        self, latent: Tensor, action: Tensor, state: TensorDict
    ) -> tuple[Tensor, Tensor, TensorDict]:
        """Compute of a step what the next one needs.

        Args:
            latent: ``[B, K·M]``.
            action: one-hot, ``[B, A]``.
            state: recurrent state before the step.

        Returns:
            The belief ``[B, D]``, a latent ``[B, K·M]`` drawn from its prior and the
            recurrent state after the step.
        """
        belief, state = self.dynamics.step(latent, action, state)
        return belief, self.draw_prior(belief), state

    def draw_prior(self, belief: Tensor) -> Tensor:
        """Draw latents ``[*, K·M]`` from the prior after beliefs ``[*, D]``."""
        return self.sample_latent(self.prior_head(belief))[1]

    def outcomes(self, belief: Tensor) -> tuple[Tensor, Tensor]:
        """Predict what actions caused, from beliefs ``[*, D]`` that include them.

        Returns:
            Expected rewards ``[*, 1]`` and predicted terminations ``[*, 1]``.
        """
        reward = self.reward_head.decode(self.reward_head(belief))
        return reward, self.termination_head.decode(self.termination_head(belief))

    def decode(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write ``"reco_pixels"`` ``[*, 3, F, F]`` in [0, 1] from ``"latent"``."""
        keys = self.tensor_keys
        return tensordict.set(keys.reco_pixels, self.decoder(tensordict[keys.latent]))

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Encode, observe and decode a batch of sequences ``[B, T]``."""
        tensordict = self.encode(tensordict)
        tensordict, _ = self.observe(tensordict)
        return self.decode(tensordict)
