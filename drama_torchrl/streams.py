"""Work on a CUDA device beside other work."""

from __future__ import annotations

import functools
from types import TracebackType
from typing import Self

import torch

__all__ = ["Branch"]


class Branch:
    """Queue the kernels of a block beside those that follow it.

    It starts after everything queued before the branch was made, and a second block
    after the first one; :meth:`join` makes what comes then wait for it. Both hold for
    the backward pass too, which runs on the streams of the forward pass, and both are
    recorded by CUDA graphs. Small kernels that leave most of the device idle cost next
    to nothing beside large ones.

    On other devices the block runs where it stands. What the block reads must be kept
    until :meth:`join`: memory that is freed before may be given away at once.

    Args:
        device: where the block computes.
        priority: of the block's kernels where both have some to run, as that of
            ``torch.cuda.Stream``: lower numbers go first. Chains of small kernels
            should, for a large one beside them takes all of the device.

    Example:
        >>> import torch
        >>> x = torch.ones(3)
        >>> with Branch(x.device) as branch:
        ...     total = x.sum()
        >>> largest = x.max()
        >>> branch.join()
        >>> total + largest
        tensor(4.)
    """

    def __init__(self, device: torch.device | None, *, priority: int = 0) -> None:
        self._main: torch.cuda.Stream | None = None
        if device is not None and device.type == "cuda":
            self._main = torch.cuda.current_stream(device)
            self._side = _side_stream(device, priority)
            self._side.wait_stream(self._main)

    def __enter__(self) -> Self:
        """Go on at the end of the branch."""
        if self._main is not None:
            torch.cuda.set_stream(self._side)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Go on where the block began, without waiting."""
        if self._main is not None:
            torch.cuda.set_stream(self._main)

    def join(self) -> None:
        """Let what is queued from now on wait for the block."""
        if self._main is not None:
            self._main.wait_stream(self._side)


@functools.cache
def _side_stream(device: torch.device, priority: int) -> torch.cuda.Stream:
    """The same one each time: memory freed on a stream serves that stream alone."""
    return torch.cuda.Stream(device, priority=priority)
