"""A 3×3 convolution with its bias and SiLU in one pass over channels-last maps.

For evaluation: BatchNorm is folded into weight and bias, and no gradient is formed.
The convolution is nine matrix products, one a tap, of a row's pixels [pixels, C] with
the tap's weights [C, O]: nothing is copied or padded to make larger ones.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from drama_torchrl.kernels.conv_silu_kernel import conv_silu_kernel
from drama_torchrl.kernels.optional_triton import triton

__all__ = ["conv_silu", "conv_silu_reference"]

_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_FUSED_DTYPES = (torch.bfloat16, torch.float16)
# Of the weights in one tap: nine taps take 36 KB of the shared memory, all of them.
_MOST_WEIGHTS = 2048


class _Launch(NamedTuple):
    """Pixels of a row and rows a program, warps, stages of the pipeline."""

    block: int
    rows: int
    warps: int
    stages: int


# By (channels in, channels out): the fastest of a few at 8192 maps of 32×32 in bf16 on
# one H200.
_LAUNCHES = {(16, 64): _Launch(64, 32, 4, 4), (64, 32): _Launch(64, 32, 4, 3)}
_DEFAULT = _Launch(64, 32, 4, 3)
# Fewer programs than this leave processors idle; shorter ones, which read two rows more
# than they write, then end earlier.
_FEW_PROGRAMS, _FEW_ROWS = 256, 4


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
    fused = (
        triton is not None
        and x.is_cuda
        and not (torch.is_grad_enabled() and wanted)
        and _fits(x, weight)
    )
    return (_fused if fused else conv_silu_reference)(x, weight, bias)


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
    if not deep or x.dtype not in _DTYPES:
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


def _fits(x: Tensor, weight: Tensor) -> bool:
    channels = x.shape[1]
    return (
        x.dtype in _FUSED_DTYPES
        and channels & (channels - 1) == 0
        and channels * _width(weight.shape[0]) <= _MOST_WEIGHTS
    )


def _width(channels_out: int) -> int:
    """The power of two, 16 or more, that tensor cores compute instead."""
    return max(16, 1 << (channels_out - 1).bit_length())


def _fused(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    channels_out, depth = weight.shape[:2]
    missing = _width(channels_out) - channels_out
    weight = F.pad(weight, (0, 0, 0, 0, 0, x.shape[1] - depth, 0, missing))
    taps = weight.to(x.dtype).permute(2, 3, 1, 0).flatten(0, 1)
    taps = taps.clone(memory_format=torch.contiguous_format)
    return conv_silu_by_taps(x, taps, F.pad(bias.float(), (0, missing)), channels_out)


@torch.library.custom_op("drama_torchrl::conv_silu", mutates_args=())
def conv_silu_by_taps(
    x: Tensor, taps: Tensor, bias: Tensor, channels_out: int
) -> Tensor:
    """The kernel on taps [9, C, width] and bias [width], zero from channels_out on."""
    _, channels, width = taps.shape
    y = _empty_maps(x, taps, bias, channels_out)
    launch = _launch(x, taps, channels_out)
    columns = len(x) * x.shape[3]
    grid = (
        triton.cdiv(columns, launch.block),
        triton.cdiv(x.shape[2], launch.rows),
    )
    with torch.cuda.device_of(x):
        conv_silu_kernel[grid](
            x.contiguous(memory_format=torch.channels_last),
            taps,
            bias,
            y,
            columns,
            H=x.shape[2],
            W=x.shape[3],
            CIN=channels,
            COUT=channels_out,
            BM=launch.block,
            BN=width,
            ROWS=launch.rows,
            STAGES=launch.stages,
            FAST=y.is_cuda and torch.version.cuda is not None,
            num_warps=launch.warps,
        )
    return y


@conv_silu_by_taps.register_fake
def _empty_maps(x: Tensor, _taps: Tensor, _bias: Tensor, channels_out: int) -> Tensor:
    frames, _, rows, columns = x.shape
    return torch.empty(
        (frames, channels_out, rows, columns),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last,
    )


def _launch(x: Tensor, taps: Tensor, channels_out: int) -> _Launch:
    launch = _LAUNCHES.get((x.shape[1], channels_out), _DEFAULT)
    programs = triton.cdiv(len(x) * x.shape[3], launch.block)
    programs *= triton.cdiv(x.shape[2], launch.rows)
    if programs < _FEW_PROGRAMS:
        launch = launch._replace(rows=min(launch.rows, _FEW_ROWS))
    stage = 3 * launch.block * x.shape[1] * x.element_size()
    # The block of results passes through shared memory too.
    free = _shared_memory(x.device) - taps.nbytes
    free -= launch.block * taps.shape[2] * x.element_size()
    return launch._replace(stages=max(1, min(launch.stages, free // stage)))


@functools.cache
def _shared_memory(device: torch.device) -> int:
    """Bytes that one program may have."""
    if device.type != "cuda":
        return 1 << 17  # interpreted kernels have none to run out of
    properties = torch.cuda.get_device_properties(device)
    always = properties.shared_memory_per_block
    return getattr(properties, "shared_memory_per_block_optin", always)
