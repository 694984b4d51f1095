"""One step of a Mamba-2 layer between its two projections, without gradient, fused.

The states are nearly all that a step moves: for 1024 rollouts of the agent's size
134 MB in float32, read and written once, beside 21 MB of everything else. One kernel
moves all of it together, where a compiler makes four.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from drama_torchrl.kernels.launch import fake_of
from drama_torchrl.kernels.mamba2_step_kernel import mamba2_step_kernel
from drama_torchrl.kernels.operands import FLOATS, packed
from drama_torchrl.kernels.optional_triton import triton

__all__ = ["can_step", "mamba2_step"]


class _Launch(NamedTuple):
    """Numbers of the state a program, and its warps."""

    tile: int
    warps: int


# Of ten, the fastest with a bf16 state of 1024 rollouts on one H200, 29 µs, and within
# 2 % of the fastest with a float32 one, 43 µs.
_LAUNCH = _Launch(tile=2048, warps=2)
_MOST_STATES = 256


def can_step(projected: Tensor, conv: Tensor, ssm: Tensor, *parameters: Tensor) -> bool:
    """Tells whether :func:`mamba2_step` serves for these, as autocast gives them.

    Args:
        projected: ``[B, 2·DI + 2·S + NH]``.
        conv: ``[B, DI + 2·S, K-1]``.
        ssm: ``[B, NH, P, S]``.
        parameters: of the layer between its projections, its norm included.
    """
    return (
        triton is not None
        and projected.is_cuda
        and projected.dtype in FLOATS
        and conv.dtype in FLOATS
        and ssm.dtype in FLOATS
        and all(t.dtype == torch.float32 for t in parameters)
        and ssm.shape[3] <= _MOST_STATES
        and not torch.is_grad_enabled()
    )


@torch.library.custom_op("drama_torchrl::mamba2_step", mutates_args=())
def mamba2_step(
    projected: Tensor,
    conv: Tensor,
    ssm: Tensor,
    weight: Tensor,
    bias: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run what :meth:`drama_torchrl.modules.Mamba2.step` does between its projections.

    With z, u, dt = projected and K taps (arXiv:2405.21060, sections 5 and 7):

        x, B, C = SiLU(bias + Σ_k weight_k u_{t-K+1+k})
        dt = softplus(dt + dt_bias)
        h_t = exp(-dt exp(A_log)) h_{t-1} + dt x Bᵀ
        gated = (h_t C + D x) · SiLU(z)

    in float32, where x, B, C and h_t C are rounded to the dtype of projected.

    Args:
        projected: ``[B, 2·DI + 2·S + NH]`` in bf16, fp16 or fp32.
        conv: ``[B, DI + 2·S, K-1]``, the inputs u before, oldest first.
        ssm: ``[B, NH, P, S]`` in bf16, fp16 or fp32, h_{t-1}.
        weight: ``[DI + 2·S, K]`` in float32, as all that follow.
        bias: ``[DI + 2·S]``.
        dt_bias: ``[NH]``.
        A_log: ``[NH]``.
        D: ``[NH]``.

    Returns:
        gated ``[B, DI]`` in float32, and the new conv, channels side by side in memory
        and in the dtype of projected, and the new ssm, rounded to the dtype of the old.
    """
    gated, new_conv, new_ssm = _outputs(
        projected, conv, ssm, weight, bias, dt_bias, A_log, D
    )
    batch, heads, width, size = ssm.shape
    inner = heads * width
    projected = packed(projected)
    states = triton.next_power_of_2(size)
    block = max(1, min(_LAUNCH.tile // states, triton.next_power_of_2(inner)))
    with torch.cuda.device_of(projected):
        mamba2_step_kernel[(batch * triton.cdiv(inner, block),)](
            projected,
            conv,
            ssm.contiguous(),
            weight.contiguous(),
            bias.contiguous(),
            dt_bias.contiguous(),
            A_log.contiguous(),
            D.contiguous(),
            gated,
            new_conv,
            new_ssm,
            *conv.stride(),
            ROW=projected.stride(0),
            DI=inner,
            P=width,
            S=size,
            TAPS=weight.shape[1],
            BLOCK=block,
            WIDTH=states,
            num_warps=_LAUNCH.warps,
        )
    return gated, new_conv, new_ssm


@fake_of(mamba2_step)
def _outputs(
    projected: Tensor,
    conv: Tensor,
    ssm: Tensor,
    weight: Tensor,
    bias: Tensor,  # noqa: ARG001  the operator's signature
    dt_bias: Tensor,  # noqa: ARG001
    A_log: Tensor,  # noqa: ARG001
    D: Tensor,  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor]:
    batch, heads, width, _ = ssm.shape
    _, channels, before = conv.shape
    gated = torch.empty(batch, heads * width, dtype=weight.dtype, device=ssm.device)
    rows = torch.empty(
        batch, before, channels, dtype=projected.dtype, device=projected.device
    )
    new_ssm = torch.empty(ssm.shape, dtype=ssm.dtype, device=ssm.device)
    return gated, rows.transpose(1, 2), new_ssm
