"""Many tensors as a few rows of numbers: a kernel for all instead of one for each."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["HandOver", "SideBySide"]


class SideBySide:
    """Tensors of one device, whose values can be had and set in a row for each dtype.

    Args:
        tensors: in any order and of any shapes; empty ones are left out.

    Example:
        >>> import torch
        >>> a, b = torch.ones(2), torch.zeros(1, 2)
        >>> both = SideBySide([a, b])
        >>> both.join()
        [tensor([1., 1., 0., 0.])]
        >>> both.spread([torch.arange(4.0)])
        >>> a, b
        (tensor([0., 1.]), tensor([[2., 3.]]))
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._kinds: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            if tensor.numel():
                self._kinds.setdefault(tensor.dtype, []).append(tensor.detach())

    def join(self, out: list[Tensor] | None = None) -> list[Tensor]:
        """Copy the values into a row for each dtype.

        Args:
            out: rows of an earlier call, to be written over.
        """
        rows = [None] * len(self._kinds) if out is None else out
        return [
            torch.cat([tensor.reshape(-1) for tensor in tensors], out=row)
            for tensors, row in zip(self._kinds.values(), rows, strict=True)
        ]

    @torch.no_grad()
    def spread(self, rows: list[Tensor]) -> None:
        """Copy rows, laid out as those of :meth:`join`, into the tensors."""
        for tensors, row in zip(self._kinds.values(), rows, strict=True):
            parts = row.split([tensor.numel() for tensor in tensors])
            shaped = [p.view(t.shape) for p, t in zip(parts, tensors, strict=True)]
            torch._foreach_copy_(tensors, shaped)


class HandOver:
    """Give a module's parameters and buffers to its twin, perhaps on another device.

    The copy follows what is queued on the current streams of both devices, and what is
    queued there afterwards follows it.

    Args:
        source: the module.
        target: built like it.

    Example:
        >>> source, target = nn.Linear(2, 2), nn.Linear(2, 2)
        >>> HandOver(source, target)()
        >>> torch.equal(source.weight, target.weight)
        True
    """

    def __init__(self, source: nn.Module, target: nn.Module) -> None:
        self._source, self._target = _all_of(source), _all_of(target)
        self._rows = self._target.join()

    def __call__(self) -> None:
        """Copy all."""
        for row, value in zip(self._rows, self._source.join(), strict=True):
            row.copy_(value, non_blocking=True)
        self._target.spread(self._rows)


def _all_of(module: nn.Module) -> SideBySide:
    return SideBySide([*module.parameters(), *module.buffers()])
