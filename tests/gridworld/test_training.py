"""Learning next tokens, and what the watch says of it."""

from __future__ import annotations

import gc
import time
from itertools import count

import pytest
import torch
from torch import Tensor

from drama_torchrl.gridworld.model import NUM_ACTIONS, TokenModel
from drama_torchrl.gridworld.training import Learner, Stopwatch, next_token_loss
from drama_torchrl.modules import GRUDynamics
from drama_torchrl.precision import Precision

CPU = torch.device("cpu")


def make_learner(last: int, device: str = "cpu") -> Learner:
    torch.manual_seed(0)
    model = TokenModel(GRUDynamics(4, NUM_ACTIONS, d_model=16, dropout=0.0))
    return Learner(
        model.to(device),
        last=last,
        learning_rate=1e-2,
        warmup=3,
        precision=Precision(device, enabled=False),
    )


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_sequence_that_repeats_is_learned(device: str) -> None:
    # The first token is another each time; the rest follows from it.
    seeds = count()

    def draw() -> Tensor:
        generator = torch.Generator().manual_seed(next(seeds))
        first = torch.randint(4, (8, 1), generator=generator)
        return ((first + torch.arange(6)) % 4).to(device)

    cost = make_learner(last=5, device=device).train(draw, updates=60)
    assert cost.loss < 0.1
    assert cost.ms > 0
    assert (cost.peak_gb is None) == (device == "cpu")


@pytest.mark.gpu
def test_a_gpu_learns_what_a_cpu_learns() -> None:
    learners = [make_learner(last=5, device=device) for device in ("cpu", "cuda")]
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):  # three ordinary updates, the recorded one, four replays
        tokens = torch.randint(4, (8, 6), generator=generator)
        on_cpu, on_gpu = (each.update(tokens.to(each.device)) for each in learners)
        assert on_gpu.item() == pytest.approx(on_cpu.item(), rel=1e-3)


def test_the_loss_is_that_of_the_tokens_asked_for() -> None:
    logits = torch.zeros(1, 4, 2)
    logits[0, 2] = torch.tensor([0.0, 30.0])  # predicts the last token: 1
    logits[0, 3] = torch.tensor([0.0, 1e4])  # predicts what is not there
    tokens = torch.tensor([[0, 0, 1, 0]])
    last, both = (next_token_loss(logits, tokens, last=n).item() for n in (1, 2))
    assert last == pytest.approx(30.0)
    assert both == pytest.approx((30.0 + 0.6931472) / 2)


def test_the_learning_rate_rises_to_its_value() -> None:
    learner = make_learner(last=3)
    rates = []
    for _ in range(4):
        rates.append(learner.optimizer.param_groups[0]["lr"].item())
        learner.update(torch.zeros(1, 4, dtype=torch.int64))
    assert rates == pytest.approx([1e-2 / 3, 2e-2 / 3, 1e-2, 1e-2])


def test_a_watch_gives_the_median_after_the_first_blocks() -> None:
    watch = Stopwatch(CPU)
    for seconds in [0.1] * 5 + [0.001, 0.02, 0.02]:
        with watch:
            time.sleep(seconds)
        time.sleep(0.03)  # between blocks nothing is timed
    assert 20 <= watch.median_ms() < 50


@pytest.mark.gpu
def test_a_gpu_counts_the_memory_of_the_updates() -> None:
    device = torch.device("cuda")
    watch = Stopwatch(device)
    gc.collect()
    before = torch.cuda.memory_allocated(device) / 1e9  # of earlier tests
    with watch.memory(), watch:
        torch.zeros(25_000_000, device=device).add(1)
    assert watch.peak_gb is not None
    assert 0.2 <= watch.peak_gb - before < 0.21
    assert watch.median_ms() > 0
