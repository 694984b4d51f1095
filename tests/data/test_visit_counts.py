"""What the samplers remember: bound to one storage, reset by writes, restorable."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torchrl.data import LazyTensorStorage, ListStorage

from drama_torchrl.data import VisitCounts
from drama_torchrl.data.visit_counts import RingCursor


def filled_storage(capacity: int, length: int) -> LazyTensorStorage:
    storage = LazyTensorStorage(capacity)
    storage.set(torch.arange(length) % capacity, torch.arange(length))
    return storage


def attached_counts(capacity: int) -> VisitCounts:
    counts = VisitCounts()
    counts.attach(filled_storage(capacity, capacity))
    counts.model.copy_(torch.arange(1, capacity + 1))
    counts.imagination.copy_(10 * counts.model)
    return counts


def tables(counts: VisitCounts) -> tuple[list[int], list[int]]:
    return counts.model.tolist(), counts.imagination.tolist()


@pytest.mark.parametrize(
    ("length", "newest"), [(0, -1), (3, 2), (5, 4), (6, 0), (13, 2)]
)
def test_newest_slot_follows_the_writes(length: int, newest: int) -> None:
    storage = LazyTensorStorage(5)
    for record in range(length):
        storage.set(record % 5, torch.tensor(record))
    assert RingCursor().newest(storage) == newest


@pytest.mark.parametrize("newest", [0, 2])
def test_newest_slot_comes_from_the_state_until_the_next_write(newest: int) -> None:
    storage = filled_storage(5, 5)
    cursor = RingCursor()
    cursor.load_state_dict({"newest": newest})
    cursor.attach(storage)
    assert cursor.newest(storage) == newest
    assert cursor.state_dict() == {"newest": newest}
    storage.set(3, torch.tensor(0))
    cursor.written(3)
    assert cursor.newest(storage) == 3
    assert cursor.state_dict() == {"newest": 3}


def test_a_ring_that_never_wrapped_needs_no_cursor() -> None:
    cursor = RingCursor()
    cursor.load_state_dict({"newest": 4})
    assert cursor.newest(filled_storage(10, 3)) == 2


def test_tables_have_one_entry_for_each_slot() -> None:
    counts = VisitCounts()
    assert tables(counts) == ([], [])
    counts.attach(LazyTensorStorage(3))
    assert tables(counts) == ([0, 0, 0], [0, 0, 0])


@pytest.mark.parametrize(
    ("index", "model"),
    [
        pytest.param(1, [1, 0, 3, 4], id="add"),
        pytest.param(torch.tensor([3, 0]), [0, 2, 3, 0], id="extend-over-the-wrap"),
        pytest.param(torch.tensor([2, 3, 0, 1, 2]), [0, 0, 0, 0], id="more-than-all"),
    ],
)
def test_writing_a_slot_resets_both_its_counts(
    index: int | Tensor, model: list[int]
) -> None:
    counts = attached_counts(4)
    for _ in range(2):  # each sampler of the storage reports the same write
        counts.written(index)
        assert tables(counts) == (model, [10 * v for v in model])


def test_tables_keep_their_address() -> None:
    counts, state = attached_counts(4), attached_counts(4).state_dict()
    addresses = counts.model.data_ptr(), counts.imagination.data_ptr()
    counts.written(torch.tensor([1]))
    counts.clear()
    counts.load_state_dict(state)
    assert (counts.model.data_ptr(), counts.imagination.data_ptr()) == addresses


def test_state_is_a_copy() -> None:
    counts = attached_counts(3)
    state = counts.state_dict()
    counts.clear()
    assert state["model"].tolist() == [1, 2, 3]
    assert state["imagination"].tolist() == [10, 20, 30]
    for target in (counts, VisitCounts()):
        target.load_state_dict(state)
        target.clear()
        assert state["model"].tolist() == [1, 2, 3]
        assert state["imagination"].tolist() == [10, 20, 30]


@pytest.mark.parametrize("attach_first", [True, False], ids=["before", "after"])
def test_state_loads_before_and_after_the_storage_is_known(attach_first: bool) -> None:
    saved, counts, storage = attached_counts(4), VisitCounts(), filled_storage(4, 4)
    if attach_first:
        counts.attach(storage)
    for _ in range(2):
        counts.load_state_dict(saved.state_dict())
    counts.attach(storage)
    assert tables(counts) == tables(saved)


def test_state_of_unused_counts_loads_as_zeros() -> None:
    counts = attached_counts(2)
    counts.load_state_dict(VisitCounts().state_dict())
    assert tables(counts) == ([0, 0], [0, 0])


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda counts: pickle.loads(pickle.dumps(counts))],
    ids=["deepcopy", "pickle"],
)
def test_a_copy_follows_a_storage_of_its_own(duplicate: Any) -> None:
    counts = attached_counts(3)
    twin = duplicate(counts)
    twin.attach(filled_storage(3, 3))
    assert tables(twin) == tables(counts)
    twin.clear()
    assert counts.model.tolist() == [1, 2, 3]


@pytest.mark.parametrize("kind", [RingCursor, VisitCounts])
@pytest.mark.parametrize(
    ("storage", "error", "message"),
    [
        pytest.param(
            LazyTensorStorage(9, ndim=2), ValueError, "got ndim=2", id="two-dimensions"
        ),
        pytest.param(
            ListStorage(9), TypeError, "TensorStorage .* got ListStorage", id="list"
        ),
    ],
)
def test_unfit_storage_is_refused(
    kind: type[RingCursor], storage: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        kind().attach(storage)


@pytest.mark.parametrize("kind", [RingCursor, VisitCounts])
def test_second_storage_is_refused(kind: type[RingCursor]) -> None:
    first, second = LazyTensorStorage(4), LazyTensorStorage(4)
    slots = kind()
    slots.attach(first)
    slots.attach(first)
    with pytest.raises(ValueError, match=r"already follows another storage: make one"):
        slots.attach(second)
    assert slots.storage is first


def test_counts_of_another_capacity_are_not_loaded() -> None:
    counts, storage = VisitCounts(), filled_storage(4, 4)
    counts.attach(storage)
    with pytest.raises(ValueError, match="storage of 3 slots, this one has 4"):
        counts.load_state_dict(attached_counts(3).state_dict())
    assert counts.model.tolist() == [0, 0, 0, 0]


def test_loaded_counts_refuse_a_storage_of_another_capacity() -> None:
    counts, storage = VisitCounts(), filled_storage(4, 4)
    counts.load_state_dict(attached_counts(3).state_dict())
    with pytest.raises(ValueError, match="storage of 3 slots, this one has 4"):
        counts.attach(storage)
    assert counts.storage is None
