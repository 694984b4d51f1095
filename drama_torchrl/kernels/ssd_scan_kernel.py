"""A kernel that runs a short state-space recurrence with its state in registers."""

from __future__ import annotations

from drama_torchrl.kernels.optional_triton import jit, tl

__all__ = ["ssd_scan_kernel"]


@jit
def ssd_scan_kernel(
    x: tl.tensor,
    dt: tl.tensor,
    rates: tl.tensor,
    b: tl.tensor,
    c: tl.tensor,
    y: tl.tensor,
    state: tl.tensor,
    x_batch: tl.tensor,
    x_time: tl.tensor,
    x_head: tl.tensor,
    dt_batch: tl.tensor,
    dt_time: tl.tensor,
    b_batch: tl.tensor,
    b_time: tl.tensor,
    c_batch: tl.tensor,
    c_time: tl.tensor,
    T: tl.constexpr,
    NH: tl.constexpr,
    P: tl.constexpr,
    S: tl.constexpr,
) -> None:
    """Runs one head of one sequence: y [T, P] of a batch and head, state [P, S]."""
    batch = (tl.program_id(0) // NH).to(tl.int64)
    head = tl.program_id(0) % NH
    p, s = tl.arange(0, P), tl.arange(0, S)
    rate = tl.load(rates + head).to(tl.float32)
    h = tl.zeros([P, S], tl.float32)
    for t in range(T):
        step = tl.load(dt + batch * dt_batch + t * dt_time + head).to(tl.float32)
        x_t = tl.load(x + batch * x_batch + t * x_time + head * x_head + p)
        b_t = tl.load(b + batch * b_batch + t * b_time + s).to(tl.float32)
        c_t = tl.load(c + batch * c_batch + t * c_time + s).to(tl.float32)
        added = (x_t.to(tl.float32) * step)[:, None] * b_t[None, :]
        h = h * tl.exp(step * rate) + added
        y_t = tl.sum(h * c_t[None, :], 1)
        place = y + ((batch * T + t) * NH + head) * P + p
        tl.store(place, y_t.to(y.dtype.element_ty))
    first = (batch * NH + head) * P * S
    tl.store(state + first + p[:, None] * S + s[None, :], h)
