"""Normalisation: RMSNorm in float32 and running statistics of the input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from drama_torchrl.parallel import pool_moments, size

__all__ = ["RMSNorm", "RunningNorm"]


class RMSNorm(nn.RMSNorm):
    """Root-mean-square normalisation computed in float32 whatever autocast does.

    y = x / sqrt(mean(x²) + ε) · w   (arXiv:1910.07467)

    Mixed dtypes (bfloat16 input, float32 weight) keep torch from its fused
    kernel; converting the input first is faster and more exact.

    Example:
        >>> import torch
        >>> RMSNorm(2)(torch.tensor([3.0, 4.0], dtype=torch.bfloat16))
        tensor([0.8485, 1.1314], grad_fn=<MulBackward0>)
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` ``[..., features]`` to float32 (float64 stays)."""
        return super().forward(x if x.dtype == torch.float64 else x.float())


class RunningNorm(nn.Module):
    """Normalise features by their running mean and variance, clipped.

    y = clip((x - μ) / sqrt(σ² + ε), -limit, limit)   (Drama A.4.4)

    μ and σ² pool every batch seen in training mode (parallel variance, Chan et
    al. 1979), those of all processes; evaluation mode leaves them alone (decision
    D9). They are buffers, hence part of the ``state_dict``, and are updated in place
    without a host synchronisation.

    Args:
        num_features: width F of the input.
        limit: bound of the output.
        eps: added to the variance.

    Example:
        >>> import torch
        >>> norm = RunningNorm(1)
        >>> norm(torch.tensor([[0.0], [2.0]])).round(decimals=3)
        tensor([[-1.],
                [ 1.]])
        >>> norm.eval()(torch.tensor([[1e9]]))
        tensor([[10.]])
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(
        self, num_features: int, *, limit: float = 10.0, eps: float = 1e-8
    ) -> None:
        super().__init__()
        self.limit = limit
        self.eps = eps
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("var", torch.ones(num_features))
        # An integer: inductor loses changes of a 0-dim float64 buffer (torch 2.13).
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def _update(self, x: Tensor) -> None:
        flat = x.detach().reshape(-1, x.shape[-1]).float()
        n = flat.shape[0] * size()
        batch_var, batch_mean = torch.var_mean(flat, 0, correction=0)
        # A variance is the squared deviations of one sample, as the mean over samples.
        batch_mean, summed = pool_moments(batch_mean, batch_var, 1)
        batch_var = summed / size()
        total = self.count + n
        share = (n / total).float()
        delta = batch_mean - self.mean
        self.var.lerp_(batch_var, share).add_(share * (1 - share) * delta.square())
        self.mean.add_(share * delta)
        self.count.copy_(total)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` ``[..., F]``; in training mode take it in first."""
        if self.training:
            self._update(x)
        scale = torch.rsqrt(self.var + self.eps)
        return ((x - self.mean) * scale).clamp(-self.limit, self.limit)
