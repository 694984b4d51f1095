"""The uniform numbers of the race's kernels, with NumPy's integers."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

Words = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
MASK = np.uint64(0xFFFFFFFF)


def philox(counter: np.ndarray, seed: int) -> Words:
    """Philox4x32-10 of Salmon et al. (2011): four words of 32 bits for each counter."""
    key = [seed & 0xFFFFFFFF, seed >> 32]
    a, b = counter & MASK, counter >> np.uint64(32)
    c = d = np.zeros_like(counter)
    for _ in range(10):
        even, odd = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
        a = (odd >> np.uint64(32)) ^ b ^ np.uint64(key[0])
        c = (even >> np.uint64(32)) ^ d ^ np.uint64(key[1])
        b, d = odd & MASK, even & MASK
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    return a, b, c, d


def race_uniforms(size: int, seed: int) -> Tensor:
    """One of (0, 1) for each slot, float64 ``[size]``."""
    slot = np.arange(size, dtype=np.uint64)
    block, lane = slot // np.uint64(256), slot % np.uint64(128)
    words = philox(block * np.uint64(128) + lane, seed)
    second = slot % np.uint64(256) >= np.uint64(128)
    high, low = np.where(second, words[2:], words[:2])
    bits = high * np.uint64(2**20) + (low >> np.uint64(12))
    return torch.from_numpy((bits.astype(np.float64) + 0.5) / 2**52)
