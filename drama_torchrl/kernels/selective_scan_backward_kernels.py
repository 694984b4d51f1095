"""Kernels of the selective scan's gradients, chunk by chunk against time.

With g_t = ∂L/∂h_t, a_t = exp(dt_t A) and h_t = a_t h_{t-1} + dt_t x_t B_t:

    g_t = C_t dy_t + a_{t+1} g_{t+1}
    dx_t = dt_t Σ_s g_t B_t          ddt_t = x_t Σ_s g_t B_t + Σ_s A a_t g_t h_{t-1}
    dA = Σ_t dt_t a_t g_t h_{t-1}    dB_t = Σ_c g_t dt_t x_t    dC_t = Σ_c dy_t h_t

The names are those of the forward kernels.
"""

from __future__ import annotations

from drama_torchrl.kernels.launch import kernel
from drama_torchrl.kernels.optional_triton import jit, tl
from drama_torchrl.kernels.selective_scan_forward_kernels import (
    decay_of,
    part_of,
    row_of,
    state_before,
    value_of,
)

__all__ = ["chunk_adjoints_kernel", "gradients_kernel", "states_of_chunk"]


@kernel
def chunk_adjoints_kernel(
    dy: tl.tensor,
    dt: tl.tensor,
    rates: tl.tensor,
    c: tl.tensor,
    dfinal: tl.tensor | None,
    resets: tl.tensor | None,
    adjoints: tl.tensor,
    spans: tl.tensor,
    c_batch: tl.tensor,
    c_time: tl.tensor,
    T: tl.tensor,
    N: tl.tensor,
    DI: tl.constexpr,
    S: tl.constexpr,
    WIDTH: tl.constexpr,
    LENGTH: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Runs all chunks but the first backward from zero, the last one from dfinal.

    adjoints [B, N-1, DI, S] become the gradients of the states before them, and spans
    [B, N-1, DI] as in the forward pass.
    """
    batch, before, channel = part_of(N - 1, DI, BLOCK)
    s, inside = tl.arange(0, WIDTH), channel < DI
    within = inside[:, None] & (s < S)[None, :]
    states = channel[:, None] * S + s[None, :]
    rate = value_of(rates + states, within)
    g = tl.zeros([BLOCK, WIDTH], tl.float32)
    if dfinal is not None:
        g += value_of(dfinal + batch * (DI * S) + states, within & (before == N - 2))
    span = tl.zeros([BLOCK], tl.float32)
    for i in range(LENGTH):
        t = (before + 2) * LENGTH - 1 - i
        time = batch * T + t
        there = inside & (t < T)
        step = value_of(dt + time * DI + channel, there)
        slope = value_of(dy + time * DI + channel, there)
        c_t = row_of(c + batch * c_batch + t * c_time, S, WIDTH, t < T)
        g = (g + slope[:, None] * c_t) * decay_of(rate, step, resets, time, t < T)
        span += step
        if resets is not None:
            starting = value_of(resets + time, t < T) > 0.0
            span = tl.where(starting, float("inf"), span)
    place = batch * (N - 1) + before
    tl.store(adjoints + place * (DI * S) + states, g, mask=within)
    tl.store(spans + place * DI + channel, span, mask=inside)


@jit
def states_of_chunk(
    h: tl.tensor,
    rate: tl.tensor,
    x: tl.tensor,
    dt: tl.tensor,
    b: tl.tensor,
    resets: tl.tensor | None,
    first: tl.tensor,
    batch: tl.tensor,
    channel: tl.tensor,
    inside: tl.tensor,
    b_time: tl.tensor,
    T: tl.tensor,
    DI: tl.constexpr,
    S: tl.constexpr,
    WIDTH: tl.constexpr,
    LENGTH: tl.constexpr,
) -> tl.tuple:
    """The state before a chunk and those after each of its steps."""
    states = (h,)  # which Triton unpacks nowhere but in sums
    for i in tl.static_range(LENGTH):
        t = first + i
        time = batch * T + t
        there = inside & (t < T)
        step = value_of(dt + time * DI + channel, there)
        added = step * value_of(x + time * DI + channel, there)
        b_t = row_of(b + t * b_time, S, WIDTH, t < T)
        h = h * decay_of(rate, step, resets, time, t < T) + added[:, None] * b_t
        states = states + (h,)  # type: ignore[assignment]  # noqa: RUF005
    return states


@kernel
def gradients_kernel(
    dy: tl.tensor,
    x: tl.tensor,
    dt: tl.tensor,
    rates: tl.tensor,
    b: tl.tensor,
    c: tl.tensor,
    dfinal: tl.tensor | None,
    initial: tl.tensor | None,
    resets: tl.tensor | None,
    starts: tl.tensor,
    adjoints: tl.tensor,
    dx: tl.tensor,
    ddt: tl.tensor,
    drates: tl.tensor,
    db: tl.tensor,
    dc: tl.tensor,
    dinitial: tl.tensor | None,
    b_batch: tl.tensor,
    b_time: tl.tensor,
    c_batch: tl.tensor,
    c_time: tl.tensor,
    BATCH: tl.tensor,
    T: tl.tensor,
    N: tl.tensor,
    DI: tl.constexpr,
    S: tl.constexpr,
    WIDTH: tl.constexpr,
    LENGTH: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Writes all gradients of one chunk: forward for its states, back for the rest.

    Sums over programs are left to others, in a fixed order: drates [B, N, DI, S], and
    db and dc [blocks, B, T, S].
    """
    batch, chunk, channel = part_of(N, DI, BLOCK)
    s, inside = tl.arange(0, WIDTH), channel < DI
    within = inside[:, None] & (s < S)[None, :]
    states = channel[:, None] * S + s[None, :]
    rate = value_of(rates + states, within)
    b += batch * b_batch
    c += batch * c_batch
    first = chunk * LENGTH
    h = state_before(initial, starts, batch, chunk, N, states, within, DI * S)
    walk = states_of_chunk(
        h,
        rate,
        x,
        dt,
        b,
        resets,
        first,
        batch,
        channel,
        inside,
        b_time,
        T,
        DI,
        S,
        WIDTH,
        LENGTH,
    )

    last = chunk == N - 1
    place = adjoints + (batch * (N - 1) + chunk) * (DI * S) + states
    g = value_of(place, within & (chunk < N - 1))
    if dfinal is not None:
        g += value_of(dfinal + batch * (DI * S) + states, within & last)
    drate = tl.zeros([BLOCK, WIDTH], tl.float32)
    block = (tl.program_id(0) % tl.cdiv(DI, BLOCK)).to(tl.int64)
    for i in tl.static_range(LENGTH):
        t = first + (LENGTH - 1 - i)
        time = batch * T + t
        there = inside & (t < T)
        step = value_of(dt + time * DI + channel, there)
        value = value_of(x + time * DI + channel, there)
        slope = value_of(dy + time * DI + channel, there)
        b_t = row_of(b + t * b_time, S, WIDTH, t < T)
        c_t = row_of(c + t * c_time, S, WIDTH, t < T)
        g += slope[:, None] * c_t
        shared = ((block * BATCH + batch) * T + t) * S + s
        sums = tl.sum(slope[:, None] * walk[LENGTH - i], 0)
        tl.store(dc + shared, sums, mask=(s < S) & (t < T))
        sums = tl.sum(g * (step * value)[:, None], 0)
        tl.store(db + shared, sums, mask=(s < S) & (t < T))
        read = tl.sum(g * b_t, 1)
        g *= decay_of(rate, step, resets, time, t < T)
        kept = g * walk[LENGTH - 1 - i]
        drate += step[:, None] * kept
        dstep = value * read + tl.sum(rate * kept, 1)
        tl.store(dx + time * DI + channel, step * read, mask=there)
        tl.store(ddt + time * DI + channel, dstep, mask=there)
    place = drates + (batch * N + chunk) * (DI * S) + states
    tl.store(place, drate, mask=within)
    if dinitial is not None:
        place = dinitial + batch * (DI * S) + states
        tl.store(place, g, mask=within & (chunk == 0))
