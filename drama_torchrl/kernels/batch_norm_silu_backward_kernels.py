"""Kernels of the backward passes: two sums a channel, and the input's gradient.

Rows of dy lie where forward put those of y, rows of dx where those of x lie.
"""

from __future__ import annotations

from drama_torchrl.kernels.batch_norm_silu_forward_kernels import (
    coefficients,
    result_places,
    tile_places,
)
from drama_torchrl.kernels.launch import kernel
from drama_torchrl.kernels.optional_triton import tl
from drama_torchrl.kernels.silu_kernel import silu_gradient

__all__ = [
    "combine_sums_kernel",
    "gradient_sums_kernel",
    "input_gradient_kernel",
]


@kernel
def gradient_sums_kernel(
    x: tl.tensor,
    dy: tl.tensor,
    mean: tl.tensor,
    variance: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    partials: tl.tensor,
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
    """Writes each program's Σ dz and Σ dz · x̂: partials [2, programs, C]."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    centre, inverse, scale, shift = coefficients(
        mean, variance, weight, bias, eps, C, WIDTH
    )
    sum_dz = tl.full([ROWS, WIDTH], 0.0, tl.float32)
    sum_dz_deviation = tl.full([ROWS, WIDTH], 0.0, tl.float32)
    for step in tl.range(0, STEPS, num_stages=STAGES):
        # From the end, as the statistics.
        tile = (STEPS - 1 - step) * programs + program
        start, offset, inside = tile_places(tile, M, C, WIDTH, ROWS)
        moved = result_places(tile, C, WIDTH, ROWS, OUTER, INNER, UNIT)
        value = tl.load(x + start + offset, mask=inside, other=0.0).to(tl.float32)
        slope = tl.load(dy + start + moved, mask=inside, other=0.0).to(tl.float32)
        deviation = value - centre
        dz = silu_gradient(slope, deviation * scale + shift, PTX)
        sum_dz += dz
        sum_dz_deviation += dz * deviation
    place = partials + program * C + tl.arange(0, WIDTH)[None, :]
    inside = tl.arange(0, WIDTH)[None, :] < C
    sum_dz_xhat = tl.sum(sum_dz_deviation, 0)[None, :] * inverse
    tl.store(place, tl.sum(sum_dz, 0)[None, :], mask=inside)
    tl.store(place + programs * C, sum_dz_xhat, mask=inside)


@kernel
def combine_sums_kernel(
    partials: tl.tensor,
    first_out: tl.tensor,
    second_out: tl.tensor,
    P: tl.tensor,
    C: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    STEPS: tl.constexpr,
) -> None:
    """Adds up the programs' [2, P, C] in a fixed order."""
    channel = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    first = tl.full([ROWS, WIDTH], 0.0, tl.float32)
    second = tl.full([ROWS, WIDTH], 0.0, tl.float32)
    for step in tl.range(0, STEPS):
        row = step * ROWS + tl.arange(0, ROWS)
        place = partials + row[:, None] * C + channel[None, :]
        inside = (row < P)[:, None] & (channel < C)[None, :]
        first += tl.load(place, mask=inside, other=0.0)
        second += tl.load(place + P * C, mask=inside, other=0.0)
    tl.store(first_out + channel, tl.sum(first, 0), mask=channel < C)
    tl.store(second_out + channel, tl.sum(second, 0), mask=channel < C)


@kernel
def input_gradient_kernel(
    x: tl.tensor,
    dy: tl.tensor,
    mean: tl.tensor,
    variance: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    sum_dz: tl.tensor,
    sum_dz_xhat: tl.tensor,
    dx: tl.tensor,
    eps: tl.tensor,
    share: tl.tensor,
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
    """Writes dx from the two sums over all 1 / share samples."""
    channel = tl.arange(0, WIDTH)[None, :]
    centre, inverse, scale, shift = coefficients(
        mean, variance, weight, bias, eps, C, WIDTH
    )
    level = tl.load(sum_dz + channel, mask=channel < C, other=0.0) * share
    tilt = tl.load(sum_dz_xhat + channel, mask=channel < C, other=0.0) * share * inverse
    for step in tl.range(0, STEPS, num_stages=STAGES):
        tile = step * tl.num_programs(0) + tl.program_id(0)
        start, offset, inside = tile_places(tile, M, C, WIDTH, ROWS)
        moved = result_places(tile, C, WIDTH, ROWS, OUTER, INNER, UNIT)
        value = tl.load(x + start + offset, mask=inside, other=0.0).to(tl.float32)
        slope = tl.load(dy + start + moved, mask=inside, other=0.0).to(tl.float32)
        deviation = value - centre
        dz = silu_gradient(slope, deviation * scale + shift, PTX)
        result = scale * (dz - level - deviation * tilt)
        tl.store(dx + start + offset, result.to(dx.dtype.element_ty), mask=inside)
