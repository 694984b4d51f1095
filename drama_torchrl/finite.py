"""Training steps whose losses or gradients are not finite leave no trace."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor, nn

__all__ = ["FiniteSteps", "is_finite"]


def is_finite(losses: TensorDict, norm: Tensor) -> Tensor:
    """Tell whether a training step may be applied; nothing waits for the device.

    Args:
        losses: entries named ``loss_*`` count.
        norm: of the gradient, a scalar.

    Returns:
        A bool scalar on the device.

    Example:
        >>> import torch
        >>> losses = TensorDict(loss_reward=torch.tensor(float("nan")))
        >>> is_finite(losses, torch.tensor(1.0))
        tensor(False)
    """
    terms = [value for name, value in losses.items() if name.startswith("loss_")]
    terms = [term.detach().float().reshape(()) for term in (*terms, norm)]
    return torch.stack(terms).isfinite().all()


class FiniteSteps:
    """Restore the statistics that a step moved if it is not applied, and count.

    An optimiser keeps parameters and moments where they are when a step is not finite
    (see ``LaProp``). Normalisation statistics have moved by then, in the forward pass:
    one NaN would stay in them for ever. Slow networks that follow are buffers, too.

    Args:
        module: its buffers are kept.

    Attributes:
        in_a_row: steps not applied since the last one that was, an int32 scalar on
            the device.

    Example:
        >>> import torch
        >>> norm = torch.nn.BatchNorm1d(1)
        >>> steps = FiniteSteps(norm)
        >>> steps.begin()
        >>> _ = norm(torch.full((2, 1), float("inf")))
        >>> steps.end(applied=torch.tensor(False))
        >>> norm.running_mean, steps.in_a_row
        (tensor([0.]), tensor(1, dtype=torch.int32))
    """

    def __init__(self, module: nn.Module) -> None:
        statistics = [value for value in module.buffers() if value.numel()]
        self._kept = [
            _Kept([value for value in statistics if value.dtype == dtype])
            for dtype in dict.fromkeys(value.dtype for value in statistics)
        ]
        device = next(module.parameters()).device
        self.in_a_row = torch.zeros((), dtype=torch.int32, device=device)

    @torch.no_grad()
    def begin(self) -> None:
        """Keep the statistics, before the forward pass."""
        for kept in self._kept:
            kept.keep()

    @torch.no_grad()
    def end(self, applied: Tensor) -> None:
        """Restore them unless ``applied``, a bool scalar."""
        for kept in self._kept:
            kept.restore_unless(applied)
        self.in_a_row.add_(1).mul_(~applied)


class _Kept:
    """Tensors of one dtype and, side by side, what they were: few kernels for all."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self._tensors = tensors
        self._before = torch.cat(self._flat())

    def keep(self) -> None:
        torch.cat(self._flat(), out=self._before)

    def restore_unless(self, applied: Tensor) -> None:
        chosen = torch.where(applied, torch.cat(self._flat()), self._before)
        parts = chosen.split([tensor.numel() for tensor in self._tensors])
        shaped = [
            part.view(t.shape) for part, t in zip(parts, self._tensors, strict=True)
        ]
        torch._foreach_copy_(self._tensors, shaped)

    def _flat(self) -> list[Tensor]:
        return [tensor.reshape(-1) for tensor in self._tensors]
