"""What the passes over chunks of a state-space recurrence share, and two small kernels.

A chunk is CHUNK steps of one head. Its decays come from sums of dt A from its first
step on: never from a division by a decay, which may be 0.
"""

from __future__ import annotations

from drama_torchrl.kernels.launch import kernel
from drama_torchrl.kernels.optional_triton import jit, tl

__all__ = [
    "added_maps_kernel",
    "between_of",
    "carried_kernel",
    "decays_of",
    "load_rows",
    "place_of",
    "starts_of",
    "steps_of",
    "store_rows",
]


@jit
def load_rows(
    base: tl.tensor,
    row: tl.tensor,
    stride: tl.tensor,
    inside: tl.tensor,
    column: tl.tensor,
    COLUMNS: tl.constexpr,
) -> tl.tensor:
    """Loads columns of some rows; zero where a row or column is not inside."""
    mask = inside[:, None] & (column < COLUMNS)[None, :]
    return tl.load(base + row[:, None] * stride + column[None, :], mask, 0.0)


@jit
def store_rows(
    base: tl.tensor,
    row: tl.tensor,
    stride: tl.tensor,
    inside: tl.tensor,
    column: tl.tensor,
    values: tl.tensor,
    COLUMNS: tl.constexpr,
) -> None:
    """Writes columns of some rows, as :func:`load_rows` loads them."""
    mask = inside[:, None] & (column < COLUMNS)[None, :]
    place = base + row[:, None] * stride + column[None, :]
    tl.store(place, values.to(base.dtype.element_ty), mask)


@jit
def steps_of(
    dt: tl.tensor, row: tl.tensor, inside: tl.tensor, NH: tl.constexpr
) -> tl.tensor:
    """Loads a chunk's step sizes; 0 after the last: no decay, no input."""
    return tl.load(dt + row * NH, mask=inside, other=0.0).to(tl.float32)


@jit
def starts_of(
    started: tl.tensor, row: tl.tensor, inside: tl.tensor, RESETS: tl.constexpr
) -> tl.tensor:
    """Counts the episodes that start in a chunk up to each step."""
    if RESETS:
        flags = tl.load(started + row, mask=inside, other=0)
        return tl.cumsum(flags.to(tl.int32), 0)
    else:  # noqa: RET505 - only the branch taken is compiled, not what follows it
        return tl.zeros(inside.shape, tl.int32)


@jit
def decays_of(
    step: tl.tensor, rate: tl.tensor, episode: tl.tensor, CHUNK: tl.constexpr
) -> tuple[tl.tensor, ...]:
    """What is left of a chunk's first state and of its inputs; 0 across episode starts.

    Returns the sums of log-decays up to each step, the decays from the chunk's start to
    each step, from each step to the chunk's end, and of the whole chunk.
    """
    last = tl.arange(0, CHUNK) == CHUNK - 1
    summed = tl.cumsum(step * rate, 0)
    total = tl.sum(tl.where(last, summed, 0.0), 0)
    present = tl.sum(tl.where(last, episode, 0), 0)
    never = float("-inf")
    from_start = tl.exp(tl.where(episode == 0, summed, never))
    to_end = tl.exp(tl.where(episode == present, total - summed, never))
    return summed, from_start, to_end, tl.where(present == 0, tl.exp(total), 0.0)


@jit
def between_of(t: tl.tensor, summed: tl.tensor, episode: tl.tensor) -> tl.tensor:
    """Decays [t, s] of the input of step s at step t; 0 where s is later or unseen.

    The exponential of an unmasked upper triangle would overflow.
    """
    seen = (t[:, None] >= t[None, :]) & (episode[:, None] == episode[None, :])
    return tl.exp(tl.where(seen, summed[:, None] - summed[None, :], float("-inf")))


@jit
def place_of(
    index: tl.tensor,
    p: tl.tensor,
    s: tl.tensor,
    P: tl.constexpr,
    S: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Offsets of one state [p, s] among states [index, P, S], and which are inside."""
    mask = (p < P)[:, None] & (s < S)[None, :]
    return index.to(tl.int64) * (P * S) + p[:, None] * S + s[None, :], mask


@kernel
def carried_kernel(
    states: tl.tensor,
    decays: tl.tensor,
    entry: tl.tensor,
    SEGMENTS: tl.constexpr,
    NH: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    ENTERS: tl.constexpr,
    REVERSE: tl.constexpr,
) -> None:
    """Turns what each segment adds to a state into the state it starts from, in place.

    In states [B, SEGMENTS, NH, SIZE], with decays [B, SEGMENTS, NH], from entry
    [B, NH, SIZE] (or zero) on; the last segment comes first if REVERSE.
    """
    blocks: tl.constexpr = (SIZE + BLOCK - 1) // BLOCK
    batch = (tl.program_id(0) // (blocks * NH)).to(tl.int64)
    head = tl.program_id(0) // blocks % NH
    element = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = element < SIZE
    running = tl.zeros([BLOCK], tl.float32)
    if ENTERS:
        place = entry + (batch * NH + head) * SIZE + element
        running = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    for turn in range(SEGMENTS):
        segment = SEGMENTS - 1 - turn if REVERSE else turn
        index = (batch * SEGMENTS + segment) * NH + head
        place = states + index * SIZE + element
        added = tl.load(place, mask=inside, other=0.0)
        decay = tl.load(decays + index)
        tl.store(place, running, mask=inside)
        running = running * decay + added


@kernel
def added_maps_kernel(
    partials: tl.tensor,
    total: tl.tensor,
    ROWS: tl.tensor,
    PARTS: tl.constexpr,
    S: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Adds up partials [ROWS, PARTS, S] in their order, to total [ROWS, S]."""
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    row, s = element // S, element % S
    inside = row < ROWS
    added = tl.zeros([BLOCK], tl.float32)
    for part in tl.static_range(PARTS):
        place = partials + (row * PARTS + part) * S + s
        added += tl.load(place, mask=inside, other=0.0)
    tl.store(total + element, added.to(total.dtype.element_ty), mask=inside)
