"""Where entries lie changes nothing but that; with a GPU, tests/gpu tells more."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from drama_torchrl.data import (
    DFSSampler,
    HostStorage,
    UnblockedReplayBuffer,
    VisitCounts,
)
from drama_torchrl.data import host_storage as host_storage_module
from drama_torchrl.record.replay_chunks import ReplayChunks
from drama_torchrl.record.run_state import ReplayState

CAPACITY = 10
REWARD = ("next", "reward")


def transitions(first: int, last: int) -> TensorDict:
    numbers = torch.arange(first, last)
    frames = numbers.to(torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)
    return TensorDict(
        {"pixels": frames.clone(), REWARD: numbers.float()[:, None]}, [last - first]
    )


def make_buffer() -> UnblockedReplayBuffer:
    return UnblockedReplayBuffer(
        stream=None,
        storage=HostStorage(CAPACITY, device="cpu", host_keys=["pixels"]),
        sampler=DFSSampler(VisitCounts(), window=4),
        batch_size=3,
    )


def plain_buffer() -> TensorDictReplayBuffer:
    return TensorDictReplayBuffer(
        storage=LazyTensorStorage(CAPACITY),
        sampler=DFSSampler(VisitCounts(), window=4),
        batch_size=3,
    )


def same(one: TensorDict, other: TensorDict) -> bool:
    one, other = one.flatten_keys("/"), other.flatten_keys("/")
    return set(one.keys()) == set(other.keys()) and bool((one == other).all())


@pytest.mark.parametrize("written", [7, 10, 13, 27])
def test_it_holds_and_gives_what_a_plain_storage_does(written: int) -> None:
    buffers = (make_buffer(), plain_buffer())
    drawn = []
    for buffer in buffers:
        for number in range(written):
            buffer.extend(transitions(number, number + 1))
        torch.manual_seed(0)
        drawn.append(buffer.sample())
    assert same(buffers[0][:], buffers[1][:])
    assert same(*drawn)
    frames = drawn[0]["pixels"][..., 0, 0, 0]
    assert (frames.diff(dim=1) == 1).all()  # across the wrap, too


@pytest.mark.parametrize(
    "index",
    [2, -1, slice(1, 4), [4, 0], torch.tensor([[3, 1], [-1, 0]]), torch.tensor(2)],
    ids=["slot", "last", "slice", "list", "slots", "scalar"],
)
def test_any_index_reads_what_a_plain_storage_does(index: object) -> None:
    buffers = (make_buffer(), plain_buffer())
    for buffer in buffers:
        buffer.extend(transitions(0, 6))
    found, expected = (buffer.storage.get(index) for buffer in buffers)
    assert found.batch_size == expected.batch_size
    assert same(found, expected)


def test_a_mask_reads_what_it_marks() -> None:
    buffer = make_buffer()
    buffer.extend(transitions(0, 3))
    mask = torch.tensor([True, False, True])
    assert buffer.storage.get(mask)[REWARD].flatten().tolist() == [0.0, 2.0]


def test_only_the_entries_named_are_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    allocate = host_storage_module.page_locked

    def page_locked(*arguments: object) -> torch.Tensor:
        asked.append(arguments)
        return allocate(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(host_storage_module, "page_locked", page_locked)
    make_buffer().extend(transitions(0, 2))
    assert asked == [((CAPACITY, 3, 2, 2), torch.uint8, torch.device("cpu"))]


def test_records_without_such_an_entry_are_refused() -> None:
    with pytest.raises(KeyError, match="pixels"):
        make_buffer().extend(transitions(0, 2).exclude("pixels"))


def test_an_empty_one_is_read_as_a_plain_storage_is() -> None:
    with pytest.raises(RuntimeError, match="non-initialized"):
        make_buffer().storage.get(torch.tensor([0]))


@pytest.mark.parametrize("used", [False, True])
def test_a_state_is_restored_in_place(used: bool) -> None:
    buffer, other = make_buffer(), make_buffer()
    buffer.extend(transitions(0, 13))
    if used:
        other.extend(transitions(40, 44))
        before = other.storage.get(slice(None))["pixels"].data_ptr()
    other.load_state_dict(buffer.state_dict())
    assert same(other[:], buffer[:])
    places = [b.storage.get(slice(None))["pixels"].data_ptr() for b in (buffer, other)]
    assert places[0] != places[1]
    if used:
        assert places[1] == before


def test_an_empty_state_is_restored() -> None:
    other = make_buffer()
    other.load_state_dict(make_buffer().state_dict())
    other.extend(transitions(0, 2))
    assert len(other) == 2


def test_torchrl_saves_and_loads_it(tmp_path: Path) -> None:
    buffer, other = make_buffer(), make_buffer()
    buffer.extend(transitions(0, 13))
    buffer.dumps(tmp_path)
    other.loads(tmp_path)
    assert same(other[:], buffer[:])


@pytest.mark.parametrize("written", [4, 13])
def test_checkpoints_hold_all_of_it(tmp_path: Path, written: int) -> None:
    buffer, from_files, from_state = make_buffer(), make_buffer(), make_buffer()
    for number in range(written):
        buffer.extend(transitions(number, number + 1))
    chunks = ReplayChunks(tmp_path, buffer).write()
    ReplayChunks(tmp_path, from_files).read(chunks, written)
    ReplayState(from_state).load_state_dict(ReplayState(buffer).state_dict())
    for other in (from_files, from_state):
        assert same(other[:], buffer[:])
        assert other.write_count == written
