"""Policies that act in a real environment (decision D4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor

from drama_torchrl.modules.distributions import sample_one_hot
from drama_torchrl.modules.mode import evaluating
from drama_torchrl.modules.world_model import WorldModel
from drama_torchrl.policies.memory import Memory

__all__ = ["PosteriorPolicy", "PriorPolicy"]


def _nothing() -> None:
    """Do nothing while the environment steps."""


class _Arriving:
    """A tensor on its way to another device, behind which more can be queued."""

    def __init__(self, value: Tensor, device: torch.device) -> None:
        from_gpu = value.is_cuda and device.type == "cpu"
        # Only page-locked memory is copied to without the host's help.
        self._value = (
            torch.empty_like(value, device=device, pin_memory=True).copy_(
                value, non_blocking=True
            )
            if from_gpu
            else value.to(device)
        )
        self._copied = torch.cuda.Event() if from_gpu else None
        if self._copied is not None:
            self._copied.record(torch.cuda.current_stream(value.device))

    def wait(self) -> Tensor:
        """Wait for it: the one point of a step at which the host waits for a GPU."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._value


class _ActingPolicy(TensorDictModuleBase):
    """Reads ``"pixels"`` and ``"is_init"``, writes ``"action"``, remembers both.

    Once an action is on its way to the host, ``meanwhile`` is called: what it queues
    on the device runs while the environment steps, and the next action waits for it.

    The memory stays inside, and the policy itself moves the frame to its device and
    the action back: carried in the tensordict, the memory would cross between the
    policy's and the environment's device at every step.
    """

    in_keys: ClassVar[list[NestedKey]] = ["pixels", "is_init"]
    out_keys: ClassVar[list[NestedKey]] = ["action"]

    def __init__(
        self,
        world_model: WorldModel,
        actor: TensorDictModuleBase,
        memory: Memory,
        *,
        meanwhile: Callable[[], None] = _nothing,
    ) -> None:
        super().__init__()
        self.world_model = world_model
        self.actor = actor
        self.memory = memory
        self.meanwhile = meanwhile

    def _act(self, latent: Tensor, belief: Tensor) -> Tensor:
        state = TensorDict(
            {"latent": latent, "belief": belief}, batch_size=latent.shape[:1]
        )
        return self.actor(state).get("action")

    def _choose(self, latent: Tensor, is_init: Tensor) -> Tensor:
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Choose actions for environments of batch size ``[]`` or ``[B]``."""
        pixels, is_init = tensordict["pixels"], tensordict["is_init"]
        device = next(self.actor.parameters()).device
        frames = pixels.reshape(-1, *pixels.shape[-3:]).to(device, non_blocking=True)
        starts = is_init.reshape(-1).to(device, non_blocking=True)
        seen = TensorDict({"pixels": frames, "is_init": starts}, [len(frames)])
        arriving = _Arriving(self.decide(seen).get("action"), pixels.device)
        with torch.enable_grad():
            self.meanwhile()
        action = arriving.wait()
        return tensordict.set("action", action.reshape(*tensordict.shape, -1))

    def decide(self, seen: TensorDictBase) -> TensorDictBase:
        """Choose ``"action"`` and remember: all of it that the device computes.

        Args:
            seen: ``"pixels"`` and ``"is_init"`` on the networks' device, batch ``[B]``.
        """
        frames, starts = seen.get("pixels"), seen.get("is_init")
        with evaluating(self.world_model, self.actor):
            _, latent = self.world_model.sample_latent(self.world_model.encoder(frames))
            action = self._choose(latent, starts)
            self.memory.remember(latent, action.to(latent.dtype))
        return TensorDict({"action": action.bool()}, seen.batch_size)


class PosteriorPolicy(_ActingPolicy):
    """Look at the frame, then act: a_t ~ π([z_t, d_{t-1}]), z_t ~ q(· | o_t).

    d_{-1} = 0 at the first step of an episode (decision D4, ``posterior``).

    Args:
        world_model: encodes frames.
        actor: policy over ``"latent"`` and ``"belief"``; the exploration type
            decides whether its actions are drawn or the most likely ones.
        memory: what is remembered of the episode.
        meanwhile: called when an action has been chosen, before the environment takes
            it; in it, gradients are on.

    Example:
        >>> import torch
        >>> from drama_torchrl.config import load_config
        >>> from drama_torchrl.factories import make_actor, make_world_model
        >>> from drama_torchrl.policies import CarriedMemory
        >>> config = load_config("quick")
        >>> world_model = make_world_model(config, 6)
        >>> memory = CarriedMemory(world_model, batch_size=1)
        >>> policy = PosteriorPolicy(world_model, make_actor(config, 6), memory)
        >>> step = TensorDict(
        ...     pixels=torch.zeros(3, 64, 64, dtype=torch.uint8),
        ...     is_init=torch.ones(1, dtype=torch.bool),
        ... )
        >>> policy(step)["action"].sum()
        tensor(1)
    """

    def _choose(self, latent: Tensor, is_init: Tensor) -> Tensor:
        return self._act(latent, self.memory.recall(is_init))


class PriorPolicy(_ActingPolicy):
    """Act on the expected frame: a_t ~ π([ẑ_t, d_{t-1}]), ẑ_t ~ p(· | d_{t-1}).

    The frame o_t is encoded for the memory alone. There is no prior at the first
    step of an episode: the action is uniformly random (decision D4, ``prior``).

    Args:
        world_model: encodes frames and predicts the prior.
        actor: policy over ``"latent"`` and ``"belief"``.
        memory: what is remembered of the episode.
        meanwhile: called when an action has been chosen, before the environment takes
            it; in it, gradients are on.

    Example:
        >>> import torch
        >>> from drama_torchrl.config import load_config
        >>> from drama_torchrl.factories import make_actor, make_world_model
        >>> from drama_torchrl.policies import CarriedMemory
        >>> config = load_config("quick")
        >>> world_model = make_world_model(config, 6)
        >>> memory = CarriedMemory(world_model, batch_size=1)
        >>> policy = PriorPolicy(world_model, make_actor(config, 6), memory)
        >>> step = TensorDict(
        ...     pixels=torch.zeros(3, 64, 64, dtype=torch.uint8),
        ...     is_init=torch.ones(1, dtype=torch.bool),
        ... )
        >>> policy(step)["action"].sum()
        tensor(1)
    """

    def _choose(self, latent: Tensor, is_init: Tensor) -> Tensor:
        del latent  # The frame is for the memory alone.
        belief = self.memory.recall(is_init)
        prior_latent = self.world_model.draw_prior(belief)
        action = self._act(prior_latent, belief)
        uniform = sample_one_hot(torch.zeros_like(action, dtype=belief.dtype))
        return torch.where(is_init[:, None], uniform, action.to(belief.dtype))
