"""An environment that breaks stops the run; what was before the step is saved."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensordict import TensorDictBase

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

# Episodes of 20 steps, training from step 21 on; no checkpoint comes by itself.
SHORT = (
    "env.max_frames=80",
    "training.total_steps=46",
    "training.random_steps=20",
    "training.steps_per_update=2",
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
        (BreakBefore(8), 31),
        (BreakAtReset(1), 39),
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
