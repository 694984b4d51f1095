"""Replay beside a busy GPU: nothing waits for it, and nothing is read too early."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage

from drama_torchrl.data import DFSSampler, UnblockedReplayBuffer, VisitCounts

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
DEVICE = torch.device("cuda")


def records(value: int, count: int = 1) -> TensorDict:
    return TensorDict(x=torch.full((count, 4096), value), batch_size=[count])


def make_buffer(device: str = "cuda") -> UnblockedReplayBuffer:
    buffer = UnblockedReplayBuffer(
        stream=torch.cuda.Stream(),
        storage=LazyTensorStorage(8, device=device),
        sampler=DFSSampler(VisitCounts(), window=2),
        batch_size=3,
    )
    # Memory of several batches and each kernel, which CUDA loads when it is idle: those
    # of one record and of a ring that has wrapped, too.
    batches = []
    for _ in range(8):
        for count in (4, 1):
            buffer.extend(records(1, count=count))
            batches.append(buffer.sample()["x"] * 1)
    buffer.empty()
    buffer.extend(records(1, count=4))
    assert all((batch == 1).all() for batch in batches)
    torch.cuda.synchronize()
    return buffer


def keep_busy() -> torch.cuda.Event:
    """Give the device about a second of work; the event tells when it is done."""
    torch.cuda._sleep(2_000_000_000)
    done = torch.cuda.Event()
    done.record()
    return done


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_writing_and_drawing_wait_for_no_busy_device(device: str) -> None:
    buffer = make_buffer(device)
    busy = keep_busy()
    buffer.extend(records(2))
    batch = buffer.sample()
    assert buffer.stream is not None
    buffer.stream.synchronize()
    assert not busy.query()
    assert batch.device == torch.device("cuda", 0)
    # The last start is the only one that reads the new record.
    assert {1} <= set(batch["x"].unique().tolist()) <= {1, 2}
    assert busy.query()


def test_a_batch_stays_whole_until_it_has_been_read() -> None:
    buffer = make_buffer()
    busy = keep_busy()
    batch = buffer.sample()
    seen = batch["x"] * 1
    del batch
    for _ in range(8):  # each would take the memory of the one before
        buffer.extend(records(7))
        buffer.sample()
    assert not busy.query()
    assert (seen == 1).all()


def test_what_is_read_by_slot_is_not_overwritten_too_early() -> None:
    buffer = make_buffer()
    keep_busy()
    seen = buffer[torch.tensor([0], device=DEVICE)]["x"]
    buffer.extend(records(2, count=8))
    assert (seen == 1).all()
