"""The sequence model: from latents and actions to beliefs, by a stack of layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import cast

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from drama_torchrl.modules.linear import AlignedLinear
from drama_torchrl.modules.normalization import RMSNorm
from drama_torchrl.modules.sequence_layer import SequenceLayer, as_size

__all__ = ["Dynamics"]


class Dynamics(nn.Module):
    """Predict beliefs from latents and actions by a stack of layers over time.

    u_t = SiLU(RMSNorm(W [z_t, a_t] + b)),
    u ← u + dropout(layer(RMSNorm(u))) for each layer,
    d_t = RMSNorm(u_t)   (Drama eq. 5)

    d_t depends on (z_≤t, a_≤t): it includes the action of its own step.
    ``forward`` runs a whole sequence in parallel, ``step`` one step at a cost that
    does not grow with the past; they agree, and both carry the same recurrent state.
    The layers alone tell one dynamics model from another.

    Args:
        latent_dim: width K·M of the latent.
        num_actions: number A of actions.
        d_model: width D of the belief.
        layers: the :class:`~drama_torchrl.modules.sequence_layer.SequenceLayer` of
            each residual branch, made after the stem.
        dropout: rate after the stem and on each residual branch.

    Example:
        >>> import torch
        >>> from drama_torchrl.modules import GRU
        >>> dynamics = Dynamics(16, 3, 32, [GRU(32), GRU(32)]).eval()
        >>> belief, state = dynamics(torch.zeros(2, 7, 16), torch.zeros(2, 7, 3))
        >>> belief.shape, state["1", "hidden"].shape
        (torch.Size([2, 7, 32]), torch.Size([2, 32]))
        >>> belief, state = dynamics.step(torch.zeros(2, 16), torch.zeros(2, 3), state)
        >>> belief.shape
        torch.Size([2, 32])
    """

    def __init__(
        self,
        latent_dim: int,
        num_actions: int,
        d_model: int,
        layers: Iterable[nn.Module],
        *,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.d_model = d_model
        self.stem = nn.Sequential(
            AlignedLinear(latent_dim + num_actions, d_model),
            RMSNorm(d_model),
            nn.SiLU(),
            nn.Dropout(dropout),
        )
        self.layers = nn.ModuleList(layers)
        self.norms = nn.ModuleList(RMSNorm(d_model) for _ in self.layers)
        self.dropout = nn.Dropout(dropout)
        self.final_norm = RMSNorm(d_model)

    def _blocks(self) -> Iterator[tuple[str, nn.Module, SequenceLayer]]:
        for i, (norm, layer) in enumerate(zip(self.norms, self.layers, strict=True)):
            yield str(i), norm, cast("SequenceLayer", layer)

    def initial_state(self, batch_size: int | torch.Size) -> TensorDict:
        """Recurrent state of an empty past, all zeros, one entry per layer.

        Args:
            batch_size: number B of sequences.

        Returns:
            ``{"0": ..., "1": ...}`` of batch size ``[B]``; what is in it, each layer
            says of itself.
        """
        states = {i: layer.initial_state(batch_size) for i, _, layer in self._blocks()}
        return TensorDict(states, batch_size=as_size(batch_size))

    def forward(
        self,
        latent: Tensor,
        action: Tensor,
        state: TensorDict | None = None,
        *,
        is_init: Tensor | None = None,
    ) -> tuple[Tensor, TensorDict]:
        """Run a sequence in parallel.

        Args:
            latent: ``[B, T, K·M]``.
            action: one-hot, ``[B, T, A]``.
            state: recurrent state before the sequence; empty past by default.
            is_init: ``[B, T]``, True where the past is forgotten before the step.

        Returns:
            Beliefs ``[B, T, D]`` in float32 and the state after the sequence.
        """
        u = self.stem(torch.cat([latent, action.to(latent.dtype)], -1))
        states = {}
        for i, norm, layer in self._blocks():
            layer_state = None if state is None else state[i]
            y, states[i] = layer(norm(u), layer_state, is_init=is_init)
            u = u + self.dropout(y)
        return self.final_norm(u), TensorDict(states, batch_size=latent.shape[:1])

    def step(
        self, latent: Tensor, action: Tensor, state: TensorDict
    ) -> tuple[Tensor, TensorDict]:
        """Advance by one step.

        Args:
            latent: ``[B, K·M]``.
            action: one-hot, ``[B, A]``.
            state: recurrent state before the step.

        Returns:
            Beliefs ``[B, D]`` in float32 and the state after the step.
        """
        u = self.stem(torch.cat([latent, action.to(latent.dtype)], -1))
        states = {}
        for i, norm, layer in self._blocks():
            y, states[i] = layer.step(norm(u), state[i])
            u = u + self.dropout(y)
        return self.final_norm(u), TensorDict(states, batch_size=latent.shape[:1])
