"""The hours of a run follow from one measured step, and long ones are announced."""

from __future__ import annotations

import itertools
import time
import warnings
from dataclasses import asdict

import pytest
import torch

from drama_torchrl.config import DramaConfig, config_from_dict
from drama_torchrl.estimate import estimate_hours, random_batches, warn_if_long
from tests.reference.tiny import ACTIONS, FRAME, tiny_config

CPU = torch.device("cpu")


@pytest.fixture
def _slow_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two looks at this clock 36 seconds pass: 100 updates take an hour."""
    ticks = itertools.count(step=36)
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))


def config_of(updates: int, *, preset: str = "quick", every: int = 1) -> DramaConfig:
    config = tiny_config(
        "training.random_steps=400",
        f"training.total_steps={400 + updates * every}",
        f"training.steps_per_update={every}",
    )
    return config_from_dict(asdict(config) | {"preset": preset})


@pytest.mark.usefixtures("_slow_clock")
@pytest.mark.parametrize(
    ("updates", "every", "hours"),
    [(100, 1, 1.0), (250, 1, 2.5), (100, 4, 1.0), (1, 1, 0.01)],
)
def test_hours_are_seconds_of_a_step_times_updates(
    updates: int, every: int, hours: float
) -> None:
    config = config_of(updates, every=every)
    estimate = estimate_hours(config, num_actions=ACTIONS, device=CPU)
    assert estimate == pytest.approx(hours)


@pytest.mark.usefixtures("_slow_clock")
@pytest.mark.parametrize("preset", ["xs", "s"])
def test_more_than_an_hour_on_a_cpu_is_announced_with_a_way_out(preset: str) -> None:
    message = (
        f"preset={preset} will take about 1,234 hours for 123,800 steps.*preset=quick"
    )
    with pytest.warns(UserWarning, match=message):
        warn_if_long(config_of(123_400, preset=preset), num_actions=ACTIONS, device=CPU)


@pytest.mark.usefixtures("_slow_clock")
def test_an_hour_is_not_worth_a_word() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_long(config_of(100), num_actions=ACTIONS, device=CPU)


def test_nothing_is_measured_on_a_gpu() -> None:
    # Without a GPU, putting anything there would raise.
    device = torch.device("cuda", 99)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_long(config_of(10**9), num_actions=ACTIONS, device=device)


def test_measuring_leaves_the_random_numbers_alone() -> None:
    before = torch.get_rng_state()
    estimate_hours(config_of(100), num_actions=ACTIONS, device=CPU)
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_are_shaped_as_those_of_the_replay_buffers() -> None:
    config = tiny_config(
        "replay.model_batch=2",
        "replay.model_window=7",
        "replay.imagination_batch=5",
        "replay.imagination_window=3",
    )
    for batch, shape in zip(
        random_batches(config, ACTIONS, CPU), [(2, 7), (5, 3)], strict=True
    ):
        assert batch.shape == shape
        assert batch["pixels"].shape == (*shape, 3, FRAME, FRAME)
        assert batch["pixels"].dtype is torch.uint8
        assert batch["action"].shape == (*shape, ACTIONS)
        assert (batch["action"].sum(-1) == 1).all()
        for key in ("is_init", ("next", "reward"), ("next", "end-of-life")):
            assert batch[key].shape == (*shape, 1)
