"""Every generator starts from the seed and comes back to a saved state."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch

from drama_torchrl.record.checkpoint import load_tensors, save_tensors
from drama_torchrl.seeding import RandomState, seed_everything


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
