"""Training-mode BatchNorm and SiLU of maps and of blocks, which become either.

Blocks are those of :mod:`drama_torchrl.modules.space_to_depth`: channels last in
memory, a map and its blocks hold the same rows of C numbers in different orders. The
kernels, which touch each row anyway, write in the order that the next layer reads.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from drama_torchrl.kernels.batch_norm_silu import batch_norm_silu

__all__ = ["pooled_batch_norm_silu"]


def pooled_batch_norm_silu(x: Tensor, norm: nn.BatchNorm2d, block: int) -> Tensor:
    """Applies a map's training-mode BatchNorm and SiLU to the map or its blocks.

    ``y = z · sigmoid(z)``, ``z = (x − mean) / sqrt(variance + eps) · weight + bias``
    (BatchNorm, arXiv:1502.03167, algorithm 1; SiLU, arXiv:1702.03118, equation 7), with
    statistics pooled over the sub-positions.

    Args:
        x: ``[N, present²·C, h, w]``, blocks of side ``present`` (a map's is 1).
        norm: the layer of the C channels; updates its statistics as from the map.
        block: side of the result's blocks in pixels; 1 for the map.

    Returns:
        ``[N, block²·C, h·present/block, w·present/block]``, the blocks of
        ``silu(norm(map))``, channels last in memory.

    Raises:
        ValueError: if ``block`` does not divide the map, or both sides differ from
            each other and from 1.

    Example:
        >>> import torch
        >>> norm = torch.nn.BatchNorm2d(3)
        >>> pooled_batch_norm_silu(torch.rand(2, 12, 8, 8), norm, block=1).shape
        torch.Size([2, 3, 16, 16])
    """
    mean, variance, steps = (
        norm.running_mean,
        norm.running_var,
        norm.num_batches_tracked,
    )
    assert mean is not None
    assert variance is not None
    assert steps is not None
    assert norm.momentum is not None
    frames, depth, rows, columns = x.shape
    present = math.isqrt(depth // norm.num_features)
    height, width = rows * present, columns * present
    swap = _swap(present, block, height, width)
    steps.add_(1)
    # Views, where x is channels last: [N, h, w, present²·C] is [N·h·w·present², C].
    y = batch_norm_silu(
        x.movedim(1, 3).reshape(-1, norm.num_features),
        norm.weight,
        norm.bias,
        mean,
        variance,
        momentum=norm.momentum,
        eps=norm.eps,
        swap=swap,
    )
    return y.reshape(frames, height // block, width // block, -1).movedim(3, 1)


def _swap(present: int, block: int, height: int, width: int) -> tuple[int, int, int]:
    """The two neighbouring dimensions of rows that are swapped, and what they contain.

    The rows of a map are [N·h, r, j, s] with sub-row r, block j of those side by side
    and sub-column s; those of its blocks are [N·h, j, r, s].
    """
    if present == block:
        return 1, 1, 1
    if height % block or width % block or min(present, block) > 1:
        raise ValueError(
            f"pooled_batch_norm_silu expected a map divisible by {block} or its blocks "
            f"of side {block}, got blocks of side {present} of a {height}x{width} map: "
            "resize the map, or lay it out by as_blocks"
        )
    across = width // max(present, block)
    return (block, across, block) if present == 1 else (across, present, present)
