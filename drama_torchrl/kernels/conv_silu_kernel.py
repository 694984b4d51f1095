"""A kernel that walks down maps: each row is read once for three rows of results."""

from __future__ import annotations

from drama_torchrl.kernels.launch import kernel
from drama_torchrl.kernels.optional_triton import jit, tl
from drama_torchrl.kernels.silu_kernel import silu

__all__ = ["conv_silu_kernel", "row_of_taps", "sum_of_taps"]


@jit
def row_of_taps(
    weight: tl.tensor, row: tl.constexpr, CIN: tl.constexpr, BN: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """The weights [CIN, BN] of a row's left, middle and right tap."""
    k, n = tl.arange(0, CIN), tl.arange(0, BN)
    places = weight + 3 * row * CIN * BN + k[:, None] * BN + n[None, :]
    left = tl.load(places)
    middle = tl.load(places + CIN * BN)
    right = tl.load(places + 2 * CIN * BN)
    return left, middle, right


@jit
def sum_of_taps(
    pixels: tl.tuple,
    weights: tl.tuple,
    sums: tl.tensor,
) -> tl.tensor:
    """Adds what one row of inputs and one of taps contribute to a row of results."""
    sums = tl.dot(pixels[0], weights[0], sums)
    sums = tl.dot(pixels[1], weights[1], sums)
    return tl.dot(pixels[2], weights[2], sums)


@kernel
def conv_silu_kernel(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor | None,
    y: tl.tensor,
    M: tl.tensor,
    H: tl.constexpr,
    W: tl.constexpr,
    CIN: tl.constexpr,
    COUT: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    ROWS: tl.constexpr,
    STAGES: tl.constexpr,
    PTX: tl.constexpr,
) -> None:
    """Writes ROWS rows of BM of the M = maps · W columns that all maps have together.

    The nine weights [CIN, BN] stay in shared memory. An input row completes the results
    above it, ends the first half of those beside it and begins those below. Without a
    bias the sums are the results.
    """
    first = tl.program_id(0).to(tl.int64) * BM
    skipped = (first % W).to(tl.int32)
    m, k, n = tl.arange(0, BM), tl.arange(0, CIN), tl.arange(0, BN)
    column = (skipped + m) % W
    pixel = (skipped + m) // W * (H * W) + column
    alive = (m < M - first)[:, None]
    left = alive & (column > 0)[:, None]
    right = alive & (column < W - 1)[:, None]
    top = tl.program_id(1) * ROWS
    x += (first - skipped) * (H * CIN) + (top - 1) * (W * CIN)
    y += (first - skipped) * (H * COUT) + (top - 2) * (W * COUT)
    inputs = (pixel * CIN)[:, None] + k[None, :]
    results = (pixel * COUT)[:, None] + n[None, :]
    upper_taps = row_of_taps(weight, 0, CIN, BN)
    middle_taps = row_of_taps(weight, 1, CIN, BN)
    lower_taps = row_of_taps(weight, 2, CIN, BN)
    if bias is not None:
        shift = tl.load(bias + n)[None, :]
    beside = tl.full([BM, BN], 0.0, tl.float32)
    below = tl.full([BM, BN], 0.0, tl.float32)
    for i in tl.range(0, ROWS + 2, num_stages=STAGES):
        row = top + i - 1
        inside = (row >= 0) & (row < H)
        places = x + i * (W * CIN) + inputs
        pixels = (
            tl.load(places - CIN, mask=left & inside, other=0.0),
            tl.load(places, mask=alive & inside, other=0.0),
            tl.load(places + CIN, mask=right & inside, other=0.0),
        )
        above = sum_of_taps(pixels, lower_taps, beside)
        beside = sum_of_taps(pixels, middle_taps, below)
        zero = tl.full([BM, BN], 0.0, tl.float32)
        below = sum_of_taps(pixels, upper_taps, zero)
        mask = alive & (n < COUT)[None, :] & (i >= 2) & (row <= H)
        if bias is not None:
            above = silu(above + shift, PTX)
        value = above.to(y.dtype.element_ty)
        tl.store(y + i * (W * COUT) + results, value, mask=mask)
