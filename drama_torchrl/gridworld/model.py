"""A next-token model around a dynamics model."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from drama_torchrl.gridworld.tokens import VOCABULARY
from drama_torchrl.gridworld.world import CELLS
from drama_torchrl.modules import Dynamics

__all__ = ["NUM_ACTIONS", "TokenModel"]

NUM_ACTIONS = VOCABULARY - len(CELLS)
"""Width of what the dynamics takes for an action: moves and the question."""


class TokenModel(nn.Module):
    """Predict the next token from all tokens so far.

    Cells are the latents of the dynamics and moves its actions, one-hot; where the
    token is one of these, the other is zero. Next tokens are read from the belief by
    one linear layer.

    Args:
        dynamics: takes latents of as many entries as there are kinds of cells, and
            :data:`NUM_ACTIONS` actions.

    Example:
        >>> import torch
        >>> from drama_torchrl.modules import GRUDynamics
        >>> model = TokenModel(GRUDynamics(4, NUM_ACTIONS, d_model=16))
        >>> model(torch.zeros(2, 52, dtype=torch.int64)).shape
        torch.Size([2, 52, 9])
    """

    def __init__(self, dynamics: Dynamics) -> None:
        super().__init__()
        self.dynamics = dynamics
        self.head = nn.Linear(dynamics.d_model, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        """Predict.

        Args:
            tokens: ``[B, L]`` int64.

        Returns:
            Logits ``[B, L, V]`` of the token after each, in float32.
        """
        hot = F.one_hot(tokens, VOCABULARY).to(self.head.weight.dtype)
        latent, action = hot.split([len(CELLS), NUM_ACTIONS], -1)
        belief, _ = self.dynamics(latent, action)
        return self.head(belief).float()
