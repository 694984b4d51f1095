"""Mamba's selective scan as pure functions: one recurrence, four ways to run it.

The recurrence (arXiv:2312.00752, section 3), for every channel c and state s with
decay rates A < 0:

    h_t[c, s] = exp(dt_t[c] A[c, s]) h_{t-1}[c, s] + dt_t[c] x_t[c] B_t[s]
    y_t[c] = sum_s h_t[c, s] C_t[s]

Mamba-2 has one decay rate per head, which makes the recurrence a matrix product; here
each channel has S of its own. ``selective_scan_step`` is that line,
``selective_scan_recurrent`` its loop over time, ``selective_scan_chunked`` runs chunks
of steps in parallel, and ``selective_scan`` is that or, on a GPU with Triton, kernels.
They agree in values and gradients, and share these shapes:

    x, dt          [B, T, DI]   inputs and step sizes > 0 (after the softplus)
    A              [DI, S]      decay rates, < 0
    B, C           [B, T, S]    input and output maps, shared by the channels
    initial_state  [B, DI, S]   h_{-1}; zero where omitted
    is_init        [B, T] bool  True where an episode starts: drops h_{t-1} there

Each returns ``(y, final_state)``: y [B, T, DI] and the state [B, DI, S] after the last
step, both in float32 (float64 for float64 inputs) also under autocast.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from drama_torchrl.kernels import selective_scan as kernels
from drama_torchrl.modules.recurrence import check_fits, wide

__all__ = [
    "CHUNK_SIZE",
    "linear_scan",
    "selective_scan",
    "selective_scan_chunked",
    "selective_scan_recurrent",
    "selective_scan_step",
]

# [B, T, DI, S] in float32 for 16 sequences at the paper's sizes is 1 MB a step: a chunk
# stays in a GPU's cache. Fewer, longer chunks would launch fewer kernels.
CHUNK_SIZE = 32

_ARGUMENTS = "dt B T DI, A DI S, B B T S, C B T S, initial_state B DI S, is_init B T"


def selective_scan_step(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Advance the recurrence by one step; the shapes are those above without T.

    Example:
        >>> x, dt, A = torch.ones(1, 2), torch.ones(1, 2), -torch.ones(2, 1)
        >>> B, C, state = torch.ones(1, 1), 2 * torch.ones(1, 1), torch.ones(1, 2, 1)
        >>> selective_scan_step(x, dt, A, B, C, state)[0]  # 1 + exp(-1), read out by 2
        tensor([[2.7358, 2.7358]])
    """
    x, dt, A, B, C = (wide(t) for t in (x, dt, A, B, C))
    decay = torch.exp(dt.unsqueeze(-1) * A)
    state = torch.addcmul(wide(state) * decay, (dt * x).unsqueeze(-1), B.unsqueeze(-2))
    return (state * C.unsqueeze(-2)).sum(-1), state


def selective_scan_recurrent(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    initial_state: Tensor | None = None,
    is_init: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence step after step: T launches, the reference for the other.

    Args, returns and errors as for :func:`selective_scan`.

    Example:
        >>> ones = torch.ones(1, 2, 1)
        >>> y, _ = selective_scan_recurrent(ones, ones, -torch.ones(1, 1), ones, ones)
        >>> y.flatten()  # 1, then exp(-1) + 1
        tensor([1.0000, 1.3679])
    """
    _check_shapes(x, dt, A, B, C, initial_state, is_init)
    state = _zero_state(x, A) if initial_state is None else wide(initial_state)
    outputs = []
    for t in range(x.shape[1]):
        if is_init is not None:
            state = state.masked_fill(is_init[:, t, None, None], 0.0)
        y, state = selective_scan_step(x[:, t], dt[:, t], A, B[:, t], C[:, t], state)
        outputs.append(y)
    return torch.stack(outputs, dim=1), state


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    initial_state: Tensor | None = None,
    is_init: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence in the form that is fastest where ``x`` is.

    Args and returns as in the module's docstring.

    Raises:
        ValueError: if the shapes disagree.

    Example:
        >>> x, dt, A = torch.randn(2, 5, 3), torch.rand(2, 5, 3), -torch.rand(3, 4)
        >>> B, C = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
        >>> y, state = selective_scan(x, dt, A, B, C)
        >>> y.shape, state.shape
        (torch.Size([2, 5, 3]), torch.Size([2, 3, 4]))
    """
    inputs = (x, dt, A, B, C)
    _check_shapes(*inputs, initial_state, is_init)
    if kernels.can_scan(*inputs, initial_state):
        y, state, _ = kernels.selective_scan(*inputs, initial_state, is_init)
        return y, state
    return selective_scan_chunked(*inputs, initial_state=initial_state, is_init=is_init)


def selective_scan_chunked(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    initial_state: Tensor | None = None,
    is_init: Tensor | None = None,
    chunk_size: int = CHUNK_SIZE,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence in parallel inside chunks of ``chunk_size`` steps.

    States of all steps exist for one chunk at a time: their memory is
    [B, chunk_size, DI, S], not [B, T, DI, S], in training too, where the backward pass
    computes them again from the state at the start of the chunk.

    Args, returns and errors as for :func:`selective_scan`.

    Example:
        >>> ones = torch.ones(1, 2, 1)
        >>> y, _ = selective_scan_chunked(ones, ones, -torch.ones(1, 1), ones, ones)
        >>> y.flatten()  # 1, then exp(-1) + 1
        tensor([1.0000, 1.3679])
    """
    _check_shapes(x, dt, A, B, C, initial_state, is_init)
    state = _zero_state(x, A) if initial_state is None else wide(initial_state)
    length, outputs = x.shape[1], []
    recompute = torch.is_grad_enabled() and length > chunk_size
    for start in range(0, length, chunk_size):
        at = slice(start, start + chunk_size)
        init = None if is_init is None else is_init[:, at]
        chunk = (x[:, at], dt[:, at], A, B[:, at], C[:, at], state, init)
        if recompute:
            # Nothing in a chunk is random; reading the generator would synchronise.
            y, state = checkpoint(
                _scan_chunk, *chunk, use_reentrant=False, preserve_rng_state=False
            )
        else:
            y, state = _scan_chunk(*chunk)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


def linear_scan(decay: Tensor, added: Tensor) -> Tensor:
    """Solve h_t = decay_t h_{t-1} + added_t over dimension 1, from h_{-1} = 0.

    Two steps in a row are one step of the same kind, so half the states follow from a
    scan of half the length, and the others from one more step each: 2 log2(T) launches
    and about three times the work of the recurrence itself. Only products of decays
    occur: nothing overflows where decays are at most 1.

    Args:
        decay: [B, T, ...].
        added: [B, T, ...].

    Returns:
        h [B, T, ...].

    Example:
        >>> linear_scan(torch.full((1, 4), 0.5), torch.ones(1, 4))
        tensor([[1.0000, 1.5000, 1.7500, 1.8750]])
    """
    length = decay.shape[1]
    if length == 1:
        return added
    even_decay, odd_decay = decay[:, 0::2], decay[:, 1::2]
    even_added, odd_added = added[:, 0::2], added[:, 1::2]
    pairs = length // 2
    odd = linear_scan(
        odd_decay * even_decay[:, :pairs],
        torch.addcmul(odd_added, odd_decay, even_added[:, :pairs]),
    )
    before = odd[:, : (length - 1) // 2]
    later = torch.addcmul(even_added[:, 1:], even_decay[:, 1:], before)
    even = torch.cat([even_added[:, :1], later], dim=1)
    woven = torch.stack([even[:, :pairs], odd], dim=2).flatten(1, 2)
    return torch.cat([woven, even[:, pairs:]], dim=1) if length % 2 else woven


def _scan_chunk(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    is_init: Tensor | None,
) -> tuple[Tensor, Tensor]:
    x, dt, A, B, C = (wide(t) for t in (x, dt, A, B, C))
    decay = torch.exp(dt.unsqueeze(-1) * A)  # [B, chunk, DI, S]
    if is_init is not None:
        decay = decay.masked_fill(is_init[..., None, None], 0.0)
    added = (dt * x).unsqueeze(-1) * B.unsqueeze(-2)
    first = torch.addcmul(added[:, :1], decay[:, :1], state.unsqueeze(1))
    states = linear_scan(decay, torch.cat([first, added[:, 1:]], dim=1))
    with torch.autocast(x.device.type, enabled=False):
        y = torch.matmul(states, C.unsqueeze(-1)).squeeze(-1)
    return y, states[:, -1]


def _zero_state(x: Tensor, A: Tensor) -> Tensor:
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.zeros(x.shape[0], *A.shape, dtype=dtype, device=x.device)


def _check_shapes(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *options: Tensor | None
) -> None:
    if x.ndim != 3 or x.shape[1] == 0:
        raise ValueError(
            "x: expected shape [B, T, DI] with at least one step, got "
            f"{tuple(x.shape)}; put time into the second dimension."
        )
    sizes = dict(zip(("B", "T", "DI"), x.shape, strict=True), S=B.shape[-1])
    check_fits(x, _ARGUMENTS, sizes, dt, A, B, C, *options)
