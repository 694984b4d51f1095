"""A world whose every answer is known: rewards, terminations, beliefs and frames.

Frames show a class c_t (all categoricals are of that class) and the world counts up:
the prior after a step expects class c_t + 1. Taking action a is rewarded with a, and
the last action ends the episode. The belief d_t = [a_t, a_0 + … + a_t, z_t] tells
which action it includes and what it remembers.
"""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torchrl.objectives import symlog, two_hot_encode

from drama_torchrl.modules.distributions import SymlogTwoHot
from drama_torchrl.modules.world_model import WorldModel

ACTIONS, CATEGORICALS, CLASSES = 4, 3, 7
LATENT = CATEGORICALS * CLASSES
BELIEF = 2 * ACTIONS + LATENT
CERTAIN = 50.0  # a logit that leaves no doubt


def frames_of(classes: Tensor) -> Tensor:
    """Frames ``[*, 3, 1, 1]`` that show the classes ``[*]``."""
    return classes[..., None, None, None].expand(*classes.shape, 3, 1, 1).byte()


def latent_of(classes: Tensor) -> Tensor:
    """Latents ``[*, K·M]`` that show the classes ``[*]``."""
    one_hot = torch.eye(CLASSES)[classes].unsqueeze(-2)
    return one_hot.repeat_interleave(CATEGORICALS, -2).flatten(-2)


class _Encoder(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return CERTAIN * latent_of(pixels[..., 0, 0, 0].long())


class _Decoder(nn.Module):
    def forward(self, latent: Tensor) -> Tensor:
        classes = latent.unflatten(-1, (CATEGORICALS, CLASSES))[..., 0, :].argmax(-1)
        return frames_of(classes) / 255.0


class ScriptedDynamics(nn.Module):
    """Remembers how often each action was taken."""

    d_model = BELIEF

    def initial_state(self, batch_size: int | torch.Size) -> TensorDict:
        size = torch.Size([batch_size] if isinstance(batch_size, int) else batch_size)
        return TensorDict({"taken": torch.zeros(*size, ACTIONS)}, batch_size=size)

    def forward(
        self,
        latent: Tensor,
        action: Tensor,
        state: TensorDict | None = None,
        *,
        is_init: Tensor | None = None,
    ) -> tuple[Tensor, TensorDict]:
        state = self.initial_state(latent.shape[0]) if state is None else state
        beliefs = []
        for t in range(latent.shape[1]):
            belief, state = self.step(latent[:, t], action[:, t], state)
            beliefs.append(belief)
        return torch.stack(beliefs, 1), state

    def step(
        self, latent: Tensor, action: Tensor, state: TensorDict
    ) -> tuple[Tensor, TensorDict]:
        taken = state["taken"] + action.float()
        belief = torch.cat([action.float(), taken, latent], -1)
        return belief, TensorDict({"taken": taken}, batch_size=state.batch_size)


class _RewardHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.two_hot = SymlogTwoHot(num_bins=41, limit=4.0)

    def forward(self, belief: Tensor) -> Tensor:
        taken = belief[..., :ACTIONS].argmax(-1).float()
        return two_hot_encode(symlog(taken), self.two_hot.bins).clamp_min(1e-9).log()

    def decode(self, logits: Tensor) -> Tensor:
        return self.two_hot(logits)


class _TerminationHead(nn.Module):
    def forward(self, belief: Tensor) -> Tensor:
        return CERTAIN * (2 * belief[..., ACTIONS - 1 : ACTIONS] - 1)

    def decode(self, logits: Tensor) -> Tensor:
        return logits > 0


def make_scripted_world_model() -> WorldModel:
    # Almost no mixing: draws are certain and log-probabilities finite.
    world_model = WorldModel(
        encoder=_Encoder(),
        decoder=_Decoder(),
        dynamics=ScriptedDynamics(),  # type: ignore[arg-type]
        reward_head=_RewardHead(),  # type: ignore[arg-type]
        termination_head=_TerminationHead(),  # type: ignore[arg-type]
        num_categoricals=CATEGORICALS,
        num_classes=CLASSES,
        unimix=1e-6,
    )
    counts_up = torch.eye(CLASSES).roll(1, 0)
    blocks = torch.block_diag(*[CERTAIN * counts_up] * CATEGORICALS)
    with torch.no_grad():
        world_model.prior_head.weight.zero_()
        world_model.prior_head.bias.zero_()
        world_model.prior_head.weight[:, 2 * ACTIONS :] = blocks
    return world_model.eval()
