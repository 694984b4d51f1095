"""Sequences hold frames, moves and questions where they should."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from drama_torchrl.gridworld.tokens import (
    QUESTION,
    VOCABULARY,
    predicted_answer,
    predicted_frames,
    question_tokens,
    walk_tokens,
)
from drama_torchrl.gridworld.world import Walk, draw_walk


def walk(steps: int) -> Walk:
    return draw_walk(3, steps, torch.Generator().manual_seed(0))


def perfect(tokens: torch.Tensor) -> torch.Tensor:
    """Logits that foresee every token; the last one's are of nothing."""
    return F.one_hot(tokens.roll(-1, 1), VOCABULARY).float()


def test_a_step_is_a_frame_and_its_move() -> None:
    found = walk(8)
    tokens = walk_tokens(found)
    assert tokens.shape == (3, 208)
    for t in range(8):
        assert torch.equal(tokens[:, 26 * t : 26 * t + 25], found.frames[:, t])
        assert torch.equal(tokens[:, 26 * t + 25], found.moves[:, t] + 4)


def test_frames_are_read_where_they_are_predicted() -> None:
    found = walk(8)
    frames = predicted_frames(perfect(walk_tokens(found)))
    assert torch.equal(frames, found.frames[:, 1:])


def test_a_prediction_of_a_move_is_read_as_no_cell() -> None:
    tokens = walk_tokens(walk(2))
    tokens[0, 30] = 5
    assert predicted_frames(perfect(tokens))[0, 0, 4] == 5


def test_a_question_hides_all_frames_but_the_first_and_its_answer() -> None:
    found = walk(65)
    tokens = question_tokens(found)
    assert tokens.shape == (3, 25 + 64 + 1 + 25)
    assert torch.equal(tokens[:, :25], found.frames[:, 0])
    assert torch.equal(tokens[:, 25:89], found.moves[:, :-1] + 4)
    assert (tokens[:, 89] == QUESTION).all()
    assert torch.equal(tokens[:, 90:], found.frames[:, -1])
    assert (tokens[:, 25:90] >= 4).all()


def test_the_answer_is_read_where_it_is_predicted() -> None:
    found = walk(5)
    answer = predicted_answer(perfect(question_tokens(found)))
    assert torch.equal(answer, found.frames[:, -1])
