"""Kernels of a causal depthwise convolution with its SiLU over a sequence.

A program has a column of BLOCK channels and a span of ROWS steps, and loads all rows of
it, and those that its neighbours share with it, before it computes: as a tile, each of
its taps would be loaded again.
"""

from __future__ import annotations

from drama_torchrl.kernels.launch import kernel
from drama_torchrl.kernels.optional_triton import jit, tl
from drama_torchrl.kernels.silu_kernel import silu, silu_gradient

__all__ = ["causal_conv_gradients_kernel", "causal_conv_kernel"]


@kernel
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
    batch, first, channel = _span(T, ROWS, BLOCK)
    exists = channel < CHANNELS
    BEFORE: tl.constexpr = TAPS - 1
    inputs += batch * by_batch + channel
    u = _rows(inputs, first - BEFORE, T, exists, STEP, ROWS + BEFORE)
    goes_on = _goes_on(started + batch * T, first - BEFORE, T, RESETS, ROWS + BEFORE)
    taps = _taps(weight, channel, exists, TAPS)
    offset = tl.load(bias + channel, mask=exists, other=0.0)
    y += (batch * T + first) * CHANNELS + channel
    for row in tl.static_range(ROWS):
        window = _window(u, goes_on, row, TAPS)
        z = _convolved(window, taps, offset, TAPS)
        mask = exists & (first + row < T)
        tl.store(y + row * CHANNELS, silu(z, PTX).to(y.dtype.element_ty), mask=mask)


@kernel
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
    """Gives dx of ROWS steps, and their sums for dweight and dbias.

    dx [B, T, CHANNELS]; partials [spans, TAPS + 1, CHANNELS], the last row of which is
    that of the bias. The steps after the span belong to its dx alone.
    """
    batch, first, channel = _span(T, ROWS, BLOCK)
    exists = channel < CHANNELS
    BEFORE: tl.constexpr = TAPS - 1
    COUNT: tl.constexpr = ROWS + 2 * BEFORE
    inputs += batch * by_batch + channel
    dy += batch * T * CHANNELS + channel
    u = _rows(inputs, first - BEFORE, T, exists, STEP, COUNT)
    dys = _rows(dy, first, T, exists, CHANNELS, ROWS + BEFORE)
    goes_on = _goes_on(started + batch * T, first - BEFORE, T, RESETS, COUNT)
    taps = _taps(weight, channel, exists, TAPS)
    offset = tl.load(bias + channel, mask=exists, other=0.0)
    dx += (batch * T + first) * CHANNELS + channel
    dzs = ()
    sums = ()
    for _ in tl.static_range(TAPS + 1):
        sums = sums + (tl.zeros([BLOCK], tl.float32),)  # type: ignore[assignment]  # noqa: RUF005
    for row in tl.static_range(ROWS + BEFORE):
        window = _window(u, goes_on, row, TAPS)
        z = _convolved(window, taps, offset, TAPS)
        dz = silu_gradient(dys[row].to(tl.float32), z, PTX)
        dzs = dzs + (dz,)  # type: ignore[assignment]  # noqa: RUF005
        if row < ROWS:
            sums = _added(sums, window, dz, TAPS)
        if row >= BEFORE:
            total = _gathered(dzs, goes_on, taps, row - BEFORE, TAPS)
            mask = exists & (first + row - BEFORE < T)
            place = dx + (row - BEFORE) * CHANNELS
            tl.store(place, total.to(dx.dtype.element_ty), mask=mask)
    partials += tl.program_id(0).to(tl.int64) * ((TAPS + 1) * CHANNELS) + channel
    for tap in tl.static_range(TAPS + 1):
        tl.store(partials + tap * CHANNELS, sums[tap], mask=exists)


@jit
def _span(
    T: tl.tensor, ROWS: tl.constexpr, BLOCK: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """The sequence, first step and channels of this program."""
    spans = tl.cdiv(T, ROWS)
    batch = (tl.program_id(0) // spans).to(tl.int64)
    first = (tl.program_id(0) % spans * ROWS).to(tl.int64)
    return batch, first, tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)


@jit
def _taps(
    weight: tl.tensor, channel: tl.tensor, exists: tl.tensor, TAPS: tl.constexpr
) -> tl.tuple:
    """The weights of the channels, oldest first."""
    taps = ()
    for tap in tl.static_range(TAPS):
        value = tl.load(weight + channel * TAPS + tap, mask=exists, other=0.0)
        taps = taps + (value,)  # type: ignore[assignment]  # noqa: RUF005
    return taps


@jit
def _rows(
    source: tl.tensor,
    first: tl.tensor,
    T: tl.tensor,
    exists: tl.tensor,
    STEP: tl.constexpr,
    COUNT: tl.constexpr,
) -> tl.tuple:
    """COUNT rows of a sequence from its step ``first`` on, zero outside of it."""
    rows = ()
    for row in tl.static_range(COUNT):
        time = first + row
        mask = exists & (time >= 0) & (time < T)
        value = tl.load(source + time * STEP, mask=mask, other=0.0)
        rows = rows + (value,)  # type: ignore[assignment]  # noqa: RUF005
    return rows


@jit
def _goes_on(
    started: tl.tensor,
    first: tl.tensor,
    T: tl.tensor,
    RESETS: tl.constexpr,
    COUNT: tl.constexpr,
) -> tl.tuple:
    """Whether each of COUNT steps from ``first`` on sees the one before it."""
    flags = ()
    for row in tl.static_range(COUNT):
        flag = True
        if RESETS:
            time = first + row
            inside = (time >= 0) & (time < T)
            flag = tl.load(started + time, mask=inside, other=1) == 0
        flags = flags + (flag,)  # type: ignore[assignment]  # noqa: RUF005
    return flags


@jit
def _window(
    u: tl.tuple,
    goes_on: tl.tuple,
    row: tl.constexpr,
    TAPS: tl.constexpr,
) -> tl.tuple:
    """What a step sees, in float32: its input and those before, oldest first."""
    NOW: tl.constexpr = row + TAPS - 1
    window = ()
    seen = True
    for before in tl.static_range(TAPS):
        value = tl.where(seen, u[NOW - before].to(tl.float32), 0.0)
        window = (value,) + window  # type: ignore[assignment]  # noqa: RUF005
        seen = seen & goes_on[NOW - before]
    return window


@jit
def _convolved(
    window: tl.tuple, taps: tl.tuple, offset: tl.tensor, TAPS: tl.constexpr
) -> tl.tensor:
    """Computes bias + Σ_k weight_k u_{t-K+1+k} in float32, what SiLU is taken of."""
    z = offset
    for tap in tl.static_range(TAPS):
        z += window[tap] * taps[tap]
    return z


@jit
def _added(
    sums: tl.tuple, window: tl.tuple, dz: tl.tensor, TAPS: tl.constexpr
) -> tl.tuple:
    """Adds what a step's dz contributes to dweight, oldest tap first, and dbias."""
    grown = ()
    for tap in tl.static_range(TAPS):
        grown = grown + (sums[tap] + dz * window[tap],)  # type: ignore[assignment]  # noqa: RUF005
    return grown + (sums[TAPS] + dz,)  # noqa: RUF005


@jit
def _gathered(
    dzs: tl.tuple,
    goes_on: tl.tuple,
    taps: tl.tuple,
    row: tl.constexpr,
    TAPS: tl.constexpr,
) -> tl.tensor:
    """Computes dx = Σ_k weight_{K-1-k} dz_{t+k} of the steps that see this one."""
    NOW: tl.constexpr = row + TAPS - 1
    total = dzs[row] * taps[TAPS - 1]
    seen = True
    for later in tl.static_range(1, TAPS):
        seen = seen & goes_on[NOW + later]
        seen_dz = tl.where(seen, dzs[row + later], 0.0)
        total += seen_dz * taps[TAPS - 1 - later]
    return total
