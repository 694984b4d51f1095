"""Frames to features and back: the convolutional encoder and decoder.

Each computes one function along two paths: ``*_by_layers`` is the obvious reference;
``*_by_blocks``, which ``forward`` takes, runs the layers that touch the largest maps on
their blocks (:mod:`drama_torchrl.modules.space_to_depth`), channels last in memory, and
folds evaluation-mode BatchNorm into the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import drama_torchrl.modules.space_to_depth as s2d
from drama_torchrl.kernels.conv_silu import conv_silu
from drama_torchrl.kernels.frame_blocks import frames_to_blocks
from drama_torchrl.modules.block_norm import pooled_batch_norm_silu
from drama_torchrl.modules.initialisation import truncated_normal_init_

__all__ = [
    "PixelDecoder",
    "PixelEncoder",
]

COLOURS, WHITE = 3, 255.0
# Sides of the blocks that a layer's result is laid out in.
MAP, BLOCKS = 1, 2

_Layer = tuple[nn.Conv2d | nn.ConvTranspose2d, nn.BatchNorm2d]
_Convolve = Callable[[Tensor, Tensor, Tensor | None], Tensor]


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
        map_size = _smallest_map("PixelEncoder", filters, frame_size, kernel_size)
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
        features = self.encode_by_blocks(frames, _resizings_on_blocks(frames, self))
        return features.reshape(*pixels.shape[:-3], self.linear.out_features)

    def encode_by_layers(self, frames: Tensor) -> Tensor:
        """Encodes ``[N, 3, F, F]`` frames one layer after the other."""
        x = frames.to(self.linear.weight.dtype)
        if frames.dtype == torch.uint8:
            x = x / WHITE
        for conv, norm in _layers(self.convs, self.norms):
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
        first, second, *others = _layers(self.convs, self.norms)
        halvings = min(halvings, 1 + len(others))
        block = BLOCKS if halvings > 1 else MAP
        x = frames_to_blocks(frames, _compute_dtype(self.linear.weight))
        unit = _unit(frames)
        if self._fuses(x):
            x = self.encode_twice_fused(x, unit)
            x = s2d.as_blocks(x, second[0].out_channels, block)
        else:
            x = _run(
                first, x, lambda x, w, b: s2d.conv_on_blocks(x, w * unit, b), BLOCKS
            )
            x = _run(second, x, s2d.strided_conv_on_blocks, block)
        halve = partial(F.conv2d, stride=2, padding=first[0].padding)
        for i, layer in enumerate(others, 2):
            convolve = s2d.strided_conv_on_blocks if i <= halvings else halve
            x = _run(layer, x, convolve, BLOCKS if i < halvings else MAP)
        return self.linear(x.flatten(1))

    def encode_twice_fused(self, blocks: Tensor, unit: float) -> Tensor:
        """Runs evaluation's first two layers on blocks of frames, each as one kernel.

        Args:
            blocks: ``[N, 16, F/2, F/2]``, of ``frames_to_blocks``.
            unit: what 1 in a frame stands for.

        Returns:
            ``[N, filters[1], F/2, F/2]``.
        """
        first, second, *_ = _layers(self.convs, self.norms)
        weight, shift = _folded(*first)
        x = conv_silu(blocks, s2d.blocks_kernel(weight * unit), shift.repeat(4))
        weight, shift = _folded(*second)
        return conv_silu(x, s2d.strided_blocks_kernel(weight), shift)

    def _fuses(self, blocks: Tensor) -> bool:
        first, second = _layers(self.convs, self.norms)[:2]
        return (
            blocks.is_cuda
            and blocks.dtype in (torch.bfloat16, torch.float16)
            and first[0].kernel_size == (5, 5)
            and first[0].out_channels % 4 == 0
            and not (first[1].training or second[1].training)
            and not torch.is_grad_enabled()
        )


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
        map_size = _smallest_map("PixelDecoder", filters, frame_size, kernel_size)
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
        frames = self.decode_by_blocks(rows, _resizings_on_blocks(rows, self))
        return frames.reshape(*latent.shape[:-1], *frames.shape[1:])

    def decode_by_layers(self, latent: Tensor) -> Tensor:
        """Decodes ``[N, in_features]`` latents one layer after the other."""
        x = F.silu(self.linear_norm(self.linear(latent).unflatten(1, self.map_shape)))
        for conv, norm in _layers(self.convs, self.norms):
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
        layers = _layers(self.convs, self.norms)
        *relaid, last = layers[-doublings:]
        for layer in layers[:-doublings]:
            x = _run(layer, x, double, MAP)
        for layer in relaid:
            x = _run(layer, x, s2d.strided_conv_transpose_to_blocks, MAP)
        x = _run(last, x, s2d.strided_conv_transpose_to_blocks, BLOCKS)
        x = s2d.conv_transpose_on_blocks(x, self.to_pixels.weight, self.to_pixels.bias)
        return torch.sigmoid(s2d.depth_to_space(x).to(self.linear.weight.dtype))


def _run(layer: _Layer, x: Tensor, convolve: _Convolve, block: int) -> Tensor:
    """SiLU(BatchNorm(convolve(x))), laid out as asked.

    In evaluation BatchNorm costs no pass over x.
    """
    conv, norm = layer
    if norm.training:
        return pooled_batch_norm_silu(convolve(x, conv.weight, None), norm, block)
    x = F.silu(convolve(x, *_folded(conv, norm)))
    return s2d.as_blocks(x, norm.num_features, block)


def _resizings_on_blocks(x: Tensor, owner: nn.Module) -> int:
    """How many layers that halve or double a map run on blocks, from the largest on.

    The first, which touches a full-size map, is faster so on every device. The second
    is where its strided form is slow, on a GPU, and where laying out its map costs
    nothing: in training, by BatchNorm's kernels.
    """
    return 2 if x.is_cuda and owner.training else 1


def _folded(
    conv: nn.Conv2d | nn.ConvTranspose2d, norm: nn.BatchNorm2d
) -> tuple[Tensor, Tensor]:
    """The weight and bias that do evaluation's BatchNorm together with the layer."""
    mean, variance = cast("list[Tensor]", [norm.running_mean, norm.running_var])
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    per_kernel = scale[:, None, None] if conv.transposed else scale[:, None, None, None]
    return conv.weight * per_kernel, norm.bias - mean * scale


def _unit(frames: Tensor) -> float:
    """Scaling the weights spares a pass over the frames, and their rounding."""
    return 1.0 / WHITE if frames.dtype == torch.uint8 else 1.0


def _layers(convs: nn.ModuleList, norms: nn.ModuleList) -> list[_Layer]:
    return cast("list[_Layer]", list(zip(convs, norms, strict=True)))


def _compute_dtype(weight: Tensor) -> torch.dtype:
    kind = weight.device.type
    if torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return weight.dtype


def _smallest_map(owner: str, filters: Sequence[int], frame: int, kernel: int) -> int:
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
