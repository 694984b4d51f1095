"""Frames in the host's memory, which the GPU reads and writes by itself."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl.data import LazyTensorStorage

from drama_torchrl.data import (
    DFSSampler,
    HostStorage,
    UnblockedReplayBuffer,
    VisitCounts,
)
from drama_torchrl.kernels.gather_rows import gather_rows, gather_rows_reference
from drama_torchrl.record.replay_chunks import ReplayChunks

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
FRAME = (3, 64, 64)
CAPACITY = 4096


def transitions(first: int, last: int) -> TensorDict:
    """The number of each is its reward, and its first two bytes; the rest is noise."""
    numbers = torch.arange(first, last)
    frames = torch.randint(0, 256, (last - first, *FRAME), dtype=torch.uint8)
    frames[:, 0, 0, 0], frames[:, 0, 0, 1] = numbers % 256, numbers // 256
    return TensorDict(pixels=frames, reward=numbers, batch_size=[last - first])


def make_buffer(
    storage: LazyTensorStorage, windows: int = 16, window: int = 128
) -> UnblockedReplayBuffer:
    return UnblockedReplayBuffer(
        stream=torch.cuda.Stream(),
        storage=storage,
        sampler=DFSSampler(VisitCounts(), window=window),
        batch_size=windows,
    )


def host_storage(capacity: int = CAPACITY) -> HostStorage:
    return HostStorage(capacity, device="cuda", host_keys=["pixels"])


def seen_by_host(frames: Tensor) -> Tensor:
    """The same bytes as memory of the host."""
    memory = (ctypes.c_uint8 * frames.nbytes).from_address(frames.data_ptr())
    return torch.frombuffer(memory, dtype=torch.uint8).view(frames.shape)


def numbers_shown(frames: Tensor) -> Tensor:
    first, second = frames[..., 0, 0, 0].long(), frames[..., 0, 0, 1].long()
    return first + 256 * second


def test_frames_take_none_of_the_gpus_memory() -> None:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    buffer = make_buffer(host_storage())
    records = transitions(0, 8)
    buffer.extend(records)
    torch.cuda.synchronize()
    frames = buffer.storage.get(slice(None))["pixels"]
    assert frames.device == torch.device("cuda", 0)
    assert torch.cuda.memory_allocated() - before < 0.1 * CAPACITY * 12288
    on_host = seen_by_host(frames)
    assert on_host.is_pinned()
    assert torch.equal(on_host, records["pixels"])


def test_batches_come_on_the_gpu_as_they_were_written() -> None:
    buffer = make_buffer(host_storage())
    for first in range(0, CAPACITY + 1000, 500):  # over the end of the ring
        buffer.extend(transitions(first, first + 500))
    for _ in range(5):
        batch = buffer.sample()
        assert batch["pixels"].device == torch.device("cuda", 0)
        assert torch.equal(numbers_shown(batch["pixels"]), batch["reward"])
        assert (batch["reward"].diff(dim=1) == 1).all()


def test_records_that_come_singly_are_read_as_they_were_written() -> None:
    buffer = make_buffer(host_storage(64), windows=32, window=16)
    for record in transitions(0, 100).unbind(0):  # over the end of the ring
        buffer.add(record)
    batch = buffer.sample()
    assert torch.equal(numbers_shown(batch["pixels"]), batch["reward"])
    assert (batch["reward"].diff(dim=1) == 1).all()


def test_it_is_a_storage_on_the_gpu_but_for_the_place() -> None:
    storages = (host_storage(), LazyTensorStorage(CAPACITY, device="cuda"))
    drawn = []
    for storage in storages:
        torch.manual_seed(0)
        buffer = make_buffer(storage)
        for first in range(0, 6000, 1500):
            buffer.extend(transitions(first, first + 1500))
        drawn.append(buffer.sample())
    assert (drawn[0] == drawn[1]).all()
    slots = torch.randint(-900, 900, (70, 3), device="cuda")
    assert (storages[0].get(slots) == storages[1].get(slots)).all()


def test_the_kernel_and_torch_read_the_same() -> None:
    storage = host_storage()
    make_buffer(storage).extend(transitions(0, 900))
    torch.cuda.synchronize()
    frames = storage.get(slice(None))["pixels"]
    index = torch.randint(0, 900, (64, 8), device="cuda")
    assert torch.equal(gather_rows(frames, index), gather_rows_reference(frames, index))


def test_writing_and_drawing_wait_for_no_busy_device() -> None:
    # Once without: CUDA loads a kernel at its first use, and when it is idle.
    for cycles in (0, 2_000_000_000):
        buffer = make_buffer(host_storage(8), windows=3, window=2)
        buffer.extend(transitions(0, 4))
        for _ in range(16):  # memory of several batches
            buffer.sample()
        torch.cuda.synchronize()
        torch.cuda._sleep(cycles)
        busy = torch.cuda.Event()
        busy.record()
        buffer.extend(transitions(4, 5))
        batch = buffer.sample()
        assert buffer.stream is not None
        buffer.stream.synchronize()
    assert not busy.query()
    assert torch.equal(numbers_shown(batch["pixels"]), batch["reward"])
    assert busy.query()


def test_drawing_never_waits_on_the_host() -> None:
    buffer = make_buffer(host_storage())
    buffer.extend(transitions(0, 1000))
    buffer.sample()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        buffer.sample()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_frame_is_not_overwritten_before_it_was_read() -> None:
    buffer = make_buffer(host_storage(64), windows=32, window=16)
    buffer.extend(transitions(0, 64))
    buffer.sample()
    torch.cuda.synchronize()
    assert buffer.stream is not None
    with torch.cuda.stream(buffer.stream):
        torch.cuda._sleep(500_000_000)  # the batch is read after the host wrote on
    batch = buffer.sample()
    buffer.extend(transitions(64, 128))
    assert (batch["reward"] < 64).all()
    assert torch.equal(numbers_shown(batch["pixels"]), batch["reward"])


def test_a_checkpoint_holds_all_frames(tmp_path: Path) -> None:
    buffer, other = make_buffer(host_storage()), make_buffer(host_storage())
    for first in range(0, 5000, 1000):
        buffer.extend(transitions(first, first + 1000))
    chunks = ReplayChunks(tmp_path, buffer).write()
    ReplayChunks(tmp_path, other).read(chunks, 5000)
    assert (other[:] == buffer[:]).all()
