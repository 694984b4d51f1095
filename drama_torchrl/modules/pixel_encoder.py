"""Frames to features: the convolutional encoder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import drama_torchrl.modules.space_to_depth as s2d
from drama_torchrl.kernels.conv_silu_twice import conv_silu_twice
from drama_torchrl.kernels.frame_blocks import frames_to_blocks
from drama_torchrl.modules.initialisation import truncated_normal_init_
from drama_torchrl.modules.pixel_layers import (
    BLOCKS,
    COLOURS,
    MAP,
    folded,
    layers_of,
    resizings_on_blocks,
    run_layer,
    smallest_map,
)

__all__ = ["PixelEncoder"]

_WHITE = 255.0


class PixelEncoder(nn.Module):
    """Turns frames into posterior logits (Drama, arXiv:2410.08893, section 2.2, A.4).

    ``Linear(flatten(h_L))`` with ``h_i = SiLU(BatchNorm(Conv(h_{i-1})))``: the first
    convolution keeps the frame's size, each further one halves it. BatchNorm would
    cancel a bias, so the convolutions have none.

    Args:
        filters: channels of each convolution, two or more.
        out_features: size of the output, e.g. categoricals times classes.
        frame_size: F, height and width of the frames in pixels.
        kernel_size: odd side of the kernels in pixels.

    Raises:
        ValueError: if ``frame_size`` is not a multiple of ``2**(len(filters) - 1)``,
            the kernel is even, or there are fewer than two filters.

    Example:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from tensordict.nn import TensorDictModule
        >>> encode = TensorDictModule(PixelEncoder(), ["pixels"], ["posterior_logits"])
        >>> frames = torch.zeros(2, 5, 3, 64, 64, dtype=torch.uint8)
        >>> encode(TensorDict(pixels=frames))["posterior_logits"].shape
        torch.Size([2, 5, 1024])
    """

    def __init__(
        self,
        filters: Sequence[int] = (16, 32, 48, 64, 64),
        *,
        out_features: int = 1024,
        frame_size: int = 64,
        kernel_size: int = 5,
    ) -> None:
        super().__init__()
        map_size = smallest_map("PixelEncoder", filters, frame_size, kernel_size)
        self.frame_size = frame_size
        conv = partial(nn.Conv2d, kernel_size=kernel_size, padding=kernel_size // 2)
        self.convs = nn.ModuleList(
            conv(channels_in, channels, stride=2 if i else 1, bias=False)
            for i, (channels_in, channels) in enumerate(pairwise((COLOURS, *filters)))
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for channels in filters)
        self.linear = nn.Linear(filters[-1] * map_size**2, out_features)
        self.apply(truncated_normal_init_)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encodes frames.

        Args:
            pixels: ``[*, 3, F, F]``, uint8 in 0 … 255 or floating point in [0, 1];
                BatchNorm's statistics pool all leading dimensions.

        Returns:
            ``[*, out_features]``.

        Raises:
            ValueError: if ``pixels`` has another shape or dtype.
        """
        expected = (COLOURS, self.frame_size, self.frame_size)
        readable = pixels.dtype == torch.uint8 or pixels.is_floating_point()
        if tuple(pixels.shape[-3:]) != expected or not readable:
            raise ValueError(
                f"PixelEncoder expected pixels {['*', *expected]} in torch.uint8 (0 to "
                f"255) or floating point (0 to 1), got {list(pixels.shape)} in "
                f"{pixels.dtype}: resize, put the colours first or convert with .to()"
            )
        frames = pixels.reshape(-1, *expected)
        features = self.encode_by_blocks(frames, resizings_on_blocks(frames, self))
        return features.reshape(*pixels.shape[:-3], self.linear.out_features)

    def encode_by_layers(self, frames: Tensor) -> Tensor:
        """Encodes ``[N, 3, F, F]`` frames one layer after the other."""
        x = frames.to(self.linear.weight.dtype)
        if frames.dtype == torch.uint8:
            x = x / _WHITE
        for conv, norm in layers_of(self.convs, self.norms):
            x = F.silu(norm(conv(x)))
        return self.linear(x.flatten(1))

    def encode_by_blocks(self, frames: Tensor, halvings: int) -> Tensor:
        """Encodes frames with the first layers on blocks.

        Args:
            frames: ``[N, 3, F, F]``.
            halvings: how many layers that halve a map, one or more, read its blocks.

        Returns:
            ``[N, out_features]``.
        """
        first, second, *others = layers_of(self.convs, self.norms)
        halvings = min(halvings, 1 + len(others))
        block = BLOCKS if halvings > 1 else MAP
        x = frames_to_blocks(frames, _compute_dtype(self.linear.weight))
        unit = _unit(frames)
        if self._fuses(x):
            x = self.encode_twice_fused(x, unit)
            x = s2d.as_blocks(x, second[0].out_channels, block)
        else:
            x = run_layer(
                first, x, lambda x, w, b: s2d.conv_on_blocks(x, w * unit, b), BLOCKS
            )
            x = run_layer(second, x, s2d.strided_conv_on_blocks, block)
        halve = partial(F.conv2d, stride=2, padding=first[0].padding)
        for i, layer in enumerate(others, 2):
            convolve = s2d.strided_conv_on_blocks if i <= halvings else halve
            x = run_layer(layer, x, convolve, BLOCKS if i < halvings else MAP)
        return self.linear(x.flatten(1))

    def encode_twice_fused(self, blocks: Tensor, unit: float) -> Tensor:
        """Runs evaluation's first two layers on blocks of frames, some at a time.

        Args:
            blocks: ``[N, 16, F/2, F/2]``, of ``frames_to_blocks``.
            unit: what 1 in a frame stands for.

        Returns:
            ``[N, filters[1], F/2, F/2]``.
        """
        first, second, *_ = layers_of(self.convs, self.norms)
        weight, shift = folded(*first)
        to_blocks = s2d.blocks_kernel(weight * unit), shift.repeat(4)
        weight, shift = folded(*second)
        to_map = s2d.strided_blocks_kernel(weight), shift
        return conv_silu_twice(blocks, to_blocks, to_map)

    def _fuses(self, blocks: Tensor) -> bool:
        first, second = layers_of(self.convs, self.norms)[:2]
        return (
            blocks.is_cuda
            and blocks.dtype in (torch.bfloat16, torch.float16)
            and first[0].kernel_size == (5, 5)
            and first[0].out_channels % 4 == 0
            and not (first[1].training or second[1].training)
            and not torch.is_grad_enabled()
        )


def _unit(frames: Tensor) -> float:
    """Scaling the weights spares a pass over the frames, and their rounding."""
    return 1.0 / _WHITE if frames.dtype == torch.uint8 else 1.0


def _compute_dtype(weight: Tensor) -> torch.dtype:
    kind = weight.device.type
    if torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return weight.dtype
