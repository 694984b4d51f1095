"""A kernel that takes a Mamba-2 layer from its input projection to its gated output."""

from __future__ import annotations

from drama_torchrl.kernels.launch import kernel
from drama_torchrl.kernels.optional_triton import jit, tl
from drama_torchrl.kernels.silu_kernel import silu

__all__ = ["convolved", "keep", "mamba2_step_kernel", "softplus", "window_of"]


@jit
def softplus(x: tl.tensor) -> tl.tensor:
    """Computes log(1 + exp(x)) in float32, also where exp(x) is small beside 1."""
    grown = tl.exp(tl.minimum(x, 20.0))
    total = 1.0 + grown
    # The logarithm belongs to what the sum has kept of exp(x).
    kept = total - 1.0
    ratio = grown / tl.where(kept == 0.0, 1.0, kept)
    small = tl.where(kept == 0.0, grown, tl.log(total) * ratio)
    return tl.where(x > 20.0, x, small)


@jit
def window_of(
    inputs: tl.tensor,
    past: tl.tensor,
    channel: tl.tensor,
    inside: tl.tensor,
    past_channel: tl.tensor,
    past_tap: tl.tensor,
    TAPS: tl.constexpr,
) -> tl.tuple:
    """Loads channels' last TAPS inputs, oldest first, in the dtype of the newest."""
    window = ()  # which Triton unpacks nowhere but in sums
    for tap in tl.static_range(TAPS - 1):
        place = past + channel * past_channel + tap * past_tap
        value = tl.load(place, mask=inside, other=0.0).to(inputs.dtype.element_ty)
        window = window + (value,)  # type: ignore[assignment]  # noqa: RUF005
    return window + (tl.load(inputs + channel, mask=inside, other=0.0),)  # noqa: RUF005


@jit
def convolved(
    window: tl.tuple,
    weight: tl.tensor,
    bias: tl.tensor,
    channel: tl.tensor,
    inside: tl.tensor,
    TAPS: tl.constexpr,
) -> tl.tensor:
    """Computes SiLU(bias + Σ weight · window) in float32."""
    total = tl.zeros(channel.shape, tl.float32)
    for tap in tl.static_range(TAPS):
        factor = tl.load(weight + channel * TAPS + tap, mask=inside, other=0.0)
        total += window[tap].to(tl.float32) * factor
    total += tl.load(bias + channel, mask=inside, other=0.0)
    return silu(total, False)


@jit
def keep(
    past: tl.tensor,
    window: tl.tuple,
    channel: tl.tensor,
    inside: tl.tensor,
    CHANNELS: tl.constexpr,
    TAPS: tl.constexpr,
) -> None:
    """Writes all of a window but its oldest inputs: past [TAPS - 1, CHANNELS]."""
    for tap in tl.static_range(1, TAPS):
        place = past + (tap - 1) * CHANNELS + channel
        tl.store(place, window[tap], mask=inside)


@kernel
def mamba2_step_kernel(
    projected: tl.tensor,
    past: tl.tensor,
    state: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    dt_bias: tl.tensor,
    rate_logs: tl.tensor,
    skips: tl.tensor,
    gated: tl.tensor,
    new_past: tl.tensor,
    new_state: tl.tensor,
    past_batch: tl.tensor,
    past_channel: tl.tensor,
    past_tap: tl.tensor,
    ROW: tl.constexpr,
    DI: tl.constexpr,
    P: tl.constexpr,
    S: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    """Takes BLOCK of one sequence's DI channels, and their states [BLOCK, S], a step.

    Every program convolves B and C, which all channels share, for itself; the first one
    of a sequence keeps their past.
    """
    CHANNELS: tl.constexpr = DI + 2 * S
    blocks = tl.cdiv(DI, BLOCK)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    p, s = block * BLOCK + tl.arange(0, BLOCK), tl.arange(0, WIDTH)
    head, inside = p // P, p < DI
    # B and C, one after the other.
    pair = tl.arange(0, 2 * WIDTH)
    bc, mapped = DI + pair // WIDTH * S + pair % WIDTH, pair % WIDTH < S
    projected += batch * ROW
    past += batch * past_batch
    new_past += batch * ((TAPS - 1) * CHANNELS)

    # All that comes from far is asked for before anything waits, the largest first.
    places = batch * (DI * S) + (p[:, None] * S + s[None, :])
    within = inside[:, None] & (s < S)[None, :]
    h = tl.load(state + places, within, 0.0, eviction_policy="evict_first")
    step = tl.load(projected + DI + CHANNELS + head, mask=inside, other=0.0)
    z = tl.load(projected + p, mask=inside, other=0.0).to(tl.float32)
    inputs = projected + DI
    x_taps = window_of(inputs, past, p, inside, past_channel, past_tap, TAPS)
    bc_taps = window_of(inputs, past, bc, mapped, past_channel, past_tap, TAPS)

    dt = step.to(tl.float32) + tl.load(dt_bias + head, mask=inside, other=0.0)
    dt = softplus(dt)
    rate = -tl.exp(tl.load(rate_logs + head, mask=inside, other=0.0))
    # Rounded as what was projected.
    kind = projected.dtype.element_ty
    x = convolved(x_taps, weight, bias, p, inside, TAPS).to(kind).to(tl.float32)
    maps = convolved(bc_taps, weight, bias, bc, mapped, TAPS).to(kind).to(tl.float32)
    maps = tl.reshape(maps, [2, WIDTH])
    upper = tl.arange(0, 2)[:, None] == 0
    b_t = tl.sum(tl.where(upper, maps, 0.0), 0)
    c_t = tl.sum(tl.where(upper, 0.0, maps), 0)
    h = h.to(tl.float32) * tl.exp(dt * rate)[:, None] + (x * dt)[:, None] * b_t[None, :]
    y = tl.sum(h * c_t[None, :], 1).to(kind).to(tl.float32)
    y += tl.load(skips + head, mask=inside, other=0.0) * x

    tl.store(new_state + places, h, mask=within)
    tl.store(gated + batch * DI + p, y * silu(z, False), mask=inside)
    keep(new_past, x_taps, p, inside, CHANNELS, TAPS)
    keep(new_past, bc_taps, bc, mapped & (block == 0), CHANNELS, TAPS)
