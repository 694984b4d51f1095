r"""Training-mode BatchNorm and SiLU of a channels-last matrix in four passes.

    z = (x − μ) / sqrt(σ² + ε) · γ + β        y = z · sigmoid(z)

with μ and σ² the mean and biased variance of each column of x [M, C] (BatchNorm,
arXiv:1502.03167, algorithm 1; SiLU, arXiv:1702.03118, equation 7). Forward reads x for
its statistics and again to write y. With x̂ = (x − μ) / sqrt(σ² + ε) and

    dz = dy · s · (1 + z · (1 − s)),  s = sigmoid(z)
    dγ = Σ dz · x̂    dβ = Σ dz    dx = γ / sqrt(σ² + ε) · (dz − dβ / M − x̂ · dγ / M)

backward reads x and dy for the two sums and again to write dx: z, s and x̂ are cheaper
to compute again than to keep. All four passes move 8·M·C elements. Sums are float32 and
in a fixed order, so that results repeat to the bit.

Rows of y and dy may lie in another order than those of x and dx (``swap``), which is
free where each is read and written anyway: a map's result becomes the map's blocks.

Between the passes lie the [C] vectors that processes sharing a batch combine: mean and
M2 in ``batch_norm_silu_fused``, Σ dz and Σ dz · x̂ in its gradient. M is then the number
of samples of all of them; dγ and dβ stay each process's own, to be averaged with all
other gradients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from drama_torchrl.kernels.batch_norm_silu_operators import (
    channel_statistics,
    normalise_silu,
)
from drama_torchrl.kernels.operands import FLOATS
from drama_torchrl.kernels.optional_triton import triton
from drama_torchrl.parallel import all_mean, pool_moments, size

__all__ = ["batch_norm_silu", "batch_norm_silu_fused", "batch_norm_silu_reference"]


def batch_norm_silu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    *,
    momentum: float,
    eps: float,
    swap: Sequence[int] = (1, 1, 1),
) -> Tensor:
    """SiLU(BatchNorm(x)) in training mode, fused where the GPU and dtype allow.

    ``y = z · sigmoid(z)``, ``z = (x − mean) / sqrt(variance + eps) · weight + bias``
    (BatchNorm, arXiv:1502.03167, algorithm 1; SiLU, arXiv:1702.03118, equation 7).

    Args:
        x: ``[M, C]`` contiguous: M samples, at least two, of C channels.
        weight: ``[C]``, γ.
        bias: ``[C]``, β.
        running_mean: ``[C]``, moved in place towards the mean.
        running_var: ``[C]``, moved in place towards the unbiased variance.
        momentum: share of the new statistics in the running ones, in [0, 1].
        eps: added to the variance.
        swap: (P, Q, R): rows that x holds as ``[·, P, Q, R]`` are returned as
            ``[·, Q, P, R]``; their product divides M. (1, 1, 1) leaves them in place.

    Returns:
        ``[M, C]`` in the dtype of ``x``.

    Raises:
        ValueError: if a shape, the dtype, the memory layout of ``x`` or ``swap`` is
            another.

    Example:
        >>> import torch
        >>> norm = torch.nn.BatchNorm1d(16)
        >>> y = batch_norm_silu(
        ...     torch.randn(64, 16), norm.weight, norm.bias, norm.running_mean,
        ...     norm.running_var, momentum=norm.momentum, eps=norm.eps,
        ... )
        >>> y.shape, norm.running_var.mean().item() != 1.0
        (torch.Size([64, 16]), True)
    """
    _check(x, weight, bias, running_mean, running_var)
    _check_rows(x, swap)
    fused = x.is_cuda and x.dtype in FLOATS and triton is not None
    compute = batch_norm_silu_fused if fused else batch_norm_silu_reference
    return compute(
        x,
        weight,
        bias,
        running_mean,
        running_var,
        momentum=momentum,
        eps=eps,
        swap=swap,
    )


def batch_norm_silu_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    *,
    momentum: float,
    eps: float,
    swap: Sequence[int] = (1, 1, 1),
) -> Tensor:
    """:func:`batch_norm_silu` in plain torch, on any device."""
    if size() > 1:
        z = _shared_batch_norm(
            x, running_mean, running_var, weight, bias, momentum=momentum, eps=eps
        )
    else:
        z = F.batch_norm(
            x, running_mean, running_var, weight, bias, True, momentum=momentum, eps=eps
        )
    return F.silu(z).unflatten(0, (-1, *swap)).transpose(1, 2).reshape(x.shape)


def _shared_batch_norm(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    momentum: float,
    eps: float,
) -> Tensor:
    """The formula over all processes' samples, differentiated by autograd."""
    exact = x if x.dtype == torch.float64 else x.float()
    (mean,) = all_mean(exact.mean(0))
    centred = exact - mean
    (variance,) = all_mean(centred.square().mean(0))
    count = x.shape[0] * size()
    with torch.no_grad():
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        unbiased = variance * (count / (count - 1))
        running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    return (centred * torch.rsqrt(variance + eps) * weight + bias).to(x.dtype)


def batch_norm_silu_fused(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    *,
    momentum: float,
    eps: float,
    swap: Sequence[int] = (1, 1, 1),
) -> Tensor:
    """:func:`batch_norm_silu` by the kernels, also inside ``torch.compile``.

    The passes are opaque ``custom_op`` that mutate nothing, so that compilers need to
    know only shapes; plain torch moves the running statistics, which they understand.
    """
    mean, m2 = channel_statistics(x.detach())
    mean, m2 = pool_moments(mean, m2, x.shape[0])
    count = x.shape[0] * size()
    with torch.no_grad():
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_((m2 / (count - 1)).to(running_var.dtype), momentum)
    vectors = (mean, m2 / count, weight.contiguous(), bias.contiguous())
    return normalise_silu(x, *vectors, eps, swap)


def _check(x: Tensor, *vectors: Tensor) -> None:
    if x.dim() != 2 or x.shape[0] < 2 or not x.is_floating_point():
        raise ValueError(
            "batch_norm_silu expected floating-point x [M, C] of two or more samples, "
            f"got {list(x.shape)} in {x.dtype}: move the channels last and flatten"
        )
    if not x.is_contiguous():
        raise ValueError(
            f"batch_norm_silu expected contiguous x, got strides {x.stride()} for "
            f"{list(x.shape)}: call it on channels-last maps viewed as [M, C]"
        )
    if any(vector.shape != x.shape[1:] for vector in vectors):
        raise ValueError(
            f"batch_norm_silu expected weight, bias and running statistics [C] = "
            f"[{x.shape[1]}], got {[list(vector.shape) for vector in vectors]}: "
            "take them from a BatchNorm over as many channels"
        )


def _check_rows(x: Tensor, swap: Sequence[int]) -> None:
    if len(swap) != 3 or min(swap) < 1 or x.shape[0] % math.prod(swap):
        raise ValueError(
            f"batch_norm_silu expected swap (P, Q, R) whose product divides the "
            f"{x.shape[0]} rows of x, got {tuple(swap)}: give the sizes that the rows "
            "unflatten to, or (1, 1, 1) to leave them in place"
        )
