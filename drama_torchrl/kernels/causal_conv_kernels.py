"""Kernels of a causal depthwise convolution with its SiLU over a sequence."""

from __future__ import annotations

from drama_torchrl.kernels.optional_triton import jit, tl
from drama_torchrl.kernels.silu_kernel import silu, silu_gradient

__all__ = ["causal_conv_gradients_kernel", "causal_conv_kernel"]


@jit
def causal_conv_kernel(
    inputs: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    started: tl.tensor,
    y: tl.tensor,
    by_batch: tl.tensor,
    T: tl.tensor,
    STEP: tl.constexpr,
    CHANNELS: tl.constexpr,
    TAPS: tl.constexpr,
    RESETS: tl.constexpr,
    PTX: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Convolves ROWS steps of BLOCK channels of one sequence: y [B, T, CHANNELS]."""
    batch, time, channel = _tile(T, ROWS, BLOCK)
    inputs += batch * by_batch
    started += batch * T
    exists = channel < CHANNELS
    taps = _taps(weight, channel, exists, TAPS)
    offset = tl.load(bias + channel, mask=exists, other=0.0)
    how: tl.constexpr = (STEP, TAPS, RESETS)
    z = _convolved(inputs, taps, offset, started, time, channel, exists, T, how)
    inside = (time < T)[:, None] & exists[None, :]
    place = y + (batch * T + time)[:, None] * CHANNELS + channel[None, :]
    tl.store(place, silu(z, PTX).to(y.dtype.element_ty), mask=inside)


@jit
def causal_conv_gradients_kernel(
    dy: tl.tensor,
    inputs: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    started: tl.tensor,
    dx: tl.tensor,
    partials: tl.tensor,
    by_batch: tl.tensor,
    T: tl.tensor,
    STEP: tl.constexpr,
    CHANNELS: tl.constexpr,
    TAPS: tl.constexpr,
    RESETS: tl.constexpr,
    PTX: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Gives dx of a tile, and its sums for dweight and dbias.

    dx [B, T, CHANNELS]; partials [programs, TAPS + 1, CHANNELS], the last row of which
    is that of the bias.
    """
    batch, time, channel = _tile(T, ROWS, BLOCK)
    exists = channel < CHANNELS
    inputs += batch * by_batch
    started += batch * T
    dy += batch * T * CHANNELS
    taps = _taps(weight, channel, exists, TAPS)
    offset = tl.load(bias + channel, mask=exists, other=0.0)
    how: tl.constexpr = (STEP, TAPS, RESETS)
    partials += tl.program_id(0).to(tl.int64) * ((TAPS + 1) * CHANNELS) + channel
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    reached = time < T  # whether the step that many later still sees this one
    for later in tl.static_range(TAPS):
        now = time + later
        if RESETS and later > 0:
            flag = tl.load(started + now, mask=now < T, other=1)
            reached = reached & (flag == 0)
        reached = reached & (now < T)
        z = _convolved(inputs, taps, offset, started, now, channel, exists, T, how)
        place = dy + now[:, None] * CHANNELS + channel[None, :]
        mask = reached[:, None] & exists[None, :]
        dz = silu_gradient(tl.load(place, mask=mask, other=0.0).to(tl.float32), z, PTX)
        total += dz * taps[TAPS - 1 - later][None, :]
        if later == 0:
            seen = time < T
            for before in tl.static_range(TAPS):
                seen = _still_seen(seen, started, time, before, T, RESETS)
                u = _inputs_at(inputs, time - before, channel, seen, exists, STEP)
                row = partials + (TAPS - 1 - before) * CHANNELS
                tl.store(row, tl.sum(dz * u, 0), mask=exists)
            tl.store(partials + TAPS * CHANNELS, tl.sum(dz, 0), mask=exists)
    place = dx + (batch * T + time)[:, None] * CHANNELS + channel[None, :]
    inside = (time < T)[:, None] & exists[None, :]
    tl.store(place, total.to(dx.dtype.element_ty), mask=inside)


@jit
def _tile(
    T: tl.tensor, ROWS: tl.constexpr, BLOCK: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """The sequence, steps and channels of this program."""
    tiles = tl.cdiv(T, ROWS)
    batch = (tl.program_id(0) // tiles).to(tl.int64)
    time = tl.program_id(0) % tiles * ROWS + tl.arange(0, ROWS)
    return batch, time, tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)


@jit
def _taps(
    weight: tl.tensor, channel: tl.tensor, exists: tl.tensor, TAPS: tl.constexpr
) -> tl.tuple:
    """The weights of the channels, oldest first, for all that a program computes."""
    taps = ()  # which Triton unpacks nowhere but in sums
    for tap in tl.static_range(TAPS):
        value = tl.load(weight + channel * TAPS + tap, mask=exists, other=0.0)
        taps = taps + (value,)  # type: ignore[assignment]  # noqa: RUF005
    return taps


@jit
def _convolved(
    inputs: tl.tensor,
    taps: tl.tuple,
    offset: tl.tensor,
    started: tl.tensor,
    time: tl.tensor,
    channel: tl.tensor,
    exists: tl.tensor,
    T: tl.tensor,
    how: tl.constexpr,
) -> tl.tensor:
    """Computes bias + Σ_k weight_k u_{t-K+1+k} in float32, what SiLU is taken of."""
    STEP: tl.constexpr = how[0]
    TAPS: tl.constexpr = how[1]
    RESETS: tl.constexpr = how[2]
    z = offset[None, :] + tl.zeros([time.shape[0], 1], tl.float32)
    seen = time < T
    for before in tl.static_range(TAPS):
        seen = _still_seen(seen, started, time, before, T, RESETS)
        u = _inputs_at(inputs, time - before, channel, seen, exists, STEP)
        z += u * taps[TAPS - 1 - before][None, :]
    return z


@jit
def _still_seen(
    seen: tl.tensor,
    started: tl.tensor,
    time: tl.tensor,
    before: tl.constexpr,
    T: tl.tensor,
    RESETS: tl.constexpr,
) -> tl.tensor:
    """Tells whether steps see what was that much before, if they see one step less."""
    if RESETS and before > 0:
        after = time - before + 1
        flag = tl.load(started + after, mask=(after >= 0) & (after < T), other=1)
        seen = seen & (flag == 0)
    return seen & (time >= before)


@jit
def _inputs_at(
    inputs: tl.tensor,
    time: tl.tensor,
    channel: tl.tensor,
    seen: tl.tensor,
    exists: tl.tensor,
    STEP: tl.constexpr,
) -> tl.tensor:
    place = inputs + time[:, None] * STEP + channel[None, :]
    u = tl.load(place, mask=seen[:, None] & exists[None, :], other=0.0)
    return u.to(tl.float32)
