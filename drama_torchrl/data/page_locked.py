"""Memory of the host that a GPU reads and writes as its own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["largest_page_locked", "page_locked", "page_locked_bytes"]


class _SeenByGPU:
    """Page-locked bytes, described in the way from which torch makes GPU tensors."""

    def __init__(self, memory: Tensor) -> None:
        self._memory = memory  # torch keeps this object, and it the memory
        self.__cuda_array_interface__ = {
            "data": (memory.data_ptr(), False),
            "shape": tuple(memory.shape),
            "typestr": "|u1",
            "version": 2,
        }


def page_locked(
    shape: Sequence[int], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Allocate a tensor of a device in page-locked memory of the host.

    To all operators it is a tensor of the GPU; what it holds crosses the bus when they
    touch it. As with any tensor of a GPU, that is in the order of its streams: the
    host itself must not write to it. Nothing is taken of the GPU's memory.

    Args:
        shape: of the tensor, not empty.
        dtype: of the tensor.
        device: the GPU that will see it. The host, with all of its memory its own,
            gets a plain tensor.

    Returns:
        The tensor, contiguous, of any contents.

    Raises:
        RuntimeError: if the GPU does not see the memory.

    Example:
        >>> page_locked([2, 3], torch.uint8, torch.device("cpu")).shape
        torch.Size([2, 3])
    """
    if device.type != "cuda":
        return torch.empty(shape, dtype=dtype, device=device)
    # It is a tensor of the device that is current while the memory is locked.
    with torch.cuda.device(device):
        memory = torch.empty(
            math.prod(shape) * dtype.itemsize, dtype=torch.uint8, pin_memory=True
        )
        seen = torch.as_tensor(_SeenByGPU(memory), device=device)
    if seen.data_ptr() != memory.data_ptr():
        raise RuntimeError(
            f"Expected {device} to see page-locked memory of the host where it lies, "
            f"got a copy on {seen.device}: keep the frames on the GPU."
        )
    return seen.view(dtype).view(*shape)


def page_locked_bytes(size: int) -> int:
    """Bytes that torch locks for a tensor of ``size`` bytes: the next power of two.

    Example:
        >>> page_locked_bytes(5), page_locked_bytes(8)
        (8, 8)
    """
    return 1 << max(0, size - 1).bit_length()


def largest_page_locked(free: int) -> int:
    """Bytes of the largest tensor for which ``free`` bytes are enough.

    Example:
        >>> largest_page_locked(7), largest_page_locked(8)
        (4, 8)
    """
    return 1 << free.bit_length() - 1 if free else 0
