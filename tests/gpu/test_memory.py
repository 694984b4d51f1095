"""The paper's agent trains on a small GPU."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

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


def train_in_little_memory(*options: str) -> int:
    """Train until graphs are replayed; return the bytes held."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(LIMIT / total)
    # As the recipe does: the trials take what memory there is.
    torch.backends.cudnn.benchmark = True
    device = torch.device("cuda")
    config = load_config("xs", options)
    agent = make_agent(config, NUM_ACTIONS, device)
    batches = random_batches(config, NUM_ACTIONS, device)
    for _ in range(6):
        metrics = agent.learn(*batches)
    assert metrics["world_model"]["loss_reconstruction"].isfinite()
    assert metrics["behaviour"]["loss_actor"].isfinite()
    return torch.cuda.max_memory_reserved()


@pytest.mark.parametrize(
    "compiled",
    ["false", pytest.param("true", marks=pytest.mark.slow)],
    ids=["graphs", "compile"],
)
def test_four_gigabytes_are_enough(
    monkeypatch: pytest.MonkeyPatch, compiled: str
) -> None:
    # What README says for small GPUs; it holds for processes that start after it.
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        training = pool.submit(train_in_little_memory, f"execution.compile={compiled}")
        assert training.result() <= LIMIT
