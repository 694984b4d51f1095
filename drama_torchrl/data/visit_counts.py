"""What the samplers remember of each slot of a ring storage."""

from __future__ import annotations

import weakref
from copy import copy
from typing import Any

import torch
from torch import Tensor
from torchrl.data.replay_buffers.storages import Storage, TensorStorage

__all__ = [
    "RingCursor",
    "VisitCounts",
]


class RingCursor:
    """Newest slot of the one ring storage that samplers draw from, and may share.

    TorchRL keeps the newest slot in the storage but restores it neither in
    ``loads`` nor in ``load_state_dict`` (0.14): a wrapped buffer would hand out
    windows that jump from its newest to its oldest record until the next write.
    The cursor therefore travels in the state of the sampler.

    Example:
        >>> import torch
        >>> from torchrl.data import LazyTensorStorage
        >>> storage = LazyTensorStorage(4)
        >>> cursor = RingCursor()
        >>> cursor.attach(storage)
        >>> storage.set(torch.tensor([0, 1, 2, 3, 0]), torch.arange(5))
        >>> cursor.newest(storage)
        0
    """

    def __init__(self) -> None:
        self._storage: weakref.ref[Storage] | None = None
        self._restored: int | None = None

    @property
    def storage(self) -> Storage | None:
        """The storage followed, ``None`` before the first write or draw."""
        return None if self._storage is None else self._storage()

    def attach(self, storage: Storage) -> None:
        """Binds to ``storage``, once and for all.

        Args:
            storage: a ``TensorStorage`` with one batch dimension, which is time.

        Raises:
            TypeError: if the storage is not a ``TensorStorage``.
            ValueError: if it has several batch dimensions, or another storage is
                already attached.
        """
        if self.storage is storage:
            return
        if not isinstance(storage, TensorStorage):
            raise TypeError(
                "Expected a TensorStorage (LazyTensorStorage, LazyMemmapStorage), got "
                f"{type(storage).__name__}: windows are read by a [batch, time] index."
            )
        if storage.ndim != 1:
            raise ValueError(
                "Expected a storage with ndim=1, whose only dimension is time, got "
                f"ndim={storage.ndim}: use one buffer for each environment."
            )
        if self._storage is not None:
            raise ValueError(
                f"This {type(self).__name__} already follows another storage: make "
                f"one {type(self).__name__}() for each storage."
            )
        self._storage = weakref.ref(storage)

    def newest(self, storage: Storage) -> int:
        """Returns the slot written last, -1 when there is none; host work only."""
        if not storage._is_full:
            return len(storage) - 1
        if self._restored is not None:
            return self._restored
        cursor = storage._last_cursor_index
        return len(storage) - 1 if cursor is None else int(cursor)

    def written(self, index: int | Tensor) -> None:  # noqa: ARG002
        """Takes note that the slots ``index`` hold new records."""
        self._restored = None

    def clear(self) -> None:
        """Forgets everything about the records, after the storage was emptied."""
        self._restored = None

    def state_dict(self) -> dict[str, Any]:
        """Returns ``newest``, the slot written last (-1: none)."""
        storage = self.storage
        if storage is not None:
            return {"newest": self.newest(storage)}
        return {"newest": -1 if self._restored is None else self._restored}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what ``state_dict`` returned; loading twice changes nothing."""
        newest = int(state_dict["newest"])
        self._restored = None if newest < 0 else newest

    def __getstate__(self) -> dict[str, Any]:
        state = copy(self.__dict__)
        state["_storage"] = None
        return state


class VisitCounts(RingCursor):
    """How often each stored record was drawn as the start of a window.

    One instance is shared by the samplers of one storage (paper section 2.4,
    arXiv:2410.08893): v counts the draws for world-model training, b those for
    imagination. Writing a slot sets both of its counts back to 0. The tables are
    made at the first write or draw, on the device of the storage, and stay at the
    same address from then on.

    Attributes:
        model: v, int32 ``[capacity]``; empty before the first write or draw.
        imagination: b, int32 ``[capacity]``, likewise.

    Example:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
        >>> from drama_torchrl.data import DFSSampler, VisitCounts
        >>> counts = VisitCounts()
        >>> buffer = TensorDictReplayBuffer(
        ...     storage=LazyTensorStorage(8), sampler=DFSSampler(counts, window=3)
        ... )
        >>> _ = buffer.extend(TensorDict({"time": torch.arange(5)}, [5]))
        >>> _ = buffer.sample(3)
        >>> counts.model
        tensor([1, 1, 1, 0, 0, 0, 0, 0], dtype=torch.int32)
    """

    def __init__(self) -> None:
        super().__init__()
        self.model = torch.zeros(0, dtype=torch.int32)
        self.imagination = torch.zeros(0, dtype=torch.int32)

    def attach(self, storage: Storage) -> None:
        """Binds to ``storage`` and makes, or moves to it, the two tables.

        Args:
            storage: a ``TensorStorage`` with one batch dimension, which is time.

        Raises:
            TypeError: if the storage is not a ``TensorStorage``.
            ValueError: if it has several batch dimensions, another storage is
                already attached, or counts of another capacity were loaded.
        """
        if self.storage is storage:
            return
        if self._storage is None and len(self.model):
            self._check_capacity(len(self.model), storage.max_size)
        super().attach(storage)
        size, device = storage.max_size, storage.device
        if len(self.model):
            self.model = self.model.to(device)
            self.imagination = self.imagination.to(device)
        else:
            self.model = torch.zeros(size, dtype=torch.int32, device=device)
            self.imagination = torch.zeros_like(self.model)

    def written(self, index: int | Tensor) -> None:
        """Sets the counts of the slots ``index`` back to 0; idempotent."""
        super().written(index)
        if len(self.model):
            # Assigning a number to indexed slots would wait for the device.
            slots = torch.as_tensor(index).reshape(-1)
            slots = slots.to(self.model.device, non_blocking=True)
            self.model.index_fill_(0, slots, 0)
            self.imagination.index_fill_(0, slots, 0)

    def clear(self) -> None:
        """Sets all counts to 0."""
        super().clear()
        self.model.zero_()
        self.imagination.zero_()

    def state_dict(self) -> dict[str, Any]:
        """Returns copies of ``model`` and ``imagination``, and ``newest``."""
        return {
            **super().state_dict(),
            "model": self.model.clone(),
            "imagination": self.imagination.clone(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what ``state_dict`` returned; loading twice changes nothing.

        Raises:
            ValueError: if the counts are of a storage of another capacity.
        """
        model, imagination = state_dict["model"], state_dict["imagination"]
        if self._storage is None:
            self.model, self.imagination = model.clone(), imagination.clone()
        elif not len(model):
            self.clear()
        else:
            self._check_capacity(len(model), len(self.model))
            self.model.copy_(model)
            self.imagination.copy_(imagination)
        super().load_state_dict(state_dict)

    @staticmethod
    def _check_capacity(loaded: int, capacity: int) -> None:
        if loaded != capacity:
            raise ValueError(
                f"The loaded counts are of a storage of {loaded} slots, this one has "
                f"{capacity}: make the storage as large as the saved one."
            )
