"""The replay buffer and its view for imagination."""

from __future__ import annotations

import torch
from torchrl.data import ImmutableDatasetWriter, LazyTensorStorage
from torchrl.data.replay_buffers import Sampler

from drama_torchrl.config import DramaConfig
from drama_torchrl.data import (
    DFSImaginationSampler,
    DFSSampler,
    UnblockedReplayBuffer,
    UniformWindowSampler,
    VisitCounts,
)
from drama_torchrl.factories.machine import make_device

__all__ = [
    "make_replay",
]


def make_replay(
    config: DramaConfig, device: torch.device
) -> tuple[UnblockedReplayBuffer, UnblockedReplayBuffer]:
    """Build the replay buffer and a read-only view that draws imagination contexts.

    Both draw windows of one storage; with ``replay.sampling=dfs`` they share visit
    counts, and batches come on the device that trains.

    Returns:
        The buffer, sampled as ``[model_batch, model_window]``, and the view, sampled
        as ``[imagination_batch, imagination_window]``.
    """
    c = config.replay
    where = device if c.device == "auto" else make_device(c.device, "replay.device")
    storage = LazyTensorStorage(c.capacity, device=where)
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    samplers: tuple[Sampler, Sampler]
    if c.sampling == "dfs":
        counts = VisitCounts()
        samplers = (
            DFSSampler(counts, window=c.model_window, temperature=c.temperature),
            DFSImaginationSampler(
                counts,
                window=c.imagination_window,
                ratio=c.ratio,
                temperature=c.temperature,
            ),
        )
    else:
        samplers = (
            UniformWindowSampler(window=c.model_window),
            UniformWindowSampler(window=c.imagination_window),
        )
    replay = UnblockedReplayBuffer(
        stream=stream, storage=storage, sampler=samplers[0], batch_size=c.model_batch
    )
    contexts = UnblockedReplayBuffer(
        stream=stream,
        storage=storage,
        sampler=samplers[1],
        batch_size=c.imagination_batch,
        writer=ImmutableDatasetWriter(),
    )
    return replay, contexts
