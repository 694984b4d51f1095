"""What an acting agent remembers of the running episode (decision D5)."""

from __future__ import annotations

from typing import Protocol

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from drama_torchrl.modules.world_model import WorldModel

__all__ = ["CarriedMemory", "Memory", "WindowMemory"]


class Memory(Protocol):
    """Turns latents and actions into the belief before the next action."""

    def recall(self, is_init: Tensor) -> Tensor:
        """Forget where ``is_init`` ``[B]`` is set; return beliefs ``[B, D]``."""

    def remember(self, latent: Tensor, action: Tensor) -> None:
        """Take in z_t ``[B, K·M]`` and a_t ``[B, A]``."""

    def contents(self) -> dict[str, Tensor]:
        """All that is remembered, by name; copying into it restores it."""


class CarriedMemory(nn.Module):
    """Carry the recurrent state of the dynamics: O(1) a step, unbounded memory.

    d_t, h_t = step(z_t, a_t, h_{t-1})   (Drama section 2.1)

    Args:
        world_model: its dynamics advance the memory.
        batch_size: number B of environments.

    The memory is updated in place and belongs to no ``state_dict``.

    Example:
        >>> import torch
        >>> from drama_torchrl.config import load_config
        >>> from drama_torchrl.factories import make_world_model
        >>> world_model = make_world_model(load_config("quick"), 6)
        >>> memory = CarriedMemory(world_model, batch_size=1)
        >>> memory.recall(torch.tensor([True])).abs().sum().item()
        0.0
    """

    belief: Tensor

    def __init__(self, world_model: WorldModel, batch_size: int) -> None:
        super().__init__()
        self.world_model = world_model
        state = world_model.initial_state(batch_size)
        self.state: TensorDict = state.detach().clone()
        belief = torch.zeros(
            batch_size,
            world_model.belief_dim,
            device=next(world_model.parameters()).device,
        )
        self.register_buffer("belief", belief, persistent=False)

    def recall(self, is_init: Tensor) -> Tensor:
        """Forget where ``is_init`` ``[B]`` is set; return beliefs ``[B, D]``."""
        self.belief.masked_fill_(is_init[:, None], 0.0)
        self.state.masked_fill_(is_init, 0.0)
        return self.belief.clone()

    def remember(self, latent: Tensor, action: Tensor) -> None:
        """Take in z_t ``[B, K·M]`` and a_t ``[B, A]``."""
        belief, state = self.world_model.dynamics.step(latent, action, self.state)
        self.belief.copy_(belief)
        self.state.copy_(state)

    def contents(self) -> dict[str, Tensor]:
        """All that is remembered, by name; copying into it restores it."""
        state = self.state.flatten_keys(".").items()
        return {"belief": self.belief} | {f"state.{key}": value for key, value in state}


class WindowMemory(nn.Module):
    """Run the dynamics over the last W latents and actions before each action.

    d_{t-1} = f(z_{t-W…t-1}, a_{t-W…t-1}), from an empty past   (decision D5)

    Only the newest frame has been encoded for it: latents are kept, not frames.

    Args:
        world_model: its dynamics read the window.
        batch_size: number B of environments.
        num_actions: number A of actions.
        window: number W of remembered steps.

    Example:
        >>> import torch
        >>> from drama_torchrl.config import load_config
        >>> from drama_torchrl.factories import make_world_model
        >>> world_model = make_world_model(load_config("quick"), 6)
        >>> memory = WindowMemory(world_model, batch_size=1, num_actions=6, window=16)
        >>> memory.recall(torch.tensor([True])).abs().sum().item()
        0.0
    """

    latents: Tensor
    actions: Tensor
    length: Tensor
    positions: Tensor

    def __init__(
        self, world_model: WorldModel, batch_size: int, num_actions: int, window: int
    ) -> None:
        super().__init__()
        self.world_model = world_model
        device = next(world_model.parameters()).device
        shape = (batch_size, window)
        buffers = {
            "latents": torch.zeros(*shape, world_model.latent_dim, device=device),
            "actions": torch.zeros(*shape, num_actions, device=device),
            "length": torch.zeros(batch_size, dtype=torch.long, device=device),
            "positions": torch.arange(window, 0, -1, device=device),
        }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    def recall(self, is_init: Tensor) -> Tensor:
        """Forget where ``is_init`` ``[B]`` is set; return beliefs ``[B, D]``."""
        self.length.masked_fill_(is_init, 0)
        # The newest step stands last; the first remembered one starts the past.
        start = self.positions == self.length[:, None]
        belief, _ = self.world_model.dynamics(self.latents, self.actions, is_init=start)
        return belief[:, -1] * (self.length > 0)[:, None]

    def remember(self, latent: Tensor, action: Tensor) -> None:
        """Take in z_t ``[B, K·M]`` and a_t ``[B, A]``."""
        self.latents.copy_(torch.cat([self.latents[:, 1:], latent[:, None]], 1))
        self.actions.copy_(torch.cat([self.actions[:, 1:], action[:, None]], 1))
        self.length.add_(1).clamp_(max=self.positions.shape[0])

    def contents(self) -> dict[str, Tensor]:
        """All that is remembered, by name; copying into it restores it."""
        names = ("latents", "actions", "length")
        return {name: getattr(self, name) for name in names}
