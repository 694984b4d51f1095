"""Models that learn have lower errors than models that do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from drama_torchrl.gridworld import study
from drama_torchrl.gridworld.model import TokenModel
from drama_torchrl.gridworld.options import (
    GridWorldOptions,
    MemoryOptions,
    read_options,
)
from drama_torchrl.gridworld.study import make_model, study_grid_world, study_memory
from drama_torchrl.gridworld.tokens import QUESTION, VOCABULARY
from tests.reference.backbones import KINDS

CPU = torch.device("cpu")
TINY = [
    "device=cpu",
    "batch=2",
    "evaluation=3",
    "d_model=16",
    "head_dim=8",
    "attention_heads=2",
]


def grid_options(*arguments: str) -> GridWorldOptions:
    given = [*TINY, "updates=2", "lengths=52", *arguments]
    return read_options(GridWorldOptions, given)


def memory_options(*arguments: str) -> MemoryOptions:
    given = [*TINY, "first_updates=3", "updates=1", "steps=2,4,6", *arguments]
    return read_options(MemoryOptions, given)


def test_every_model_is_measured_at_every_length() -> None:
    rows = list(study_grid_world(grid_options("lengths=52,78")))
    assert [(row.length, row.model) for row in rows] == [
        (length, kind) for length in (52, 78) for kind in KINDS
    ]
    for row in rows:
        assert row.cost is not None
        assert row.cost.ms > 0
        average = (row.errors["geometric"] + row.errors["logic"]) / 2
        assert row.errors["error"] == pytest.approx(average)


def test_the_models_of_the_full_preset_are_of_equal_size() -> None:
    options = read_options(GridWorldOptions, [])
    counts = [
        sum(p.numel() for p in make_model(options, kind, 208, CPU).parameters())
        for kind in KINDS
    ]
    assert max(counts) < 1.09 * min(counts)
    assert min(counts) > 3_000_000


def test_the_seed_decides_everything() -> None:
    def errors(seed: int) -> Any:
        rows = study_grid_world(grid_options("models=gru", f"seed={seed}"))
        return [(row.cost.loss, row.errors) for row in rows if row.cost]

    assert errors(3) == errors(3) != errors(4)


class Oracle(torch.nn.Module):
    """Foresees each token of a walk: cells stay, but for what the moves do."""

    def __init__(self, foresee: Any) -> None:
        super().__init__()
        self.head = torch.nn.Linear(1, 1)
        self.foresee = foresee

    def forward(self, tokens: Tensor) -> Tensor:
        logits = torch.nn.functional.one_hot(self.foresee(tokens), VOCABULARY)
        return logits + 0.0 * self.head.weight.sum()


def see_all(tokens: Tensor) -> Tensor:
    return tokens.roll(-1, 1)


def see_the_last_frame(tokens: Tensor) -> Tensor:
    """As if nothing ever moved: each frame is predicted to be the one before."""
    return tokens.roll(25, 1)


def see_no_goal(tokens: Tensor) -> Tensor:
    return see_all(tokens).masked_fill(see_all(tokens) == 3, 1)


def with_oracle(monkeypatch: pytest.MonkeyPatch, foresee: Any) -> None:
    def make(*_: Any) -> Any:
        return Oracle(foresee)

    def no_training(*_: Any) -> None:
        return None

    monkeypatch.setattr(study, "make_model", make)
    monkeypatch.setattr(study._Trainee, "_train", no_training)


@pytest.mark.parametrize(
    ("foresee", "geometric", "logic"),
    [
        (see_all, (0, 0), (0, 0)),
        # A third of the moves leads nowhere: against a wall.
        (see_the_last_frame, (0, 0), (50, 80)),
        (see_no_goal, (4, 4), (100, 100)),
    ],
    ids=["all", "nothing moves", "no goal"],
)
def test_errors_are_those_of_what_is_foreseen(
    monkeypatch: pytest.MonkeyPatch,
    foresee: Any,
    geometric: tuple[int, int],
    logic: tuple[int, int],
) -> None:
    with_oracle(monkeypatch, foresee)
    options = grid_options("models=gru", "lengths=208", "evaluation=101")
    (row,) = study_grid_world(options)
    assert geometric[0] <= row.errors["geometric"] <= geometric[1]
    assert logic[0] <= row.errors["logic"] <= logic[1]


def first_frame_again(tokens: Tensor) -> Tensor:
    """Foresees the answer to be the first frame."""
    length = tokens.shape[1]
    shift = length - 25 - 1
    return tokens.roll(shift, 1)


@pytest.mark.parametrize(
    ("foresee", "error"),
    [(first_frame_again, 0), (see_no_goal, 100)],
    ids=["remembers", "forgets"],
)
def test_the_goal_error_is_of_the_answer_alone(
    monkeypatch: pytest.MonkeyPatch, foresee: Any, error: int
) -> None:
    with_oracle(monkeypatch, foresee)
    rows = list(study_memory(memory_options("models=gru", "steps=4,64")))
    assert [row.errors["goal"] for row in rows] == [error] * 2


def test_memory_goes_on_from_what_was_learned_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[int, int, Tensor]] = []
    train = study._Trainee._train

    def watch(self: study._Trainee, updates: int, last: int) -> Any:
        before = self.model.head.weight.detach().clone()
        cost = train(self, updates, last)
        seen.append((updates, last, before))
        after.append(self.model.head.weight.detach().clone())
        return cost

    after: list[Tensor] = []
    monkeypatch.setattr(study._Trainee, "_train", watch)
    rows = list(study_memory(memory_options("models=mamba2,gru")))
    assert [(row.model, row.length) for row in rows] == [
        (kind, steps) for kind in ("mamba2", "gru") for steps in (2, 4, 6)
    ]
    assert [(updates, last) for updates, last, _ in seen] == [
        (3, 25),
        (1, 25),
        (1, 25),
    ] * 2
    starts = [before for _, _, before in seen]
    assert torch.equal(starts[1], after[0])
    assert torch.equal(starts[2], after[1])
    assert not torch.equal(starts[3], after[2])  # another model


def test_the_question_comes_that_many_steps_after_the_goal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lengths = []

    def watch(self: TokenModel, tokens: Tensor) -> Tensor:
        (asked,) = (tokens[0] == QUESTION).nonzero().flatten().tolist()
        lengths.append(asked - 25)
        return forward(self, tokens)

    forward = TokenModel.forward
    monkeypatch.setattr(TokenModel, "forward", watch)
    list(study_memory(memory_options("models=gru", "first_updates=1")))
    assert list(dict.fromkeys(lengths)) == [2, 4, 6]


def test_a_model_that_runs_out_of_memory_is_a_row_and_is_not_tried_further(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def exhaust(self: study._Trainee, updates: int, last: int) -> Any:
        if self.frames > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return train(self, updates, last)

    train = study._Trainee._train
    monkeypatch.setattr(study._Trainee, "_train", exhaust)
    rows = list(study_memory(memory_options("models=gru,mamba2")))
    assert [(row.model, row.length, row.failure) for row in rows] == [
        ("gru", 2, ""),
        ("gru", 4, "out of memory"),
        ("mamba2", 2, ""),
        ("mamba2", 4, "out of memory"),
    ]
    assert rows[1].errors == {}


@pytest.mark.slow
def test_a_transformer_learns_the_geometry_and_to_remember() -> None:
    sizes = ["device=cpu", "preset=quick", "models=transformer", "updates=150"]
    (walked,) = study_grid_world(
        read_options(GridWorldOptions, [*sizes, "lengths=104"])
    )
    (asked,) = study_memory(read_options(MemoryOptions, [*sizes, "steps=4"]))
    # A frame without agent and goal is wrong in 8 % of its cells.
    assert walked.errors["geometric"] < 5
    assert asked.errors["goal"] < 30
