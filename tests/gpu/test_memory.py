"""The paper's agent trains on a small GPU."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch

from drama_torchrl.config import load_config
from drama_torchrl.estimate import random_batches
from drama_torchrl.factories import make_agent

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
LIMIT = 4e9  # bytes, replay storage not counted
NUM_ACTIONS = 18


@pytest.fixture
def little_memory() -> Iterator[None]:
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(LIMIT / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(
    "compiled",
    [False, pytest.param(True, marks=pytest.mark.slow)],
    ids=["graphs", "compile"],
)
def test_four_gigabytes_are_enough(
    monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    # As the recipe does: the trials take what memory there is.
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    config = load_config("xs", [f"execution.compile={str(compiled).lower()}"])
    device = torch.device("cuda")
    agent = make_agent(config, NUM_ACTIONS, device)
    batches = random_batches(config, NUM_ACTIONS, device)
    for _ in range(6):
        metrics = agent.learn(*batches)
    assert metrics["world_model"]["loss_reconstruction"].isfinite()
    assert metrics["behaviour"]["loss_actor"].isfinite()
    assert torch.cuda.memory_reserved() <= LIMIT
