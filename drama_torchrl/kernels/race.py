"""The winners of a race of many weighted slots, whose noise is never in memory.

Written out, the noise of 10⁷ slots and what becomes of it are ten passes of 80 MB.
"""

from __future__ import annotations

import torch
from torch import Tensor

from drama_torchrl.kernels.launch import fake_of
from drama_torchrl.kernels.optional_triton import triton
from drama_torchrl.kernels.race_kernels import race_keys_kernel, race_maxima_kernel

__all__ = ["can_race", "race"]

# Slots in a block, blocks whose largest keys one program finds, and warps it has.
_BLOCK, _BLOCKS, _WARPS = 256, 8, 8


def can_race(log_weights: Tensor) -> bool:
    """Tells whether :func:`race` takes these.

    Args:
        log_weights: ``[num_slots]``.
    """
    return (
        triton is not None
        and log_weights.is_cuda
        and log_weights.dtype in (torch.float32, torch.float64)
    )


@torch.library.custom_op("drama_torchrl::race", mutates_args=())
def race(log_weights: Tensor, count: int, seed: Tensor) -> Tensor:
    """Find the largest keys log w − log(−log u), u uniform in (0, 1), in float64.

    The draws of :func:`drama_torchrl.data.window_starts.draw_starts`. Fewer than
    ``count`` blocks have a larger maximum than one that holds such a key: only the
    maxima of the blocks are written, and the keys of ``count`` blocks.

    Args:
        log_weights: ``[num_slots]`` in float32 or float64, −inf for slots that must not
            win.
        count: number of winners; as many must be possible.
        seed: int64 ``[1]`` on the same device, of all u.

    Returns:
        int64 ``[count]``, the slots from the largest key on.
    """
    size = len(log_weights)
    blocks = -(-size // _BLOCK)
    log_weights = log_weights.contiguous()
    with torch.cuda.device_of(log_weights):
        if blocks <= count:
            chosen = torch.arange(blocks, device=log_weights.device)
        else:
            maxima = log_weights.new_empty(blocks, dtype=torch.float64)
            race_maxima_kernel[(triton.cdiv(blocks, _BLOCKS),)](
                log_weights,
                seed,
                maxima,
                size,
                HALF=_BLOCK // 2,
                BLOCKS=_BLOCKS,
                num_warps=_WARPS,
            )
            chosen = maxima.topk(count, sorted=False).indices
        keys = log_weights.new_empty(len(chosen), _BLOCK, dtype=torch.float64)
        race_keys_kernel[(len(chosen),)](
            log_weights, seed, chosen, keys, size, HALF=_BLOCK // 2
        )
    winners = keys.flatten().topk(count).indices
    return torch.add(winners % _BLOCK, chosen[winners // _BLOCK], alpha=_BLOCK)


@fake_of(race)
def _winners(
    log_weights: Tensor,
    count: int,
    seed: Tensor,  # noqa: ARG001  the operator's signature
) -> Tensor:
    return log_weights.new_empty(count, dtype=torch.int64)
