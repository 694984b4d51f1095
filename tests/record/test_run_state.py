"""What samplers remember is saved once and restored to each."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage

from drama_torchrl.config import DramaConfig
from drama_torchrl.data import UnblockedReplayBuffer, UniformWindowSampler
from drama_torchrl.factories import make_replay
from drama_torchrl.record.run_state import SamplerState
from tests.reference.tiny import tiny_config

CPU = torch.device("cpu")


def filled(config: DramaConfig) -> tuple:
    buffers = make_replay(config, CPU)
    buffers[0].extend(TensorDict({"time": torch.arange(60)}, [60])[:50])
    return buffers


def test_counts_that_are_shared_are_saved_once_and_restored_to_both() -> None:
    config = tiny_config("replay.capacity=400")
    buffers, others = filled(config), filled(config)
    for buffer in buffers:
        buffer.sampler.sample(buffer.storage, 5)
    state = SamplerState(*buffers).state_dict()
    assert list(state) == ["0"]
    SamplerState(*others).load_state_dict(state)
    for one, other in zip(buffers, others, strict=True):
        for name in ("model", "imagination"):
            expected = getattr(one.sampler.counts, name)
            assert expected.any()
            assert torch.equal(getattr(other.sampler.counts, name), expected)


def test_samplers_that_share_nothing_are_saved_each() -> None:
    views = []
    for records in (9, 11):
        view = UnblockedReplayBuffer(
            stream=None,
            storage=LazyTensorStorage(8),
            sampler=UniformWindowSampler(window=2),
        )
        for record in range(records):
            view.extend(TensorDict({"time": torch.tensor([record])}, [1]))
        views.append(view)
    state = SamplerState(*views).state_dict()
    assert state == {"0": {"newest": 0}, "1": {"newest": 2}}
