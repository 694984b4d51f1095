"""A kernel that takes a Mamba layer from its step sizes to its gated output."""

from __future__ import annotations

from drama_torchrl.kernels.launch import kernel
from drama_torchrl.kernels.mamba2_step_kernel import softplus
from drama_torchrl.kernels.optional_triton import tl
from drama_torchrl.kernels.selective_scan_forward_kernels import row_of, value_of
from drama_torchrl.kernels.silu_kernel import silu

__all__ = ["mamba_step_kernel"]


@kernel
def mamba_step_kernel(
    x: tl.tensor,
    raw: tl.tensor,
    b: tl.tensor,
    c: tl.tensor,
    z: tl.tensor,
    state: tl.tensor,
    dt_bias: tl.tensor,
    rate_logs: tl.tensor,
    skips: tl.tensor,
    gated: tl.tensor,
    new_state: tl.tensor,
    x_batch: tl.tensor,
    raw_batch: tl.tensor,
    b_batch: tl.tensor,
    c_batch: tl.tensor,
    z_batch: tl.tensor,
    DI: tl.constexpr,
    S: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    """Takes BLOCK of one sequence's channels, and their states [BLOCK, S], a step."""
    blocks = tl.cdiv(DI, BLOCK)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    p = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    s, inside = tl.arange(0, WIDTH), p < DI
    within = inside[:, None] & (s < S)[None, :]
    places = p[:, None] * S + s[None, :]

    # All that comes from far is asked for before anything waits, the largest first.
    state += batch * (DI * S)
    h = tl.load(state + places, within, 0.0, eviction_policy="evict_first")
    x_t = value_of(x + batch * x_batch + p, inside)
    dt = value_of(raw + batch * raw_batch + p, inside)
    z_t = value_of(z + batch * z_batch + p, inside)
    b_t = row_of(b + batch * b_batch, S, WIDTH, s < S)
    c_t = row_of(c + batch * c_batch, S, WIDTH, s < S)

    dt = softplus(dt + value_of(dt_bias + p, inside))
    decay = tl.exp(-dt[:, None] * tl.exp(value_of(rate_logs + places, within)))
    h = h.to(tl.float32) * decay + (x_t * dt)[:, None] * b_t
    y = tl.sum(h * c_t, 1) + value_of(skips + p, inside) * x_t
    tl.store(new_state + batch * (DI * S) + places, h, mask=within)
    tl.store(gated + batch * DI + p, y * silu(z_t, False), mask=inside)
