"""A 3×3 convolution with its bias and SiLU in one pass over channels-last maps.

For evaluation: BatchNorm is folded into weight and bias, and no gradient is formed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from drama_torchrl.kernels.conv_taps import convolve_by_taps, empty_maps, taps_of
from drama_torchrl.kernels.launch import fake_of
from drama_torchrl.kernels.operands import FLOATS
from drama_torchrl.kernels.optional_triton import triton

__all__ = [
    "can_fuse",
    "conv_silu",
    "conv_silu_by_taps",
    "conv_silu_reference",
    "taps_and_bias",
]

_FUSED_DTYPES = (torch.bfloat16, torch.float16)
# Of the weights in one tap: nine taps take 36 KB of the shared memory, all of them.
_MOST_WEIGHTS = 2048


def conv_silu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Computes ``SiLU(conv2d(x, weight, bias))``, 3×3 and "same", in one pass.

    The pass needs a GPU, Triton, 16-bit x, a power of two of channels and at most 2048
    weights a tap (channels out rounded up to a power of two). Elsewhere, and where a
    gradient is wanted, :func:`conv_silu_reference` serves.

    Args:
        x: maps ``[N, C, H, W]`` in bf16, fp16 or fp32, C a multiple of 16; channels
            last in memory, or they are copied.
        weight: ``[O, C or fewer, 3, 3]``, O up to 128; channels that x alone has, all
            zero, are ignored. Rounded to x's dtype.
        bias: ``[O]``.

    Returns:
        ``[N, O, H, W]`` in x's dtype, channels last in memory.

    Raises:
        ValueError: if a shape or dtype is another.

    Example:
        >>> import torch
        >>> x, weight = torch.rand(2, 16, 8, 8), torch.rand(64, 12, 3, 3)
        >>> conv_silu(x, weight, torch.zeros(64)).shape
        torch.Size([2, 64, 8, 8])
    """
    _check(x, weight, bias)
    wanted = x.requires_grad or weight.requires_grad or bias.requires_grad
    derived = torch.is_grad_enabled() and wanted
    fused = can_fuse(x, x.shape[1], weight) and not derived
    return (_fused if fused else conv_silu_reference)(x, weight, bias)


def can_fuse(x: Tensor, channels: int, weight: Tensor) -> bool:
    """Tells whether the kernel takes a layer of such maps, gradients aside.

    Args:
        x: maps of the dtype and on the device.
        channels: C of the layer's maps.
        weight: ``[O, channels or fewer, 3, 3]``.
    """
    return (
        triton is not None
        and x.is_cuda
        and x.dtype in _FUSED_DTYPES
        and channels & (channels - 1) == 0
        and channels * _width(weight.shape[0]) <= _MOST_WEIGHTS
    )


def conv_silu_reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Computes :func:`conv_silu`, with gradients, one operation after the other.

    Args:
        x: as :func:`conv_silu`.
        weight: as :func:`conv_silu`.
        bias: as :func:`conv_silu`.

    Returns:
        As :func:`conv_silu`.
    """
    weight = F.pad(weight, (0, 0, 0, 0, 0, x.shape[1] - weight.shape[1])).to(x.dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    return F.silu(F.conv2d(x, weight, bias.to(x.dtype), padding=1))


def _check(x: Tensor, weight: Tensor, bias: Tensor) -> None:
    deep = x.dim() == 4 and x.shape[1] > 0 and x.shape[1] % 16 == 0
    if not deep or x.dtype not in FLOATS:
        raise ValueError(
            "conv_silu expected maps [N, C, H, W] in bf16, fp16 or fp32 with C a "
            f"multiple of 16, got {list(x.shape)} in {x.dtype}: pad x or use .to()"
        )
    fits = weight.dim() == 4 and 1 <= weight.shape[1] <= x.shape[1]
    fits = fits and weight.shape[2:] == (3, 3) and 1 <= weight.shape[0] <= 128
    if not fits or bias.shape != weight.shape[:1]:
        raise ValueError(
            f"conv_silu expected weight [O, {x.shape[1]}, 3, 3] and bias [O] with O up "
            f"to 128, got {list(weight.shape)} and {list(bias.shape)}: give the kernel "
            f"of these maps, or run wider ones in parts"
        )


def _width(channels_out: int) -> int:
    """The power of two, 16 or more, that tensor cores compute instead."""
    return max(16, 1 << (channels_out - 1).bit_length())


def _fused(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    taps, bias = taps_and_bias(weight, bias, x.shape[1], x.dtype)
    return conv_silu_by_taps(x, taps, bias, len(weight))


def taps_and_bias(
    weight: Tensor, bias: Tensor, channels: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Fills up a layer's weight and bias for the kernel.

    Args:
        weight: ``[O, channels or fewer, 3, 3]``.
        bias: ``[O]``.
        channels: C of the maps.
        dtype: of the maps.

    Returns:
        Taps ``[9, C, width]`` in that dtype and the bias ``[width]`` in float32.

    Example:
        >>> import torch
        >>> layer = torch.rand(40, 12, 3, 3), torch.zeros(40)
        >>> [t.shape for t in taps_and_bias(*layer, 16, torch.float16)]
        [torch.Size([9, 16, 64]), torch.Size([64])]
    """
    channels_out, depth = weight.shape[:2]
    missing = _width(channels_out) - channels_out
    weight = F.pad(weight, (0, 0, 0, 0, 0, channels - depth, 0, missing))
    return taps_of(weight.to(dtype)), F.pad(bias.float(), (0, missing))


@torch.library.custom_op("drama_torchrl::conv_silu", mutates_args=())
def conv_silu_by_taps(
    x: Tensor, taps: Tensor, bias: Tensor, channels_out: int
) -> Tensor:
    """The kernel on taps [9, C, width] and bias [width], zero from channels_out on."""
    return convolve_by_taps(x, taps, bias, channels_out)


@fake_of(conv_silu_by_taps)
def _empty_maps(x: Tensor, _taps: Tensor, _bias: Tensor, channels_out: int) -> Tensor:
    return empty_maps(x, channels_out)
