"""Kernels that walk back over a recurrence's chunks with the state's gradient."""

from __future__ import annotations

from drama_torchrl.kernels.launch import kernel
from drama_torchrl.kernels.optional_triton import jit, tl
from drama_torchrl.kernels.ssd_chunks_forward_kernels import added_state
from drama_torchrl.kernels.ssd_chunks_kernels import (
    between_of,
    decays_of,
    load_rows,
    place_of,
    starts_of,
    steps_of,
    store_rows,
)

__all__ = ["gradients_kernel", "segment_gradients_kernel"]


@kernel
def segment_gradients_kernel(
    dy: tl.tensor,
    dt: tl.tensor,
    rates: tl.tensor,
    c: tl.tensor,
    started: tl.tensor,
    states: tl.tensor,
    decays: tl.tensor,
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
) -> None:
    """The gradient that a segment's outputs give to the state at its start.

    In states [B, SEGMENTS, NH, P, S], with the segments' decays [B, SEGMENTS, NH].
    """
    blocks: tl.constexpr = (P + BLOCK - 1) // BLOCK
    lane = tl.program_id(0) // (blocks * NH)
    batch, segment = (lane // SEGMENTS).to(tl.int64), lane % SEGMENTS
    head, block = tl.program_id(0) // blocks % NH, tl.program_id(0) % blocks
    q, s = tl.arange(0, CHUNK), tl.arange(0, WIDTH)
    p = block * BLOCK + tl.arange(0, BLOCK)
    dy += batch * T * (NH * P) + head * P
    c += batch * c_batch
    dt += batch * T * NH + head
    started += batch * T
    rate = tl.load(rates + head).to(tl.float32)
    dh = tl.zeros([BLOCK, WIDTH], tl.float32)
    left = tl.full([], 1.0, tl.float32)
    for turn in range(STEPS):
        chunk = segment * STEPS + (STEPS - 1 - turn)
        first = chunk.to(tl.int64) * CHUNK
        t = chunk * CHUNK + q
        inside = t < T
        step = steps_of(dt + first * NH, q, inside, NH)
        episode = starts_of(started + first, q, inside, True)
        _, from_start, _, whole = decays_of(step, rate, episode, CHUNK)
        values = load_rows(dy + first * (NH * P), q, NH * P, inside, p, P)
        maps = load_rows(c + first * c_time, q, c_time, inside, s, S)
        dh = dh * whole + added_state(values, maps, from_start)
        left *= whole
    places, mask = place_of(lane * NH + head, p, s, P, S)
    tl.store(states + places, dh, mask=mask)
    tl.store(decays + lane * NH + head, left, mask=block == 0)


@jit
def _taken_of(
    t: tl.tensor,
    step: tl.tensor,
    summed: tl.tensor,
    episode: tl.tensor,
    values: tl.tensor,
    upstream: tl.tensor,
) -> tl.tensor:
    """The gradient [t, s] of C Bᵀ as a factor of products."""
    dscores = tl.dot(upstream, tl.trans(values), input_precision="ieee")
    dscores *= between_of(t, summed, episode) * step[None, :]
    return dscores.to(values.dtype)


@jit
def _given_of(
    t: tl.tensor,
    step: tl.tensor,
    summed: tl.tensor,
    episode: tl.tensor,
    values: tl.tensor,
    upstream: tl.tensor,
    inputs: tl.tensor,
    outputs: tl.tensor,
) -> tuple[tl.tensor, ...]:
    """Matrices [s, t] of what step s of a chunk gives to its step t, and their sums.

    Returns L ∘ C Bᵀ and the gradient of C Bᵀ, both transposed, as factors of products,
    the sums of what each step gives to all, and those of the ways that end at a step
    less those that start there.
    """
    # Products of tiles in shared memory cost less than transposes of what is in
    # registers. With time turned round, what lies between t and s stands at [s, t].
    between = between_of(-t, -summed, episode)
    weights = between * tl.dot(inputs, tl.trans(outputs), input_precision="ieee")
    dweights = tl.dot(values, tl.trans(upstream), input_precision="ieee")
    both = weights * dweights
    direct = tl.sum(both, 1)
    apart = tl.where(t[:, None] < t[None, :], both * step[:, None], 0.0)
    ends = tl.sum(apart, 0) - tl.sum(apart, 1)
    dscores = between * dweights * step[:, None]
    return weights.to(values.dtype), dscores.to(values.dtype), direct, ends


@kernel
def gradients_kernel(  # noqa: PLR0915 - one walk, whose parts share most of its state
    x: tl.tensor,
    dt: tl.tensor,
    rates: tl.tensor,
    b: tl.tensor,
    c: tl.tensor,
    started: tl.tensor,
    kept: tl.tensor,
    dy: tl.tensor,
    entries: tl.tensor,
    dx: tl.tensor,
    ddt: tl.tensor,
    drates: tl.tensor,
    db: tl.tensor,
    dc: tl.tensor,
    dinitial: tl.tensor,
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
    ENTERS: tl.constexpr,
    LEAVES: tl.constexpr,
) -> None:
    """All gradients of one segment for BLOCK of a head's P channels, from entries.

    These are the gradients of its last state. Writes dx [B, T, NH, P] and, in the first
    segment, if it LEAVES one, dinitial [B, NH, P, S]. The others are sums over channels
    of which each block has a part: ddt [B, T, NH, blocks], drates
    [B, SEGMENTS, NH, blocks], db and dc [B, T, NH, blocks, S].
    """
    blocks: tl.constexpr = (P + BLOCK - 1) // BLOCK
    parts: tl.constexpr = NH * blocks
    lane, part = tl.program_id(0) // parts, tl.program_id(0) % parts
    batch, segment = (lane // SEGMENTS).to(tl.int64), lane % SEGMENTS
    head, block = part // blocks, part % blocks
    q, s = tl.arange(0, CHUNK), tl.arange(0, WIDTH)
    p = block * BLOCK + tl.arange(0, BLOCK)
    x += batch * x_batch + head * P
    b += batch * b_batch
    c += batch * c_batch
    dy += batch * T * (NH * P) + head * P
    dx += batch * T * (NH * P) + head * P
    ddt += batch * T * parts + part
    db += (batch * T * parts + part) * S
    dc += (batch * T * parts + part) * S
    kind = x.dtype.element_ty
    chunks = (T + CHUNK - 1) // CHUNK
    dt += batch * T * NH + head
    started += batch * T
    rate = tl.load(rates + head).to(tl.float32)
    drate = tl.full([], 0.0, tl.float32)
    dh = tl.zeros([BLOCK, WIDTH], tl.float32)
    if ENTERS:
        places, mask = place_of(lane * NH + head, p, s, P, S)
        dh = tl.load(entries + places, mask=mask, other=0.0).to(tl.float32)
    for turn in range(STEPS):
        chunk = segment * STEPS + (STEPS - 1 - turn)
        first = chunk.to(tl.int64) * CHUNK
        t = chunk * CHUNK + q
        inside = t < T
        step = steps_of(dt + first * NH, q, inside, NH)
        episode = starts_of(started + first, q, inside, True)
        summed, from_start, to_end, whole = decays_of(step, rate, episode, CHUNK)
        values = load_rows(x + first * x_time, q, x_time, inside, p, P)
        upstream = load_rows(dy + first * (NH * P), q, NH * P, inside, p, P)
        inputs = load_rows(b + first * b_time, q, b_time, inside, s, S)
        outputs = load_rows(c + first * c_time, q, c_time, inside, s, S)
        places, mask = place_of((batch * chunks + chunk) * NH + head, p, s, P, S)
        h = tl.load(kept + places, mask=mask & (chunk < chunks), other=0.0)
        across = whole * tl.sum(tl.sum(h * dh, 1), 0)
        h = h.to(kind)

        # dC, of which the state before the chunk has a part: h C of what comes from it.
        # It is done before the matrices of dB and dx take its registers.
        coming = tl.dot(upstream, h, input_precision="ieee")
        coming *= from_start[:, None]
        arriving = tl.sum(coming * outputs.to(tl.float32), 1)
        dtaken = _taken_of(t, step, summed, episode, values, upstream)
        doutputs = tl.dot(dtaken, inputs, coming, input_precision="ieee")
        store_rows(dc + first * (parts * S), q, parts * S, inside, s, doutputs, S)

        # dB and dx, of which the state after the chunk has one: dh B of what enters it.
        weights, dgiven, direct, ends = _given_of(
            t, step, summed, episode, values, upstream, inputs, outputs
        )
        leaving = tl.dot(values, dh.to(kind), input_precision="ieee")
        leaving *= to_end[:, None]
        left = tl.sum(leaving * inputs.to(tl.float32), 1)
        leaving *= step[:, None]
        dinputs = tl.dot(dgiven, outputs, leaving, input_precision="ieee")
        store_rows(db + first * (parts * S), q, parts * S, inside, s, dinputs, S)
        through = tl.dot(inputs, tl.trans(dh).to(kind), input_precision="ieee")
        through *= to_end[:, None]
        through = tl.dot(weights, upstream, through, input_precision="ieee")
        through *= step[:, None]
        store_rows(dx + first * (NH * P), q, NH * P, inside, p, through, P)

        # A step's decay lies on every way from before it to itself or later.
        ends += arriving
        later = t[None, :] >= t[:, None]
        ways = tl.sum(tl.where(later, ends[None, :], (step * left)[None, :]), 1)
        ways += across
        direct += left + rate * ways
        tl.store(ddt + first * parts + q * parts, direct, mask=inside)
        drate += tl.sum(step * ways, 0)
        dh = dh * whole + added_state(upstream, outputs, from_start)
    tl.store(drates + lane * parts + part, drate)
    if LEAVES:
        places, mask = place_of(batch * NH + head, p, s, P, S)
        tl.store(dinitial + places, dh, mask=mask & (segment == 0))
