"""The replay buffer and its view for imagination."""

from __future__ import annotations

import torch
from torchrl.data import ImmutableDatasetWriter, LazyTensorStorage
from torchrl.data.replay_buffers import Sampler

from drama_torchrl.config import DramaConfig
from drama_torchrl.data import (
    DFSImaginationSampler,
    DFSSampler,
    HostStorage,
    RingCursor,
    UnblockedReplayBuffer,
    UniformWindowSampler,
    VisitCounts,
)
from drama_torchrl.factories.machine import behaviour_device, make_device

__all__ = ["has_frames_on_host", "make_replay", "make_storage"]


def has_frames_on_host(config: DramaConfig, device: torch.device) -> bool:
    """Tell whether the frames of a run on a GPU are kept in the host's memory.

    Args:
        config: says where frames are kept.
        device: where the run trains.

    Example:
        >>> from drama_torchrl.config import load_config
        >>> config = load_config("quick", ["replay.device=cpu"])
        >>> has_frames_on_host(config, torch.device("cuda"))
        True
    """
    return config.replay.device == "cpu" and device.type == "cuda"


def make_storage(config: DramaConfig, device: torch.device) -> LazyTensorStorage:
    """Build the storage of the transitions, where ``replay.device`` says.

    Args:
        config: its capacity and place.
        device: where the run trains.

    Example:
        >>> from drama_torchrl.config import load_config
        >>> make_storage(load_config("quick"), torch.device("cpu")).max_size
        10000
    """
    c = config.replay
    if has_frames_on_host(config, device):
        return HostStorage(c.capacity, device=device, host_keys=["pixels"])
    where = device if c.device == "auto" else make_device(c.device, "replay.device")
    return LazyTensorStorage(c.capacity, device=where)


def make_replay(
    config: DramaConfig, device: torch.device
) -> tuple[UnblockedReplayBuffer, UnblockedReplayBuffer]:
    """Build the replay buffer and a read-only view that draws imagination contexts.

    Both draw windows of one storage and share what they remember of it, and batches
    come on the device that trains on them. A GPU draws, and keeps all that is small,
    where frames are in the host's memory, too: it reads them itself.

    Returns:
        The buffer, sampled as ``[model_batch, model_window]``, and the view, sampled
        as ``[imagination_batch, imagination_window]``.
    """
    c = config.replay
    storage = make_storage(config, device)
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
        slots = RingCursor()
        samplers = (
            UniformWindowSampler(slots, window=c.model_window),
            UniformWindowSampler(slots, window=c.imagination_window),
        )
    replay = UnblockedReplayBuffer(
        stream=stream, storage=storage, sampler=samplers[0], batch_size=c.model_batch
    )
    contexts = UnblockedReplayBuffer(
        stream=stream,
        storage=storage,
        sampler=samplers[1],
        device=behaviour_device(config, device),
        batch_size=c.imagination_batch,
        writer=ImmutableDatasetWriter(),
    )
    return replay, contexts
