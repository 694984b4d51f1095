"""One seed for every source of random numbers, and the states of all of them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from drama_torchrl.parallel import rank

__all__ = ["RandomState", "seed_everything", "seed_noise"]


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


def seed_noise(seed: int, step: int) -> None:
    """Give each process but the first random numbers of its own for a step.

    They depend on nothing else, so that a run that goes on needs no states of them. The
    first process draws as a single one does.

    Args:
        seed: of the run.
        step: of the environment.
    """
    if rank() > 0:
        words = np.random.SeedSequence([seed, step, rank()]).generate_state(1, "uint64")
        torch.manual_seed(int(words[0]))


class RandomState:
    """Save and restore the global generators of Python, NumPy and torch.

    Example:
        >>> import torch
        >>> state = RandomState().state_dict()
        >>> first = torch.rand(1)
        >>> RandomState().load_state_dict(state)
        >>> torch.rand(1) == first
        tensor([True])
    """

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and CPU tensors; one entry of ``"cuda"`` per GPU."""
        version, words, gauss = random.getstate()
        legacy: Any = np.random.get_state(legacy=True)
        name, keys, *rest = legacy
        return {
            "python": [version, list(words), gauss],
            "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned; GPUs only if as many are there."""
        version, words, gauss = state_dict["python"]
        random.setstate((version, tuple(words), gauss))
        name, keys, *rest = state_dict["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
        torch.set_rng_state(state_dict["torch"].cpu())
        if len(state_dict["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([each.cpu() for each in state_dict["cuda"]])
