"""One seed for every source of random numbers, and the states of all of them."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import numpy as np
import torch

__all__ = ["RandomMark", "RandomState", "seed_everything"]


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


class RandomMark(NamedTuple):
    """The states of all generators at one moment.

    Args:
        python: of :mod:`random`.
        numpy: of :mod:`numpy.random`.
        torch: of torch on the CPU.
        cuda: of torch on each GPU.
    """

    python: Any
    numpy: Any
    torch: torch.Tensor
    cuda: list[torch.Tensor]

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and CPU tensors; one entry of ``"cuda"`` per GPU."""
        version, words, gauss = self.python
        name, keys, *rest = self.numpy
        return {
            "python": [version, list(words), gauss],
            "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
            "torch": self.torch,
            "cuda": self.cuda,
        }


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

    def mark(self) -> RandomMark:
        """Note all states; cheap enough for every environment step."""
        return RandomMark(
            random.getstate(),
            np.random.get_state(legacy=True),
            torch.get_rng_state(),
            torch.cuda.get_rng_state_all(),
        )

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and CPU tensors; one entry of ``"cuda"`` per GPU."""
        return self.mark().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned; GPUs only if as many are there."""
        version, words, gauss = state_dict["python"]
        random.setstate((version, tuple(words), gauss))
        name, keys, *rest = state_dict["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
        torch.set_rng_state(state_dict["torch"].cpu())
        if len(state_dict["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([each.cpu() for each in state_dict["cuda"]])
