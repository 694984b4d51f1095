"""What kernels take: numbers of these kinds, side by side in memory, and flags."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["FLOATS", "flags_of", "packed"]

FLOATS = (torch.bfloat16, torch.float16, torch.float32)
"""What kernels read and widen to float32."""


def flags_of(is_init: Tensor | None, x: Tensor) -> Tensor:
    """is_init as bytes; where there is none, a pointer that is not followed."""
    return x if is_init is None else is_init.contiguous().view(torch.uint8)


def packed(rows: Tensor) -> Tensor:
    """Rows whose numbers are side by side, as parts of wider rows are: seldom a copy.

    Args:
        rows: ``[..., N]``.

    Returns:
        ``rows``, or a copy if its last dimension is strided.

    Example:
        >>> part = torch.zeros(2, 5)[:, 1:4]
        >>> packed(part) is part, packed(part.T).stride()
        (True, (2, 1))
    """
    return rows if rows.stride(-1) == 1 else rows.contiguous()
