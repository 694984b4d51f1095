"""A kernel that runs a short state-space recurrence as three small products."""

from __future__ import annotations

from drama_torchrl.kernels.launch import kernel
from drama_torchrl.kernels.optional_triton import tl

__all__ = ["ssd_one_chunk_kernel"]


@kernel
def ssd_one_chunk_kernel(
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
    ROWS: tl.constexpr,
    NH: tl.constexpr,
    P: tl.constexpr,
    S: tl.constexpr,
) -> None:
    """Runs one head of one sequence, of ROWS >= T steps: y [T, P], state [P, S].

    y_t = Σ_{r ≤ t} (C_t · B_r) exp(L_t - L_r) dt_r x_r, with L the sums of dt A; the
    state is the last such sum without C. Steps from T on have dt = 0 and add nothing.
    """
    batch = (tl.program_id(0) // NH).to(tl.int64)
    head = tl.program_id(0) % NH
    t, p, s = tl.arange(0, ROWS), tl.arange(0, P), tl.arange(0, S)
    inside = t < T
    rows = inside[:, None]
    dt = tl.load(dt + batch * dt_batch + t * dt_time + head, mask=inside, other=0.0)
    x += batch * x_batch + head * x_head
    inputs = tl.load(x + t[:, None] * x_time + p[None, :], mask=rows, other=0.0)
    b += batch * b_batch
    maps = tl.load(b + t[:, None] * b_time + s[None, :], mask=rows, other=0.0)
    c += batch * c_batch
    read = tl.load(c + t[:, None] * c_time + s[None, :], mask=rows, other=0.0)

    step = dt.to(tl.float32)
    decay = step * tl.load(rates + head).to(tl.float32)
    logs = tl.cumsum(decay, 0)
    spans = tl.where(
        t[:, None] >= t[None, :], logs[:, None] - logs[None, :], float("-inf")
    )
    scores = tl.dot(read, tl.trans(maps), input_precision="tf32x3")
    scores *= tl.exp(spans) * step[None, :]
    result = tl.dot(scores.to(inputs.dtype), inputs, input_precision="tf32x3")
    place = y + ((batch * T + t[:, None]) * NH + head) * P + p[None, :]
    tl.store(place, result.to(y.dtype.element_ty), mask=rows)

    left = tl.exp(tl.sum(decay, 0) - logs) * step
    added = maps.to(tl.float32) * left[:, None]
    h = tl.dot(tl.trans(inputs.to(tl.float32)), added, input_precision="tf32x3")
    first = (batch * NH + head) * P * S
    tl.store(state + first + p[:, None] * S + s[None, :], h)
