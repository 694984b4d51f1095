"""Mamba-2's state-space duality as pure functions: one recurrence, four ways to run it.

The recurrence (arXiv:2405.21060, section 2), for every head with decay rate A < 0:

    h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T        y_t = h_t C_t

``ssd_step`` is that line, ``ssd_recurrent`` its loop over time, ``ssd_quadratic`` the
attention-like form, ``ssd_chunked`` the block decomposition and ``ssd`` their choice by
length; on a GPU with Triton ``ssd`` runs kernels instead, ``kernels/ssd_one_chunk.py``
on short sequences without gradients and ``kernels/ssd_chunks.py`` on longer ones. All
agree in values and gradients, and share these shapes:

    x              [B, T, NH, P]   inputs, one P-vector per head
    dt             [B, T, NH]      step sizes, > 0 (after the softplus)
    A              [NH]            decay rates, < 0
    B, C           [B, T, S]       input and output maps, shared by the heads
    initial_state  [B, NH, P, S]   h_{-1}; zero where omitted
    is_init        [B, T] bool     True where an episode starts: drops h_{t-1} there

Each returns ``(y, final_state)``: y [B, T, NH, P] in the dtype of x, and the state
[B, NH, P, S] after the last step. Decays, their sums and states are float32 (float64
for float64 inputs) also under autocast; only the large products follow autocast.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from drama_torchrl.kernels.ssd_chunks import can_chunk, ssd_chunks
from drama_torchrl.kernels.ssd_one_chunk import fits_one_chunk, ssd_one_chunk
from drama_torchrl.modules.recurrence import check_fits, wide

__all__ = [
    "QUADRATIC_MAX_LENGTH",
    "ssd",
    "ssd_chunked",
    "ssd_quadratic",
    "ssd_recurrent",
    "ssd_step",
]

# In plain torch on an H200 one chunk wins up to here (0.85 against 1.59 ms at 16x128)
# and loses at 16x1664 (5.62 against 2.67 ms): its cost grows with the square of T.
QUADRATIC_MAX_LENGTH = 256

_ARGUMENTS = "dt B T NH, A NH, B B T S, C B T S, initial_state B NH P S, is_init B T"


class _Decays(NamedTuple):
    """What is left of an input or a state after some steps; 0 across episode starts."""

    between: Tensor  # [B, NH, T, T]: of input s (last axis) at t
    from_start: Tensor  # [B, T, NH]: of the initial state at t
    to_end: Tensor  # [B, T, NH]: of input t at the last step


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    initial_state: Tensor | None = None,
    is_init: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence in the form that is fastest for the length of ``x``.

    Args and returns as in the module's docstring.

    Raises:
        ValueError: if the shapes disagree.

    Example:
        >>> x, dt, A = torch.randn(2, 5, 3, 4), torch.rand(2, 5, 3), -torch.ones(3)
        >>> y, state = ssd(x, dt, A, torch.randn(2, 5, 6), torch.randn(2, 5, 6))
        >>> y.shape, state.shape
        (torch.Size([2, 5, 3, 4]), torch.Size([2, 3, 4, 6]))
    """
    if initial_state is None and is_init is None and fits_one_chunk(x, B):
        _check_shapes(x, dt, A, B, C, None, None)
        return ssd_one_chunk(x, dt, A, B, C)
    options = {"initial_state": initial_state, "is_init": is_init}
    if can_chunk(x, B, C):
        _check_shapes(x, dt, A, B, C, initial_state, is_init)
        return ssd_chunks(x, dt, A, B, C, **options)
    run = ssd_quadratic if x.shape[1] <= QUADRATIC_MAX_LENGTH else ssd_chunked
    return run(x, dt, A, B, C, **options)


def ssd_step(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Advance the recurrence by one step; the shapes are those above without T.

    Products and one sum over S instead of a matmul, so that a compiler makes one kernel
    that reads and writes the state once.

    Example:
        >>> x, dt, A = torch.ones(1, 1, 2), torch.ones(1, 1), torch.tensor([-1.0])
        >>> B, C, state = torch.ones(1, 1), 2 * torch.ones(1, 1), torch.ones(1, 1, 2, 1)
        >>> y, state = ssd_step(x, dt, A, B, C, state)  # 1 + exp(-1), read out by 2
        >>> y
        tensor([[[2.7358, 2.7358]]])
    """
    x_dt = wide(x) * wide(dt).unsqueeze(-1)  # [B, NH, P]
    decay = torch.exp(wide(dt) * wide(A))[..., None, None]  # [B, NH, 1, 1]
    state = torch.addcmul(
        wide(state) * decay, x_dt.unsqueeze(-1), wide(B)[:, None, None]
    )
    y = (state * wide(C)[:, None, None]).sum(-1)
    return y.to(x.dtype), state


def ssd_recurrent(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    initial_state: Tensor | None = None,
    is_init: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence step after step: T launches, the reference for the others.

    Args, returns and errors as for :func:`ssd`.

    Example:
        >>> x, dt, A = torch.ones(1, 2, 1, 1), torch.ones(1, 2, 1), torch.tensor([-1.0])
        >>> B = C = torch.ones(1, 2, 1)
        >>> y, _ = ssd_recurrent(x, dt, A, B, C)  # 1, then exp(-1) + 1
        >>> y.flatten()
        tensor([1.0000, 1.3679])
    """
    _check_shapes(x, dt, A, B, C, initial_state, is_init)
    state = _zero_state(x, B) if initial_state is None else wide(initial_state)
    outputs = []
    for t in range(x.shape[1]):
        if is_init is not None:
            state = state.masked_fill(is_init[:, t, None, None, None], 0.0)
        y, state = ssd_step(x[:, t], dt[:, t], A, B[:, t], C[:, t], state)
        outputs.append(y)
    return torch.stack(outputs, dim=1), state


def ssd_quadratic(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    initial_state: Tensor | None = None,
    is_init: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence as one masked T x T product, y = (L * C B^T) (dt x).

    L_ts = exp(A (dt_{s+1} + ... + dt_t)) for s <= t, else 0 (section 5 of the paper).
    Args, returns and errors as for :func:`ssd`.

    Example:
        >>> x, dt, A = torch.ones(1, 2, 1, 1), torch.ones(1, 2, 1), torch.tensor([-1.0])
        >>> B = C = torch.ones(1, 2, 1)
        >>> ssd_quadratic(x, dt, A, B, C)[0].flatten()
        tensor([1.0000, 1.3679])
    """
    _check_shapes(x, dt, A, B, C, initial_state, is_init)
    decays = _decays(wide(dt) * wide(A), is_init)
    y = _within(x, dt, B, C, decays)
    state = _added_state(x, dt, B, decays)
    if initial_state is not None:
        y = y + _read_out(C, initial_state, decays)
        state = state + wide(initial_state) * decays.from_start[:, -1, :, None, None]
    return y.to(x.dtype), state


def ssd_chunked(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    initial_state: Tensor | None = None,
    is_init: Tensor | None = None,
    chunk_size: int = 128,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence quadratically inside chunks of ``chunk_size`` steps.

    The block decomposition (section 6 of the paper), linear in T: the states at the
    chunks' ends obey the same recurrence with one step per chunk, so a decay matrix
    carries them too. A last partial chunk is padded with dt = 0: no decay, no input.
    Args, returns and errors as for :func:`ssd`.

    Example:
        >>> x, dt, A = torch.ones(1, 2, 1, 1), torch.ones(1, 2, 1), torch.tensor([-1.0])
        >>> B = C = torch.ones(1, 2, 1)
        >>> ssd_chunked(x, dt, A, B, C, chunk_size=1)[0].flatten()
        tensor([1.0000, 1.3679])
    """
    _check_shapes(x, dt, A, B, C, initial_state, is_init)
    length = x.shape[1]
    size = min(chunk_size, length)
    by_chunk = (-(-length // size), size)
    x_, dt_, B_, C_ = (_fold(t, by_chunk) for t in (x, dt, B, C))
    init_ = None if is_init is None else _fold(is_init, by_chunk)

    log_decay = wide(dt_) * wide(A)
    decays = _decays(log_decay, init_)
    added = _unfold(_added_state(x_, dt_, B_, decays), by_chunk)  # [B, T/Q, NH, P, S]
    across = _decays(
        _unfold(log_decay.sum(1), by_chunk),
        None if init_ is None else _unfold(init_.any(1), by_chunk),
    )
    with torch.autocast(x.device.type, enabled=False):
        ends = torch.einsum("bhts,bshpn->bthpn", across.between, added)
    if initial_state is None:
        initial_state = _zero_state(x, B)
    else:
        initial_state = wide(initial_state)
        ends = ends + initial_state.unsqueeze(1) * across.from_start[..., None, None]
    starts = torch.cat([initial_state.unsqueeze(1), ends[:, :-1]], dim=1)

    y = _within(x_, dt_, B_, C_, decays) + _read_out(C_, starts.flatten(0, 1), decays)
    y = _unfold(y, by_chunk).flatten(1, 2)[:, :length]
    return y.to(x.dtype), ends[:, -1]


def _zero_state(x: Tensor, B: Tensor) -> Tensor:
    batch, _, heads, width = x.shape
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.zeros(batch, heads, width, B.shape[-1], dtype=dtype, device=x.device)


def _fold(t: Tensor, by_chunk: tuple[int, int]) -> Tensor:
    """[B, T, ...] -> [B*chunks, size, ...], padded at the end with zeros."""
    missing = by_chunk[0] * by_chunk[1] - t.shape[1]
    padded = F.pad(t, (0, 0) * (t.ndim - 2) + (0, missing)) if missing else t
    return padded.unflatten(1, by_chunk).flatten(0, 1)


def _unfold(t: Tensor, by_chunk: tuple[int, int]) -> Tensor:
    """[B*chunks, ...] -> [B, chunks, ...]."""
    return t.unflatten(0, (-1, by_chunk[0]))


def _decays(log_decay: Tensor, is_init: Tensor | None) -> _Decays:
    """Turn log-decays per step [B, T, NH] into decays over spans of steps.

    Invisible spans become -inf before the exponential: the exponential of an unmasked
    upper triangle overflows, and 0 * inf in its backward is NaN.
    """
    length = log_decay.shape[1]
    summed = log_decay.cumsum(1)
    per_head = summed.transpose(1, 2)
    between = per_head.unsqueeze(-1) - per_head.unsqueeze(-2)
    visible = torch.ones(
        length, length, dtype=torch.bool, device=log_decay.device
    ).tril()
    to_end = summed[:, -1:] - summed
    if is_init is not None:
        episode = is_init.cumsum(1)  # 0: the episode of the initial state
        same = episode.unsqueeze(-1) == episode.unsqueeze(-2)
        visible = visible & same.unsqueeze(1)
        summed = summed.masked_fill((episode > 0).unsqueeze(-1), -torch.inf)
        to_end = to_end.masked_fill(~same[:, -1].unsqueeze(-1), -torch.inf)
    between = between.masked_fill(~visible, -torch.inf)
    return _Decays(between.exp(), summed.exp(), to_end.exp())


def _within(x: Tensor, dt: Tensor, B: Tensor, C: Tensor, decays: _Decays) -> Tensor:
    """Outputs [B, T, NH, P] due to the inputs of the same chunk."""
    scores = torch.matmul(C, B.transpose(1, 2)).unsqueeze(1)  # [B, 1, T, T]
    weights = scores * decays.between * wide(dt).transpose(1, 2).unsqueeze(2)
    return torch.matmul(weights.to(x.dtype), x.transpose(1, 2)).transpose(1, 2)


def _read_out(C: Tensor, state: Tensor, decays: _Decays) -> Tensor:
    """Outputs [B, T, NH, P] due to the state [B, NH, P, S] before the chunk."""
    outputs = torch.matmul(C, state.flatten(1, 2).transpose(1, 2).to(C.dtype))
    return outputs.unflatten(2, state.shape[1:3]) * decays.from_start.unsqueeze(-1)


def _added_state(x: Tensor, dt: Tensor, B: Tensor, decays: _Decays) -> Tensor:
    """What the inputs of one chunk leave in the state at its end: [B, NH, P, S]."""
    with torch.autocast(x.device.type, enabled=False):
        weighted = wide(x) * (wide(dt) * decays.to_end).unsqueeze(-1)
        state = torch.matmul(weighted.flatten(2).transpose(1, 2), wide(B))
    return state.unflatten(1, x.shape[2:])


def _check_shapes(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *options: Tensor | None
) -> None:
    if x.ndim != 4 or x.shape[1] == 0:
        raise ValueError(
            "x: expected shape [B, T, NH, P] with at least one step, got "
            f"{tuple(x.shape)}; split the channels into heads first."
        )
    sizes = dict(zip(("B", "T", "NH", "P"), x.shape, strict=True), S=B.shape[-1])
    check_fits(x, _ARGUMENTS, sizes, dt, A, B, C, *options)
