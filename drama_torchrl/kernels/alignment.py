"""Sizes that feed tensor cores."""

from __future__ import annotations

__all__ = ["missing_channels"]

# They load 16 bytes, that is 8 channels in 16 bits, at a time.
_ALIGNMENT = 8


def missing_channels(channels: int) -> int:
    """How many zero channels make the number a convenient one.

    Example:
        >>> missing_channels(12), missing_channels(16)
        (4, 0)
    """
    return -channels % _ALIGNMENT
