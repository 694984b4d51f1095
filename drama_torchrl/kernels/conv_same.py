"""A "same" convolution with gradients, each part by the faster of two kernels.

The project's kernels (:mod:`drama_torchrl.kernels.conv_taps` for results and input
gradients, :mod:`drama_torchrl.kernels.conv_weight_gradient`) serve the few channel
counts for which each is measured to be faster than cuDNN.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from drama_torchrl.kernels.conv_taps import convolve_by_taps, empty_maps, taps_of
from drama_torchrl.kernels.conv_weight_gradient import (
    empty_weight_gradient,
    weight_gradient_by_taps,
)
from drama_torchrl.kernels.launch import fake_of
from drama_torchrl.kernels.optional_triton import triton

__all__ = ["conv_same", "conv_same_by_taps", "conv_same_reference"]

_FUSED_DTYPES = (torch.bfloat16, torch.float16)
# A layer's (channels in, channels out) for which a part takes less time at training's
# 2048 maps of 32×32 in bf16 on one H200 than cuDNN's.
_FASTER_RESULT = ((16, 64), (64, 32), (64, 16))
_FASTER_INPUT_GRADIENT = ((64, 16), (32, 64))
_FASTER_WEIGHT_GRADIENT = ((16, 64), (64, 32), (32, 64), (64, 16))


def conv_same(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Computes ``conv2d(x, weight, bias, padding=k//2)``, k odd, on channels-last maps.

    On a GPU with Triton, where x is 16-bit, k = 3 and one of the project's kernels is
    the faster one for the result or for a gradient, :func:`conv_same_by_taps` serves,
    whose gradients have none themselves. Elsewhere :func:`conv_same_reference` serves.

    Args:
        x: maps ``[N, C, H, W]``; channels last in memory, or they are copied.
        weight: ``[O, C, k, k]``, under autocast of any floating dtype.
        bias: ``[O]``, as weight.

    Returns:
        ``[N, O, H, W]`` in x's dtype (autocast's, where it is another), channels last
        in memory.

    Example:
        >>> import torch
        >>> x, weight = torch.rand(2, 16, 8, 8), torch.rand(64, 16, 3, 3)
        >>> conv_same(x, weight).shape
        torch.Size([2, 64, 8, 8])
    """
    fused = triton is not None and x.is_cuda and _fits(x, weight)
    return (conv_same_by_taps if fused else conv_same_reference)(x, weight, bias)


def conv_same_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Computes :func:`conv_same` in plain torch, on any device.

    Args:
        x: as :func:`conv_same`.
        weight: as :func:`conv_same`.
        bias: as :func:`conv_same`.

    Returns:
        As :func:`conv_same`.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)


def conv_same_by_taps(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Computes :func:`conv_same` for k = 3, also inside ``torch.compile``.

    Args:
        x: as :func:`conv_same`, in bf16 or fp16.
        weight: as :func:`conv_same`; rounded to x's dtype, as its gradient is.
        bias: as weight; added to the rounded result, as cuDNN's is.

    Returns:
        As :func:`conv_same`, in x's dtype.
    """
    # Autocast does not know the operator; casts outside it are differentiable.
    y = _convolve(x, weight.to(x.dtype))
    return y if bias is None else y + bias.to(x.dtype).view(-1, 1, 1)


def _fits(x: Tensor, weight: Tensor) -> bool:
    channels_out, *others = weight.shape
    if x.dim() != 4 or others != [x.shape[1], 3, 3]:
        return False
    kind = x.device.type
    rounds = torch.is_autocast_enabled(kind)
    dtype = torch.get_autocast_dtype(kind) if rounds else x.dtype
    channels = (x.shape[1], channels_out)
    faster = channels in (
        *_FASTER_RESULT,
        *_FASTER_INPUT_GRADIENT,
        *_FASTER_WEIGHT_GRADIENT,
    )
    return faster and dtype == x.dtype and dtype in _FUSED_DTYPES


@torch.library.custom_op("drama_torchrl::conv_same", mutates_args=())
def _convolve(x: Tensor, weight: Tensor) -> Tensor:
    x = x.contiguous(memory_format=torch.channels_last)
    channels_out, channels = weight.shape[:2]
    if (channels, channels_out) in _FASTER_RESULT:
        return convolve_by_taps(x, taps_of(weight), None, channels_out)
    y = F.conv2d(x, weight, padding=1)
    return y.contiguous(memory_format=torch.channels_last)


@fake_of(_convolve)
def _empty_results(x: Tensor, weight: Tensor) -> Tensor:
    return empty_maps(x, weight.shape[0])


@torch.library.custom_op("drama_torchrl::conv_same_input_gradient", mutates_args=())
def _input_gradient(dy: Tensor, taps: Tensor) -> Tensor:
    """The convolution of dy with the transposed weights, back to front."""
    return convolve_by_taps(dy, taps, None, taps.shape[2])


@fake_of(_input_gradient)
def _empty_gradient(dy: Tensor, taps: Tensor) -> Tensor:
    return empty_maps(dy, taps.shape[2])


@torch.library.custom_op("drama_torchrl::conv_same_weight_gradient", mutates_args=())
def _weight_gradient(x: Tensor, dy: Tensor) -> Tensor:
    return weight_gradient_by_taps(x, dy)


@fake_of(_weight_gradient)
def _empty_weight_gradient(x: Tensor, dy: Tensor) -> Tensor:
    return empty_weight_gradient(x, dy)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Leaves to cuDNN, in one call, whatever no kernel of ours does faster."""
    x, weight = ctx.saved_tensors
    dy = dy.contiguous(memory_format=torch.channels_last)
    channels_out, channels = weight.shape[:2]
    layer = (channels, channels_out)
    plain_x, plain_weight = ctx.needs_input_grad
    dx = dweight = None
    if plain_x and layer in _FASTER_INPUT_GRADIENT:
        dx = _input_gradient(dy, taps_of(weight.transpose(0, 1).flip(2, 3)))
        plain_x = False
    if plain_weight and layer in _FASTER_WEIGHT_GRADIENT:
        dweight = _weight_gradient(x, dy)
        plain_weight = False
    if plain_x or plain_weight:
        gradients = _plain_gradients(dy, x, weight, [plain_x, plain_weight, False])
        dx = gradients[0] if plain_x else dx
        dweight = gradients[1] if plain_weight else dweight
    return dx, dweight


def _plain_gradients(
    dy: Tensor, x: Tensor, weight: Tensor, mask: list[bool]
) -> tuple[Tensor | None, ...]:
    return torch.ops.aten.convolution_backward(
        dy,
        x,
        weight,
        bias_sizes=None,
        stride=[1, 1],
        padding=[1, 1],
        dilation=[1, 1],
        transposed=False,
        output_padding=[0, 0],
        groups=1,
        output_mask=mask,
    )


_convolve.register_autograd(_backward, setup_context=_save)
