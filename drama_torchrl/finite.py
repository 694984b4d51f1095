"""Training steps whose losses or gradients are not finite leave no trace."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from drama_torchrl.side_by_side import SideBySide

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
        self._statistics = SideBySide(module.buffers())
        self._kept = self._statistics.join()
        device = next(module.parameters()).device
        self.in_a_row = torch.zeros((), dtype=torch.int32, device=device)

    def begin(self) -> None:
        """Keep the statistics, before the forward pass."""
        self._statistics.join(out=self._kept)

    @torch.no_grad()
    def end(self, applied: Tensor) -> None:
        """Restore them unless ``applied``, a bool scalar."""
        rows = zip(self._statistics.join(), self._kept, strict=True)
        self._statistics.spread([torch.where(applied, now, kept) for now, kept in rows])
        self.in_a_row.add_(1).mul_(~applied)
