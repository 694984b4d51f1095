"""A run that is interrupted ends as the same run that is not, to the last bit."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from drama_torchrl.record.stopping import RunStopped
from tests.reference.stopped_run import stopped_and_whole
from tests.reference.stopping import (
    CrashAfter,
    CrashError,
    SignalAfter,
    different,
    remains,
    run_training,
)
from tests.reference.tiny_run import run_options

# Three episodes, training from step 20 on, a buffer that wraps, one film.
SHORT = (
    "env.max_frames=80",
    "training.total_steps=48",
    "training.random_steps=20",
    "training.steps_per_update=2",
    "replay.capacity=30",
    "log.checkpoint_every=9",
    "log.film_every=33",
)
VARIANTS = {
    "posterior, carried, dfs": ["env.repeat_action_probability=0.25"],
    "prior, window, uniform": [
        "acting.latent=prior",
        "acting.memory=window",
        "replay.sampling=uniform",
    ],
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_a_run_that_crashes_and_stops_ends_as_an_undisturbed_one(
    tmp_path: Path, options: list[str]
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_training(run_options(whole, *SHORT, *options))
    moments = random.Random(0)
    start = run_options(broken, *SHORT, *options)
    for number in range(6):
        arguments = start if number == 0 else [f"resume={broken}"]
        steps = moments.randint(1, 12)
        if number % 2:
            with pytest.raises(CrashError):
                run_training(arguments, CrashAfter(steps))
        else:
            with pytest.raises(RunStopped, match=f"resume={broken}"):
                run_training(arguments, SignalAfter(steps))
    run_training([f"resume={broken}"])
    assert different(remains(broken), remains(whole)) == []


@pytest.mark.slow
def test_another_process_goes_on_as_the_first_would_have(tmp_path: Path) -> None:
    options = ("execution.device=cpu", "execution.deterministic=true")
    stopped, whole = stopped_and_whole(tmp_path, *options)
    assert different(remains(stopped), remains(whole)) == []
