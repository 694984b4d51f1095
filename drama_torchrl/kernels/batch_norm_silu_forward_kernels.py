"""Kernels of the forward passes: statistics of each channel, and the results."""

from __future__ import annotations

from drama_torchrl.kernels.launch import kernel
from drama_torchrl.kernels.optional_triton import jit, tl
from drama_torchrl.kernels.silu_kernel import silu

__all__ = [
    "coefficients",
    "combine_statistics_kernel",
    "normalise_kernel",
    "pool",
    "result_places",
    "statistics_kernel",
    "tile_places",
]


@jit
def tile_places(
    tile: tl.tensor,
    M: tl.tensor,
    C: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Where a tile starts, where its elements lie from there, and which are in x."""
    row, channel = tl.arange(0, ROWS)[:, None], tl.arange(0, WIDTH)[None, :]
    first = tile * ROWS
    inside = (row < M - first) & (channel < C)
    return first.to(tl.int64) * C, row * C + channel, inside


@jit
def result_places(
    tile: tl.tensor,
    C: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    OUTER: tl.constexpr,
    INNER: tl.constexpr,
    UNIT: tl.constexpr,
) -> tl.tensor:
    """Where the results of a tile's elements lie from its start, rows being swapped.

    Row (·, o, i, u) of [·, OUTER, INNER, UNIT] becomes (·, i, o, u): it never goes far.
    """
    row, channel = tl.arange(0, ROWS)[:, None], tl.arange(0, WIDTH)[None, :]
    if OUTER > 1:
        first = tile * ROWS
        rest, unit = (first + row) // UNIT, (first + row) % UNIT
        rest, inner = rest // INNER, rest % INNER
        rest, outer = rest // OUTER, rest % OUTER
        row = ((rest * INNER + inner) * OUTER + outer) * UNIT + unit - first
    return row * C + channel


@jit
def pool(
    count: tl.tensor, mean: tl.tensor, m2: tl.tensor
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Merges the (count, mean, M2) of all rows of a tile by Chan's formula."""
    total = tl.sum(count, 0)
    # Means are summed from the first one on: their size would swallow their spread.
    first = tl.arange(0, mean.shape[0])[:, None] == 0
    base = tl.sum(tl.where(first, mean, 0.0), 0)
    spread = tl.sum(count * (mean - base[None, :]), 0)
    pooled = base + spread / tl.maximum(total, 1.0)
    shift = mean - pooled[None, :]
    return total, pooled, tl.sum(m2 + count * shift * shift, 0)


@jit
def coefficients(
    mean: tl.tensor,
    variance: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    eps: tl.tensor,
    C: tl.constexpr,
    WIDTH: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Each channel's centre, 1 / standard deviation, scale and shift: [1, WIDTH]."""
    channel = tl.arange(0, WIDTH)[None, :]
    inside = channel < C
    centre = tl.load(mean + channel, mask=inside, other=0.0)
    inverse = tl.rsqrt(tl.load(variance + channel, mask=inside, other=1.0) + eps)
    gamma = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)
    return centre, inverse, gamma * inverse, shift


@kernel
def statistics_kernel(
    x: tl.tensor,
    partials: tl.tensor,
    M: tl.tensor,
    C: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    STEPS: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """Writes each program's count, mean and M2: partials [3, programs, C]."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    count = tl.full([ROWS, 1], 0.0, tl.float32)
    mean = tl.full([ROWS, WIDTH], 0.0, tl.float32)
    m2 = tl.full([ROWS, WIDTH], 0.0, tl.float32)
    for step in tl.range(0, STEPS, num_stages=STAGES):
        # From the end, which its producer has just left in the cache. What is outside
        # comes first, too: zeros, which leave statistics that are still zero alone.
        tile = (STEPS - 1 - step) * programs + program
        start, offset, inside = tile_places(tile, M, C, WIDTH, ROWS)
        value = tl.load(x + start + offset, mask=inside, other=0.0).to(tl.float32)
        alive = tl.arange(0, ROWS)[:, None] < M - tile * ROWS
        count += alive.to(tl.float32)
        delta = value - mean
        mean += delta * (1.0 / tl.maximum(count, 1.0))
        m2 += delta * (value - mean)
    total, mean, m2 = pool(count, mean, m2)
    channel = tl.arange(0, WIDTH)
    place = partials + program * C + channel
    inside = channel < C
    tl.store(place, tl.broadcast_to(total, [WIDTH]), mask=inside)
    tl.store(place + programs * C, mean, mask=inside)
    tl.store(place + 2 * programs * C, m2, mask=inside)


@kernel
def combine_statistics_kernel(
    partials: tl.tensor,
    mean_out: tl.tensor,
    m2_out: tl.tensor,
    P: tl.tensor,
    C: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    STEPS: tl.constexpr,
) -> None:
    """Merges the programs' [3, P, C] in a fixed order by Chan's formula."""
    channel = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    count = tl.full([ROWS, WIDTH], 0.0, tl.float32)
    mean = tl.full([ROWS, WIDTH], 0.0, tl.float32)
    m2 = tl.full([ROWS, WIDTH], 0.0, tl.float32)
    for step in tl.range(0, STEPS):
        row = step * ROWS + tl.arange(0, ROWS)
        place = partials + row[:, None] * C + channel[None, :]
        inside = (row < P)[:, None] & (channel < C)[None, :]
        more = tl.load(place, mask=inside, other=0.0)
        shift = tl.load(place + P * C, mask=inside, other=0.0) - mean
        m2 += tl.load(place + 2 * P * C, mask=inside, other=0.0)
        total = count + more
        share = more / tl.maximum(total, 1.0)
        m2 += shift * shift * count * share
        mean += shift * share
        count = total
    _, mean, m2 = pool(count, mean, m2)
    tl.store(mean_out + channel, mean, mask=channel < C)
    tl.store(m2_out + channel, m2, mask=channel < C)


@kernel
def normalise_kernel(
    x: tl.tensor,
    mean: tl.tensor,
    variance: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    y: tl.tensor,
    eps: tl.tensor,
    M: tl.tensor,
    C: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    STEPS: tl.constexpr,
    STAGES: tl.constexpr,
    PTX: tl.constexpr,
    OUTER: tl.constexpr,
    INNER: tl.constexpr,
    UNIT: tl.constexpr,
) -> None:
    """Writes SiLU of x normalised by the mean and variance, rows being swapped."""
    centre, _, scale, shift = coefficients(mean, variance, weight, bias, eps, C, WIDTH)
    for step in tl.range(0, STEPS, num_stages=STAGES):
        tile = step * tl.num_programs(0) + tl.program_id(0)
        start, offset, inside = tile_places(tile, M, C, WIDTH, ROWS)
        moved = result_places(tile, C, WIDTH, ROWS, OUTER, INNER, UNIT)
        value = tl.load(x + start + offset, mask=inside, other=0.0).to(tl.float32)
        result = silu((value - centre) * scale + shift, PTX)
        tl.store(y + start + moved, result.to(y.dtype.element_ty), mask=inside)
