"""Launches the kernel of 3×3 "same" convolutions of 16-bit channels-last maps.

The convolution is nine matrix products, one a tap, of a row's pixels [pixels, C] with
the tap's weights [C, O]: nothing is copied or padded to make larger ones.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from drama_torchrl.kernels.conv_silu_kernel import conv_silu_kernel
from drama_torchrl.kernels.optional_triton import triton
from drama_torchrl.kernels.processors import shared_memory, takes_ptx

__all__ = ["convolve_by_taps", "empty_maps", "taps_of"]


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


def taps_of(weight: Tensor) -> Tensor:
    """Orders a convolution's weights as the kernel reads them.

    Args:
        weight: ``[O, C, 3, 3]``.

    Returns:
        ``[9, C, O]``, contiguous.

    Example:
        >>> import torch
        >>> taps_of(torch.rand(64, 16, 3, 3)).shape
        torch.Size([9, 16, 64])
    """
    taps = weight.permute(2, 3, 1, 0).flatten(0, 1)
    return taps.clone(memory_format=torch.contiguous_format)


def empty_maps(x: Tensor, channels_out: int) -> Tensor:
    """Allocates the results of a "same" convolution.

    Args:
        x: maps ``[N, C, H, W]``.
        channels_out: O.

    Returns:
        ``[N, O, H, W]`` in x's dtype, channels last in memory.

    Example:
        >>> import torch
        >>> empty_maps(torch.rand(2, 16, 8, 8), 64).stride()
        (4096, 1, 512, 64)
    """
    frames, _, rows, columns = x.shape
    return torch.empty(
        (frames, channels_out, rows, columns),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last,
    )


def convolve_by_taps(
    x: Tensor,
    taps: Tensor,
    bias: Tensor | None,
    channels_out: int,
    out: Tensor | None = None,
) -> Tensor:
    """Runs the kernel, which needs a GPU or Triton's interpreter.

    Args:
        x: maps ``[N, C, H, W]`` in bf16 or fp16, C a power of two from 16 on.
        taps: ``[9, C, width]`` in x's dtype and contiguous, width a power of two from
            16 on and zero from channels_out on.
        bias: ``[width]`` in float32, which SiLU follows; None for neither of them.
        channels_out: O.
        out: where to write the results; allocated by default.

    Returns:
        ``[N, O, H, W]`` in x's dtype, channels last in memory.
    """
    _, channels, width = taps.shape
    y = empty_maps(x, channels_out) if out is None else out
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
            PTX=takes_ptx(y),
            num_warps=launch.warps,
        )
    return y


def _launch(x: Tensor, taps: Tensor, channels_out: int) -> _Launch:
    launch = _LAUNCHES.get((x.shape[1], channels_out), _DEFAULT)
    programs = triton.cdiv(len(x) * x.shape[3], launch.block)
    programs *= triton.cdiv(x.shape[2], launch.rows)
    if programs < _FEW_PROGRAMS:
        launch = launch._replace(rows=min(launch.rows, _FEW_ROWS))
    stage = 3 * launch.block * x.shape[1] * x.element_size()
    # The block of results passes through shared memory too.
    free = shared_memory(x.device) - taps.nbytes
    free -= launch.block * taps.shape[2] * x.element_size()
    return launch._replace(stages=max(1, min(launch.stages, free // stage)))
