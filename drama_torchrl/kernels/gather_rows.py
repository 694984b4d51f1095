"""Rows by their numbers, read slowly and beside other work.

A GPU reads the host's memory some fifty times slower than its own. Torch's indexing
gives all of its processors to waiting for it, and what else is queued waits with them;
here a few programs do, with as many bytes on their way as the connection holds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from drama_torchrl.kernels.gather_rows_kernel import gather_rows_kernel
from drama_torchrl.kernels.optional_triton import triton

__all__ = ["gather_rows", "gather_rows_by_few", "gather_rows_reference"]

# A whole frame of the agent in one program's registers, 12 KB, and 400 KB at once: 50
# GB/s arrive 1.5 µs after they were asked for, which makes 75 KB.
_PROGRAMS, _BLOCK, _WARPS = 32, 16384, 8


def gather_rows(rows: Tensor, index: Tensor) -> Tensor:
    """Reads ``rows[index]``.

    Args:
        rows: ``[length, *]``; on a GPU, or in the host's memory as a GPU sees it.
        index: int64, of any shape, from −length to length − 1. The kernel does not
            check that.

    Returns:
        ``[*index, *]`` in memory of the device's own.

    Example:
        >>> import torch
        >>> gather_rows(torch.arange(6).view(3, 2), torch.tensor([2, 0]))
        tensor([[4, 5],
                [0, 1]])
    """
    fused = (
        triton is not None
        and rows.is_cuda
        and rows.is_contiguous()
        and index.device == rows.device
        and index.dtype == torch.int64
    )
    return (gather_rows_by_few if fused else gather_rows_reference)(rows, index)


def gather_rows_reference(rows: Tensor, index: Tensor) -> Tensor:
    """:func:`gather_rows` in plain torch.

    Args:
        rows: as :func:`gather_rows`.
        index: as :func:`gather_rows`.

    Returns:
        As :func:`gather_rows`.
    """
    return rows[index]


def gather_rows_by_few(rows: Tensor, index: Tensor) -> Tensor:
    """The kernel on contiguous rows."""
    gathered = rows.new_empty(*index.shape, *rows.shape[1:])
    size = rows[:1].numel() * rows.element_size()
    if not gathered.numel():
        return gathered
    with torch.cuda.device_of(rows):
        gather_rows_kernel[(_PROGRAMS,)](
            rows.view(-1).view(torch.uint8),
            index.contiguous(),
            gathered.view(-1).view(torch.uint8),
            len(rows),
            index.numel(),
            ROW=size,
            PROGRAMS=_PROGRAMS,
            BLOCK=min(_BLOCK, triton.next_power_of_2(size)),
            num_warps=_WARPS,
        )
    return gathered
