"""The gradients of a recurrence in chunks: the same walk from its end to its start."""

from __future__ import annotations

import torch
from torch import Tensor

from drama_torchrl.kernels.launch import fake_of
from drama_torchrl.kernels.operands import flags_of
from drama_torchrl.kernels.optional_triton import triton
from drama_torchrl.kernels.ssd_chunks_backward_kernels import (
    gradients_kernel,
    segment_gradients_kernel,
)
from drama_torchrl.kernels.ssd_chunks_cut import (
    carry,
    cut_of,
    empty_segments,
    strides_of,
)
from drama_torchrl.kernels.ssd_chunks_kernels import added_maps_kernel

__all__ = ["ssd_chunks_gradients"]

# Channels of a program, programs that run at once on a processor, and warps of a
# program, whose registers are full, so that nothing is loaded ahead.
_BLOCK, _CROWD, _WARPS, _STAGES = 64, 2, 4, 1
_ADDED = 512


@torch.library.custom_op("drama_torchrl::ssd_chunks_gradients", mutates_args=())
def ssd_chunks_gradients(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    is_init: Tensor | None,
    kept: Tensor,
    dy: Tensor,
    dfinal: Tensor | None,
    with_state: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of what :func:`drama_torchrl.kernels.ssd_chunks.ssd_chunks` returns.

    Args:
        x: ``[B, T, NH, P]``, and the other inputs as there.
        dt: ``[B, T, NH]``.
        A: ``[NH]``.
        B: ``[B, T, S]``.
        C: ``[B, T, S]``.
        is_init: ``[B, T]``.
        kept: states ``[B, chunks, NH, P, S]`` at the chunks' starts.
        dy: of y, ``[B, T, NH, P]``.
        dfinal: of the last state, ``[B, NH, P, S]``.
        with_state: whether there was an initial state.

    Returns:
        Those of x, of dt and of A in float32, of B and C together ``[2, B, T, S]``, and
        of the initial state in float32 (empty if there was none).
    """
    dx, ddt, dA, dmaps, dinitial = _gradients(
        x, dt, A, B, C, is_init, kept, dy, dfinal, with_state
    )
    cut = cut_of(x, B, _BLOCK, _CROWD)
    (x, B, C), strides = strides_of(x, B, C)
    dt, A, dy = dt.contiguous(), A.contiguous(), dy.contiguous()
    started = flags_of(_starts(is_init, x), x)
    entry = None if dfinal is None else dfinal.contiguous()
    batch, length, heads, _ = x.shape
    rows, size, parts = batch * length, B.shape[2], heads * cut.blocks
    dmaps_parts = kept.new_empty(2, rows, parts, size)
    dA_parts = kept.new_empty(batch * cut.segments, heads, cut.blocks)
    ddt_parts = ddt if cut.blocks == 1 else kept.new_empty(*ddt.shape, cut.blocks)
    how = cut.constants | {
        "num_warps": _WARPS,
        "num_stages": _STAGES,
    }
    with torch.cuda.device_of(x):
        if cut.segments > 1:
            states, decays = empty_segments(x, B, cut)
            places = (states, decays, *strides[4:], length)
            segment_gradients_kernel[cut.grid](dy, dt, A, C, started, *places, **how)
            entry = carry(states, decays, entry, reverse=True)
        gradients_kernel[cut.grid](
            x,
            dt,
            A,
            B,
            C,
            started,
            kept,
            dy,
            kept if entry is None else entry,
            dx,
            ddt_parts,
            dA_parts,
            *dmaps_parts,
            dinitial,
            *strides,
            length,
            ENTERS=entry is not None,
            LEAVES=with_state,
            **how,
        )
        added_maps_kernel[(triton.cdiv(dmaps.numel(), _ADDED),)](
            dmaps_parts, dmaps, 2 * rows, PARTS=parts, S=size, BLOCK=_ADDED
        )
    torch.sum(dA_parts, (0, 2), out=dA)
    if cut.blocks > 1:
        torch.sum(ddt_parts, -1, out=ddt)
    return dx, ddt, dA, dmaps, dinitial


def _starts(is_init: Tensor | None, x: Tensor) -> Tensor:
    """Episode starts [B, T], none by default.

    Without them to count, Triton 3.6 made code that reads beyond shared memory and
    gives another dx, in bf16 on an H100 and an H200.
    """
    if is_init is None:
        return torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
    return is_init


@fake_of(ssd_chunks_gradients)
def _gradients(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,  # noqa: ARG001  the operator's signature
    is_init: Tensor | None,  # noqa: ARG001
    kept: Tensor,
    dy: Tensor,  # noqa: ARG001
    dfinal: Tensor | None,  # noqa: ARG001
    with_state: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, _, heads, width = x.shape
    state = (batch if with_state else 0, heads, width, B.shape[2])
    return (
        torch.empty(x.shape, dtype=x.dtype, device=x.device),
        kept.new_empty(dt.shape),
        kept.new_empty(A.shape),
        torch.empty((2, *B.shape), dtype=B.dtype, device=B.device),
        kept.new_empty(state),
    )
