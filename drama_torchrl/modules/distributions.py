"""Distributions of the world model: mixed categoricals and symlog two-hot scalars."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchrl.modules import OneHotCategorical
from torchrl.objectives import (
    symexp,
    symlog,
    two_hot_cross_entropy,
    two_hot_decode,
)

__all__ = [
    "RacedOneHotCategorical",
    "SymlogTwoHot",
    "categorical_entropy",
    "categorical_kl",
    "sample_one_hot",
    "straight_through",
    "unimix",
]


def unimix(logits: Tensor, ratio: float) -> Tensor:
    """Mix categorical distributions with the uniform one.

    log p = log((1 - ratio) · softmax(logits) + ratio / M), M being the number of
    classes (arXiv:2301.04104, "unimix"; the denominator is decision D8).

    Args:
        logits: unnormalised log-probabilities, ``[..., K, M]``.
        ratio: share of the uniform distribution, in [0, 1).

    Returns:
        Normalised log-probabilities in float32 or wider, ``[..., K, M]``.

    Example:
        >>> import torch
        >>> log_p = unimix(torch.tensor([[100.0, 0.0]]), 0.5)
        >>> log_p.exp()
        tensor([[0.7500, 0.2500]])
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if ratio == 0:  # no share keeps a class from the logarithm of zero
        return torch.log_softmax(logits, -1)
    probs = torch.softmax(logits, -1)
    return torch.log((1.0 - ratio) * probs + ratio / logits.shape[-1])


def sample_one_hot(log_probs: Tensor) -> Tensor:
    """Draw one-hot samples by an exponential race.

    argmax_m p_m / E_m with E_m ~ Exp(1) is distributed as p: one fused pass with
    no host synchronisation, so that it can be captured in a CUDA graph.

    Args:
        log_probs: normalised log-probabilities, ``[..., M]``.

    Returns:
        One-hot draws without gradient, ``[..., M]``, dtype of ``log_probs``.

    Example:
        >>> import torch
        >>> sample_one_hot(torch.tensor([[0.0, -1e9], [-1e9, 0.0]]))
        tensor([[1., 0.],
                [0., 1.]])
    """
    with torch.no_grad():
        race = log_probs - torch.empty_like(log_probs).exponential_().log()
        winner = race.argmax(-1, keepdim=True)
        return torch.zeros_like(log_probs).scatter_(-1, winner, 1.0)


class RacedOneHotCategorical(OneHotCategorical):
    """TorchRL's one-hot categorical, drawn by an exponential race.

    The draws of :func:`sample_one_hot` instead of ``torch.multinomial`` followed by
    ``one_hot``, which checks its input on the device: a compiler makes one kernel of
    them together with what comes before.

    Example:
        >>> import torch
        >>> RacedOneHotCategorical(logits=torch.tensor([-1e9, 0.0])).sample()
        tensor([0, 1])
    """

    def sample(self, sample_shape: Sequence[int] | None = None) -> Tensor:
        """Draw one-hot int64 samples ``[*sample_shape, ..., M]``."""
        shape = self._extended_shape(torch.Size(sample_shape or ()))
        return sample_one_hot(self.logits.expand(*shape, self.num_samples)).long()


def straight_through(sample: Tensor, log_probs: Tensor) -> Tensor:
    """Give a sample the gradient of its probabilities (arXiv:1308.3432).

    z = sample + p - sg(p)

    Args:
        sample: one-hot draws, ``[..., M]``.
        log_probs: the log-probabilities they were drawn from, ``[..., M]``.

    Returns:
        The values of ``sample`` with d z / d p = 1, ``[..., M]``.

    Example:
        >>> import torch
        >>> log_p = torch.tensor([0.5, 0.5]).log().requires_grad_()
        >>> z = straight_through(torch.tensor([1.0, 0.0]), log_p)
        >>> z.detach(), torch.autograd.grad(z[0], log_p)[0]
        (tensor([1., 0.]), tensor([0.5000, 0.0000]))
    """
    probs = log_probs.exp()
    return sample + (probs - probs.detach())


def categorical_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL divergence of independent categoricals, summed over them.

    KL[p ‖ q] = Σ_k Σ_m p_km (log p_km - log q_km)   (Drama eq. 7, per time step)

    Args:
        log_p: normalised log-probabilities, ``[..., K, M]``.
        log_q: normalised log-probabilities, ``[..., K, M]``.

    Returns:
        Divergences in nats, ``[...]``.

    Example:
        >>> import torch
        >>> p = torch.tensor([[0.5, 0.5]]).log()
        >>> q = torch.tensor([[0.25, 0.75]]).log()
        >>> categorical_kl(p, q)
        tensor(0.1438)
    """
    return (log_p.exp() * (log_p - log_q)).sum((-2, -1))


def categorical_entropy(log_p: Tensor) -> Tensor:
    """Entropy of independent categoricals, summed over them.

    H[p] = -Σ_k Σ_m p_km log p_km

    Args:
        log_p: normalised log-probabilities, ``[..., K, M]``.

    Returns:
        Entropies in nats, ``[...]``.

    Example:
        >>> import torch
        >>> categorical_entropy(torch.tensor([[0.5, 0.5], [0.5, 0.5]]).log())
        tensor(1.3863)
    """
    return -(log_p.exp() * log_p).sum((-2, -1))


class SymlogTwoHot(nn.Module):
    """Scalars as categoricals over evenly spaced bins in symlog space.

    encode: y = symlog(x) spread over its two neighbouring bins; decode:
    x̂ = symexp(Σ_i p_i b_i) (arXiv:2301.04104, section "Critic learning", with
    the bins laid in symlog space). So the mean is taken in symlog space: what is
    uncertain decodes to less than its expectation (decision D32).

    Args:
        num_bins: number of bins, at least 2.
        limit: the bins span [-limit, limit] in symlog space.

    Raises:
        ValueError: if ``num_bins`` < 2 or ``limit`` <= 0.

    Example:
        >>> import torch
        >>> two_hot = SymlogTwoHot(num_bins=255, limit=20.0)
        >>> round(two_hot(torch.zeros(255)).item(), 4)
        0.0
        >>> two_hot.cross_entropy(torch.zeros(1, 255), torch.tensor([[3.0]]))
        tensor([5.5413])
    """

    bins: Tensor

    def __init__(self, num_bins: int = 255, limit: float = 20.0) -> None:
        super().__init__()
        if num_bins < 2 or limit <= 0:
            raise ValueError(
                "SymlogTwoHot expects num_bins >= 2 and limit > 0, got "
                f"num_bins={num_bins} and limit={limit}; the paper uses 255 and 20."
            )
        # Derived from the arguments, hence not in the state_dict.
        self.register_buffer(
            "bins", torch.linspace(-limit, limit, num_bins), persistent=False
        )

    def forward(self, logits: Tensor) -> Tensor:
        """Decode logits ``[..., num_bins]`` to scalars ``[..., 1]``."""
        return symexp(two_hot_decode(logits.float(), self.bins)).unsqueeze(-1)

    def cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of logits ``[..., num_bins]`` and scalars ``[..., 1]``.

        Returns:
            Cross-entropies in nats, ``[...]``.
        """
        target = symlog(target.squeeze(-1).float())
        return two_hot_cross_entropy(logits.float(), target, self.bins)
