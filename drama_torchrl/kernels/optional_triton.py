"""Triton where there is one: not for every system, and plain torch serves there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = None

__all__ = ["jit"]


def jit(kernel: Callable[..., Any], **options: Any) -> Any:
    """Makes a function a kernel as ``triton.jit`` does; leaves it alone without it."""
    return kernel if triton is None else triton.jit(kernel, **options)
