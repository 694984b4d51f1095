"""Mamba's selective scan with its gradients: states stay in registers.

The states of all steps, [B, T, DI, S] in float32, are S times what a layer moves
otherwise, and plain torch moves them ten times and more. Here programs walk over chunks
of steps at the same time: one pass gives what each chunk leaves of a zero state, one
carries that from chunk to chunk, one walks again from the states so found. That is
twice the arithmetic of a single walk, but short sequences of few channels fill a GPU
as long ones do. The backward pass does the same against time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from drama_torchrl.kernels.launch import fake_of
from drama_torchrl.kernels.operands import FLOATS, packed
from drama_torchrl.kernels.optional_triton import triton
from drama_torchrl.kernels.selective_scan_backward_kernels import (
    chunk_adjoints_kernel,
    gradients_kernel,
)
from drama_torchrl.kernels.selective_scan_forward_kernels import (
    carry_kernel,
    chunk_states_kernel,
    outputs_kernel,
)

__all__ = ["can_scan", "selective_scan", "selective_scan_gradients"]


# Steps of a chunk, at any length. The states between chunks, kept for the backward
# pass, are then S / 8 of x in float32: 134 MB for 16384 steps of 1024 channels, S = 16.
# That pass holds the states of a chunk in registers, which are 134 a thread; at 16
# steps it takes all 255, and four times as long to compile.
_LENGTH = 8
_STATES_OF_A_WARP, _LEAST_CHANNELS = 128, 8
# For S = 16 the forward pass reads whole cache lines of x. In the backward pass sums
# over channels stay in one warp and cost no barriers; what is left of them to be added
# up, for B and for C, is twice x. One walk per sequence carries states: many small
# programs, and loads ahead of it.
_FORWARD_WARPS, _BACKWARD_WARPS, _CARRY_WARPS, _CARRY_STAGES = 4, 1, 1, 4
_MOST_STATES = 256


def can_scan(*inputs: Tensor | None) -> bool:
    """Tells whether :func:`selective_scan` takes these.

    Args:
        inputs: x, dt, A, B, C and perhaps an initial state, as described there.
    """
    given = [t for t in inputs if t is not None]
    return (
        triton is not None
        and all(t.is_cuda and t.dtype in FLOATS for t in given)
        and given[2].shape[1] <= _MOST_STATES
    )


@torch.library.custom_op("drama_torchrl::selective_scan", mutates_args=())
def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    initial_state: Tensor | None,
    is_init: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t, y_t = Σ_s h_t C_t.

    The recurrence of :mod:`drama_torchrl.modules.selective_scan` with its shapes, in
    float32 throughout. Sums have a fixed order: the same inputs give the same results
    and gradients.

    Args:
        x: ``[B, T, DI]`` in bf16, fp16 or fp32, as all that follow.
        dt: ``[B, T, DI]``.
        A: ``[DI, S]``.
        B: ``[B, T, S]``.
        C: ``[B, T, S]``.
        initial_state: ``[B, DI, S]`` or None.
        is_init: ``[B, T]`` bool or None.

    Returns:
        y ``[B, T, DI]`` and the last state ``[B, DI, S]`` in float32, and what the
        backward pass needs: the states before all chunks but the first.
    """
    y, final, starts = _outputs(x, dt, A, B, C, initial_state, is_init)
    x, dt, A, initial = _contiguous(x, dt, A, initial_state)
    B, C, resets = packed(B), packed(C), _bytes(is_init)
    b_strides, c_strides = B.stride()[:2], C.stride()[:2]
    chunks, programs, sizes = _cut(x, A, _FORWARD_WARPS)
    with torch.cuda.device_of(x):
        if chunks > 1:
            spans = starts.new_empty(starts.shape[:3])
            given = (x, dt, A, B, initial, resets)
            chunk_states_kernel[(programs * (chunks - 1),)](
                *given, starts, spans, *b_strides, **sizes
            )
            _carry(starts, spans, A, reverse=False)
        inputs = (x, dt, A, B, C, initial, resets, starts)
        outputs_kernel[(programs * chunks,)](
            *inputs, y, final, *b_strides, *c_strides, **sizes
        )
    return y, final, starts


@torch.library.custom_op("drama_torchrl::selective_scan_gradients", mutates_args=())
def selective_scan_gradients(
    dy: Tensor,
    dfinal: Tensor | None,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    initial_state: Tensor | None,
    is_init: Tensor | None,
    starts: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of :func:`selective_scan`, from those of its first two results.

    dy is float32, dfinal too or None for zeros; the others are what was given to the
    forward pass and the states that it returned. The results, of x, dt, A, B, C and the
    initial state, have the dtypes of these; the last is empty where there was none.
    """
    found = _gradients(dy, dfinal, x, dt, A, B, C, initial_state, is_init, starts)
    dx, ddt, dA, dB, dC, dinitial = found
    dy, x, dt, A, initial, dfinal = _contiguous(dy, x, dt, A, initial_state, dfinal)
    B, C, resets = packed(B), packed(C), _bytes(is_init)
    b_strides, c_strides = B.stride()[:2], C.stride()[:2]
    chunks, programs, sizes = _cut(x, A, _BACKWARD_WARPS)
    adjoints = torch.empty_like(starts)
    drates = starts.new_empty(x.shape[0], chunks, *A.shape)
    sums = starts.new_empty(2, triton.cdiv(x.shape[2], sizes["BLOCK"]), *B.shape)
    with torch.cuda.device_of(x):
        if chunks > 1:
            spans = starts.new_empty(starts.shape[:3])
            given = (dy, dt, A, C, dfinal, resets)
            chunk_adjoints_kernel[(programs * (chunks - 1),)](
                *given, adjoints, spans, *c_strides, **sizes
            )
            _carry(adjoints, spans, A, reverse=True)
        inputs = (dy, x, dt, A, B, C, dfinal, initial, resets, starts, adjoints)
        results = (dx, ddt, drates, *sums, None if initial is None else dinitial)
        gradients_kernel[(programs * chunks,)](
            *inputs, *results, *b_strides, *c_strides, BATCH=x.shape[0], **sizes
        )
    dA.copy_(drates.sum((0, 1)))
    dB.copy_(sums[0].sum(0))
    dC.copy_(sums[1].sum(0))
    return dx, ddt, dA, dB, dC, dinitial


def _cut(x: Tensor, A: Tensor, warps: int) -> tuple[int, int, dict[str, int]]:
    """Chunks of time, programs for one of them, and what all kernels are told."""
    (batch, length, inner), sizes = x.shape, _sizes(A, warps)
    chunks = triton.cdiv(length, _LENGTH)
    sizes |= {"T": length, "N": chunks, "LENGTH": min(_LENGTH, length)}
    return chunks, batch * triton.cdiv(inner, sizes["BLOCK"]), sizes


def _sizes(A: Tensor, warps: int) -> dict[str, int]:
    inner, size = A.shape
    width = triton.next_power_of_2(size)
    block = max(_LEAST_CHANNELS, warps * _STATES_OF_A_WARP // width)
    block = min(block, triton.next_power_of_2(inner))
    sizes = {"DI": inner, "S": size, "WIDTH": width, "BLOCK": block}
    return sizes | {"num_warps": max(1, block * width // _STATES_OF_A_WARP)}


def _carry(states: Tensor, spans: Tensor, A: Tensor, *, reverse: bool) -> None:
    batch, slots, inner, _ = states.shape
    sizes = _sizes(A, _CARRY_WARPS) | {"M": slots, "STAGES": _CARRY_STAGES}
    programs = batch * triton.cdiv(inner, sizes["BLOCK"])
    carry_kernel[(programs,)](states, spans, A, REVERSE=reverse, **sizes)


def _contiguous(*tensors: Tensor | None) -> Any:
    return [None if t is None else t.contiguous() for t in tensors]


def _bytes(is_init: Tensor | None) -> Tensor | None:
    return None if is_init is None else is_init.contiguous().view(torch.uint8)


@fake_of(selective_scan)
def _outputs(
    x: Tensor,
    dt: Tensor,  # noqa: ARG001  the operator's signature
    A: Tensor,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, inner = x.shape
    y = x.new_empty(x.shape, dtype=torch.float32)
    final = y.new_empty(batch, inner, A.shape[1])
    return y, final, y.new_empty(batch, -(-length // _LENGTH) - 1, *A.shape)


@fake_of(selective_scan_gradients)
def _gradients(*given: Any) -> tuple[Tensor, ...]:
    _, _, *inputs, initial_state, _, _ = given
    inputs.append(inputs[0].new_empty(0) if initial_state is None else initial_state)
    return tuple(torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in inputs)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs, output[2])
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any, dy: Tensor | None, dfinal: Tensor | None, _: None
) -> tuple[Tensor | None, ...]:
    x, initial_state = ctx.saved_tensors[0], ctx.saved_tensors[5]
    if dy is None:
        dy = x.new_zeros(x.shape, dtype=torch.float32)
    found = selective_scan_gradients(dy, dfinal, *ctx.saved_tensors)
    *gradients, dinitial = found
    return *gradients, None if initial_state is None else dinitial, None


selective_scan.register_autograd(_backward, setup_context=_save)
