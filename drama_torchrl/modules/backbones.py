"""The dynamics models, those of the paper and Mamba-3: they differ in layers alone.

With the sizes of the paper (D = 512, 2 layers) and 6 actions the dynamics have, in
millions of parameters, 3.73 (Mamba-2), 3.74 (Mamba-3), 3.92 (Mamba), 3.68 (GRU) and
3.68 (Transformer), 0.53 of them in the stem.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from drama_torchrl.modules.attention import Attention
from drama_torchrl.modules.dynamics import Dynamics
from drama_torchrl.modules.feed_forward import FeedForward
from drama_torchrl.modules.gru import GRU
from drama_torchrl.modules.mamba import Mamba
from drama_torchrl.modules.mamba2 import Mamba2
from drama_torchrl.modules.mamba3 import Mamba3

__all__ = [
    "GRUDynamics",
    "Mamba2Dynamics",
    "Mamba3Dynamics",
    "MambaDynamics",
    "TransformerDynamics",
]


class Mamba2Dynamics(Dynamics):
    """Dynamics of Mamba-2 layers: the paper's world model (Drama section 2.2.2).

    Args:
        latent_dim: width K·M of the latent.
        num_actions: number A of actions.
        d_model: width D of the belief.
        num_layers: number of Mamba-2 layers.
        d_state: ssm state size S.
        d_conv: taps of the causal convolution.
        expand: inner width over ``d_model``.
        head_dim: head dimension P.
        dropout: rate after the stem and on each residual branch.

    Example:
        >>> import torch
        >>> dynamics = Mamba2Dynamics(16, 3, d_model=32, head_dim=16).eval()
        >>> belief, state = dynamics(torch.zeros(2, 7, 16), torch.zeros(2, 7, 3))
        >>> belief.shape, state["0", "ssm"].shape
        (torch.Size([2, 7, 32]), torch.Size([2, 4, 16, 16]))
    """

    def __init__(
        self,
        latent_dim: int,
        num_actions: int,
        *,
        d_model: int = 512,
        num_layers: int = 2,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        head_dim: int = 128,
        dropout: float = 0.1,
    ) -> None:
        layers = (
            Mamba2(
                d_model,
                d_state=d_state,
                d_conv=d_conv,
                expand=expand,
                head_dim=head_dim,
            )
            for _ in range(num_layers)
        )
        super().__init__(latent_dim, num_actions, d_model, layers, dropout=dropout)


class Mamba3Dynamics(Dynamics):
    """Dynamics of Mamba-3 layers (arXiv:2603.15569), which the paper does not have.

    Args:
        latent_dim: width K·M of the latent.
        num_actions: number A of actions.
        d_model: width D of the belief.
        num_layers: number of Mamba-3 layers.
        d_state: ssm state size S, at least 4.
        expand: inner width over ``d_model``.
        head_dim: head dimension P.
        dropout: rate after the stem and on each residual branch.

    Example:
        >>> import torch
        >>> dynamics = Mamba3Dynamics(16, 3, d_model=32, head_dim=16).eval()
        >>> belief, state = dynamics(torch.zeros(2, 7, 16), torch.zeros(2, 7, 3))
        >>> belief.shape, state["0", "angle"].shape
        (torch.Size([2, 7, 32]), torch.Size([2, 4, 4]))
    """

    def __init__(
        self,
        latent_dim: int,
        num_actions: int,
        *,
        d_model: int = 512,
        num_layers: int = 2,
        d_state: int = 16,
        expand: int = 2,
        head_dim: int = 128,
        dropout: float = 0.1,
    ) -> None:
        layers = (
            Mamba3(d_model, d_state=d_state, expand=expand, head_dim=head_dim)
            for _ in range(num_layers)
        )
        super().__init__(latent_dim, num_actions, d_model, layers, dropout=dropout)


class MambaDynamics(Dynamics):
    """Dynamics of Mamba layers, with decay rates of its own for each channel.

    The rival of Mamba-2 in the paper's Figure 2 (Drama section 3.2.2).

    Args:
        latent_dim: width K·M of the latent.
        num_actions: number A of actions.
        d_model: width D of the belief.
        num_layers: number of Mamba layers.
        d_state: ssm state size S.
        d_conv: taps of the causal convolution.
        expand: inner width over ``d_model``.
        dropout: rate after the stem and on each residual branch.

    Example:
        >>> import torch
        >>> dynamics = MambaDynamics(16, 3, d_model=32).eval()
        >>> belief, state = dynamics(torch.zeros(2, 7, 16), torch.zeros(2, 7, 3))
        >>> belief.shape, state["0", "ssm"].shape
        (torch.Size([2, 7, 32]), torch.Size([2, 64, 16]))
    """

    def __init__(
        self,
        latent_dim: int,
        num_actions: int,
        *,
        d_model: int = 512,
        num_layers: int = 2,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dropout: float = 0.1,
    ) -> None:
        layers = (
            Mamba(d_model, d_state=d_state, d_conv=d_conv, expand=expand)
            for _ in range(num_layers)
        )
        super().__init__(latent_dim, num_actions, d_model, layers, dropout=dropout)


class GRUDynamics(Dynamics):
    """Dynamics of GRU layers, the recurrent baseline (Drama section 3.2.3).

    Args:
        latent_dim: width K·M of the latent.
        num_actions: number A of actions.
        d_model: width D of the belief and of each state.
        num_layers: number of GRU layers.
        dropout: rate after the stem and on each residual branch.

    Example:
        >>> import torch
        >>> dynamics = GRUDynamics(16, 3, d_model=32).eval()
        >>> belief, state = dynamics(torch.zeros(2, 7, 16), torch.zeros(2, 7, 3))
        >>> belief.shape, state["0", "hidden"].shape
        (torch.Size([2, 7, 32]), torch.Size([2, 32]))
    """

    def __init__(
        self,
        latent_dim: int,
        num_actions: int,
        *,
        d_model: int = 512,
        num_layers: int = 2,
        dropout: float = 0.1,
    ) -> None:
        layers = (GRU(d_model) for _ in range(num_layers))
        super().__init__(latent_dim, num_actions, d_model, layers, dropout=dropout)


class TransformerDynamics(Dynamics):
    """Dynamics of a causal Transformer with a cache of fixed length.

    As in STORM (arXiv:2310.09615), the Transformer of the paper's comparisons, but
    normalised before each branch, with rotations for positions, so that the window may
    slide without end, and with a feed-forward branch as wide as the belief: a layer has
    as many parameters as one of the others.

    Args:
        latent_dim: width K·M of the latent.
        num_actions: number A of actions.
        d_model: width D of the belief.
        num_layers: number of layers, each an attention and a feed-forward branch; both
            count in the state, where even entries are caches and odd ones are empty.
        num_heads: heads of the attention.
        window: steps W that a step sees, its own one included.
        dropout: rate after the stem and on each residual branch.

    Example:
        >>> import torch
        >>> dynamics = TransformerDynamics(16, 3, d_model=32, window=10).eval()
        >>> belief, state = dynamics(torch.zeros(2, 7, 16), torch.zeros(2, 7, 3))
        >>> belief.shape, state["0", "keys"].shape
        (torch.Size([2, 7, 32]), torch.Size([2, 8, 9, 4]))
    """

    def __init__(
        self,
        latent_dim: int,
        num_actions: int,
        *,
        d_model: int = 512,
        num_layers: int = 2,
        num_heads: int = 8,
        window: int = 64,
        dropout: float = 0.1,
    ) -> None:
        def branches() -> Iterator[nn.Module]:
            for _ in range(num_layers):
                yield Attention(d_model, num_heads=num_heads, window=window)
                yield FeedForward(d_model, width=d_model)

        super().__init__(latent_dim, num_actions, d_model, branches(), dropout=dropout)
