"""What every layer of a dynamics model can do, and the checks that they share."""

from __future__ import annotations

from typing import Protocol

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

__all__ = [
    "SequenceLayer",
    "as_size",
    "check_input",
    "check_is_init",
    "check_state",
]


class SequenceLayer(Protocol):
    """A layer over time without its residual connection.

    A sequence, its steps one by one, and its pieces with the state handed on are one
    function, in values and gradients. All zeros is the state of an empty past.
    """

    def initial_state(self, batch_size: int | torch.Size) -> TensorDict:
        """Give the state before the first step: zeros, of that batch size."""

    def __call__(
        self,
        x: Tensor,
        state: TensorDictBase | None = None,
        *,
        is_init: Tensor | None = None,
    ) -> tuple[Tensor, TensorDict]:
        """Run over ``[B, T, D]``; where ``is_init`` is set the past is not seen."""

    def step(self, x: Tensor, state: TensorDictBase) -> tuple[Tensor, TensorDict]:
        """Run one step ``[B, D]``; the passed state is not written to."""


def as_size(batch_size: int | torch.Size) -> torch.Size:
    """Give a batch size where a number of sequences may stand for it.

    Example:
        >>> as_size(3)
        torch.Size([3])
    """
    return torch.Size([batch_size] if isinstance(batch_size, int) else batch_size)


def check_input(x: Tensor, d_model: int, *, ndim: int) -> None:
    """Refuse what is not ``[B, T, D]`` with T > 0, or ``[B, D]`` where ndim is 2."""
    if x.ndim != ndim or x.shape[-1] != d_model or 0 in x.shape[1:]:
        letters = "B, T, D" if ndim == 3 else "B, D"
        raise ValueError(
            f"x: expected shape [{letters}] with D = d_model = {d_model}, got "
            f"{tuple(x.shape)}; use forward for [B, T, D], T > 0, step for [B, D]."
        )


def check_is_init(is_init: Tensor | None, x: Tensor) -> None:
    """Refuse episode starts that are not ``[B, T]``."""
    if is_init is not None and is_init.shape != x.shape[:2]:
        raise ValueError(
            f"is_init: expected shape [B, T] = {tuple(x.shape[:2])}, got "
            f"{tuple(is_init.shape)}; squeeze a trailing dimension."
        )


def check_state(
    state: TensorDictBase | None, batch: int, **shapes: tuple[int, ...]
) -> None:
    """Refuse a state with an entry whose shape is not ``[B, *shape]``."""
    if state is None:
        return
    for key, shape in shapes.items():
        expected = (batch, *shape)
        if state[key].shape != expected:
            raise ValueError(
                f'state["{key}"]: expected shape {expected} for an input of batch '
                f"size {batch}, got {tuple(state[key].shape)}; start with "
                f"initial_state({batch})."
            )
