"""On a CPU the unblocked storage is TorchRL's; on a GPU tests/gpu tells more."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from drama_torchrl.data import DFSSampler, UnblockedStorage, VisitCounts


def test_it_keeps_what_a_tensor_storage_keeps() -> None:
    buffers = [
        TensorDictReplayBuffer(storage=storage, batch_size=1)
        for storage in (LazyTensorStorage(5), UnblockedStorage(5, device="cpu"))
    ]
    for start in (0, 3, 6):
        for buffer in buffers:
            buffer.extend(TensorDict(x=torch.arange(start, start + 3), batch_size=[3]))
    kept = [buffer[:]["x"].tolist() for buffer in buffers]
    assert kept[0] == kept[1] == [5, 6, 7, 8, 4]


def test_visit_counts_follow_it_over_the_wrap() -> None:
    counts = VisitCounts()
    buffer = TensorDictReplayBuffer(
        storage=UnblockedStorage(4, device="cpu"),
        sampler=DFSSampler(counts, window=2),
        batch_size=3,
    )
    buffer.extend(TensorDict(x=torch.arange(4), batch_size=[4]))
    assert buffer.sample().shape == (3, 2)
    assert counts.model.tolist() == [1, 1, 1, 0]
    buffer.extend(TensorDict(x=torch.arange(4, 6), batch_size=[2]))
    assert counts.model.tolist() == [0, 0, 1, 0]
