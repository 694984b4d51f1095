"""The feed-forward branch of a Transformer layer, a sequence layer without memory."""

from __future__ import annotations

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from drama_torchrl.modules.sequence_layer import as_size, check_input, check_is_init

__all__ = ["FeedForward"]


class FeedForward(nn.Module):
    """The feed-forward branch of a Transformer layer; it remembers nothing.

    output = W_2 SiLU(W_1 u + b_1) + b_2   (arXiv:1706.03762, section 3.3)

    Args:
        d_model: width D of inputs and outputs.
        width: hidden units.

    Example:
        >>> y, state = FeedForward(8, width=16)(torch.randn(2, 5, 8))
        >>> y.shape, list(state.keys())
        (torch.Size([2, 5, 8]), [])
    """

    def __init__(self, d_model: int, *, width: int) -> None:
        super().__init__()
        self.d_model = d_model
        self.layers = nn.Sequential(
            nn.Linear(d_model, width), nn.SiLU(), nn.Linear(width, d_model)
        )

    def initial_state(self, batch_size: int | torch.Size) -> TensorDict:
        """Give an empty TensorDict of that batch size."""
        return TensorDict({}, batch_size=as_size(batch_size))

    def forward(
        self,
        x: Tensor,
        state: TensorDictBase | None = None,
        *,
        is_init: Tensor | None = None,
    ) -> tuple[Tensor, TensorDict]:
        """Map each step of [B, T, D] on its own."""
        del state
        check_input(x, self.d_model, ndim=3)
        check_is_init(is_init, x)
        return self.layers(x), self.initial_state(x.shape[:1])

    def step(self, x: Tensor, state: TensorDictBase) -> tuple[Tensor, TensorDict]:
        """Map one step [B, D]."""
        del state
        check_input(x, self.d_model, ndim=2)
        return self.layers(x), self.initial_state(x.shape[:1])
