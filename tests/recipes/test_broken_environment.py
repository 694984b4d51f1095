"""An environment that breaks stops the run; what was before the step is saved."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensordict import TensorDictBase

from drama_torchrl.agent import Agent
from drama_torchrl.record.checkpoint import load_tensors
from tests.reference.stopping import (
    After,
    BreakAfter,
    BrokenError,
    different,
    newest,
    remains,
    run_training,
)
from tests.reference.tiny_run import run_options

# Episodes of 20 steps, an update in every third step; no checkpoint comes by itself.
SHORT = (
    "env.max_frames=80",
    "training.total_steps=46",
    "training.random_steps=20",
    "training.steps_per_update=3",
    "replay.capacity=30",
    "log.checkpoint_every=1000",
    "log.film_every=1000",
)
VARIANTS = {
    "posterior, carried, dfs": ["env.repeat_action_probability=0.25"],
    "prior, window, uniform": [
        "acting.latent=prior",
        "acting.memory=window",
        "replay.sampling=uniform",
    ],
}


class BreakBefore(After):
    """Breaks when the n-th action comes, before the emulator has it."""

    def _inv_call(self, tensordict: TensorDictBase) -> TensorDictBase:
        self.steps -= 1
        if self.steps == 0:
            raise BrokenError("the emulator is gone")
        return tensordict

    def _step(
        self, tensordict: TensorDictBase, next_tensordict: TensorDictBase
    ) -> TensorDictBase:
        return next_tensordict


class BreakAtReset(After):
    """Breaks at the n-th reset after the first, when the next episode has begun."""

    def _reset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        self.steps -= 1
        if self.steps < 0:
            raise BrokenError("the emulator is gone")
        return tensordict_reset

    def _step(
        self, tensordict: TensorDictBase, next_tensordict: TensorDictBase
    ) -> TensorDictBase:
        return next_tensordict


@pytest.mark.slow
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_run_goes_on_from_the_last_whole_step_as_if_nothing_had_happened(
    tmp_path: Path, options: list[str]
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_training(run_options(whole, *SHORT, *options))
    arguments = run_options(broken, *SHORT, *options)
    breaks: list[tuple[After, int]] = [
        (BreakAfter(7), 6),  # while actions are random
        (BreakBefore(3), 8),
        (BreakAtReset(1), 19),  # in the step that ends the first episode
        (BreakAfter(6), 24),  # while the policy acts
        (BreakAfter(1), 24),  # again, at once
        (BreakBefore(7), 30),
        (BreakAtReset(1), 39),
        # In the episode that the run ends in: what is remembered then goes back to it.
        (BreakAfter(4), 42),
    ]
    for transform, last in breaks:
        with pytest.raises(BrokenError, match="the emulator is gone") as caught:
            run_training(arguments, transform)
        arguments = [f"resume={broken}"]
        (note,) = caught.value.__notes__
        assert note == (
            f"The run is saved as it was after step {last}; to go on: "
            f"python recipes/drama_atari100k.py resume={broken}"
        )
        assert newest(broken).name == f"step-{last:07d}"
    run_training(arguments)
    assert different(remains(broken), remains(whole)) == []


def updates_of(run: Path) -> int:
    state = load_tensors(newest(run) / "agent.pt", "cpu")
    return state["world_model"]["schedule"]["last_epoch"]


def test_an_update_during_the_step_that_breaks_is_made_again(tmp_path: Path) -> None:
    run = tmp_path / "run"
    short = (*SHORT, "training.total_steps=30")
    with pytest.raises(BrokenError):
        run_training(run_options(run, *short), BreakAfter(27))
    assert newest(run).name == "step-0000026"
    assert updates_of(run) == 3  # in steps 21, 24 and 27
    run_training([f"resume={run}"])
    assert newest(run).name == "step-0000030"
    assert updates_of(run) == 5  # in steps 27 and 30 besides


def test_an_agent_that_breaks_in_the_middle_of_an_update_is_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"

    def run_out_of_memory(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Agent, "learn", run_out_of_memory)
    with pytest.raises(RuntimeError, match="out of memory") as caught:
        run_training(run_options(run, *SHORT, "log.checkpoint_every=8"))
    (note,) = caught.value.__notes__
    assert note.startswith(
        "Step 20 broke in the middle of an update; last checkpoint: [16]; to go on: "
    )
    assert newest(run).name == "step-0000016"


def test_before_the_first_step_there_is_nothing_to_save(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(BrokenError) as caught:
        run_training(run_options(run, *SHORT), BreakAfter(1))
    assert "as it was after step 0" in caught.value.__notes__[0]
    assert not (run / "resume").exists()
    assert not (run / "checkpoint.pt").exists()
    with pytest.raises(BrokenError):
        run_training([f"resume={run}"], BreakAfter(3))
    assert newest(run).name == "step-0000002"
