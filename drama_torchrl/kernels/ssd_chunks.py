"""Long state-space recurrences chunk by chunk, with gradients, in few kernels.

A program walks over the chunks of one head (arXiv:2405.21060, section 6) with the state
in registers: inside a chunk it makes matrix products, and no decay or state of a single
step is ever in memory. Where there are too few heads to fill a GPU, time is cut into
segments, and a pass before finds what state each of them starts from.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from drama_torchrl.kernels.launch import fake_of
from drama_torchrl.kernels.operands import FLOATS, flags_of
from drama_torchrl.kernels.optional_triton import triton
from drama_torchrl.kernels.ssd_chunks_backward import ssd_chunks_gradients
from drama_torchrl.kernels.ssd_chunks_cut import (
    MOST_CHANNELS,
    MOST_STATES,
    carry,
    chunk_of,
    cut_of,
    empty_segments,
    strides_of,
)
from drama_torchrl.kernels.ssd_chunks_forward_kernels import (
    outputs_kernel,
    segment_states_kernel,
)

__all__ = ["MIN_LENGTH", "can_chunk", "ssd_chunks"]

# Below, most of a chunk would be empty.
MIN_LENGTH = 64
# Channels of a program, programs that run at once on a processor, warps of a program
# and, by bytes of a number, stages of its pipeline.
_BLOCK, _CROWD, _WARPS = 64, 2, 4
_STAGES = {2: 2, 4: 1}


def can_chunk(x: Tensor, B: Tensor, C: Tensor) -> bool:
    """Tells whether :func:`ssd_chunks` takes inputs and is the right form for them.

    Args:
        x: ``[B, T, NH, P]``.
        B: ``[B, T, S]``.
        C: ``[B, T, S]``.
    """
    return (
        triton is not None
        and x.is_cuda
        and x.dtype in FLOATS
        and B.dtype == C.dtype == x.dtype
        and x.shape[1] >= MIN_LENGTH
        and x.shape[3] <= MOST_CHANNELS
        and B.shape[2] <= MOST_STATES
        and x.numel() > 0
    )


def ssd_chunks(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    initial_state: Tensor | None = None,
    is_init: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_tᵀ, y_t = h_t C_t with its gradients.

    The recurrence of :mod:`drama_torchrl.modules.ssd`, its arguments and results.
    Decays, their sums and states are float32; the factors of products are rounded to
    the dtype of x. The order of all sums is fixed: the same inputs give the same bits.

    Needs a GPU or Triton's interpreter, and x, B and C of one dtype.
    """
    inputs = (x, dt, A, B, C, initial_state, is_init)
    wanted = any(t is not None and t.requires_grad for t in inputs)
    keep = torch.is_grad_enabled() and wanted
    y, state, _ = _ssd_chunks(*inputs, keep)
    return y, state


@torch.library.custom_op("drama_torchrl::ssd_chunks", mutates_args=())
def _ssd_chunks(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    initial_state: Tensor | None,
    is_init: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the last state and, to keep, those at chunks' starts [B, chunks, NH, P, S]."""
    y, final, kept = _outputs(x, dt, A, B, C, initial_state, is_init, keep)
    cut = cut_of(x, B, _BLOCK, _CROWD)
    (x, B, C), strides = strides_of(x, B, C)
    dt, A, started = dt.contiguous(), A.contiguous(), flags_of(is_init, x)
    how = cut.constants | {
        "RESETS": is_init is not None,
        "num_warps": _WARPS,
        "num_stages": _STAGES[x.element_size()],
    }
    entry = None if initial_state is None else initial_state.contiguous()
    with torch.cuda.device_of(x):
        if cut.segments > 1:
            states, decays = empty_segments(x, B, cut)
            places = (states, decays, *strides[:4], x.shape[1])
            segment_states_kernel[cut.grid](x, dt, A, B, started, *places, **how)
            entry = carry(states, decays, entry, reverse=False)
        outputs_kernel[cut.grid](
            x,
            dt,
            A,
            B,
            C,
            started,
            x if entry is None else entry,
            y,
            final,
            kept,
            *strides,
            x.shape[1],
            ENTERS=entry is not None,
            KEEPS=keep,
            **how,
        )
    return y, final, kept


@fake_of(_ssd_chunks)
def _outputs(
    x: Tensor,
    dt: Tensor,  # noqa: ARG001  the operator's signature
    A: Tensor,  # noqa: ARG001
    B: Tensor,
    C: Tensor,  # noqa: ARG001
    initial_state: Tensor | None,  # noqa: ARG001
    is_init: Tensor | None,  # noqa: ARG001
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, heads, width = x.shape
    state = (heads, width, B.shape[2])
    chunks = -(-length // chunk_of(x)) if keep else 0
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    final = torch.empty((batch, *state), dtype=torch.float32, device=x.device)
    return y, final, final.new_empty(batch, chunks, *state)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, output[2])


def _backward(
    ctx: Any, dy: Tensor | None, dfinal: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    x, dt, A, B, C, initial_state, is_init, kept = ctx.saved_tensors
    if dy is None and dfinal is None:
        return (None,) * 8
    dy = torch.zeros_like(x) if dy is None else dy
    with_state = initial_state is not None
    inputs = (x, dt, A, B, C, is_init, kept)
    dx, ddt, dA, dmaps, dinitial = ssd_chunks_gradients(*inputs, dy, dfinal, with_state)
    state = dinitial.to(initial_state.dtype) if with_state else None
    dB, dC = dmaps.unbind(0)
    return dx, ddt.to(dt.dtype), dA.to(A.dtype), dB, dC, state, None, None


_ssd_chunks.register_autograd(_backward, setup_context=_save)
