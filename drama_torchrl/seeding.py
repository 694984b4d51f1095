"""One seed for every source of random numbers."""

from __future__ import annotations

import random

import numpy as np
import torch

__all__ = ["seed_everything"]


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch on all devices.

    Args:
        seed: a non-negative integer below 2³².

    Example:
        >>> import torch
        >>> seed_everything(0)
        >>> first = torch.rand(1)
        >>> seed_everything(0)
        >>> torch.rand(1) == first
        tensor([True])
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
