"""One step of a Mamba layer after its projections, without gradient, fused.

As for Mamba-2, the states are nearly all that a step moves: they are read and written
once, where a compiler makes several passes of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from drama_torchrl.kernels.launch import fake_of
from drama_torchrl.kernels.mamba_step_kernel import mamba_step_kernel
from drama_torchrl.kernels.operands import FLOATS, packed
from drama_torchrl.kernels.optional_triton import triton

__all__ = ["can_step", "mamba_step"]

# Numbers of the state a program, and its warps: Mamba-2's, whose step moves as much.
_TILE, _WARPS = 2048, 2
_MOST_STATES = 256


def can_step(x: Tensor, raw: Tensor, z: Tensor, ssm: Tensor, *rates: Tensor) -> bool:
    """Tells whether :func:`mamba_step` serves for these, as autocast gives them.

    Args:
        x: ``[B, DI]``.
        raw: ``[B, DI]``.
        z: ``[B, DI]``.
        ssm: ``[B, DI, S]``.
        rates: dt_bias, A_log and D.
    """
    return (
        triton is not None
        and x.is_cuda
        and all(t.dtype in FLOATS for t in (x, raw, z, ssm))
        and all(t.dtype == torch.float32 for t in rates)
        and ssm.shape[2] <= _MOST_STATES
        and not torch.is_grad_enabled()
    )


@torch.library.custom_op("drama_torchrl::mamba_step", mutates_args=())
def mamba_step(
    x: Tensor,
    raw: Tensor,
    B: Tensor,
    C: Tensor,
    z: Tensor,
    ssm: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
) -> tuple[Tensor, Tensor]:
    """Run what :meth:`drama_torchrl.modules.Mamba.step` does after its projections.

    In float32 (arXiv:2312.00752, section 3):

        dt = softplus(raw + dt_bias)
        h_t = exp(-dt exp(A_log)) h_{t-1} + dt x B
        gated = (Σ_s h_t C + D x) · SiLU(z)

    Args:
        x: ``[B, DI]`` in bf16, fp16 or fp32, as the five that follow.
        raw: ``[B, DI]``.
        B: ``[B, S]``.
        C: ``[B, S]``.
        z: ``[B, DI]``.
        ssm: ``[B, DI, S]``, h_{t-1}.
        dt_bias: ``[DI]`` in float32, as the two that follow.
        A_log: ``[DI, S]``.
        D: ``[DI]``.

    Returns:
        gated ``[B, DI]`` in float32, and h_t rounded to the dtype of h_{t-1}.
    """
    gated, new_ssm = _outputs(x, raw, B, C, z, ssm, dt_bias, A_log, D)
    batch, inner, size = ssm.shape
    states = triton.next_power_of_2(size)
    block = max(1, min(_TILE // states, triton.next_power_of_2(inner)))
    rows = [packed(t) for t in (x, raw, B, C, z)]
    vectors = [t.contiguous() for t in (ssm, dt_bias, A_log, D)]
    with torch.cuda.device_of(x):
        mamba_step_kernel[(batch * triton.cdiv(inner, block),)](
            *rows,
            *vectors,
            gated,
            new_ssm,
            *(t.stride(0) for t in rows),
            DI=inner,
            S=size,
            BLOCK=block,
            WIDTH=states,
            num_warps=_WARPS,
        )
    return gated, new_ssm


@fake_of(mamba_step)
def _outputs(*arguments: Tensor) -> tuple[Tensor, Tensor]:
    x, _, _, _, _, ssm, dt_bias, _, _ = arguments
    gated = torch.empty(x.shape, dtype=dt_bias.dtype, device=x.device)
    return gated, torch.empty(ssm.shape, dtype=ssm.dtype, device=ssm.device)
