"""Errors of predicted frames, by appendix A.6 of the Drama paper.

The paper says what the errors count, not what a percentage is of. Here the geometric
error is the share of cells that would have to change to make a frame a possible one,
and the logic error the share of frames that fail.
"""

from __future__ import annotations

import torch
from torch import Tensor

from drama_torchrl.gridworld.world import AGENT, FLOOR, FRAME, GOAL, INSIDE, WALL

__all__ = [
    "frame_error",
    "geometric_error",
    "geometric_violations",
    "goal_error",
    "logic_error",
    "logic_failures",
]

_INNER_CELLS = {AGENT: 1, GOAL: 1, FLOOR: len(INSIDE) - 2}


def geometric_violations(frames: Tensor) -> Tensor:
    """Count the cells that break the geometry of a frame.

    On the boundary, each cell that is no wall. Inside, where one agent, one goal and
    floor must be, the least number of cells that would have to be another: a second
    agent counts once, and so does a goal that is missing. Where the two are does not
    matter here.

    Args:
        frames: ``[*, 25]``, tokens.

    Returns:
        Counts ``[*]``, 0 to 25.

    Example:
        >>> from drama_torchrl.gridworld.world import paint
        >>> frame = paint(torch.tensor(6), torch.tensor(8))
        >>> geometric_violations(frame)
        tensor(0)
        >>> frame[0] = FLOOR  # a hole in the wall
        >>> frame[11] = AGENT  # a second one
        >>> geometric_violations(frame)
        tensor(2)
    """
    inside = torch.zeros(FRAME, dtype=torch.bool, device=frames.device)
    inside[list(INSIDE)] = True
    holes = ((frames != WALL) & ~inside).sum(-1)
    right = sum(
        ((frames == kind) & inside).sum(-1).clamp(max=number)
        for kind, number in _INNER_CELLS.items()
    )
    return holes + len(INSIDE) - right


def logic_failures(frames: Tensor, agent: Tensor) -> Tensor:
    """Tell where a prediction fails to follow the move.

    It does if the frame is not a possible one, or its agent is not where the move has
    led to. Another place of the goal is no failure of this kind.

    Args:
        frames: ``[*, 25]``, tokens.
        agent: ``[*]``, the cells where the agent is in truth.

    Returns:
        Bools ``[*]``.
    """
    found = frames.gather(-1, agent.unsqueeze(-1)).squeeze(-1) == AGENT
    return (geometric_violations(frames) > 0) | ~found


def geometric_error(frames: Tensor) -> Tensor:
    """Give the percentage of cells that break the geometry of their frames.

    Args:
        frames: ``[*, 25]``, tokens.
    """
    return 100 * geometric_violations(frames).double().mean() / FRAME


def logic_error(frames: Tensor, agent: Tensor) -> Tensor:
    """Give the percentage of frames that fail to follow the move.

    Args:
        frames: ``[*, 25]``, tokens.
        agent: ``[*]``, the cells where the agent is in truth.
    """
    return 100 * logic_failures(frames, agent).double().mean()


def frame_error(frames: Tensor, agent: Tensor) -> Tensor:
    """Give the error of Table 2: the average of geometric and logic error, in percent.

    Args:
        frames: ``[*, 25]``, tokens.
        agent: ``[*]``, the cells where the agent is in truth.
    """
    return (geometric_error(frames) + logic_error(frames, agent)) / 2


def goal_error(frames: Tensor, goal: Tensor) -> Tensor:
    """Give the percentage of frames that do not show one goal, in its place.

    Args:
        frames: ``[*, 25]``, tokens.
        goal: ``[*]``, the cells where the goal is in truth.
    """
    cell = torch.arange(FRAME, device=frames.device)
    right = ((frames == GOAL) == (cell == goal.unsqueeze(-1))).all(-1)
    return 100 * (~right).double().mean()
