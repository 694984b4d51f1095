"""Every MLP that reads latents and beliefs: reward, termination, actor, critic."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from drama_torchrl.modules.distributions import SymlogTwoHot
from drama_torchrl.modules.linear import AlignedLinear
from drama_torchrl.modules.normalization import RMSNorm, RunningNorm

__all__ = [
    "Actor",
    "Critic",
    "DrawnTerminationHead",
    "RewardHead",
    "TerminationHead",
    "mlp",
]


def mlp(
    in_features: int,
    units: Sequence[int],
    out_features: int,
    *,
    output: type[nn.Linear] = nn.Linear,
) -> nn.Sequential:
    """Stack linear layers, each but the last followed by RMSNorm and SiLU.

    Args:
        in_features: width of the input.
        units: widths of the hidden layers.
        out_features: width of the output.
        output: class of the last layer.

    Returns:
        A module ``[..., in_features] -> [..., out_features]``.

    Example:
        >>> len(mlp(8, [16, 16], 4))
        7
    """
    layers: list[nn.Module] = []
    for width in units:
        layers += [nn.Linear(in_features, width), RMSNorm(width), nn.SiLU()]
        in_features = width
    return nn.Sequential(*layers, output(in_features, out_features))


def _orthogonal_init(net: nn.Sequential, hidden_gain: float, last_gain: float) -> None:
    linears = [layer for layer in net if isinstance(layer, nn.Linear)]
    for layer in linears:
        gain = last_gain if layer is linears[-1] else hidden_gain
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)


class RewardHead(nn.Module):
    """Predict the reward an action caused from the belief that includes it.

    r̂_t = symexp(Σ_i softmax(MLP(d_t))_i b_i)   (Drama eq. 5; decision D1)

    Args:
        belief_dim: width D of the belief.
        units: widths of the hidden layers.
        num_bins: bins of the two-hot distribution.
        bin_limit: symlog span of the bins.

    Example:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from tensordict.nn import TensorDictModule
        >>> head = TensorDictModule(
        ...     RewardHead(8), in_keys=["belief"], out_keys=["reward_logits"]
        ... )
        >>> beliefs = TensorDict(belief=torch.zeros(2, 8), batch_size=[2])
        >>> head(beliefs)["reward_logits"].shape
        torch.Size([2, 255])
    """

    def __init__(
        self,
        belief_dim: int,
        *,
        units: Sequence[int] = (256,),
        num_bins: int = 255,
        bin_limit: float = 20.0,
    ) -> None:
        super().__init__()
        self.net = mlp(belief_dim, units, num_bins, output=AlignedLinear)
        self.two_hot = SymlogTwoHot(num_bins, bin_limit)

    def forward(self, belief: Tensor) -> Tensor:
        """Map beliefs ``[..., D]`` to reward logits ``[..., num_bins]``."""
        return self.net(belief)

    def decode(self, logits: Tensor) -> Tensor:
        """Map reward logits ``[..., num_bins]`` to rewards ``[..., 1]``."""
        return self.two_hot(logits)


class TerminationHead(nn.Module):
    """Predict whether an action ended the episode.

    ê_t = [MLP(d_t) > 0]   (Drama eq. 5; decision D1)

    Args:
        belief_dim: width D of the belief.
        units: widths of the hidden layers.

    Example:
        >>> import torch
        >>> head = TerminationHead(8)
        >>> head.decode(torch.tensor([[-1.0], [1.0]]))
        tensor([[False],
                [ True]])
    """

    def __init__(self, belief_dim: int, *, units: Sequence[int] = (256,)) -> None:
        super().__init__()
        self.net = mlp(belief_dim, units, 1)

    def forward(self, belief: Tensor) -> Tensor:
        """Map beliefs ``[..., D]`` to termination logits ``[..., 1]``."""
        return self.net(belief)

    def decode(self, logits: Tensor) -> Tensor:
        """Map termination logits ``[..., 1]`` to hard predictions ``[..., 1]``."""
        return logits > 0


class DrawnTerminationHead(TerminationHead):
    """Predict an end as often as it is likely, also where it never is likeliest.

    ê_t ~ Bernoulli(σ(MLP(d_t)))   (decision D34)

    Args:
        belief_dim: width D of the belief.
        units: widths of the hidden layers.

    Example:
        >>> import torch
        >>> head = DrawnTerminationHead(8)
        >>> head.decode(torch.tensor([[-1e3], [1e3]]))
        tensor([[False],
                [ True]])
    """

    def decode(self, logits: Tensor) -> Tensor:
        """Map termination logits ``[..., 1]`` to draws ``[..., 1]``."""
        # In float32: draws in bf16 are multiples of 1/256.
        logits = logits.float()
        return torch.rand_like(logits) < logits.sigmoid()


class Actor(nn.Module):
    """Map the agent's state to action logits.

    π(a_t | s_t) with s_t = [z_t, d_{t-1}]   (Drama section 2.3 and A.4.4)

    The state is normalised by :class:`RunningNorm`, whose statistics move in
    training mode only.

    Args:
        latent_dim: width K·M of the latent.
        belief_dim: width D of the belief.
        num_actions: number A of actions.
        units: widths of the hidden layers.

    Example:
        >>> import torch
        >>> actor = Actor(latent_dim=16, belief_dim=8, num_actions=3)
        >>> actor(torch.zeros(5, 16), torch.zeros(5, 8)).shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        latent_dim: int,
        belief_dim: int,
        num_actions: int,
        *,
        units: Sequence[int] = (256, 256),
    ) -> None:
        super().__init__()
        self.normalizer = RunningNorm(latent_dim + belief_dim)
        self.net = mlp(latent_dim + belief_dim, units, num_actions)
        _orthogonal_init(self.net, 2.0**0.5, 1e-3)

    def forward(self, latent: Tensor, belief: Tensor) -> Tensor:
        """Map ``[..., K·M]`` and ``[..., D]`` to float32 logits ``[..., A]``."""
        state = self.normalizer(torch.cat([latent, belief], -1))
        return self.net(state).float()


class Critic(nn.Module):
    """Map the agent's state to a two-hot distribution of its return.

    V(s_t) = symexp(Σ_i softmax(MLP(s_t))_i b_i)   (Drama section 2.3 and A.4.4)

    Args:
        latent_dim: width K·M of the latent.
        belief_dim: width D of the belief.
        units: widths of the hidden layers.
        num_bins: bins of the two-hot distribution.
        bin_limit: symlog span of the bins.

    Example:
        >>> import torch
        >>> critic = Critic(latent_dim=16, belief_dim=8)
        >>> logits, value = critic(torch.zeros(5, 16), torch.zeros(5, 8))
        >>> logits.shape, value.shape
        (torch.Size([5, 255]), torch.Size([5, 1]))
    """

    def __init__(
        self,
        latent_dim: int,
        belief_dim: int,
        *,
        units: Sequence[int] = (512, 512),
        num_bins: int = 255,
        bin_limit: float = 20.0,
    ) -> None:
        super().__init__()
        width = latent_dim + belief_dim
        self.net = mlp(width, units, num_bins, output=AlignedLinear)
        self.two_hot = SymlogTwoHot(num_bins, bin_limit)
        _orthogonal_init(self.net, 2.0**0.5, 1e-3)

    def forward(self, latent: Tensor, belief: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``[..., K·M]`` and ``[..., D]`` to logits and values.

        Returns:
            Logits ``[..., num_bins]`` and values ``[..., 1]``, both float32.
        """
        logits = self.net(torch.cat([latent, belief], -1)).float()
        return logits, self.two_hot(logits)
