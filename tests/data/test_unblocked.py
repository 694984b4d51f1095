"""Without a GPU the unblocked buffer is TorchRL's; tests/gpu tells more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from drama_torchrl.data import DFSSampler, UnblockedReplayBuffer, VisitCounts


def test_it_keeps_what_the_plain_buffer_keeps() -> None:
    buffers = [
        TensorDictReplayBuffer(storage=LazyTensorStorage(5), batch_size=1),
        UnblockedReplayBuffer(stream=None, storage=LazyTensorStorage(5), batch_size=1),
    ]
    for start in (0, 3, 6):
        for buffer in buffers:
            buffer.extend(TensorDict(x=torch.arange(start, start + 3), batch_size=[3]))
    kept = [buffer[:]["x"].tolist() for buffer in buffers]
    assert kept[0] == kept[1] == [5, 6, 7, 8, 4]


def test_visit_counts_follow_it_over_the_wrap() -> None:
    counts = VisitCounts()
    buffer = UnblockedReplayBuffer(
        stream=None,
        storage=LazyTensorStorage(4),
        sampler=DFSSampler(counts, window=2),
        batch_size=3,
    )
    buffer.extend(TensorDict(x=torch.arange(4), batch_size=[4]))
    assert buffer.sample().shape == (3, 2)
    assert counts.model.tolist() == [1, 1, 1, 0]
    buffer.extend(TensorDict(x=torch.arange(4, 6), batch_size=[2]))
    assert counts.model.tolist() == [0, 0, 1, 0]


def drawn_between(write: Callable[[UnblockedReplayBuffer, TensorDict], Any]) -> Tensor:
    """Write nine records into a ring of five, one after another; draw after each."""
    buffer = UnblockedReplayBuffer(
        stream=None,
        storage=LazyTensorStorage(5),
        sampler=DFSSampler(VisitCounts(), window=2, temperature=0.5),
        batch_size=1,
    )
    torch.manual_seed(0)
    write(buffer, TensorDict(x=torch.tensor([0]), batch_size=[1]))
    drawn = []
    for x in range(1, 9):
        write(buffer, TensorDict(x=torch.tensor([x]), batch_size=[1]))
        drawn.append(buffer.sample())
    return torch.cat([torch.cat([each["x"], each["index"]]) for each in drawn])


def test_a_record_added_is_drawn_as_one_extended() -> None:
    added = drawn_between(lambda buffer, record: buffer.add(record[0]))
    extended = drawn_between(lambda buffer, record: buffer.extend(record))
    assert torch.equal(added, extended)
    assert (added.diff(dim=-1)[::2] == 1).all()  # over the wrap, too


def test_prefetching_threads_are_refused() -> None:
    with pytest.raises(ValueError, match="expected no prefetch, got 2"):
        UnblockedReplayBuffer(stream=None, storage=LazyTensorStorage(4), prefetch=2)
