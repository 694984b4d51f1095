"""Each transition is written once, and all come back to the slots that they had."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from drama_torchrl.record.checkpoint import CheckpointError
from drama_torchrl.record.replay_chunks import Chunk, ReplayChunks

CAPACITY = 10


def buffer() -> TensorDictReplayBuffer:
    return TensorDictReplayBuffer(storage=LazyTensorStorage(CAPACITY), batch_size=2)


def transitions(first: int, last: int) -> TensorDict:
    numbers = torch.arange(first, last)
    return TensorDict(
        {
            "pixels": numbers.to(torch.uint8)[:, None].expand(-1, 3).contiguous(),
            ("next", "reward"): numbers.float()[:, None],
            ("next", "end-of-life"): numbers[:, None] % 3 == 0,
        },
        [last - first],
    )


def contents(replay: TensorDictReplayBuffer) -> dict[str, torch.Tensor]:
    stored = replay.storage.get(slice(None)).exclude("index").flatten_keys("/")
    return dict(stored.items())


# Transitions between two checkpoints: never full, full at a border, wrapped, skipped.
@pytest.mark.parametrize("steps", [[4, 3], [4, 6], [4, 5, 4, 3], [3, 25, 1], [10, 10]])
def test_a_restored_buffer_has_every_slot_and_goes_on_alike(
    tmp_path: Path, steps: list[int]
) -> None:
    replay, written = buffer(), 0
    chunks = ReplayChunks(tmp_path, replay)
    for count in steps:
        for number in range(written, written + count):
            replay.extend(transitions(number, number + 1))
        written += count
        listed = chunks.write()
    other = buffer()
    again = ReplayChunks(tmp_path, other)
    again.read(listed, written)
    for number in range(written, written + 4):
        for each in (replay, other):
            each.extend(transitions(number, number + 1))
    assert len(other) == len(replay)
    assert other.write_count == replay.write_count
    found, expected = contents(other), contents(replay)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value), key
    assert again.write()[-1] == Chunk(written, written + 4, again.chunks[-1].sha256)


def test_an_old_chunk_is_neither_changed_nor_written_again(tmp_path: Path) -> None:
    replay = buffer()
    chunks = ReplayChunks(tmp_path, replay)
    replay.extend(transitions(0, 4))
    (first,) = chunks.write()
    (tmp_path / first.name).write_bytes(b"")
    replay.extend(transitions(4, 6))
    assert [chunk.name for chunk in chunks.write()] == [
        "000000000-000000004.npz",
        "000000004-000000006.npz",
    ]
    assert (tmp_path / first.name).read_bytes() == b""


def test_any_archive_of_the_same_arrays_is_read(tmp_path: Path) -> None:
    replay = buffer()
    chunks = ReplayChunks(tmp_path, replay)
    replay.extend(transitions(0, 4))
    (chunk,) = chunks.write()
    path = tmp_path / chunk.name
    with np.load(path) as archive:
        arrays = {key: archive[key] for key in archive}
    path.unlink()
    np.savez_compressed(path, allow_pickle=False, **arrays)  # another level
    assert (chunks.load(chunk) == transitions(0, 4)).all()


def test_frames_that_repeat_take_little_room(tmp_path: Path) -> None:
    replay = TensorDictReplayBuffer(storage=LazyTensorStorage(500))
    frame = torch.randint(256, (3, 16, 16)).to(torch.uint8)
    replay.extend(TensorDict({"pixels": frame.expand(500, 3, 16, 16)}, [500]))
    (chunk,) = ReplayChunks(tmp_path, replay).write()
    assert (tmp_path / chunk.name).stat().st_size < 0.02 * 500 * frame.numel()


def test_overwritten_chunks_are_dropped_and_only_named_files_kept(
    tmp_path: Path,
) -> None:
    replay = buffer()
    chunks = ReplayChunks(tmp_path, replay)
    for first in range(0, 24, 4):
        replay.extend(transitions(first, first + 4))
        listed = chunks.write()
    # The ring holds 14 to 23.
    assert [chunk.first for chunk in listed] == [12, 16, 20]
    (tmp_path / "notes.txt").write_text("mine")
    chunks.keep({chunk.name for chunk in listed})
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {chunk.name for chunk in listed} | {"notes.txt"}


def test_transitions_that_are_missing_are_counted(tmp_path: Path) -> None:
    replay = buffer()
    replay.extend(transitions(0, 4))
    listed = ReplayChunks(tmp_path, replay).write()
    with pytest.raises(CheckpointError, match="expected 7 transitions, got 4"):
        ReplayChunks(tmp_path, buffer()).read(listed, 7)


def test_a_file_that_is_no_chunk_is_named(tmp_path: Path) -> None:
    chunk = Chunk(0, 4, "")
    (tmp_path / chunk.name).write_text("text")
    with pytest.raises(CheckpointError, match=rf"{chunk.name}: expected an archive"):
        ReplayChunks(tmp_path, buffer()).load(chunk)
