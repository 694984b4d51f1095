"""Where the windows of a ring may start, and drawing some of these starts.

The functions have static shapes and no host sync, so that they can be captured in a
CUDA graph. They draw in float64: the smallest of 10^7 float32 draws are often equal,
and topk does not break ties at random.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from drama_torchrl.kernels.race import can_race, race

__all__ = [
    "draw_starts",
    "fill_incomplete",
    "largest",
    "uninterrupted_windows",
]

# Values in a block, and blocks for each value sought from which on they pay.
_BLOCK = 256
_LEAST_BLOCKS = 8


def fill_incomplete(values: Tensor, value: float, newest: int, window: int) -> None:
    """Gives a value to slots from where a window would run past the newest record.

    Args:
        values: ``[num_slots]``, of the whole ring or of the slots written so far.
        value: for the ``window`` − 1 newest slots.
        newest: slot written last.
        window: records in a window, at most ``num_slots``.

    Example:
        >>> import torch
        >>> allowed = torch.ones(6, dtype=torch.bool)
        >>> fill_incomplete(allowed, False, newest=1, window=4)
        >>> allowed.tolist()
        [False, False, True, True, True, False]
    """
    first = newest - window + 2
    values[max(first, 0) : newest + 1].fill_(value)
    if first < 0:
        values[first:].fill_(value)


def uninterrupted_windows(ends: Tensor, window: int) -> Tensor:
    """Tells where a window of a ring has no episode end before its last record.

    Args:
        ends: bool ``[num_slots]``, True where a record ends its episode.
        window: records in a window, at most ``num_slots``.

    Returns:
        bool ``[num_slots]``.
    """
    ends_before = pad(torch.cat([ends, ends[: window - 1]]).cumsum(0), (1, 0))
    return ends_before[window - 1 : window - 1 + len(ends)] == ends_before[: len(ends)]


def draw_starts(
    log_weights: Tensor, batch_size: int, generator: torch.Generator | None = None
) -> Tensor:
    """Draws different slots, one after the other with p ∝ w among those left.

    Gumbel-top-k (arXiv:1903.06059): the ``batch_size`` largest log w − log(−log u)
    with u uniform in (0, 1), largest first, are such a sequence of draws. On a GPU a
    kernel draws them by a seed from ``generator``.

    Args:
        log_weights: ``[num_slots]``, −inf for slots that must not be drawn.
        batch_size: number of slots to draw; as many must be possible.
        generator: source of randomness on the device of ``log_weights``.

    Returns:
        int64 ``[batch_size]``, in the order of the draws.

    Example:
        >>> import torch
        >>> impossible = -float("inf")
        >>> draw_starts(torch.tensor([impossible, 0.0, impossible]), 1)
        tensor([1])
    """
    if can_race(log_weights):
        seed = torch.empty(1, dtype=torch.int64, device=log_weights.device)
        return race(log_weights, batch_size, seed.random_(generator=generator))
    noise = torch.empty_like(log_weights, dtype=torch.float64)
    noise.uniform_(generator=generator)
    exponential = noise.log_().neg_()  # 4 times faster on a CPU than exponential_
    return largest(exponential.log_().neg_().add_(log_weights), batch_size)


def largest(values: Tensor, count: int) -> Tensor:
    """Tells where the largest of many values are, as ``values.topk(count).indices``.

    Fewer than ``count`` blocks have a larger maximum than one that holds such a value:
    of millions only the values of ``count`` blocks are compared with each other, all
    others only within their block.

    Args:
        values: ``[n]``, −inf among them.
        count: how many, at most n.

    Returns:
        int64 ``[count]``, from the largest on.
    """
    blocks = len(values) // _BLOCK
    if blocks < _LEAST_BLOCKS * count:
        return values.topk(count).indices
    maxima = values[: blocks * _BLOCK].view(blocks, _BLOCK).amax(1)
    first = _BLOCK * maxima.topk(count, sorted=False).indices
    offsets = torch.arange(_BLOCK, device=values.device)
    rest = torch.arange(blocks * _BLOCK, len(values), device=values.device)
    candidates = torch.cat([(first[:, None] + offsets).flatten(), rest])
    return candidates[values[candidates].topk(count).indices]
