"""One step of a causal depthwise convolution with its SiLU, without gradient, fused.

It moves a few rows of numbers: what it saves are the launches of eight small passes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from drama_torchrl.kernels.causal_conv_step_kernel import causal_conv_step_kernel
from drama_torchrl.kernels.launch import fake_of
from drama_torchrl.kernels.operands import FLOATS, packed
from drama_torchrl.kernels.optional_triton import triton

__all__ = ["can_convolve", "causal_conv_step"]

_BLOCK, _WARPS = 256, 2


def can_convolve(inputs: Tensor, past: Tensor, *parameters: Tensor) -> bool:
    """Tells whether :func:`causal_conv_step` takes these and is not to be derived.

    Args:
        inputs: ``[B, C]``.
        past: ``[B, C, K-1]``.
        parameters: weight and bias.
    """
    return (
        triton is not None
        and inputs.is_cuda
        and inputs.dtype in FLOATS
        and past.dtype in FLOATS
        and all(t.dtype == torch.float32 for t in parameters)
        and not torch.is_grad_enabled()
    )


@torch.library.custom_op("drama_torchrl::causal_conv_step", mutates_args=())
def causal_conv_step(
    inputs: Tensor, past: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Run y = SiLU(bias + Σ_k weight_k u_{t-K+1+k}) for K taps, in float32.

    The step of :mod:`drama_torchrl.modules.causal_conv`.

    Args:
        inputs: ``[B, C]`` in bf16, fp16 or fp32, u_t.
        past: ``[B, C, K-1]``, those before, oldest first.
        weight: ``[C, K]`` in float32.
        bias: ``[C]`` in float32.

    Returns:
        y ``[B, C]`` in float32, and the new past in the dtype of the inputs, channels
        side by side in memory.
    """
    y, new_past = _outputs(inputs, past, weight, bias)
    batch, channels = inputs.shape
    inputs = packed(inputs)
    with torch.cuda.device_of(inputs):
        causal_conv_step_kernel[(batch * triton.cdiv(channels, _BLOCK),)](
            inputs,
            past,
            weight.contiguous(),
            bias.contiguous(),
            y,
            new_past,
            *past.stride(),
            ROW=inputs.stride(0),
            CHANNELS=channels,
            TAPS=weight.shape[1],
            BLOCK=_BLOCK,
            num_warps=_WARPS,
        )
    return y, new_past


@fake_of(causal_conv_step)
def _outputs(
    inputs: Tensor,
    past: Tensor,
    weight: Tensor,
    bias: Tensor,  # noqa: ARG001  the operator's signature
) -> tuple[Tensor, Tensor]:
    batch, channels, before = past.shape
    y = torch.empty(inputs.shape, dtype=weight.dtype, device=inputs.device)
    rows = inputs.new_empty(batch, before, channels)
    return y, rows.transpose(1, 2)
