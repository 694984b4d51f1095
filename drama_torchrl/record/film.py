"""Films of imagination beside reality."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor

from drama_torchrl.modules.mode import evaluating
from drama_torchrl.modules.world_model import WorldModel

__all__ = ["Film", "imagination_film"]

_GAP = 2
_WHITE = (255, 255, 255)
_ORANGE = (255, 127, 14)


@dataclass(frozen=True)
class Film:
    """A real sequence and what the world model makes of it, on the CPU.

    Frame t of ``model`` is about the same moment as frame t of ``real``; reward and
    termination t are those that action a_t caused, between frames t and t+1.

    Args:
        real: frames o_t, uint8 ``[T, 3, F, F]``.
        model: reconstructions of o_t for t < context, imagined frames from then on,
            uint8 ``[T, 3, F, F]``.
        context: number of steps that the model saw.
        reward: r_t, ``[T]``.
        predicted_reward: r̂_t, ``[T]``.
        terminated: e_t, bool ``[T]``.
        predicted_terminated: ê_t, bool ``[T]``.
    """

    real: Tensor
    model: Tensor
    context: int
    reward: Tensor
    predicted_reward: Tensor
    terminated: Tensor
    predicted_terminated: Tensor

    @property
    def difference(self) -> Tensor:
        """Absolute difference of ``real`` and ``model``, uint8 ``[T, 3, F, F]``."""
        return (self.real.short() - self.model.short()).abs().to(torch.uint8)

    def frames(self) -> Tensor:
        """Real frame, model's frame and difference side by side.

        Returns:
            uint8 ``[T, 3, F, 3F + 4]``; the gaps are white while the model sees the
            real frames and orange while it imagines.
        """
        length, _, height, _ = self.real.shape
        gap = torch.tensor(
            [_WHITE] * self.context + [_ORANGE] * (length - self.context)
        )
        gap = gap.to(torch.uint8)[:, :, None, None].expand(-1, -1, height, _GAP)
        return torch.cat([self.real, gap, self.model, gap, self.difference], -1)


@torch.no_grad()
def imagination_film(
    world_model: WorldModel,
    batch: TensorDictBase,
    *,
    context: int,
    reward_key: NestedKey = ("next", "reward"),
    terminated_key: NestedKey = ("next", "terminated"),
) -> Film:
    """Let the world model see the start of a real sequence and imagine the rest.

    x̂_t = decode(z_t), z_t ~ q(· | o_t) for t < C; then, with the real actions,
    ẑ_t ~ p(· | d_{t-1}), d_t = f(ẑ_t, a_t, …), x̂_t = decode(ẑ_t)   (Drama eq. 3-5)

    Args:
        world_model: the model; evaluated, without gradient.
        batch: real sequences ``[B, T]``; the first one is filmed.
        context: number C of steps that the model sees, at least 1 and below T.
        reward_key: the real rewards.
        terminated_key: the terminations that the model learned.

    Returns:
        The film of T steps.

    Raises:
        ValueError: if nothing would be seen or nothing imagined.

    Example:
        >>> from drama_torchrl.config import load_config
        >>> from drama_torchrl.factories import make_world_model
        >>> batch = TensorDict(
        ...     {
        ...         "pixels": torch.zeros(1, 6, 3, 64, 64, dtype=torch.uint8),
        ...         "action": torch.zeros(1, 6, 4),
        ...         ("next", "reward"): torch.zeros(1, 6, 1),
        ...         ("next", "terminated"): torch.zeros(1, 6, 1, dtype=torch.bool),
        ...     },
        ...     batch_size=[1, 6],
        ... )
        >>> world_model = make_world_model(load_config("quick"), num_actions=4)
        >>> imagination_film(world_model, batch, context=2).frames().shape
        torch.Size([6, 3, 64, 196])
    """
    if batch.ndim != 2 or not 1 <= context < batch.shape[1]:
        raise ValueError(
            "A film expects a batch [B, T] and a context of 1 to T-1 steps, got "
            f"{list(batch.shape)} and context={context}; draw longer windows or see "
            "less of them."
        )
    keys = world_model.tensor_keys
    device = next(world_model.parameters()).device
    sequence = batch[:1].to(device)
    with evaluating(world_model):
        seen, state = world_model.observe(
            world_model.encode(sequence[:, :context].select(*world_model.in_keys))
        )
        start = seen.get(keys.next_belief)[:, -1]
        actions = sequence.get(keys.action)[:, context:]
        imagined = _imagine(world_model, start, state, actions)
        reward_head, termination_head = (
            world_model.reward_head,
            world_model.termination_head,
        )
        latents = torch.cat([seen.get(keys.latent), imagined.get(keys.latent)], 1)
        rewards = reward_head.decode(seen.get(keys.next_reward_logits))
        ends = termination_head.decode(seen.get(keys.next_terminated_logits))
        decoded = world_model.decode(
            TensorDict({keys.latent: latents}, batch_size=latents.shape[:2])
        )
    model = decoded.get(keys.reco_pixels)[0].float().clamp(0.0, 1.0)
    return Film(
        real=sequence.get(keys.pixels)[0].cpu().clone(),
        model=(model * 255.0).round().to(torch.uint8).cpu(),
        context=context,
        reward=sequence.get(reward_key).flatten().float().cpu(),
        predicted_reward=torch.cat([rewards, imagined.get(keys.next_reward)], 1)
        .flatten()
        .float()
        .cpu(),
        terminated=sequence.get(terminated_key).flatten().bool().cpu(),
        predicted_terminated=torch.cat([ends, imagined.get(keys.next_terminated)], 1)
        .flatten()
        .bool()
        .cpu(),
    )


def _imagine(
    world_model: WorldModel, belief: Tensor, state: TensorDict, actions: Tensor
) -> TensorDictBase:
    """Steps from ``belief`` ``[B, D]`` on along real ``actions`` ``[B, H, A]``."""
    keys = world_model.tensor_keys
    latent = world_model.draw_prior(belief)
    steps = []
    for action in actions.unbind(1):
        step = TensorDict(
            {keys.latent: latent, keys.action: action}, batch_size=action.shape[:1]
        )
        step, state = world_model.step(step, state)
        latent = step.get(keys.next_latent)
        steps.append(step)
    return torch.stack(steps, 1)
