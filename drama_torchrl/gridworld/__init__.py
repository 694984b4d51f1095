"""The paper's grid world: walks as tokens, models of next tokens, and their errors."""

from drama_torchrl.gridworld.errors import (
    frame_error,
    geometric_error,
    geometric_violations,
    goal_error,
    logic_error,
    logic_failures,
)
from drama_torchrl.gridworld.model import TokenModel
from drama_torchrl.gridworld.tokens import (
    predicted_answer,
    predicted_frames,
    question_tokens,
    walk_tokens,
)
from drama_torchrl.gridworld.world import Walk, draw_walk, follow, paint

__all__ = [
    "TokenModel",
    "Walk",
    "draw_walk",
    "follow",
    "frame_error",
    "geometric_error",
    "geometric_violations",
    "goal_error",
    "logic_error",
    "logic_failures",
    "paint",
    "predicted_answer",
    "predicted_frames",
    "question_tokens",
    "walk_tokens",
]
