"""What the convolutional encoder and decoder share: how their layers run.

Each computes one function along two paths: ``*_by_layers`` is the obvious reference;
``*_by_blocks``, which ``forward`` takes, runs the layers that touch the largest maps on
their blocks (:mod:`drama_torchrl.modules.space_to_depth`), channels last in memory, and
folds evaluation-mode BatchNorm into the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import drama_torchrl.modules.space_to_depth as s2d
from drama_torchrl.modules.block_norm import pooled_batch_norm_silu

__all__ = [
    "BLOCKS",
    "COLOURS",
    "MAP",
    "Convolve",
    "Layer",
    "folded",
    "layers_of",
    "resizings_on_blocks",
    "run_layer",
    "smallest_map",
]

COLOURS = 3
# Sides of the blocks that a layer's result is laid out in.
MAP = 1
BLOCKS = 2

Layer = tuple[nn.Conv2d | nn.ConvTranspose2d, nn.BatchNorm2d]
"""A convolution without bias, and what normalises its result."""

Convolve = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Takes maps, a weight and a bias."""


def run_layer(layer: Layer, x: Tensor, convolve: Convolve, block: int) -> Tensor:
    """SiLU(BatchNorm(convolve(x))), laid out as asked.

    In evaluation BatchNorm costs no pass over x.
    """
    conv, norm = layer
    if norm.training:
        return pooled_batch_norm_silu(convolve(x, conv.weight, None), norm, block)
    x = F.silu(convolve(x, *folded(conv, norm)))
    return s2d.as_blocks(x, norm.num_features, block)


def resizings_on_blocks(x: Tensor, owner: nn.Module) -> int:
    """How many layers that halve or double a map run on blocks, from the largest on.

    The first, which touches a full-size map, is faster so on every device. The second
    is where its strided form is slow, on a GPU, and where laying out its map costs
    nothing: in training, by BatchNorm's kernels.
    """
    return 2 if x.is_cuda and owner.training else 1


def folded(
    conv: nn.Conv2d | nn.ConvTranspose2d, norm: nn.BatchNorm2d
) -> tuple[Tensor, Tensor]:
    """The weight and bias that do evaluation's BatchNorm together with the layer."""
    mean, variance = cast("list[Tensor]", [norm.running_mean, norm.running_var])
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    per_kernel = scale[:, None, None] if conv.transposed else scale[:, None, None, None]
    return conv.weight * per_kernel, norm.bias - mean * scale


def layers_of(convs: nn.ModuleList, norms: nn.ModuleList) -> list[Layer]:
    """Pairs each convolution with its norm."""
    return cast("list[Layer]", list(zip(convs, norms, strict=True)))


def smallest_map(owner: str, filters: Sequence[int], frame: int, kernel: int) -> int:
    """Checks the ladder of convolutions and returns the side of its last map."""
    if len(filters) < 2 or min(filters) < 1 or kernel % 2 == 0:
        raise ValueError(
            f"{owner} expected two or more positive filters and an odd kernel_size, "
            f"got {tuple(filters)} and {kernel}: give one filter a convolution"
        )
    shrink = 2 ** (len(filters) - 1)
    if frame < shrink or frame % shrink:
        raise ValueError(
            f"{owner} expected a frame_size divisible by {shrink} for {len(filters)} "
            f"filters, got {frame}: resize the frames or give fewer filters"
        )
    return frame // shrink
