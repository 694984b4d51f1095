"""Kernels that walk over a recurrence's chunks with the state in registers."""

from __future__ import annotations

from drama_torchrl.kernels.launch import kernel
from drama_torchrl.kernels.optional_triton import jit, tl
from drama_torchrl.kernels.ssd_chunks_kernels import (
    between_of,
    decays_of,
    load_rows,
    place_of,
    starts_of,
    steps_of,
    store_rows,
)

__all__ = ["added_state", "outputs_kernel", "segment_states_kernel"]


@jit
def added_state(values: tl.tensor, maps: tl.tensor, weight: tl.tensor) -> tl.tensor:
    """Sums weight_t values_t maps_tᵀ over a chunk: [P, S] of [Q, P], [Q, S] and [Q]."""
    weighted = (maps.to(tl.float32) * weight[:, None]).to(values.dtype)
    return tl.dot(tl.trans(values), weighted, input_precision="ieee")


@kernel
def segment_states_kernel(
    x: tl.tensor,
    dt: tl.tensor,
    rates: tl.tensor,
    b: tl.tensor,
    started: tl.tensor,
    states: tl.tensor,
    decays: tl.tensor,
    x_batch: tl.tensor,
    x_time: tl.tensor,
    b_batch: tl.tensor,
    b_time: tl.tensor,
    T: tl.tensor,
    SEGMENTS: tl.constexpr,
    STEPS: tl.constexpr,
    NH: tl.constexpr,
    P: tl.constexpr,
    S: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
    RESETS: tl.constexpr,
) -> None:
    """What the inputs of one segment, STEPS chunks, leave in a head's state at its end.

    In states [B, SEGMENTS, NH, P, S], with the segments' decays [B, SEGMENTS, NH].
    """
    blocks: tl.constexpr = (P + BLOCK - 1) // BLOCK
    lane = tl.program_id(0) // (blocks * NH)
    batch, segment = (lane // SEGMENTS).to(tl.int64), lane % SEGMENTS
    head, block = tl.program_id(0) // blocks % NH, tl.program_id(0) % blocks
    q, s = tl.arange(0, CHUNK), tl.arange(0, WIDTH)
    p = block * BLOCK + tl.arange(0, BLOCK)
    x += batch * x_batch + head * P
    b += batch * b_batch
    dt += batch * T * NH + head
    started += batch * T
    rate = tl.load(rates + head).to(tl.float32)
    h = tl.zeros([BLOCK, WIDTH], tl.float32)
    left = tl.full([], 1.0, tl.float32)
    for turn in range(STEPS):
        chunk = segment * STEPS + turn
        first = chunk.to(tl.int64) * CHUNK
        t = chunk * CHUNK + q
        inside = t < T
        step = steps_of(dt + first * NH, q, inside, NH)
        episode = starts_of(started + first, q, inside, RESETS)
        _, _, to_end, whole = decays_of(step, rate, episode, CHUNK)
        values = load_rows(x + first * x_time, q, x_time, inside, p, P)
        maps = load_rows(b + first * b_time, q, b_time, inside, s, S)
        h = h * whole + added_state(values, maps, step * to_end)
        left *= whole
    places, mask = place_of(lane * NH + head, p, s, P, S)
    tl.store(states + places, h, mask=mask)
    tl.store(decays + lane * NH + head, left, mask=block == 0)


@kernel
def outputs_kernel(
    x: tl.tensor,
    dt: tl.tensor,
    rates: tl.tensor,
    b: tl.tensor,
    c: tl.tensor,
    started: tl.tensor,
    entries: tl.tensor,
    y: tl.tensor,
    final: tl.tensor,
    kept: tl.tensor,
    x_batch: tl.tensor,
    x_time: tl.tensor,
    b_batch: tl.tensor,
    b_time: tl.tensor,
    c_batch: tl.tensor,
    c_time: tl.tensor,
    T: tl.tensor,
    SEGMENTS: tl.constexpr,
    STEPS: tl.constexpr,
    NH: tl.constexpr,
    P: tl.constexpr,
    S: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
    RESETS: tl.constexpr,
    ENTERS: tl.constexpr,
    KEEPS: tl.constexpr,
) -> None:
    """Outputs of one segment for BLOCK of a head's P channels, from entries or zero.

    Writes y [B, T, NH, P], the state at the end of the last segment, final
    [B, NH, P, S], and, if it KEEPS them, those at the chunks' starts, kept
    [B, chunks, NH, P, S].
    """
    blocks: tl.constexpr = (P + BLOCK - 1) // BLOCK
    lane = tl.program_id(0) // (blocks * NH)
    batch, segment = (lane // SEGMENTS).to(tl.int64), lane % SEGMENTS
    head, block = tl.program_id(0) // blocks % NH, tl.program_id(0) % blocks
    q, s = tl.arange(0, CHUNK), tl.arange(0, WIDTH)
    p = block * BLOCK + tl.arange(0, BLOCK)
    x += batch * x_batch + head * P
    b += batch * b_batch
    c += batch * c_batch
    y += batch * T * (NH * P) + head * P
    kind = x.dtype.element_ty
    chunks = (T + CHUNK - 1) // CHUNK
    dt += batch * T * NH + head
    started += batch * T
    rate = tl.load(rates + head).to(tl.float32)
    h = tl.zeros([BLOCK, WIDTH], tl.float32)
    if ENTERS:
        places, mask = place_of(lane * NH + head, p, s, P, S)
        h = tl.load(entries + places, mask=mask, other=0.0).to(tl.float32)
    for turn in range(STEPS):
        chunk = segment * STEPS + turn
        first = chunk.to(tl.int64) * CHUNK
        t = chunk * CHUNK + q
        inside = t < T
        step = steps_of(dt + first * NH, q, inside, NH)
        episode = starts_of(started + first, q, inside, RESETS)
        summed, from_start, to_end, whole = decays_of(step, rate, episode, CHUNK)
        values = load_rows(x + first * x_time, q, x_time, inside, p, P)
        inputs = load_rows(b + first * b_time, q, b_time, inside, s, S)
        outputs = load_rows(c + first * c_time, q, c_time, inside, s, S)
        if KEEPS:
            places, mask = place_of((batch * chunks + chunk) * NH + head, p, s, P, S)
            tl.store(kept + places, h, mask=mask & (chunk < chunks))
        weights = tl.dot(outputs, tl.trans(inputs), input_precision="ieee")
        weights *= between_of(t, summed, episode) * step[None, :]
        total = tl.dot(outputs, tl.trans(h).to(kind), input_precision="ieee")
        total *= from_start[:, None]
        total = tl.dot(weights.to(kind), values, total, input_precision="ieee")
        store_rows(y + first * (NH * P), q, NH * P, inside, p, total, P)
        h = h * whole + added_state(values, inputs, step * to_end)
    places, mask = place_of(batch * NH + head, p, s, P, S)
    tl.store(final + places, h, mask=mask & (segment == SEGMENTS - 1))
