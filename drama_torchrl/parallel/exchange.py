"""Numbers that processes exchange, and each one's share of a batch.

The collectives are operators of ours rather than torch's functional ones: opaque to
compilers, which keep them where they are in a region, one call in eager mode, on the
current stream and so in CUDA graphs, through NCCL as through gloo.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from drama_torchrl.parallel.membership import group, rank, size, talking

__all__ = [
    "all_mean",
    "all_sum",
    "gather",
    "my_share",
    "pool_moments",
    "tell",
]

_CPU = torch.device("cpu")
_Sliceable = TypeVar("_Sliceable")


@torch.library.custom_op("drama_torchrl::all_sum", mutates_args=())
def _all_sum(x: Tensor) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    with talking():
        dist.all_reduce(total, group=group(x.device))
    return total


@torch.library.custom_op("drama_torchrl::gather", mutates_args=())
def _gather(x: Tensor) -> Tensor:
    everywhere = x.new_empty(size(), *x.shape)
    with talking():
        rows = list(everywhere.unbind())
        dist.all_gather(rows, x.contiguous(), group=group(x.device))
    return everywhere


def _sum_gradients(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG001
    return _all_sum(gradient)


_all_sum.register_fake(
    lambda x: torch.empty_like(x, memory_format=torch.contiguous_format)
)
_all_sum.register_autograd(_sum_gradients)
_gather.register_fake(lambda x: x.new_empty(size(), *x.shape))


def all_sum(*values: Tensor) -> tuple[Tensor, ...]:
    """Sum each tensor over the processes, in one exchange, with gradients.

    y = Σ_r x_r,  ∂/∂x_r Σ_s L_s = Σ_s ∂L_s/∂y

    Args:
        values: of one dtype, and of the same shapes in all processes.

    Returns:
        The sums, the same to the bit in all processes.

    Example:
        >>> all_sum(torch.ones(2))
        (tensor([1., 1.]),)
    """
    if size() == 1:
        return values
    total = _all_sum(torch.cat([value.reshape(-1) for value in values]))
    parts = total.split([value.numel() for value in values])
    return tuple(p.view(v.shape) for p, v in zip(parts, values, strict=True))


def all_mean(*values: Tensor) -> tuple[Tensor, ...]:
    """Average each tensor over the processes, as :func:`all_sum` sums.

    Example:
        >>> all_mean(torch.ones(()), torch.zeros(2))
        (tensor(1.), tensor([0., 0.]))
    """
    if size() == 1:
        return values
    return tuple(total / size() for total in all_sum(*values))


def gather(x: Tensor) -> Tensor:
    """Join the rows of all processes, without gradient.

    Args:
        x: ``[N, *]``, of the same shape in all processes.

    Returns:
        ``[R·N, *]`` for R processes, in their order.

    Example:
        >>> gather(torch.arange(2))
        tensor([0, 1])
    """
    return x if size() == 1 else _gather(x.detach()).flatten(0, 1)


def pool_moments(mean: Tensor, m2: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Pool means and sums of squared deviations of as many samples in each process.

    μ = mean_r μ_r,  M = Σ_r M_r + n Σ_r (μ_r - μ)²   (Chan et al. 1979)

    Args:
        mean: ``[C]``, of this process's samples.
        m2: ``[C]``, their squared deviations from it, summed.
        count: number n of them.

    Returns:
        Both over the samples of all processes, without gradient.

    Example:
        >>> pool_moments(torch.zeros(1), torch.ones(1), 3)
        (tensor([0.]), tensor([1.]))
    """
    if size() == 1:
        return mean, m2
    means, m2s = _gather(torch.stack([mean.detach(), m2.detach()])).unbind(1)
    mean = means.mean(0)
    return mean, m2s.sum(0) + count * (means - mean).square().sum(0)


def my_share(rows: _Sliceable) -> _Sliceable:
    """Take this process's rows of a tensor or tensordict that all processes have.

    Raises:
        ValueError: if the rows cannot be shared evenly.

    Example:
        >>> my_share(torch.arange(4))
        tensor([0, 1, 2, 3])
    """
    if size() == 1:
        return rows
    total = len(rows)  # type: ignore[arg-type]
    if total % size():
        raise ValueError(
            f"Expected a batch that {size()} processes can share evenly, got {total} "
            "rows: choose a multiple."
        )
    count = total // size()
    return rows[rank() * count : (rank() + 1) * count]  # type: ignore[index]


def tell(message: Any) -> Any:
    """Return what the first process told, any object; the others' is not looked at.

    It goes from host to host and waits for no device.
    """
    if size() == 1:
        return message
    box = [message]
    with talking():
        dist.broadcast_object_list(box, src=0, device=_CPU)
    return box[0]
