"""Launches the kernels of a 3×3 "same" convolution's weight gradient.

``dW[tap, c, o] = Σ x[pixel + shift(tap), c] · dy[pixel, o]`` over all pixels: nine
products of two tall matrices. Of x and dy the one with fewer channels, *thin*, is
shifted, as its pixels are read several times; the other, *wide*, is read once and feeds
the rows of the tensor cores' products, of which there are 64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from drama_torchrl.kernels.conv_weight_gradient_kernel import (
    combine_taps_kernel,
    partial_taps_kernel,
)
from drama_torchrl.kernels.optional_triton import triton
from drama_torchrl.kernels.processors import processors, shared_memory

__all__ = ["empty_weight_gradient", "weight_gradient_by_taps"]


class _Launch(NamedTuple):
    """How the sum over all pixels is cut up.

    Columns and rows of a tile, neighbours that one load brings (4: all three and a
    fourth of zeros; 2: the right one has its own), warps, stages of the pipeline and
    programs on one processor.
    """

    block: int
    rows: int
    together: int
    warps: int
    stages: int
    programs: int


# By the channels of thin: of twelve each, the fastest at 2048 maps of 32×32 in bf16 on
# one H200. 117 and 174 µs, where reading the maps takes 70 and 84, cuDNN 310 to 390.
_LAUNCHES = {16: _Launch(32, 2, 4, 4, 3, 3), 32: _Launch(64, 2, 2, 4, 3, 1)}
_COMBINED_PROGRAMS, _COMBINED_ELEMENTS = 64, 64


def empty_weight_gradient(x: Tensor, dy: Tensor) -> Tensor:
    """Allocates the gradient of a 3×3 convolution's weights.

    Args:
        x: the convolution's maps ``[N, C, H, W]``.
        dy: gradients of its results ``[N, O, H, W]``.

    Returns:
        ``[O, C, 3, 3]`` in x's dtype, contiguous.

    Example:
        >>> import torch
        >>> x, dy = torch.rand(2, 16, 8, 8), torch.rand(2, 64, 8, 8)
        >>> empty_weight_gradient(x, dy).shape
        torch.Size([64, 16, 3, 3])
    """
    return x.new_empty(dy.shape[1], x.shape[1], 3, 3)


def weight_gradient_by_taps(x: Tensor, dy: Tensor) -> Tensor:
    """Runs the kernels, which need a GPU or Triton's interpreter.

    The order of all sums is fixed: the same maps give the same gradient.

    Args:
        x: maps ``[N, C, H, W]`` in bf16 or fp16.
        dy: gradients of the results ``[N, O, H, W]`` in x's dtype; of C and O the
            smaller is 16 or 32, the larger a power of two from 64 on.

    Returns:
        ``[O, C, 3, 3]`` in x's dtype: sums in float32, rounded once.
    """
    x, dy = (t.contiguous(memory_format=torch.channels_last) for t in (x, dy))
    thin_is_input = x.shape[1] < dy.shape[1]
    thin, wide = (x, dy) if thin_is_input else (dy, x)
    partials = _partial_sums(wide, thin)
    dweight = empty_weight_gradient(x, dy)
    with torch.cuda.device_of(x):
        combine_taps_kernel[(triton.cdiv(dweight.numel(), _COMBINED_ELEMENTS),)](
            partials,
            dweight,
            len(partials),
            WIDE=wide.shape[1],
            THIN=thin.shape[1],
            THIN_IS_INPUT=thin_is_input,
            PROGRAMS=_COMBINED_PROGRAMS,
            STEPS=triton.cdiv(len(partials), _COMBINED_PROGRAMS),
            BLOCK=_COMBINED_ELEMENTS,
        )
    return dweight


def _partial_sums(wide: Tensor, thin: Tensor) -> Tensor:
    """Each program's sums: [programs, 3, WIDE, 3, THIN] in float32."""
    maps, channels, rows, columns = wide.shape
    launch = _launch(wide, thin)
    tiles = triton.cdiv(maps * columns, launch.block) * triton.cdiv(rows, launch.rows)
    steps = triton.cdiv(max(1, tiles), processors(wide.device) * launch.programs)
    programs = triton.cdiv(max(1, tiles), steps)
    shape = (programs, 3, channels, 3, thin.shape[1])
    partials = wide.new_empty(shape, dtype=torch.float32)
    with torch.cuda.device_of(wide):
        partial_taps_kernel[(programs,)](
            wide,
            thin,
            partials,
            maps * columns,
            H=rows,
            W=columns,
            WIDE=channels,
            THIN=thin.shape[1],
            BM=launch.block,
            ROWS=launch.rows,
            TOGETHER=launch.together,
            STEPS=steps,
            STAGES=launch.stages,
            num_warps=launch.warps,
        )
    return partials


def _launch(wide: Tensor, thin: Tensor) -> _Launch:
    launch = _LAUNCHES[thin.shape[1]]
    neighbours = 4 if launch.together == 4 else 3
    channels = launch.rows * wide.shape[1]
    channels += (launch.rows + 2) * neighbours * thin.shape[1]
    stage = channels * launch.block * wide.element_size()
    most = shared_memory(wide.device) // stage
    return launch._replace(stages=max(1, min(launch.stages, most)))
