"""Latents to frames: the convolutional decoder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import drama_torchrl.modules.space_to_depth as s2d
from drama_torchrl.modules.block_norm import pooled_batch_norm_silu
from drama_torchrl.modules.initialisation import truncated_normal_init_
from drama_torchrl.modules.pixel_layers import (
    BLOCKS,
    COLOURS,
    MAP,
    layers_of,
    resizings_on_blocks,
    run_layer,
    smallest_map,
)

__all__ = ["PixelDecoder"]


class PixelDecoder(nn.Module):
    """Draws frames from latents (Drama, arXiv:2410.08893, section 2.2, A.4).

    Mirrors :class:`PixelEncoder`: Linear to the encoder's last map, BatchNorm over its
    channels, SiLU; transposed convolutions that double the map, each with BatchNorm
    and SiLU; a last one of stride 1 to three colours, and a sigmoid.

    Args:
        filters: the *encoder's* filters, in the encoder's order; climbed backwards.
        in_features: size of the latent.
        frame_size: F, height and width of the frames in pixels.
        kernel_size: odd side of the kernels in pixels.

    Raises:
        ValueError: as :class:`PixelEncoder`.

    Example:
        >>> import torch
        >>> decoder = PixelDecoder((8, 16, 16), in_features=32, frame_size=16)
        >>> decoder(torch.randn(2, 5, 32)).shape
        torch.Size([2, 5, 3, 16, 16])
    """

    def __init__(
        self,
        filters: Sequence[int] = (16, 32, 48, 64, 64),
        *,
        in_features: int = 1024,
        frame_size: int = 64,
        kernel_size: int = 5,
    ) -> None:
        super().__init__()
        map_size = smallest_map("PixelDecoder", filters, frame_size, kernel_size)
        self.map_shape = (filters[-1], map_size, map_size)
        widths = tuple(reversed(filters))
        conv = partial(
            nn.ConvTranspose2d, kernel_size=kernel_size, padding=kernel_size // 2
        )
        self.linear = nn.Linear(in_features, filters[-1] * map_size**2)
        self.linear_norm = nn.BatchNorm2d(filters[-1])
        self.convs = nn.ModuleList(
            conv(channels_in, channels, stride=2, output_padding=1, bias=False)
            for channels_in, channels in pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for channels in widths[1:])
        self.to_pixels = conv(filters[0], COLOURS)
        self.apply(truncated_normal_init_)

    def forward(self, latent: Tensor) -> Tensor:
        """Decodes latents.

        Args:
            latent: ``[*, in_features]``, floating point.

        Returns:
            Frames ``[*, 3, F, F]`` in [0, 1], in the parameters' dtype under autocast
            too, so that the pixel loss is not rounded to bf16.

        Raises:
            ValueError: if ``latent`` has another shape or dtype.
        """
        width = self.linear.in_features
        if latent.shape[-1:] != (width,) or not latent.is_floating_point():
            raise ValueError(
                f"PixelDecoder expected floating-point latents [*, {width}], got "
                f"{list(latent.shape)} in {latent.dtype}: flatten or .float() them"
            )
        rows = latent.reshape(-1, latent.shape[-1])
        frames = self.decode_by_blocks(rows, resizings_on_blocks(rows, self))
        return frames.reshape(*latent.shape[:-1], *frames.shape[1:])

    def decode_by_layers(self, latent: Tensor) -> Tensor:
        """Decodes ``[N, in_features]`` latents one layer after the other."""
        x = F.silu(self.linear_norm(self.linear(latent).unflatten(1, self.map_shape)))
        for conv, norm in layers_of(self.convs, self.norms):
            x = F.silu(norm(conv(x)))
        return torch.sigmoid(self.to_pixels(x).to(self.linear.weight.dtype))

    def decode_by_blocks(self, latent: Tensor, doublings: int) -> Tensor:
        """Decodes latents with the last layers on blocks.

        Args:
            latent: ``[N, in_features]``.
            doublings: how many layers that double a map, one or more, give its blocks.

        Returns:
            ``[N, 3, F, F]``.
        """
        x = self.linear(latent).unflatten(1, self.map_shape)
        x = x.contiguous(memory_format=torch.channels_last)
        norm = self.linear_norm
        x = pooled_batch_norm_silu(x, norm, MAP) if norm.training else F.silu(norm(x))
        half = self.to_pixels.weight.shape[-1] // 2
        double = partial(F.conv_transpose2d, stride=2, padding=half, output_padding=1)
        layers = layers_of(self.convs, self.norms)
        *relaid, last = layers[-doublings:]
        for layer in layers[:-doublings]:
            x = run_layer(layer, x, double, MAP)
        for layer in relaid:
            x = run_layer(layer, x, s2d.strided_conv_transpose_to_blocks, MAP)
        x = run_layer(last, x, s2d.strided_conv_transpose_to_blocks, BLOCKS)
        x = s2d.conv_transpose_on_blocks(x, self.to_pixels.weight, self.to_pixels.bias)
        return torch.sigmoid(s2d.depth_to_space(x).to(self.linear.weight.dtype))
