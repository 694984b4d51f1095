"""A kernel that reads pairs of bytes along lines and writes whole pixels of blocks."""

from __future__ import annotations

from drama_torchrl.kernels.launch import kernel
from drama_torchrl.kernels.optional_triton import jit, tl

__all__ = ["frame_blocks_kernel", "interleave"]


@jit
def interleave(even: tl.tuple, odd: tl.tuple) -> tl.tensor:
    """Eight vectors [P], of even and of odd number, side by side in threads: [P, 8]."""
    left = tl.join(tl.join(even[0], even[2]), tl.join(even[1], even[3]))
    right = tl.join(tl.join(odd[0], odd[2]), tl.join(odd[1], odd[3]))
    return tl.reshape(tl.join(left, right), [even[0].shape[0], 8])


@kernel
def frame_blocks_kernel(
    pairs: tl.tensor,
    y: tl.tensor,
    M: tl.tensor,
    H: tl.constexpr,
    W: tl.constexpr,
    PIXELS: tl.constexpr,
) -> None:
    """Writes PIXELS of the M = frames · H · W pixels [M, 16] of the blocks.

    ``pairs`` [frames, 3, H, 2, W] in int16 are two bytes each, sub-columns 0 and 1.
    """
    first = tl.program_id(0).to(tl.int64) * PIXELS
    skipped = (first % (H * W)).to(tl.int32)
    p = tl.arange(0, PIXELS)
    pixel = skipped + p
    inside = p < M - first
    row, column = pixel // W % H, pixel % W
    upper = pixel // (H * W) * (6 * H * W) + row * (2 * W) + column
    red0 = pairs + (first - skipped) * 6 + upper
    r0 = tl.load(red0, mask=inside, other=0)
    g0 = tl.load(red0 + 2 * H * W, mask=inside, other=0)
    b0 = tl.load(red0 + 4 * H * W, mask=inside, other=0)
    red1 = red0 + W
    r1 = tl.load(red1, mask=inside, other=0)
    g1 = tl.load(red1 + 2 * H * W, mask=inside, other=0)
    b1 = tl.load(red1 + 4 * H * W, mask=inside, other=0)
    zero = tl.full([PIXELS], 0, tl.int16)
    # r0 g0 b0 at sub-column 0, then at 1, then r1 g1 b1: what stays of a pair is its
    # low byte, once the high one is shifted there.
    first_half = interleave((r0, b0, g0 >> 8, r1), (g0, r0 >> 8, b0 >> 8, g1))
    second_half = interleave((b1, g1 >> 8, zero, zero), (r1 >> 8, b1 >> 8, zero, zero))
    halves = tl.permute(tl.join(first_half, second_half), 0, 2, 1)
    bytes_ = tl.reshape(halves, [PIXELS, 16]).to(tl.uint8)
    places = y + first * 16 + (p[:, None] * 16 + tl.arange(0, 16)[None, :])
    tl.store(places, bytes_.to(y.dtype.element_ty), mask=inside[:, None])
