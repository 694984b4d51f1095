"""Kernels of a 3×3 "same" convolution's weight gradient: partial sums and their sum."""

from __future__ import annotations

from drama_torchrl.kernels.launch import kernel
from drama_torchrl.kernels.optional_triton import jit, tl

__all__ = [
    "add_products",
    "combine_taps_kernel",
    "neighbours",
    "no_sums",
    "partial_taps_kernel",
    "row_of_neighbours",
    "store_taps",
]


@jit
def neighbours(
    thin: tl.tensor,
    pixel: tl.tensor,
    column: tl.tensor,
    alive: tl.tensor,
    FIRST: tl.constexpr,
    COUNT: tl.constexpr,
    PADDED: tl.constexpr,
    W: tl.constexpr,
    THIN: tl.constexpr,
) -> tl.tensor:
    """Each pixel's COUNT neighbours from FIRST (left is 0) on: [pixels, PADDED · THIN].

    They follow each other in memory, so that one load brings them all; other columns,
    and neighbours beyond the border, are zero and not read.
    """
    j = tl.arange(0, PADDED * THIN)
    side = (j // THIN)[None, :]
    there = column[:, None] + side + (FIRST - 1)
    mask = alive[:, None] & (side < COUNT) & (there >= 0) & (there < W)
    offset = (pixel * THIN)[:, None] + (j + (FIRST - 1) * THIN)[None, :]
    return tl.load(thin + offset, mask=mask, other=0.0)


@jit
def row_of_neighbours(
    thin: tl.tensor,
    pixel: tl.tensor,
    column: tl.tensor,
    alive: tl.tensor,
    TOGETHER: tl.constexpr,
    W: tl.constexpr,
    THIN: tl.constexpr,
) -> tuple[tl.tensor, ...]:
    """The left, middle and right neighbours: all in one tile, or the right in its own.

    Tiles are powers of two wide: one of three neighbours has a quarter of zeros.
    """
    if TOGETHER == 4:
        return (neighbours(thin, pixel, column, alive, 0, 3, 4, W, THIN),)
    else:  # noqa: RET505 - only the branch taken is compiled, not what follows it
        two = neighbours(thin, pixel, column, alive, 0, 2, 2, W, THIN)
        return two, neighbours(thin, pixel, column, alive, 2, 1, 1, W, THIN)


@jit
def no_sums(
    TOGETHER: tl.constexpr, WIDE: tl.constexpr, THIN: tl.constexpr
) -> tuple[tl.tensor, ...]:
    """Zeros for a row of taps, in tiles as :func:`row_of_neighbours` cuts them."""
    sums = tl.full([WIDE, TOGETHER * THIN], 0.0, tl.float32)
    if TOGETHER == 4:
        return (sums,)
    else:  # noqa: RET505 - as above
        return sums, tl.full([WIDE, THIN], 0.0, tl.float32)


@jit
def add_products(
    wide: tl.tensor, pixels: tl.tuple, sums: tl.tuple, TOGETHER: tl.constexpr
) -> tuple[tl.tensor, ...]:
    """Adds wide [WIDE, pixels] · pixels to a row of taps."""
    first = tl.dot(wide, pixels[0], sums[0])
    if TOGETHER == 4:
        return (first,)
    else:  # noqa: RET505 - as above
        return first, tl.dot(wide, pixels[1], sums[1])


@jit
def store_taps(
    to: tl.tensor,
    sums: tl.tuple,
    TOGETHER: tl.constexpr,
    WIDE: tl.constexpr,
    THIN: tl.constexpr,
) -> None:
    """Writes a row of taps as [WIDE, 3, THIN]."""
    w = tl.arange(0, WIDE)[:, None] * (3 * THIN)
    j = tl.arange(0, TOGETHER * THIN)[None, :]
    tl.store(to + w + j, sums[0], mask=(w >= 0) & (j < 3 * THIN))
    if TOGETHER == 2:
        tl.store(to + w + 2 * THIN + tl.arange(0, THIN)[None, :], sums[1])


@kernel
def partial_taps_kernel(
    wide: tl.tensor,
    thin: tl.tensor,
    partials: tl.tensor,
    M: tl.tensor,
    H: tl.constexpr,
    W: tl.constexpr,
    WIDE: tl.constexpr,
    THIN: tl.constexpr,
    BM: tl.constexpr,
    ROWS: tl.constexpr,
    TOGETHER: tl.constexpr,
    STEPS: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """Writes each program's Σ wide[pixel] · thin[pixel + shift]: [9, WIDE, THIN].

    In partials [programs, 3, WIDE, 3, THIN]. A tile is ROWS rows of BM of the
    M = maps · W columns that all maps have together; a program walks down STEPS of
    them. All nine sums stay in registers. A tile's rows are read once, and of thin
    those above and below it.
    """
    GROUPS: tl.constexpr = (H + ROWS - 1) // ROWS
    m, k = tl.arange(0, BM), tl.arange(0, WIDE)
    upper = no_sums(TOGETHER, WIDE, THIN)
    middle = no_sums(TOGETHER, WIDE, THIN)
    lower = no_sums(TOGETHER, WIDE, THIN)
    for step in tl.range(0, STEPS, num_stages=STAGES):
        tile = tl.program_id(0) * STEPS + step
        first = (tile // GROUPS).to(tl.int64) * BM
        top = tile % GROUPS * ROWS
        skipped = (first % W).to(tl.int32)
        column = (skipped + m) % W
        pixel = (skipped + m) // W * (H * W) + column
        alive = m < M - first
        start = (first - skipped) * H + top * W
        places = wide + start * WIDE + (pixel * WIDE)[:, None] + k[None, :]
        row = thin + start * THIN
        before, inside = row - W * THIN, alive & (top > 0)
        above = row_of_neighbours(before, pixel, column, inside, TOGETHER, W, THIN)
        beside = row_of_neighbours(row, pixel, column, alive, TOGETHER, W, THIN)
        for i in tl.static_range(ROWS):
            inside = alive & (top + i < H)
            values = tl.load(places + i * W * WIDE, mask=inside[:, None], other=0.0)
            after, inside = row + (i + 1) * W * THIN, alive & (top + i + 1 < H)
            below = row_of_neighbours(after, pixel, column, inside, TOGETHER, W, THIN)
            values = tl.trans(values)
            upper = add_products(values, above, upper, TOGETHER)
            middle = add_products(values, beside, middle, TOGETHER)
            lower = add_products(values, below, lower, TOGETHER)
            above, beside = beside, below
    SIZE: tl.constexpr = 3 * WIDE * THIN
    partials += tl.program_id(0).to(tl.int64) * (3 * SIZE)
    store_taps(partials, upper, TOGETHER, WIDE, THIN)
    store_taps(partials + SIZE, middle, TOGETHER, WIDE, THIN)
    store_taps(partials + 2 * SIZE, lower, TOGETHER, WIDE, THIN)


@kernel
def combine_taps_kernel(
    partials: tl.tensor,
    dweight: tl.tensor,
    P: tl.tensor,
    WIDE: tl.constexpr,
    THIN: tl.constexpr,
    THIN_IS_INPUT: tl.constexpr,
    PROGRAMS: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Adds up the programs' sums in a fixed order: dweight [O, C, 3, 3], rounded once.

    A shift of gradients is that of inputs the other way round.
    """
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    SIZE: tl.constexpr = 9 * WIDE * THIN
    sums = tl.full([PROGRAMS, BLOCK], 0.0, tl.float32)
    for step in tl.range(0, STEPS):
        program = step * PROGRAMS + tl.arange(0, PROGRAMS)
        place = program.to(tl.int64)[:, None] * SIZE + element[None, :]
        mask = (program < P)[:, None] & (element < SIZE)[None, :]
        sums += tl.load(partials + place, mask=mask, other=0.0)
    thin, side = element % THIN, element // THIN % 3
    wide, row = element // (3 * THIN) % WIDE, element // (3 * THIN * WIDE)
    if THIN_IS_INPUT:
        place = (wide * THIN + thin) * 9 + row * 3 + side
    else:
        place = (thin * WIDE + wide) * 9 + 8 - (row * 3 + side)
    value = tl.sum(sums, 0).to(dweight.dtype.element_ty)
    tl.store(dweight + place, value, mask=element < SIZE)
