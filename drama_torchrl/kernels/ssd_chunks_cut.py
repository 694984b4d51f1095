"""How a recurrence is cut into chunks, segments and programs, and what they share."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from drama_torchrl.kernels.operands import packed
from drama_torchrl.kernels.optional_triton import triton
from drama_torchrl.kernels.processors import processors
from drama_torchrl.kernels.ssd_chunks_kernels import carried_kernel

__all__ = [
    "MOST_CHANNELS",
    "MOST_STATES",
    "Cut",
    "carry",
    "chunk_of",
    "cut_of",
    "empty_segments",
    "strides_of",
]

# Of one head. Its state is held in registers, that of 64 channels by each program.
MOST_CHANNELS = 128
MOST_STATES = 32
# Steps of a chunk by bytes of a number: float32 has no tensor cores, and its products
# of more steps do not fit into registers.
_CHUNKS = {2: 64, 4: 16}
# A segment costs a pass over its inputs, which few chunks do not repay.
_CHUNKS_A_SEGMENT = 8
_CARRIED = 512
_TENSOR_CORE = 16


class Cut(NamedTuple):
    """Segments of time, blocks of a head, programs, and what kernels know of them."""

    segments: int
    blocks: int
    grid: tuple[int]
    constants: dict[str, int]


def chunk_of(x: Tensor) -> int:
    """Steps of a chunk."""
    return _CHUNKS[x.element_size()]


def cut_of(x: Tensor, B: Tensor, block: int, crowd: int) -> Cut:
    """Cuts a recurrence up so that a GPU is filled, in no more segments than it takes.

    Args:
        x: ``[B, T, NH, P]``.
        B: ``[B, T, S]``.
        block: the most channels of a program.
        crowd: programs that one processor runs at once.
    """
    batch, length, heads, width = x.shape
    chunk = chunk_of(x)
    block = min(block, max(_TENSOR_CORE, triton.next_power_of_2(width)))
    blocks = triton.cdiv(width, block)
    programs = batch * heads * blocks
    chunks = triton.cdiv(length, chunk)
    wanted = processors(x.device) * crowd // programs
    steps = triton.cdiv(chunks, max(1, min(wanted, chunks // _CHUNKS_A_SEGMENT)))
    segments = triton.cdiv(chunks, steps)
    constants = {
        "SEGMENTS": segments,
        "STEPS": steps,
        "NH": heads,
        "P": width,
        "S": B.shape[2],
        "CHUNK": chunk,
        "BLOCK": block,
        "WIDTH": max(_TENSOR_CORE, triton.next_power_of_2(B.shape[2])),
    }
    return Cut(segments, blocks, (programs * segments,), constants)


def strides_of(
    x: Tensor, B: Tensor, C: Tensor
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[int, ...]]:
    """Inputs with their channels side by side, and their strides over batch and time.

    They are parts of one tensor in the layer, and not copied.
    """
    x = x if x.stride()[2:] == (x.shape[3], 1) else x.contiguous()
    B, C = packed(B), packed(C)
    strides = (*x.stride()[:2], *B.stride()[:2], *C.stride()[:2])
    return (x, B, C), strides


def empty_segments(x: Tensor, B: Tensor, cut: Cut) -> tuple[Tensor, Tensor]:
    """Allocates states [B, segments, NH, P, S] and decays [B, segments, NH]."""
    batch, _, heads, width = x.shape
    shape = (batch, cut.segments, heads)
    states = x.new_empty(*shape, width, B.shape[2], dtype=torch.float32)
    return states, x.new_empty(shape, dtype=torch.float32)


def carry(
    states: Tensor, decays: Tensor, entry: Tensor | None, *, reverse: bool
) -> Tensor:
    """Turns what each segment adds to a state into what it starts from, in place.

    Args:
        states: ``[B, segments, NH, P, S]``.
        decays: ``[B, segments, NH]``.
        entry: ``[B, NH, P, S]``, from which the first segment starts; zero if omitted.
        reverse: the last segment is the first one.

    Returns:
        ``states``.
    """
    batch, segments, heads, width, size = states.shape
    blocks = triton.cdiv(width * size, _CARRIED)
    carried_kernel[(batch * heads * blocks,)](
        states,
        decays,
        states if entry is None else entry,
        SEGMENTS=segments,
        NH=heads,
        SIZE=width * size,
        BLOCK=_CARRIED,
        ENTERS=entry is not None,
        REVERSE=reverse,
    )
    return states
