"""Numerics, seeds and devices for all tests."""

from __future__ import annotations

import os
import random

import hypothesis
import numpy as np
import pytest
import torch

# The same cases each time, however long one takes; nothing is written.
hypothesis.settings.register_profile(
    "repeatable", derandomize=True, deadline=None, database=None
)
hypothesis.settings.load_profile("repeatable")

# Small tensors gain nothing from a second thread, and on a busy machine threads that
# wait for each other take ten times as long; nor does it in processes of a test.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_float32_matmul_precision("highest")
torch.backends.cuda.matmul.allow_tf32 = False
torch.backends.cudnn.allow_tf32 = False

if not torch.cuda.is_available():
    # Also fills what torch.empty returns with NaN (integers: their largest value), so
    # that reading it shows. Only here: several CUDA kernels have no deterministic twin.
    torch.use_deterministic_algorithms(True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests marked `gpu` where there is no CUDA device."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
