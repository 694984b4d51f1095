r"""Convolutions of large, thin maps computed on small, thick ones, exactly.

A map ``[C, H, W]`` and its *blocks* ``[4·C, H/2, W/2]`` hold the same numbers. Every
5×5 convolution that reads or writes the large map is a 3×3 convolution on the blocks,
whose 4·C channels feed the tensor cores that C = 3 or 16 channels leave idle. Weights
keep their usual shapes; pads and copies expand them at each call, differentiably.

Channels are ordered (sub-row, sub-column, channel): channels last in memory, blocks
are then a plain ``[pixels, C]`` matrix, a map's with its rows in another order, and
BatchNorm pools the four sub-positions by a view
(:mod:`drama_torchrl.modules.block_norm`), where the channel-major order of
``pixel_unshuffle`` would cost copies.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from drama_torchrl.kernels.alignment import missing_channels
from drama_torchrl.kernels.conv_same import conv_same

__all__ = [
    "as_blocks",
    "blocks_kernel",
    "conv_on_blocks",
    "conv_transpose_on_blocks",
    "depth_to_space",
    "space_to_depth",
    "strided_blocks_kernel",
    "strided_conv_on_blocks",
    "strided_conv_transpose_to_blocks",
]


def space_to_depth(x: Tensor, block: int = 2) -> Tensor:
    """Moves each ``block`` × ``block`` square of pixels into the channels.

    ``y[(r·block + s)·C + c, i, j] = x[c, i·block + r, j·block + s]``

    Args:
        x: maps ``[*, C, H, W]`` of any dtype.
        block: side of the squares, in pixels.

    Returns:
        ``[*, block²·C, H/block, W/block]``, channels last in memory.

    Raises:
        ValueError: if ``block`` does not divide height and width.

    Example:
        >>> import torch
        >>> space_to_depth(torch.arange(4).view(1, 2, 2)).flatten().tolist()
        [0, 1, 2, 3]
    """
    *lead, channels, height, width = x.shape
    if height % block or width % block:
        raise ValueError(
            f"space_to_depth expected a height and width divisible by {block}, got "
            f"{height}x{width}: pad or resize the map"
        )
    rows, columns, n = height // block, width // block, len(lead)
    x = x.reshape(*lead, channels, rows, block, columns, block)
    x = x.permute(*range(n), n + 1, n + 3, n + 2, n + 4, n)
    return x.reshape(*lead, rows, columns, block * block * channels).movedim(-1, -3)


def depth_to_space(x: Tensor, block: int = 2) -> Tensor:
    """Undoes :func:`space_to_depth`.

    ``y[c, i·block + r, j·block + s] = x[(r·block + s)·C + c, i, j]``

    Args:
        x: blocks ``[*, block²·C, h, w]`` of any dtype.
        block: side of the squares, in pixels.

    Returns:
        ``[*, C, h·block, w·block]``, contiguous.

    Raises:
        ValueError: if ``block²`` does not divide the number of channels.

    Example:
        >>> import torch
        >>> x = torch.rand(7, 3, 8, 8)
        >>> torch.equal(depth_to_space(space_to_depth(x)), x)
        True
    """
    *lead, depth, rows, columns = x.shape
    if depth % (block * block):
        raise ValueError(
            f"depth_to_space expected a multiple of {block * block} channels, got "
            f"{depth}: pass what space_to_depth returned"
        )
    channels, n = depth // (block * block), len(lead)
    x = x.reshape(*lead, block, block, channels, rows, columns)
    x = x.permute(*range(n), n + 2, n + 3, n, n + 4, n + 1)
    return x.reshape(*lead, channels, rows * block, columns * block)


def as_blocks(x: Tensor, channels: int, block: int) -> Tensor:
    """Lays out a map, or its blocks of any side, as blocks of another side.

    Args:
        x: ``[*, present²·C, h, w]`` of any dtype; a map is its blocks of side 1.
        channels: C, those of the map.
        block: side of the blocks wanted, in pixels; 1 for the map.

    Returns:
        ``[*, block²·C, h·present/block, w·present/block]``.

    Raises:
        ValueError: if ``block`` does not divide the map's height and width.

    Example:
        >>> import torch
        >>> as_blocks(torch.rand(7, 12, 8, 8), 3, block=1).shape
        torch.Size([7, 3, 16, 16])
    """
    present = math.isqrt(x.shape[-3] // channels)
    if present == block:
        return x
    x = depth_to_space(x, present)
    return x if block == 1 else space_to_depth(x, block)


def _tap_blocks(weight: Tensor) -> Tensor:
    """Spreads the taps of a "same" cross-correlation [O, C, k, k] over blocks.

    With half width p = (k-1)/2 and reach P = ceil(p/2), output sub-row r reads input
    sub-row s of the block j rows away (|j| <= P) through tap ``t = 2·j + s - r + p``:
    for a fixed r the kernel, shifted by r and zero-padded, *is* the table over (j, s).

    Returns:
        ``[r_row, r_column, O, s_row, s_column, C, j_row, j_column]``
    """
    half = weight.shape[-1] // 2
    offsets = 2 * ((half + 1) // 2) + 1
    pads = [(offsets - 1 - half + r, offsets - half - r) for r in (0, 1)]
    shifted = [F.pad(weight, (*column, *row)) for row in pads for column in pads]
    table = torch.stack(shifted).unflatten(-1, (offsets, 2)).unflatten(-3, (offsets, 2))
    # [4, O, C, j_row, s_row, j_col, s_col] -> [4, O, s_row, s_col, C, j_row, j_col]
    return table.permute(0, 1, 4, 6, 2, 3, 5).unflatten(0, (2, 2))


def _correlate(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """Runs the 3×3 convolution; channels that x alone has, all zero, are ignored."""
    kernel = F.pad(kernel, (0, 0, 0, 0, 0, x.shape[1] - kernel.shape[1]))
    return conv_same(x, kernel, bias)


def conv_on_blocks(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Computes a stride-1 "same" ``conv2d`` from blocks to blocks.

    Args:
        x: blocks ``[N, 4·C (+ zeros), h, w]`` of a map ``[N, C, 2h, 2w]``.
        weight: ``[O, C, k, k]`` as in :class:`torch.nn.Conv2d`, k odd.
        bias: ``[O]``.

    Returns:
        ``[N, 4·O, h, w]``, the blocks of ``conv2d(map, weight, bias, padding=k//2)``.

    Example:
        >>> import torch
        >>> x, weight = torch.rand(2, 3, 8, 8), torch.rand(16, 3, 5, 5)
        >>> y = depth_to_space(conv_on_blocks(space_to_depth(x), weight))
        >>> torch.allclose(y, torch.conv2d(x, weight, padding=2), atol=1e-5)
        True
    """
    return _correlate(
        x, blocks_kernel(weight), None if bias is None else bias.repeat(4)
    )


def blocks_kernel(weight: Tensor) -> Tensor:
    """Spreads the kernel of a stride-1 "same" ``conv2d`` from blocks to blocks.

    Args:
        weight: ``[O, C, k, k]`` as in :class:`torch.nn.Conv2d`, k odd.

    Returns:
        ``[4·O, 4·C, j, j]``, where j = 3 for k = 5.

    Example:
        >>> import torch
        >>> blocks_kernel(torch.rand(16, 3, 5, 5)).shape
        torch.Size([64, 12, 3, 3])
    """
    return _tap_blocks(weight).flatten(3, 5).flatten(0, 2)


def strided_blocks_kernel(weight: Tensor) -> Tensor:
    """Spreads the kernel of a stride-2 "same" ``conv2d`` from blocks to a map.

    Args:
        weight: ``[O, C, k, k]`` as in :class:`torch.nn.Conv2d`, k odd.

    Returns:
        ``[O, 4·C, j, j]``, where j = 3 for k = 5.

    Example:
        >>> import torch
        >>> strided_blocks_kernel(torch.rand(32, 16, 5, 5)).shape
        torch.Size([32, 64, 3, 3])
    """
    return _tap_blocks(weight)[0, 0].flatten(1, 3)


def strided_conv_on_blocks(
    x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Computes a stride-2 "same" ``conv2d`` from blocks to a map of their size.

    Args:
        x: blocks ``[N, 4·C, h, w]`` of a map ``[N, C, 2h, 2w]``.
        weight: ``[O, C, k, k]`` as in :class:`torch.nn.Conv2d`, k odd.
        bias: ``[O]``.

    Returns:
        ``[N, O, h, w]``, equal to ``conv2d(map, weight, bias, 2, padding=k//2)``.

    Example:
        >>> import torch
        >>> weight = torch.rand(32, 16, 5, 5)
        >>> strided_conv_on_blocks(torch.rand(2, 64, 8, 8), weight).shape
        torch.Size([2, 32, 8, 8])
    """
    return _correlate(x, strided_blocks_kernel(weight), bias)


def strided_conv_transpose_to_blocks(
    x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Computes a doubling ``conv_transpose2d`` as the blocks of its result.

    Args:
        x: maps ``[N, C, h, w]``.
        weight: ``[C, O, k, k]`` as in :class:`torch.nn.ConvTranspose2d`, k odd.
        bias: ``[O]``.

    Returns:
        ``[N, 4·O, h, w]``, the blocks of the map twice as large (``output_padding=1``).

    Example:
        >>> import torch
        >>> x, weight = torch.rand(2, 32, 8, 8), torch.rand(32, 16, 5, 5)
        >>> strided_conv_transpose_to_blocks(x, weight).shape
        torch.Size([2, 64, 8, 8])
    """
    flipped = weight.transpose(0, 1).flip(-1, -2)
    # x holds the even pixels of the zero-stuffed map: sub-position 0, 0.
    kernel = _tap_blocks(flipped)[:, :, :, 0, 0].flatten(0, 2)
    return _correlate(x, kernel, None if bias is None else bias.repeat(4))


def conv_transpose_on_blocks(
    x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Computes a stride-1 "same" ``conv_transpose2d`` from blocks to blocks.

    Args:
        x: blocks ``[N, 4·C, h, w]`` of a map ``[N, C, 2h, 2w]``.
        weight: ``[C, O, k, k]`` as in :class:`torch.nn.ConvTranspose2d`, k odd.
        bias: ``[O]``.

    Returns:
        ``[N, 4·O, h, w]``, the blocks of the map of the same size.

    Example:
        >>> import torch
        >>> x, weight = torch.rand(2, 64, 8, 8), torch.rand(16, 3, 5, 5)
        >>> conv_transpose_on_blocks(x, weight).shape
        torch.Size([2, 12, 8, 8])
    """
    kernel = blocks_kernel(weight.transpose(0, 1).flip(-1, -2))
    depth, missing = kernel.shape[0], missing_channels(kernel.shape[0])
    kernel = F.pad(kernel, (0, 0, 0, 0, 0, 0, 0, missing))
    bias = None if bias is None else F.pad(bias.repeat(4), (0, missing))
    return _correlate(x, kernel, bias)[:, :depth]
