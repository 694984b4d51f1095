"""Kernels of the selective scan: states of chunks, states between them, outputs.

Steps are cut into N chunks of LENGTH. A program walks over one chunk of one sequence
with the states [BLOCK, S] of BLOCK channels in registers, S rounded up to WIDTH.
``resets`` and ``initial`` may be None: then there are none, and h_{-1} is zero. What
lies after the last of T steps is read as zeros, which leave a state as it is.
"""

from __future__ import annotations

from drama_torchrl.kernels.launch import kernel
from drama_torchrl.kernels.optional_triton import jit, tl

__all__ = [
    "carry_kernel",
    "chunk_states_kernel",
    "decay_of",
    "outputs_kernel",
    "part_of",
    "row_of",
    "state_before",
    "value_of",
]


@jit
def part_of(
    chunks: tl.tensor, DI: tl.constexpr, BLOCK: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Which sequence, which of its chunks and which channels a program has."""
    blocks = tl.cdiv(DI, BLOCK)
    row = tl.program_id(0) // blocks
    channel = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    return (row // chunks).to(tl.int64), row % chunks, channel


@jit
def value_of(place: tl.tensor, inside: tl.tensor) -> tl.tensor:
    """Loads in float32, zeros outside."""
    return tl.load(place, mask=inside, other=0.0).to(tl.float32)


@jit
def row_of(
    place: tl.tensor, S: tl.constexpr, WIDTH: tl.constexpr, inside: tl.tensor
) -> tl.tensor:
    """Loads S neighbours, one for each state, as [1, WIDTH]; else zeros."""
    s = tl.arange(0, WIDTH)
    return value_of(place + s, (s < S) & inside)[None, :]


@jit
def decay_of(
    rate: tl.tensor,
    step: tl.tensor,
    resets: tl.tensor | None,
    time: tl.tensor,
    inside: tl.tensor,
) -> tl.tensor:
    """What a step leaves of the states [BLOCK, S]: nothing where an episode starts."""
    decay = tl.exp(rate * step[:, None])
    if resets is not None:
        decay *= 1.0 - value_of(resets + time, inside)
    return decay


@jit
def state_before(
    initial: tl.tensor | None,
    starts: tl.tensor,
    batch: tl.tensor,
    chunk: tl.tensor,
    N: tl.tensor,
    states: tl.tensor,
    within: tl.tensor,
    SIZE: tl.constexpr,
) -> tl.tensor:
    """Loads the state before a chunk; starts [B, N-1, DI, S] begin with the second."""
    place = starts + (batch * (N - 1) + chunk - 1) * SIZE + states
    h = value_of(place, within & (chunk > 0))
    if initial is not None:
        h += value_of(initial + batch * SIZE + states, within & (chunk == 0))
    return h


@kernel
def chunk_states_kernel(
    x: tl.tensor,
    dt: tl.tensor,
    rates: tl.tensor,
    b: tl.tensor,
    initial: tl.tensor | None,
    resets: tl.tensor | None,
    starts: tl.tensor,
    spans: tl.tensor,
    b_batch: tl.tensor,
    b_time: tl.tensor,
    T: tl.tensor,
    N: tl.tensor,
    DI: tl.constexpr,
    S: tl.constexpr,
    WIDTH: tl.constexpr,
    LENGTH: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Runs all chunks but the last from zero, the first one from the initial state.

    starts [B, N-1, DI, S] become their last states and spans [B, N-1, DI] the sums of
    their steps, infinite where an episode starts among them.
    """
    batch, chunk, channel = part_of(N - 1, DI, BLOCK)
    s, inside = tl.arange(0, WIDTH), channel < DI
    within = inside[:, None] & (s < S)[None, :]
    states = channel[:, None] * S + s[None, :]
    rate = value_of(rates + states, within)
    h = tl.zeros([BLOCK, WIDTH], tl.float32)
    if initial is not None:
        h += value_of(initial + batch * (DI * S) + states, within & (chunk == 0))
    span = tl.zeros([BLOCK], tl.float32)
    for i in range(LENGTH):
        t = chunk * LENGTH + i
        time = batch * T + t
        step = value_of(dt + time * DI + channel, inside)
        added = step * value_of(x + time * DI + channel, inside)
        b_t = row_of(b + batch * b_batch + t * b_time, S, WIDTH, t < T)
        h = h * decay_of(rate, step, resets, time, t < T) + added[:, None] * b_t
        span += step
        if resets is not None:
            starting = value_of(resets + time, t < T) > 0.0
            span = tl.where(starting, float("inf"), span)
    place = batch * (N - 1) + chunk
    tl.store(starts + place * (DI * S) + states, h, mask=within)
    tl.store(spans + place * DI + channel, span, mask=inside)


@kernel
def carry_kernel(
    states: tl.tensor,
    spans: tl.tensor,
    rates: tl.tensor,
    M: tl.constexpr,
    DI: tl.constexpr,
    S: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    REVERSE: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """Adds to each of states [B, M, DI, S] what its span leaves of the one before.

    In the order of time, or against it where what is carried are gradients.
    """
    batch, _, channel = part_of(1, DI, BLOCK)
    s, inside = tl.arange(0, WIDTH), channel < DI
    within = inside[:, None] & (s < S)[None, :]
    place = channel[:, None] * S + s[None, :]
    rate = value_of(rates + place, within)
    carried = tl.zeros([BLOCK, WIDTH], tl.float32)
    for n in tl.range(0, M, num_stages=STAGES):
        slot = batch * M + (M - 1 - n if REVERSE else n)
        span = value_of(spans + slot * DI + channel, inside)[:, None]
        added = value_of(states + slot * (DI * S) + place, within)
        reset = span == float("inf")
        decay = tl.exp(rate * tl.where(reset, 0.0, span))
        carried = added + tl.where(reset, 0.0, decay) * carried
        tl.store(states + slot * (DI * S) + place, carried, mask=within)


@kernel
def outputs_kernel(
    x: tl.tensor,
    dt: tl.tensor,
    rates: tl.tensor,
    b: tl.tensor,
    c: tl.tensor,
    initial: tl.tensor | None,
    resets: tl.tensor | None,
    starts: tl.tensor,
    y: tl.tensor,
    final: tl.tensor,
    b_batch: tl.tensor,
    b_time: tl.tensor,
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
    """Runs one chunk from the state before it: y [B, T, DI], final [B, DI, S]."""
    batch, chunk, channel = part_of(N, DI, BLOCK)
    s, inside = tl.arange(0, WIDTH), channel < DI
    within = inside[:, None] & (s < S)[None, :]
    states = channel[:, None] * S + s[None, :]
    rate = value_of(rates + states, within)
    h = state_before(initial, starts, batch, chunk, N, states, within, DI * S)
    for i in range(LENGTH):
        t = chunk * LENGTH + i
        time = batch * T + t
        there = inside & (t < T)
        step = value_of(dt + time * DI + channel, there)
        added = step * value_of(x + time * DI + channel, there)
        b_t = row_of(b + batch * b_batch + t * b_time, S, WIDTH, t < T)
        c_t = row_of(c + batch * c_batch + t * c_time, S, WIDTH, t < T)
        h = h * decay_of(rate, step, resets, time, t < T) + added[:, None] * b_t
        tl.store(y + time * DI + channel, tl.sum(h * c_t, 1), mask=there)
    last = within & (chunk == N - 1)
    tl.store(final + batch * (DI * S) + states, h, mask=last)
