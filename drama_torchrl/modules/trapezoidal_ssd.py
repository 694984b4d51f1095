"""Mamba-3's recurrence as pure functions: a step, its loop, and a form parallel in T.

The input between two steps is taken from both of them, as by a trapezoidal rule with
the share λ_t of the later one (arXiv:2603.15569; one input, one output per head):

    h_t = α_t (h_{t-1} + (1 - λ_t) dt_t x_{t-1} B_{t-1}^T) + λ_t dt_t x_t B_t^T
    y_t = h_t C_t,        α_t = exp(dt_t A_t)

With λ = 1 it is the recurrence of :mod:`drama_torchrl.modules.ssd`, with rates and maps
of its own for each step and head. The functions share these shapes:

    x        [B, T, NH, P]   inputs, one P-vector per head
    dt       [B, T, NH]      step sizes, > 0
    A        [B, T, NH]      decay rates, < 0
    share    [B, T, NH]      λ, between 0 and 1
    B, C     [B, T, NH, S]   input and output maps
    past     of batch [B]    what came before; zeros where omitted
    is_init  [B, T] bool     True where an episode starts: drops what came before

Each returns ``(y, past)``: y [B, T, NH, P] in the dtype of x, and what the step after
the last one needs. Decays, their sums and states are float32 (float64 for float64
inputs) also under autocast; only the large products follow autocast.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from drama_torchrl.modules.recurrence import check_fits, wide

__all__ = [
    "Past",
    "trapezoidal_ssd",
    "trapezoidal_ssd_recurrent",
    "trapezoidal_ssd_step",
]

_ARGUMENTS = (
    "B B T NH S, dt B T NH, A B T NH, share B T NH, C B T NH S, is_init B T, "
    "past.ssm B NH P S, past.B B NH S, past.x B NH P"
)


class Past(NamedTuple):
    """What a step needs of those before it; all zeros where there were none."""

    ssm: Tensor  # [B, NH, P, S]: h
    B: Tensor  # [B, NH, S]: of the last step
    x: Tensor  # [B, NH, P]: of the last step


class _Decays(NamedTuple):
    """What is left after some of Q steps; 0 across episode starts."""

    between: Tensor  # [..., Q, Q]: of what step s (last axis) added, at t
    from_start: Tensor  # [..., Q]: of what was there before them, at t
    to_end: Tensor  # [..., Q]: of what step t added, at the last one


def trapezoidal_ssd_step(
    x: Tensor, dt: Tensor, A: Tensor, share: Tensor, B: Tensor, C: Tensor, past: Past
) -> tuple[Tensor, Past]:
    """Advance the recurrence by one step; the shapes are those above without T.

    Example:
        >>> x, B = torch.full((1, 1, 1), 8.0), torch.ones(1, 1, 1)
        >>> dt, A, share = torch.tensor([1.0, -1.0, 0.25]).view(3, 1, 1)
        >>> past = Past(torch.ones(1, 1, 1, 1), B, 4 * B)
        >>> y, _ = trapezoidal_ssd_step(x, dt, A, share, B, B, past)
        >>> y  # exp(-1) (1 + 0.75 * 4) + 0.25 * 8
        tensor([[[3.4715]]])
    """
    dt, share = wide(dt), wide(share)
    earlier = _outer((1 - share) * dt, past.x, past.B)
    decay = torch.exp(dt * wide(A))[..., None, None]
    ssm = (wide(past.ssm) + earlier) * decay + _outer(share * dt, x, B)
    y = (ssm * wide(C).unsqueeze(-2)).sum(-1)
    return y.to(x.dtype), Past(ssm, B, x)


def trapezoidal_ssd_recurrent(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    share: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    past: Past | None = None,
    is_init: Tensor | None = None,
) -> tuple[Tensor, Past]:
    """Run the recurrence step after step: the reference for the parallel form.

    Args, returns and errors as for :func:`trapezoidal_ssd`.

    Example:
        >>> ones = torch.ones(1, 2, 1)
        >>> x = B = ones.unsqueeze(-1)
        >>> y, _ = trapezoidal_ssd_recurrent(x, ones, -ones, 0.5 * ones, B, B)
        >>> y.flatten()  # 0.5, then exp(-1) (0.5 + 0.5) + 0.5
        tensor([0.5000, 0.8679])
    """
    _check_shapes(x, B, past, dt, A, share, C, is_init)
    past = _empty_past(x, B) if past is None else past
    outputs = []
    for t in range(x.shape[1]):
        if is_init is not None:
            start = is_init[:, t, None, None]
            ssm = past.ssm.masked_fill(start.unsqueeze(-1), 0.0)
            past = Past(ssm, *(u.masked_fill(start, 0.0) for u in past[1:]))
        x_t, dt_t, A_t, share_t, B_t, C_t = (u[:, t] for u in (x, dt, A, share, B, C))
        y, past = trapezoidal_ssd_step(x_t, dt_t, A_t, share_t, B_t, C_t, past)
        outputs.append(y)
    return torch.stack(outputs, dim=1), past


def trapezoidal_ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    share: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    past: Past | None = None,
    is_init: Tensor | None = None,
    chunk_size: int = 128,
) -> tuple[Tensor, Past]:
    """Run the recurrence as masked matrix products inside chunks of steps.

    g_t = h_t + (1 - λ_{t+1}) dt_{t+1} x_t B_t^T, all that h_{t+1} decays, obeys

        g_t = α_t g_{t-1} + w_t x_t B_t^T,    w_t = λ_t dt_t + (1 - λ_{t+1}) dt_{t+1}
        y_t = (α_t g_{t-1} + λ_t dt_t x_t B_t^T) C_t

    the recurrence of :func:`drama_torchrl.modules.ssd.ssd` but for the last input, to
    which no later step has added yet. A last partial chunk is padded with dt = 0. Args
    and returns as in the module's docstring; a chunk costs its size squared.

    Raises:
        ValueError: if the shapes disagree.

    Example:
        >>> ones = torch.ones(1, 2, 1)
        >>> x = B = ones.unsqueeze(-1)
        >>> trapezoidal_ssd(x, ones, -ones, 0.5 * ones, B, B)[0].flatten()
        tensor([0.5000, 0.8679])
    """
    _check_shapes(x, B, past, dt, A, share, C, is_init)
    length = x.shape[1]
    start = _empty_past(x, B) if past is None else past
    dt, share = wide(dt), wide(share)
    own, earlier = share * dt, (1 - share) * dt
    weight = own + F.pad(earlier[:, 1:], (0, 0, 0, 1))
    g = wide(start.ssm) + _outer(earlier[:, 0], start.x, start.B)

    size = min(chunk_size, length)
    x_, B_, C_, log_decay, own, weight = (
        _by_chunk(u, size) for u in (x, B, C, dt * wide(A), own, weight)
    )
    init = None if is_init is None else _by_chunk(is_init.unsqueeze(-1), size)
    # The last input has a weight of its own: what is to come must not show by rounding.
    decays = _decays(log_decay, init, diagonal=-1)
    scores = torch.matmul(C_, B_.mT) * decays.between * weight.unsqueeze(-2)
    y = torch.matmul(scores.to(x.dtype), x_)
    y = y + (own * (wide(C_) * wide(B_)).sum(-1)).unsqueeze(-1) * wide(x_)

    with torch.autocast(x.device.type, enabled=False):
        left = wide(x_) * (weight * decays.to_end).unsqueeze(-1)
        added = torch.matmul(left.mT, wide(B_))
    starts, ssm = _carry(g, added, log_decay, init)
    if past is not None or starts.shape[1] > 1:
        seen = torch.matmul(C_, starts.mT.to(C_.dtype))
        y = y + seen * decays.from_start.unsqueeze(-1)
    y = y.transpose(2, 3).flatten(1, 2)[:, :length]
    return y.to(x.dtype), Past(ssm, B[:, -1], x[:, -1])


def _outer(weight: Tensor, x: Tensor, B: Tensor) -> Tensor:
    """Give weight x B^T, [B, NH, P, S]."""
    return (wide(x) * weight.unsqueeze(-1)).unsqueeze(-1) * wide(B).unsqueeze(-2)


def _empty_past(x: Tensor, B: Tensor) -> Past:
    batch, _, heads, width = x.shape
    ssm = wide(x.new_zeros(batch, heads, width, B.shape[-1]))
    return Past(ssm, torch.zeros_like(B[:, 0]), torch.zeros_like(x[:, 0]))


def _by_chunk(u: Tensor, size: int) -> Tensor:
    """[B, T, NH, ...] -> [B, chunks, NH, size, ...], padded at the end with zeros."""
    missing = -u.shape[1] % size
    padded = F.pad(u, (0, 0) * (u.ndim - 2) + (0, missing)) if missing else u
    return padded.unflatten(1, (-1, size)).transpose(2, 3)


def _decays(log_decay: Tensor, is_init: Tensor | None, *, diagonal: int) -> _Decays:
    """Turn log-decays per step [..., Q] into decays over spans of steps.

    Invisible spans become -inf before the exponential: the exponential of an unmasked
    upper triangle overflows, and 0 * inf in its backward is NaN.
    """
    length = log_decay.shape[-1]
    summed = log_decay.cumsum(-1)
    between = summed.unsqueeze(-1) - summed.unsqueeze(-2)
    to_end = summed[..., -1:] - summed
    visible = torch.ones(length, length, dtype=torch.bool, device=log_decay.device)
    visible = visible.tril(diagonal)
    if is_init is not None:
        episode = is_init.cumsum(-1)  # 0: the episode of what was there before
        visible = visible & (episode.unsqueeze(-1) == episode.unsqueeze(-2))
        summed = summed.masked_fill(episode > 0, -torch.inf)
        to_end = to_end.masked_fill(episode < episode[..., -1:], -torch.inf)
    between = between.masked_fill(~visible, -torch.inf)
    return _Decays(between.exp(), summed.exp(), to_end.exp())


def _carry(
    g: Tensor, added: Tensor, log_decay: Tensor, is_init: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Give the states before each chunk [B, chunks, NH, P, S] and after the last."""
    log_decay = log_decay.sum(-1).transpose(1, 2)  # [B, NH, chunks]
    is_init = None if is_init is None else is_init.any(-1).transpose(1, 2)
    decays = _decays(log_decay, is_init, diagonal=0)
    with torch.autocast(g.device.type, enabled=False):
        ends = torch.einsum("bhts,bshpn->bthpn", decays.between, added)
    ends = ends + g.unsqueeze(1) * decays.from_start.transpose(1, 2)[..., None, None]
    return torch.cat([g.unsqueeze(1), ends[:, :-1]], dim=1), ends[:, -1]


def _check_shapes(
    x: Tensor, B: Tensor, past: Past | None, *given: Tensor | None
) -> None:
    if x.ndim != 4 or x.shape[1] == 0:
        raise ValueError(
            "x: expected shape [B, T, NH, P] with at least one step, got "
            f"{tuple(x.shape)}; split the channels into heads first."
        )
    sizes = dict(zip(("B", "T", "NH", "P"), x.shape, strict=True), S=B.shape[-1])
    before = (None, None, None) if past is None else past
    check_fits(x, _ARGUMENTS, sizes, B, *given, *before)
