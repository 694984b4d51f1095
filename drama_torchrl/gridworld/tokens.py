"""Walks as sequences of tokens, and frames read back from predictions.

A token is the kind of a cell, a move, or the question that the memory variant asks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from drama_torchrl.gridworld.world import CELLS, FRAME, MOVES, Walk

__all__ = [
    "QUESTION",
    "STEP",
    "VOCABULARY",
    "predicted_answer",
    "predicted_frames",
    "question_tokens",
    "walk_tokens",
]

STEP = FRAME + 1
"""Tokens of a step: those of its frame and a move."""
QUESTION = len(CELLS) + len(MOVES)
VOCABULARY = QUESTION + 1


def walk_tokens(walk: Walk) -> Tensor:
    """Write a walk as one sequence: a frame row by row, its move, the next frame.

    Args:
        walk: of T steps.

    Returns:
        Tokens ``[B, 26 T]``.

    Example:
        >>> from drama_torchrl.gridworld.world import draw_walk
        >>> walk_tokens(draw_walk(2, 64, torch.Generator())).shape
        torch.Size([2, 1664])
    """
    moves = (walk.moves + len(CELLS)).unsqueeze(-1)
    return torch.cat([walk.frames, moves], -1).flatten(1)


def predicted_frames(logits: Tensor) -> Tensor:
    """Read the likeliest frames from predictions of a walk's next tokens.

    Each cell is predicted from all that truly came before it, as in training. The
    first frame is left out: nothing tells where agent and goal are in it.

    Args:
        logits: ``[B, 26 T, V]``, at each token those of the next one.

    Returns:
        Tokens ``[B, T - 1, 25]``; one that is no kind of cell is a wrong prediction.
    """
    following = logits[:, STEP - 1 : -1].argmax(-1)
    return following.unflatten(1, (-1, STEP))[..., :FRAME]


def question_tokens(walk: Walk) -> Tensor:
    """Write a walk whose frames are hidden, but for the first one and the last one.

    The first frame, then the moves alone, one token a step, then a question, and the
    frame that the moves have led to, which answers it: what is to be known of the goal
    was seen T steps before.

    Args:
        walk: of T + 1 frames.

    Returns:
        Tokens ``[B, 25 + T + 1 + 25]``.

    Example:
        >>> from drama_torchrl.gridworld.world import draw_walk
        >>> question_tokens(draw_walk(2, 65, torch.Generator())).shape
        torch.Size([2, 115])
    """
    moves = walk.moves[:, :-1] + len(CELLS)
    question = torch.full_like(moves[:, :1], QUESTION)
    frames = walk.frames
    return torch.cat([frames[:, 0], moves, question, frames[:, -1]], 1)


def predicted_answer(logits: Tensor) -> Tensor:
    """Read the likeliest last frame from predictions of such a sequence.

    Args:
        logits: ``[B, L, V]``, at each token those of the next one.

    Returns:
        Tokens ``[B, 25]``.
    """
    return logits[:, -FRAME - 1 : -1].argmax(-1)
