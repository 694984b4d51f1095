"""Many short state-space recurrences at once, without gradients, each in one chunk.

Each program runs all steps of one head as small products in registers. Contexts of
imagination are 8192 heads of 8 steps: little more than writing their states, where the
matrix form in plain torch makes eight small products and passes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from drama_torchrl.kernels.launch import fake_of
from drama_torchrl.kernels.operands import FLOATS, packed
from drama_torchrl.kernels.optional_triton import triton
from drama_torchrl.kernels.ssd_one_chunk_kernel import ssd_one_chunk_kernel

__all__ = ["MAX_LENGTH", "fits_one_chunk", "ssd_one_chunk"]

# A program holds the products of all pairs of steps.
MAX_LENGTH = 32
# Tensor cores multiply nothing smaller.
_LEAST = 16


def fits_one_chunk(x: Tensor, B: Tensor) -> bool:
    """Tells whether :func:`ssd_one_chunk` takes inputs and is the right form for them.

    Args:
        x: ``[B, T, NH, P]``.
        B: ``[B, T, S]``.
    """
    sizes = (x.shape[3], B.shape[2])
    return (
        triton is not None
        and x.is_cuda
        and x.dtype in FLOATS
        and x.shape[1] <= MAX_LENGTH
        and all(size >= _LEAST and size & (size - 1) == 0 for size in sizes)
        and sizes[0] * sizes[1] <= 8192
        and not torch.is_grad_enabled()
    )


@torch.library.custom_op("drama_torchrl::ssd_one_chunk", mutates_args=())
def ssd_one_chunk(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor
) -> tuple[Tensor, Tensor]:
    """Run h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_tᵀ, y_t = h_t C_t from h_{-1} = 0.

    The recurrence of :mod:`drama_torchrl.modules.ssd`, in float32 but for what x is
    multiplied with in y: as in its matrix form that has the dtype of x.

    Args:
        x: ``[B, T, NH, P]``.
        dt: ``[B, T, NH]``.
        A: ``[NH]``.
        B: ``[B, T, S]``.
        C: ``[B, T, S]``.

    Returns:
        y ``[B, T, NH, P]`` in the dtype of x and the last state ``[B, NH, P, S]``.
    """
    y, state = _outputs(x, dt, A, B, C)
    x, B, C = (packed(t) for t in (x, B, C))
    dt = packed(dt)
    batch, length, heads, width = x.shape
    with torch.cuda.device_of(x):
        ssd_one_chunk_kernel[(batch * heads,)](
            x,
            dt,
            A.contiguous(),
            B,
            C,
            y,
            state,
            *x.stride()[:3],
            *dt.stride()[:2],
            *B.stride()[:2],
            *C.stride()[:2],
            T=length,
            ROWS=max(_LEAST, triton.next_power_of_2(length)),
            NH=heads,
            P=width,
            S=B.shape[2],
            num_warps=4,
        )
    return y, state


@fake_of(ssd_one_chunk)
def _outputs(
    x: Tensor,
    dt: Tensor,  # noqa: ARG001  the operator's signature
    A: Tensor,  # noqa: ARG001
    B: Tensor,
    C: Tensor,  # noqa: ARG001
) -> tuple[Tensor, Tensor]:
    batch, _, heads, width = x.shape
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    state = (batch, heads, width, B.shape[2])
    return y, torch.empty(state, dtype=torch.float32, device=x.device)
