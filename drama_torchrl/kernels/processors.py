"""What a GPU has: how many processors, and how much fast memory each."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

__all__ = ["processors", "shared_memory", "takes_ptx"]

# Stand in for a GPU's where kernels are interpreted, which run out of nothing.
_INTERPRETED_PROCESSORS, _INTERPRETED_MEMORY = 1, 1 << 18


@functools.cache
def processors(device: torch.device) -> int:
    """How many programs, at least, run at once.

    Example:
        >>> processors(torch.device("cpu"))
        1
    """
    if device.type != "cuda":
        return _INTERPRETED_PROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count


@functools.cache
def shared_memory(device: torch.device) -> int:
    """Bytes that one program may have.

    Example:
        >>> shared_memory(torch.device("cpu"))
        262144
    """
    if device.type != "cuda":
        return _INTERPRETED_MEMORY
    properties = torch.cuda.get_device_properties(device)
    always = properties.shared_memory_per_block
    return getattr(properties, "shared_memory_per_block_optin", always)


def takes_ptx(x: Tensor) -> bool:
    """Tells whether kernels over ``x`` may hold instructions of NVIDIA's.

    Example:
        >>> takes_ptx(torch.zeros(1))
        False
    """
    return x.is_cuda and torch.version.cuda is not None
