"""A causal depthwise convolution with its SiLU over a sequence, with gradients, fused.

It moves its inputs once each way. Compiled from shifted products, masks, sums and
layouts of the gradients are passes of their own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from drama_torchrl.kernels.causal_conv_kernels import (
    causal_conv_gradients_kernel,
    causal_conv_kernel,
)
from drama_torchrl.kernels.launch import fake_of
from drama_torchrl.kernels.operands import FLOATS, flags_of, packed
from drama_torchrl.kernels.optional_triton import triton
from drama_torchrl.kernels.processors import takes_ptx

__all__ = ["can_convolve", "causal_conv", "causal_conv_gradients"]

# Most steps of a program, its channels and its warps. Of nine choices within 2 % of the
# fastest for 16 sequences of 128 steps on an H200: 3.8 µs forward, 13 µs backward.
_MOST_ROWS, _BLOCK, _WARPS = 16, 128, 2


def can_convolve(inputs: Tensor, past: Tensor | None, *parameters: Tensor) -> bool:
    """Tells whether :func:`causal_conv` takes these.

    Args:
        inputs: ``[B, T, C]``.
        past: must be ``None``: nothing before the first step.
        parameters: weight and bias.
    """
    return (
        triton is not None
        and past is None
        and inputs.is_cuda
        and inputs.dtype in FLOATS
        and all(t.dtype == torch.float32 for t in parameters)
        and inputs.numel() > 0
    )


@torch.library.custom_op("drama_torchrl::causal_conv", mutates_args=())
def causal_conv(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor,
    is_init: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """Run y_t = SiLU(bias + Σ_k weight_k u_{t-K+1+k}) for K taps, in float32.

    The sequence of :mod:`drama_torchrl.modules.causal_conv` with an empty past. The
    order of all sums is fixed: the same inputs give the same bits.

    Args:
        inputs: ``[B, T, C]`` in bf16, fp16 or fp32, u.
        weight: ``[C, K]`` in float32.
        bias: ``[C]`` in float32.
        is_init: ``[B, T]`` bool, where earlier inputs are not seen any more.
        dtype: of the result.

    Returns:
        y ``[B, T, C]``.
    """
    y = _outputs(inputs, weight, bias, is_init, dtype)
    inputs = packed(inputs)
    with torch.cuda.device_of(inputs):
        causal_conv_kernel[_grid(inputs)](
            inputs,
            weight.contiguous(),
            bias.contiguous(),
            flags_of(is_init, inputs),
            y,
            inputs.stride(0),
            inputs.shape[1],
            **_how(inputs, weight, is_init),
        )
    return y


@torch.library.custom_op("drama_torchrl::causal_conv_gradients", mutates_args=())
def causal_conv_gradients(
    dy: Tensor, inputs: Tensor, weight: Tensor, bias: Tensor, is_init: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """What the gradient dy of :func:`causal_conv`'s result makes of those it took.

    Returns:
        dx in the dtype of the inputs, dweight and dbias in float32.
    """
    dx = _outputs(inputs, weight, bias, is_init, inputs.dtype)
    inputs = packed(inputs)
    channels, taps = weight.shape
    grid = _grid(inputs)
    partials = weight.new_empty(grid[0], taps + 1, channels)
    with torch.cuda.device_of(inputs):
        causal_conv_gradients_kernel[grid](
            dy.contiguous(),
            inputs,
            weight.contiguous(),
            bias.contiguous(),
            flags_of(is_init, inputs),
            dx,
            partials,
            inputs.stride(0),
            inputs.shape[1],
            **_how(inputs, weight, is_init),
        )
    sums = partials.sum(0)
    return dx, sums[:taps].t().contiguous(), sums[taps].clone()


def _rows(inputs: Tensor) -> int:
    return min(_MOST_ROWS, triton.next_power_of_2(inputs.shape[1]))


def _grid(inputs: Tensor) -> tuple[int, int]:
    batch, length, channels = inputs.shape
    rows = _rows(inputs)
    return batch * triton.cdiv(length, rows), triton.cdiv(channels, _BLOCK)


def _how(inputs: Tensor, weight: Tensor, is_init: Tensor | None) -> dict[str, Any]:
    return {
        "STEP": inputs.stride(1),
        "CHANNELS": weight.shape[0],
        "TAPS": weight.shape[1],
        "RESETS": is_init is not None,
        "PTX": takes_ptx(inputs),
        "ROWS": _rows(inputs),
        "BLOCK": _BLOCK,
        "num_warps": _WARPS,
    }


@fake_of(causal_conv)
def _outputs(
    inputs: Tensor,
    weight: Tensor,  # noqa: ARG001  the operator's signature
    bias: Tensor,  # noqa: ARG001
    is_init: Tensor | None,  # noqa: ARG001
    dtype: torch.dtype,
) -> Tensor:
    return torch.empty(inputs.shape, dtype=dtype, device=inputs.device)


@fake_of(causal_conv_gradients)
def _gradients(
    dy: Tensor,  # noqa: ARG001  the operator's signature
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor,
    is_init: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    dx = _outputs(inputs, weight, bias, is_init, inputs.dtype)
    return dx, weight.new_empty(weight.shape), bias.new_empty(bias.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    *tensors, _ = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    return (*causal_conv_gradients(dy, *ctx.saved_tensors), None, None)


causal_conv.register_autograd(_backward, setup_context=_save)
