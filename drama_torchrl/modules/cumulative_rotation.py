"""Rotations whose angles add up over the steps of an episode, by what each step says.

With turns φ_t of R pairs of features, the angles are θ_t = θ_{t-1} + φ_t, and the pair
(u_{2i}, u_{2i+1}) is turned by θ_{t,i} (arXiv:2603.15569). A product of two vectors
that were turned so depends on the turns between them alone. Angles mean themselves
modulo 2π; they are float32 also under autocast.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["add_turns", "rotate_pairs", "wrap"]


def add_turns(turns: Tensor, past: Tensor | None, is_init: Tensor | None) -> Tensor:
    """Add up the turns of each episode.

    Args:
        turns: [B, T, ...] in radians.
        past: [B, ...] angles before the first step; zeros if None.
        is_init: [B, T] bool, True where an episode starts: from zero again.

    Returns:
        Angles [B, T, ...] in radians, not wrapped.

    Example:
        >>> turns = torch.tensor([[1.0, 2.0, 4.0]])
        >>> add_turns(turns, torch.tensor([10.0]), None)
        tensor([[11., 13., 17.]])
        >>> add_turns(turns, torch.tensor([10.0]), torch.tensor([[False, True, False]]))
        tensor([[11.,  2.,  6.]])
    """
    angles = turns.cumsum(1)
    if past is not None:
        angles = angles + past.unsqueeze(1)
    if is_init is None:
        return angles
    now = torch.arange(turns.shape[1], device=turns.device)
    start = torch.where(is_init, now, -1).cummax(1).values  # -1: none so far
    start = start.view(*start.shape, *(1,) * (turns.ndim - 2)).expand_as(turns)
    before = (angles - turns).gather(1, start.clamp(min=0))
    return angles - before.masked_fill(start < 0, 0.0)


def wrap(angles: Tensor) -> Tensor:
    """Give the same angles within [-π, π]: exactly themselves where they were.

    Example:
        >>> wrap(torch.tensor([-1.0, 3.0, 4.0]))
        tensor([-1.0000,  3.0000, -2.2832])
    """
    return angles - 2 * math.pi * torch.round(angles / (2 * math.pi)).detach()


def rotate_pairs(u: Tensor, angles: Tensor) -> Tensor:
    """Turn the first pairs of neighbouring features; leave the others.

    Args:
        u: [..., S].
        angles: [..., R] in radians, 2 R <= S.

    Returns:
        [..., S].

    Example:
        >>> rotate_pairs(torch.tensor([1.0, 0.0, 7.0]), torch.tensor([1.0]))
        tensor([0.5403, 0.8415, 7.0000])
    """
    width = 2 * angles.shape[-1]
    a, b = u[..., :width].unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = angles.cos(), angles.sin()
    turned = torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)
    return torch.cat([turned, u[..., width:]], dim=-1)
