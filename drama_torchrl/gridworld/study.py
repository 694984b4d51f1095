"""Both studies: every dynamics model trained, and what it costs and gets wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from drama_torchrl.factories import make_device, make_dynamics
from drama_torchrl.gridworld.errors import (
    frame_error,
    geometric_error,
    goal_error,
    logic_error,
)
from drama_torchrl.gridworld.model import NUM_ACTIONS, TokenModel
from drama_torchrl.gridworld.options import (
    GridWorldOptions,
    MemoryOptions,
    StudyOptions,
)
from drama_torchrl.gridworld.tokens import (
    STEP,
    predicted_answer,
    predicted_frames,
    question_tokens,
    walk_tokens,
)
from drama_torchrl.gridworld.training import Cost, Learner
from drama_torchrl.gridworld.world import CELLS, FRAME, Walk, draw_walk
from drama_torchrl.precision import Precision

__all__ = ["OUT_OF_MEMORY", "Row", "make_model", "study_grid_world", "study_memory"]

OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True)
class Row:
    """One model at one length.

    Args:
        model: kind of the dynamics.
        length: tokens L of a sequence, or steps T in the memory variant.
        parameters: of the whole model.
        cost: of training; None if it failed.
        errors: percentages by name: ``"geometric"``, ``"logic"`` and their average
            ``"error"``, or ``"goal"``; empty if training failed.
        failure: why it failed.
    """

    model: str
    length: int
    parameters: int
    cost: Cost | None
    errors: dict[str, float]
    failure: str = ""


def make_model(
    options: StudyOptions, kind: str, length: int, device: torch.device
) -> TokenModel:
    """Build the model around a dynamics, the same weights for a seed.

    Args:
        options: its sizes.
        kind: of the dynamics.
        length: tokens that a Transformer sees.
        device: where it computes.
    """
    torch.manual_seed(options.seed)
    sizes = options.dynamics(kind, length)
    return TokenModel(make_dynamics(sizes, len(CELLS), NUM_ACTIONS)).to(device)


def study_grid_world(options: GridWorldOptions) -> Iterator[Row]:
    """Train each model on walks of each length, from the start (Table 2).

    Yields:
        A row for each, as soon as it is known.
    """
    device = make_device(options.device, "device")
    for length in options.lengths:
        for kind in options.models:
            model = make_model(options, kind, length, device)
            trainee = _Trainee(options, model, length // STEP, walk_tokens)
            yield trainee.row(kind, length, options.updates, length - 1, _frame_errors)


def study_memory(options: MemoryOptions) -> Iterator[Row]:
    """Train each model to remember the goal for longer and longer.

    From the second number of steps on, training goes on from the weights before: a
    memory over thousands of steps is seldom found at once. A model that ran out of
    memory is not tried at more steps.

    Yields:
        A row for each, as soon as it is known.
    """
    device = make_device(options.device, "device")
    for kind in options.models:
        weights = None
        for steps in options.steps:
            window = steps + 2 * FRAME + 1
            model = make_model(options, kind, window, device)
            if weights is not None:
                model.load_state_dict(weights)
            updates = options.first_updates if weights is None else options.updates
            trainee = _Trainee(options, model, steps + 1, question_tokens)
            row = trainee.row(kind, steps, updates, FRAME, _goal_errors)
            yield row
            if row.failure:
                break
            weights = model.state_dict()


class _Trainee:
    """A model, and the walks that it learns from.

    Args:
        options: of training.
        model: trained in place.
        frames: of each walk.
        write: makes tokens of walks.
    """

    def __init__(
        self,
        options: StudyOptions,
        model: TokenModel,
        frames: int,
        write: Callable[[Walk], Tensor],
    ) -> None:
        self.options, self.model = options, model
        self.frames, self.write = frames, write
        self.device = model.head.weight.device
        enabled = options.autocast and self.device.type == "cuda"
        self.precision = Precision(self.device.type, enabled=enabled)

    def row(
        self,
        kind: str,
        length: int,
        updates: int,
        last: int,
        measure: Callable[[Tensor, Walk], dict[str, Tensor]],
    ) -> Row:
        """Train, measure errors, or say why not."""
        parameters = sum(p.numel() for p in self.model.parameters())
        try:
            cost = self._train(updates, last)
            errors = self._evaluate(measure)
        except torch.OutOfMemoryError:
            # What autograd had saved goes with the traceback.
            return Row(kind, length, parameters, None, {}, OUT_OF_MEMORY)
        return Row(kind, length, parameters, cost, errors)

    def _train(self, updates: int, last: int) -> Cost:
        options = self.options
        learner = Learner(
            self.model,
            last=last,
            learning_rate=options.learning_rate,
            warmup=options.warmup,
            precision=self.precision,
        )
        walks = self._generator(0)

        def draw() -> Tensor:
            return self.write(draw_walk(options.batch, self.frames, walks))

        return learner.train(draw, updates)

    @torch.no_grad()
    def _evaluate(
        self, measure: Callable[[Tensor, Walk], dict[str, Tensor]]
    ) -> dict[str, float]:
        walks = self._generator(1)
        self.model.eval()
        found: dict[str, Tensor] = {}
        for done in range(0, self.options.evaluation, self.options.batch):
            batch = min(self.options.batch, self.options.evaluation - done)
            walk = draw_walk(batch, self.frames, walks)
            with self.precision():
                logits = self.model(self.write(walk))
            for name, error in measure(logits, walk).items():
                found[name] = found.get(name, torch.zeros_like(error)) + error * batch
        return {n: e.item() / self.options.evaluation for n, e in found.items()}

    def _generator(self, purpose: int) -> torch.Generator:
        """Draw the same walks for every model, others for training and evaluation."""
        generator = torch.Generator(self.device)
        return generator.manual_seed(2 * self.options.seed + purpose)


def _frame_errors(logits: Tensor, walk: Walk) -> dict[str, Tensor]:
    frames, agent = predicted_frames(logits), walk.agent[:, 1:]
    return {
        "geometric": geometric_error(frames),
        "logic": logic_error(frames, agent),
        "error": frame_error(frames, agent),
    }


def _goal_errors(logits: Tensor, walk: Walk) -> dict[str, Tensor]:
    return {"goal": goal_error(predicted_answer(logits), walk.goal)}
