"""The grid world of the paper: what a frame is, and walks through it.

A frame is 5 × 5 cells, row by row: black walls around, and inside, on nine cells, one
agent, one goal and floor (Drama section 3.2.3, figure 3). A move into a wall leaves the
agent where it is. So does a move into the goal, of which the paper says nothing: every
frame has one agent and one goal, as the errors of appendix A.6 require.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "AGENT",
    "CELLS",
    "FLOOR",
    "FRAME",
    "GOAL",
    "INSIDE",
    "MOVES",
    "SIZE",
    "WALL",
    "Walk",
    "draw_walk",
    "follow",
    "paint",
]

SIZE = 5
FRAME = SIZE**2
CELLS = ("wall", "floor", "agent", "goal")
WALL = 0
FLOOR = 1
AGENT = 2
GOAL = 3
# Rows and columns that a move goes by.
MOVES = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
INSIDE = tuple(
    row * SIZE + column for row in range(1, SIZE - 1) for column in range(1, SIZE - 1)
)
"""Cells of a frame that are no walls."""


class Walk(NamedTuple):
    """Frames and the moves between them, B walks of T steps.

    Args:
        frames: ``[B, T, 25]`` int64, kinds of cells.
        moves: ``[B, T]`` int64; the move of step t leads from frame t to frame t + 1.
        agent: ``[B, T]`` int64, the agent's cell in each frame.
        goal: ``[B]`` int64, the goal's cell.
    """

    frames: Tensor
    moves: Tensor
    agent: Tensor
    goal: Tensor


def draw_walk(batch: int, steps: int, generator: torch.Generator) -> Walk:
    """Draw goals, places to start from and moves, all uniformly.

    Args:
        batch: walks B.
        steps: frames T in each.
        generator: draws, and says on which device.

    Example:
        >>> walk = draw_walk(2, 8, torch.Generator().manual_seed(0))
        >>> walk.frames.shape, walk.moves.shape
        (torch.Size([2, 8, 25]), torch.Size([2, 8]))
        >>> (walk.frames == AGENT).sum(-1).unique()
        tensor([1])
    """

    def draw(below: int, *shape: int) -> Tensor:
        device = generator.device
        return torch.randint(below, shape, generator=generator, device=device)

    inside = len(INSIDE)
    goal = draw(inside, batch)
    start = (goal + 1 + draw(inside - 1, batch)) % inside  # any other place
    moves = draw(len(MOVES), batch, steps)
    cells = torch.tensor(INSIDE, device=generator.device)
    goal, start = cells[goal], cells[start]
    agent = follow(start, goal, moves[:, :-1])
    return Walk(paint(agent, goal.unsqueeze(1)), moves, agent, goal)


def follow(start: Tensor, goal: Tensor, moves: Tensor) -> Tensor:
    """Follow moves from a start: every place on the way.

    A move is a map from places to places, and maps compose: 2 log2(M) launches find
    the products of all first moves, where a loop would make M.

    Args:
        start: ``[B]``, the cell of the agent.
        goal: ``[B]``, the cell that no move leads to.
        moves: ``[B, M]``, indices of :data:`MOVES`.

    Returns:
        Cells ``[B, M + 1]``, the start first.

    Example:
        >>> start, goal = torch.tensor([6]), torch.tensor([8])
        >>> moves = torch.tensor([[3, 3, 1]])  # right, right into the goal, down
        >>> follow(start, goal, moves)
        tensor([[ 6,  7,  7, 12]])
    """
    stay = torch.arange(FRAME, device=moves.device)
    maps = _places_after_moves(moves.device)[moves]  # [B, M, 25]
    maps = torch.where(maps == goal[:, None, None], stay, maps)
    span = 1
    while span < moves.shape[1]:
        joined = maps[:, span:].gather(-1, maps[:, :-span])
        maps = torch.cat([maps[:, :span], joined], 1)
        span *= 2
    index = start[:, None, None].expand(-1, moves.shape[1], 1)
    return torch.cat([start.unsqueeze(1), maps.gather(-1, index).squeeze(-1)], 1)


def paint(agent: Tensor, goal: Tensor) -> Tensor:
    """Paint frames.

    Args:
        agent: ``[*]``, cells.
        goal: cells of a shape that broadcasts with it.

    Returns:
        Kinds of cells ``[*, 25]``.

    Example:
        >>> paint(torch.tensor(6), torch.tensor(8)).view(5, 5)
        tensor([[0, 0, 0, 0, 0],
                [0, 2, 1, 3, 0],
                [0, 1, 1, 1, 0],
                [0, 1, 1, 1, 0],
                [0, 0, 0, 0, 0]])
    """
    room = F.pad(torch.full([SIZE - 2] * 2, FLOOR), [1] * 4, value=WALL).flatten()
    cell = torch.arange(FRAME, device=agent.device)
    frames = torch.where(cell == agent.unsqueeze(-1), AGENT, room.to(agent.device))
    return torch.where(cell == goal.unsqueeze(-1), GOAL, frames)


def _places_after_moves(device: torch.device) -> Tensor:
    """Give the cell ``[4, 25]`` that each move leads to from each, walls apart."""
    table = []
    for down, right in MOVES.values():
        targets = [cell + down * SIZE + right for cell in range(FRAME)]
        pairs = enumerate(targets)
        table.append([new if new in INSIDE else old for old, new in pairs])
    return torch.tensor(table, device=device)
