"""Kernels that run a race of weighted slots without writing its noise down.

The noise of a slot depends on the seed and on the slot alone, so that it can be had
again. Each number that Philox (Salmon et al., 2011) counts up to gives four words of 32
bits, enough for one slot in either half of a block.
"""

from __future__ import annotations

from functools import partial

from drama_torchrl.kernels.launch import kernel
from drama_torchrl.kernels.optional_triton import jit, tl

__all__ = ["halves_of", "key_of", "race_keys_kernel", "race_maxima_kernel"]


@jit
def key_of(
    log_weights: tl.tensor,
    slot: tl.tensor,
    size: tl.tensor,
    high: tl.tensor,
    low: tl.tensor,
) -> tl.tensor:
    """Gives log w − log(−log u) with u = (52 bits + ½) 2⁻⁵², which is never 0 or 1."""
    log_weight = tl.load(log_weights + slot, mask=slot < size, other=-float("inf"))
    bits = high.to(tl.float64) * 1048576.0 + (low >> 12).to(tl.float64)
    uniform = (bits + 0.5) * 2.220446049250313e-16
    return log_weight.to(tl.float64) - tl.log(-tl.log(uniform))


@jit
def halves_of(
    log_weights: tl.tensor,
    seed: tl.tensor,
    block: tl.tensor,
    size: tl.tensor,
    HALF: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Keys of the first HALF slots of int64 blocks and of the others, −inf beyond."""
    lane = tl.arange(0, HALF)
    high, low, other_high, other_low = tl.randint4x(tl.load(seed), block * HALF + lane)
    slot = block * (2 * HALF) + lane
    first = key_of(log_weights, slot, size, high, low)
    second = key_of(log_weights, slot + HALF, size, other_high, other_low)
    return first, second


@partial(kernel, do_not_specialize=["size"])
def race_maxima_kernel(
    log_weights: tl.tensor,
    seed: tl.tensor,
    maxima: tl.tensor,
    size: tl.tensor,
    HALF: tl.constexpr,
    BLOCKS: tl.constexpr,
) -> None:
    """Writes the largest key of each of BLOCKS blocks."""
    block = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    first, second = halves_of(log_weights, seed, block[:, None], size, HALF)
    largest = tl.max(tl.maximum(first, second), 1)
    tl.store(maxima + block, largest, mask=block * (2 * HALF) < size)


@partial(kernel, do_not_specialize=["size"])
def race_keys_kernel(
    log_weights: tl.tensor,
    seed: tl.tensor,
    chosen: tl.tensor,
    keys: tl.tensor,
    size: tl.tensor,
    HALF: tl.constexpr,
) -> None:
    """Writes all keys of one of the chosen blocks: a row of keys [·, 2 HALF]."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.load(chosen + row)
    first, second = halves_of(log_weights, seed, block, size, HALF)
    keys += row * (2 * HALF) + tl.arange(0, HALF)
    tl.store(keys, first)
    tl.store(keys + HALF, second)
