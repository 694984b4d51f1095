"""Walks go where their moves lead, and frames show them."""

from __future__ import annotations

import pytest
import torch

from drama_torchrl.gridworld.world import (
    AGENT,
    FLOOR,
    GOAL,
    INSIDE,
    MOVES,
    WALL,
    draw_walk,
    follow,
    paint,
)

UP, DOWN, LEFT, RIGHT = range(4)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def walk_slowly(start: int, goal: int, moves: list[int]) -> list[int]:
    """One move after the other, in rows and columns."""
    row, column = divmod(start, 5)
    places = [start]
    for move in moves:
        down, right = list(MOVES.values())[move]
        new = (row + down, column + right)
        inside = all(1 <= x <= 3 for x in new)
        if inside and new != divmod(goal, 5):
            row, column = new
        places.append(5 * row + column)
    return places


@pytest.mark.parametrize(
    ("start", "move", "end"),
    [
        (12, UP, 7),
        (12, DOWN, 17),
        (12, LEFT, 11),
        (12, RIGHT, 13),
        (6, UP, 6),
        (6, LEFT, 6),
        (18, DOWN, 18),
        (18, RIGHT, 18),
        (7, RIGHT, 7),  # the goal
    ],
)
def test_a_move_leads_to_the_next_cell_unless_something_is_there(
    start: int, move: int, end: int
) -> None:
    places = follow(torch.tensor([start]), torch.tensor([8]), torch.tensor([[move]]))
    assert places.tolist() == [[start, end]]


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 7, 64, 100])
def test_many_moves_are_one_move_after_the_other(steps: int) -> None:
    moves = torch.randint(4, (20, steps))
    start, goal = torch.tensor(INSIDE)[torch.randperm(9)[:2]]
    found = follow(start.expand(20), goal.expand(20), moves)
    for row, places in zip(moves.tolist(), found.tolist(), strict=True):
        assert places == walk_slowly(int(start), int(goal), row)


def test_a_frame_has_walls_around_floor_an_agent_and_a_goal() -> None:
    frame = paint(torch.tensor(11), torch.tensor(18)).view(5, 5)
    boundary = torch.ones(5, 5, dtype=torch.bool)
    boundary[1:4, 1:4] = False
    assert (frame[boundary] == WALL).all()
    expected = [[FLOOR] * 3, [AGENT, FLOOR, FLOOR], [FLOOR, FLOOR, GOAL]]
    assert frame[1:4, 1:4].tolist() == expected


def test_frames_follow_the_moves_before_them() -> None:
    walk = draw_walk(16, 30, generator())
    for b in range(16):
        places = walk.frames[b].eq(AGENT).nonzero()[:, 1].tolist()
        goals = walk.frames[b].eq(GOAL).nonzero()[:, 1].tolist()
        goal = int(walk.goal[b])
        assert goals == [goal] * 30
        assert places == walk_slowly(places[0], goal, walk.moves[b, :-1].tolist())
        assert places == walk.agent[b].tolist()


def test_all_starts_goals_and_moves_are_equally_likely() -> None:
    walk = draw_walk(20_000, 2, generator())
    pairs = walk.goal * 25 + walk.agent[:, 0]
    counts = pairs.bincount()
    counts = counts[counts > 0]
    assert len(counts) == 9 * 8
    # Mean 278: five standard deviations.
    assert (counts - 20_000 / 72).abs().max() < 5 * (20_000 / 72) ** 0.5
    moves = walk.moves.flatten().bincount()
    assert (moves - 10_000).abs().max() < 5 * 100


def test_a_seed_repeats_a_walk_and_another_one_does_not() -> None:
    one, again, other = (draw_walk(4, 9, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.frames, again.frames)
    assert torch.equal(one.moves, again.moves)
    assert not torch.equal(one.moves, other.moves)
