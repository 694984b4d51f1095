"""One seed for every source of random numbers, and the states of all of them."""

from __future__ import annotations

import os
import random
from typing import Any, NamedTuple

import numpy as np
import torch

from drama_torchrl.parallel import rank, size

__all__ = [
    "RandomMark",
    "RandomState",
    "prefer_repeatable_kernels",
    "seed_alike",
    "seed_apart",
    "seed_everything",
]


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


def seed_alike(seed: int, step: int) -> None:
    """Give all of several processes the same random numbers from here; alone nothing.

    They depend on the arguments alone, so that a run that goes on needs the generators
    of no other process.

    Args:
        seed: of the run.
        step: of the environment.

    Example:
        >>> seed_alike(0, 1)
    """
    if size() > 1:
        _seed_torch(seed, step)


def seed_apart(seed: int, step: int) -> None:
    """Give each of several processes random numbers of its own; alone nothing.

    Args:
        seed: of the run.
        step: of the environment.

    Example:
        >>> seed_apart(0, 1)
    """
    if size() > 1:
        _seed_torch(seed, step, 1 + rank())


def _seed_torch(*entropy: int) -> None:
    (word,) = np.random.SeedSequence(entropy).generate_state(1, "uint64")
    torch.manual_seed(int(word))


def prefer_repeatable_kernels() -> None:
    """Let torch use kernels that give the same bits every time, where it has them.

    For the whole process, and to be called before anything ran on a GPU: cuBLAS gets a
    fixed workspace, cuDNN no choice of algorithms. An operation without a repeatable
    kernel runs all the same, with a warning that names it: torch says so of ``cumsum``
    on CUDA, for example, which the state-space layers use.

    Example:
        >>> import torch
        >>> prefer_repeatable_kernels()
        >>> torch.are_deterministic_algorithms_enabled()
        True
        >>> torch.use_deterministic_algorithms(False)
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Nothing here reads memory that it has not written.
    memory: Any = torch.utils.deterministic
    memory.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False


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
