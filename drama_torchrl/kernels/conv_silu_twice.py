"""Two 3×3 convolutions with bias and SiLU, some maps at a time.

What lies between them is twice what comes out: of all frames that imagination
starts from, 1.1 GB. Of some maps at a time it never is in memory as a whole.
"""

from __future__ import annotations

import torch
from torch import Tensor

from drama_torchrl.kernels.conv_silu import can_fuse, conv_silu, taps_and_bias
from drama_torchrl.kernels.conv_taps import convolve_by_taps, empty_maps
from drama_torchrl.kernels.launch import fake_of

__all__ = ["conv_silu_twice", "conv_silu_twice_by_taps"]

# Half of what imagination starts from: 537 MB lie between the layers, and both took 3 %
# longer than on all maps (6 % on 2048) in one sweep on an H200.
_MAPS = 4096
_Layer = tuple[Tensor, Tensor]


def conv_silu_twice(x: Tensor, first: _Layer, second: _Layer) -> Tensor:
    """Computes ``conv_silu(conv_silu(x, *first), *second)``, without gradient.

    On a GPU, where the kernel of ``conv_silu`` takes both layers, some maps go through
    both before the next ones.

    Args:
        x: maps ``[N, C, H, W]``, as ``conv_silu`` takes them.
        first: weight ``[O, C or fewer, 3, 3]`` and bias ``[O]``.
        second: weight ``[P, O, 3, 3]`` and bias ``[P]``.

    Returns:
        ``[N, P, H, W]`` in x's dtype, channels last in memory.

    Example:
        >>> import torch
        >>> first = torch.rand(64, 12, 3, 3), torch.zeros(64)
        >>> second = torch.rand(32, 64, 3, 3), torch.zeros(32)
        >>> conv_silu_twice(torch.rand(2, 16, 8, 8), first, second).shape
        torch.Size([2, 32, 8, 8])
    """
    channels, between = x.shape[1], len(first[0])
    if not (can_fuse(x, channels, first[0]) and can_fuse(x, between, second[0])):
        return conv_silu(conv_silu(x, *first), *second)
    return conv_silu_twice_by_taps(
        x,
        *taps_and_bias(*first, channels, x.dtype),
        between,
        *taps_and_bias(*second, between, x.dtype),
        len(second[0]),
    )


@torch.library.custom_op("drama_torchrl::conv_silu_twice", mutates_args=())
def conv_silu_twice_by_taps(
    x: Tensor,
    taps: Tensor,
    bias: Tensor,
    between: int,
    next_taps: Tensor,
    next_bias: Tensor,
    channels_out: int,
) -> Tensor:
    """The kernel on taps and bias of both layers, as ``conv_silu_by_taps`` has them."""
    y = empty_maps(x, channels_out)
    for maps, results in zip(x.split(_MAPS), y.split(_MAPS), strict=True):
        hidden = convolve_by_taps(maps, taps, bias, between)
        convolve_by_taps(hidden, next_taps, next_bias, channels_out, out=results)
    return y


@fake_of(conv_silu_twice_by_taps)
def _empty_maps(
    x: Tensor,
    taps: Tensor,  # noqa: ARG001  the operator's signature
    bias: Tensor,  # noqa: ARG001
    between: int,  # noqa: ARG001
    next_taps: Tensor,  # noqa: ARG001
    next_bias: Tensor,  # noqa: ARG001
    channels_out: int,
) -> Tensor:
    return empty_maps(x, channels_out)
