"""The errors of appendix A.6, on frames made by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from drama_torchrl.gridworld.errors import (
    frame_error,
    geometric_error,
    geometric_violations,
    goal_error,
    logic_error,
    logic_failures,
)

KINDS = {"#": 0, ".": 1, "A": 2, "G": 3, ">": 7, "?": 8}
AGENT, GOAL = 7, 17  # where they are in RIGHT
RIGHT = "##### #.A.# #...# #.G.# #####"
# Frames, the cells that would have to change, and whether the agent is where it was.
FRAMES = {
    "right": (RIGHT, 0, True),
    "two agents": ("##### #.A.# #..A# #.G.# #####", 1, True),
    "three agents": ("##### #.AA# #..A# #.G.# #####", 2, True),
    "agent missing": ("##### #...# #...# #.G.# #####", 1, False),
    "agent elsewhere": ("##### #A..# #...# #.G.# #####", 0, False),
    "goal missing": ("##### #.A.# #...# #...# #####", 1, True),
    "goal elsewhere": ("##### #.A.# #..G# #...# #####", 0, True),
    "two goals": ("##### #.A.# #..G# #.G.# #####", 1, True),
    "wall missing": ("##.## #.A.# #...# #.G.# #####", 1, True),
    "agent in the wall": ("##A## #.A.# #...# #.G.# #####", 1, True),
    "agent in the wall alone": ("##A## #...# #...# #.G.# #####", 2, False),
    "corner missing": ("##### #.A.# #...# #.G.# ####.", 1, True),
    "wall inside": ("##### #.A.# #.#.# #.G.# #####", 1, True),
    "move as a cell": ("##### #.A.# #.>.# #.G.# #####", 1, True),
    "question as a wall": ("####? #.A.# #...# #.G.# #####", 1, True),
    "agent and goal swapped": ("##### #.G.# #...# #.A.# #####", 0, False),
    "all walls": ("##### ##### ##### ##### #####", 9, False),
    "all floor": ("..... ..... ..... ..... .....", 18, False),
    "all agents": ("AAAAA AAAAA AAAAA AAAAA AAAAA", 24, True),
}


def frame(drawing: str) -> Tensor:
    return torch.tensor([KINDS[cell] for cell in drawing.replace(" ", "")])


@pytest.mark.parametrize("name", FRAMES)
def test_cells_that_would_have_to_change_are_counted(name: str) -> None:
    drawing, violations, _ = FRAMES[name]
    assert geometric_violations(frame(drawing)).item() == violations


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_fails_if_it_is_impossible_or_its_agent_is_elsewhere(name: str) -> None:
    drawing, violations, agent_right = FRAMES[name]
    failed = logic_failures(frame(drawing), torch.tensor(AGENT)).item()
    assert failed == (violations > 0 or not agent_right)


def test_a_wrong_move_is_a_logic_error_alone() -> None:
    frames = torch.stack([frame(FRAMES[n][0]) for n in ("right", "agent elsewhere")])
    agent = torch.full((2,), AGENT)
    assert geometric_error(frames).item() == 0
    assert logic_error(frames, agent).item() == 50


def test_percentages_are_of_cells_and_of_frames() -> None:
    drawings = ["right", "two agents", "wall missing", "three agents"]
    frames = torch.stack([frame(FRAMES[name][0]) for name in drawings])
    frames, agent = frames.view(2, 2, 25), torch.full((2, 2), AGENT)
    assert geometric_error(frames).item() == pytest.approx(100 * 4 / 100)
    assert logic_error(frames, agent).item() == pytest.approx(75)
    assert frame_error(frames, agent).item() == pytest.approx((4 + 75) / 2)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("right", False),
        ("agent elsewhere", False),
        ("goal missing", True),
        ("goal elsewhere", True),
        ("two goals", True),
    ],
)
def test_the_goal_is_right_if_it_is_in_its_place_alone(name: str, wrong: bool) -> None:
    error = goal_error(frame(FRAMES[name][0]), torch.tensor(GOAL))
    assert error.item() == 100 * wrong
