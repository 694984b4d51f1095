"""Every generator starts from the seed and comes back to a saved state."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from drama_torchrl.record.checkpoint import load_tensors, save_tensors
from drama_torchrl.seeding import (
    RandomState,
    prefer_repeatable_kernels,
    seed_everything,
)
from recipes import drama_atari100k
from tests.reference.tiny_run import run_options


def draw() -> list[float]:
    normal = np.random.standard_normal()  # one of a pair; the other is state
    return [random.gauss(0.0, 1.0), normal, torch.randn(1).item()]


def test_a_seed_decides_all_draws() -> None:
    seed_everything(1)
    first = draw()
    seed_everything(1)
    assert draw() == first
    seed_everything(2)
    assert not set(draw()) & set(first)


def test_a_state_on_disk_brings_all_draws_back(tmp_path: Path) -> None:
    seed_everything(1)
    draw()
    save_tensors(tmp_path / "state.pt", RandomState().state_dict())
    expected = [draw() for _ in range(3)]
    seed_everything(2)
    RandomState().load_state_dict(load_tensors(tmp_path / "state.pt", "cpu"))
    assert [draw() for _ in range(3)] == expected


@pytest.fixture
def any_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As a process starts; what was set before comes back."""
    before = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    # Set first, so that its absence is what comes back.
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    torch.use_deterministic_algorithms(False)
    yield
    torch.use_deterministic_algorithms(before, warn_only=only_warned)


def scatter_at_random() -> torch.Tensor:
    """Which of two values stays is not decided."""
    return torch.zeros(1).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))


def test_repeatable_kernels_are_preferred_and_others_named(any_kernels: None) -> None:
    scatter_at_random()
    prefer_repeatable_kernels()
    with pytest.warns(UserWarning, match="put_.* does not have a deterministic"):
        scatter_at_random()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.backends.cudnn.benchmark
    memory: Any = torch.utils.deterministic
    assert not memory.fill_uninitialized_memory


def test_the_option_sets_it_and_changes_nothing_on_a_cpu(
    any_kernels: None, tmp_path: Path
) -> None:
    short = (
        "env.max_frames=40",
        "training.total_steps=24",
        "training.random_steps=20",
        "log.film_every=1000",
    )
    episodes = []
    for name in ("false", "true"):
        assert not torch.are_deterministic_algorithms_enabled()
        option = f"execution.deterministic={name}"
        drama_atari100k.main(run_options(tmp_path / name, *short, option))
        row = (tmp_path / name / "metrics.csv").read_text().splitlines()[-1]
        episodes.append(row.rpartition(",")[0])
    assert torch.are_deterministic_algorithms_enabled()
    assert episodes[0] == episodes[1]
