"""Drawing windows of consecutive records from a ring, uniformly or by weights."""

from __future__ import annotations

import math
from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.data.replay_buffers import Sampler
from torchrl.data.replay_buffers.storages import Storage

from drama_torchrl.data.visit_counts import RingCursor
from drama_torchrl.data.window_starts import (
    draw_starts,
    fill_incomplete,
    uninterrupted_windows,
)
from drama_torchrl.parallel import my_share

__all__ = [
    "UniformWindowSampler",
    "WindowSampler",
]


class WindowSampler(Sampler):
    """Draws windows of consecutive records; subclasses say which starts are likely.

    The index it returns is ``[batch_size, window]``, so a buffer reads each record
    once and its samples are tensordicts of shape ``[batch_size, window]`` as they
    are: ``batch_size`` counts windows, and no ``sample_unit`` or reshape is needed.
    Windows run across the wrap of the ring but never from its newest record to its
    oldest. The starts of one batch are all different.

    ``sample`` does not wait for the device, except with an ``episode_end_key``, where
    counting the allowed starts takes one host sync. Of several processes, each draws
    and counts all windows, from generators in one state (``seeding.seed_alike``), and
    reads its share: nothing is exchanged. Prefetching buffers draw ahead of training,
    and so count ahead: use ``prefetch=0``.

    Args:
        slots: what is remembered of the slots of the storage.
        window: records in a window.
        episode_end_key: bool entry of the records that is True at the end of an
            episode, which then only the last record of a window can be. ``None``:
            windows run across the ends of episodes.

    Raises:
        ValueError: if ``window`` is not positive.
    """

    def __init__(
        self, slots: RingCursor, *, window: int, episode_end_key: NestedKey | None
    ) -> None:
        if window < 1:
            raise ValueError(f"window must be a positive number, got {window}.")
        self.window = window
        self.episode_end_key = episode_end_key
        self.slots = slots

    @abstractmethod
    def log_weights(self, storage: Storage) -> Tensor:
        """Returns the log weight of each slot in use, a new ``[len(storage)]``."""

    @abstractmethod
    def count(self, starts: Tensor) -> None:
        """Takes note that ``starts``, all different, were drawn."""

    def sample(self, storage: Storage, batch_size: int) -> tuple[Tensor, dict]:
        """Returns the slots of ``batch_size`` windows, ``[batch_size, window]``.

        Raises:
            RuntimeError: if the storage is empty or has too few starts.
            ValueError: if the window is longer than the storage.
        """
        if len(storage) == 0:
            raise RuntimeError("Cannot sample from an empty storage.")
        self.slots.attach(storage)
        num_starts = self._num_starts(storage)
        if num_starts < batch_size:
            raise RuntimeError(
                f"Expected at least {batch_size} starts for as many different windows "
                f"of {self.window} records, but the {len(storage)} records stored have "
                f"{num_starts}: collect more before sampling (can_sample() tells when) "
                f"or lower batch_size or window."
            )
        log_weights = self.log_weights(storage)
        if self.episode_end_key is not None:
            log_weights.masked_fill_(~self._uninterrupted(storage), -math.inf)
        self._fill_incomplete(log_weights, -math.inf, storage)
        starts = draw_starts(log_weights, batch_size, self._rng)
        self.count(starts)
        starts = my_share(starts)
        steps = torch.arange(self.window, device=starts.device)
        return (starts[:, None] + steps) % storage.max_size, {}

    def _sampleable_count(self, storage: Storage, batch_size: int) -> int:
        num_starts = self._num_starts(storage)
        return num_starts if num_starts >= batch_size else 0

    def _num_starts(self, storage: Storage) -> int:
        if self.window > storage.max_size:
            raise ValueError(
                f"Expected a window of at most {storage.max_size} records, all that "
                f"the storage can hold, got {self.window}: shorten the window or make "
                "the storage larger."
            )
        whole = max(len(storage) - self.window + 1, 0)
        if not whole or self.episode_end_key is None:
            return whole
        allowed = self._uninterrupted(storage)
        self._fill_incomplete(allowed, False, storage)
        return int(allowed.sum())  # the host sync of this option

    def _uninterrupted(self, storage: Storage) -> Tensor:
        """Tells where a window runs across no end of an episode."""
        ends = storage.get(self.episode_end_key).reshape(len(storage), -1).any(-1)
        return uninterrupted_windows(ends, self.window)

    def _fill_incomplete(self, values: Tensor, value: float, storage: Storage) -> None:
        fill_incomplete(values, value, self.slots.newest(storage), self.window)

    def mark_update(
        self, index: int | Tensor, *, storage: Storage | None = None
    ) -> None:
        """Takes note that the slots ``index`` hold new records."""
        if storage is not None:
            self.slots.attach(storage)
        self.slots.written(index)

    def _empty(self) -> None:
        self.slots.clear()

    def state_dict(self) -> dict[str, Any]:
        """Returns what is remembered of the slots."""
        return self.slots.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""
        self.slots.load_state_dict(state_dict)

    def dumps(self, path: str | Path) -> None:
        """Writes the state to ``slots.pt`` in the folder ``path``, which it makes."""
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        torch.save(self.state_dict(), path / "slots.pt")

    def loads(self, path: str | Path) -> None:
        """Restores what ``dumps`` wrote."""
        file = Path(path) / "slots.pt"
        self.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(window={self.window})"


class UniformWindowSampler(WindowSampler):
    """Draws windows uniformly, without replacement: the ablation of both DFS samplers.

    It keeps no counts, so it needs none; windows and samples are those of
    :class:`WindowSampler`.

    Args:
        slots: the newest slot of the storage, shared by all samplers of that storage:
            what restores one then restores all. ``None``: the sampler keeps its own,
            which must be restored as well: until the next write it would else draw
            windows from the newest record to the oldest.
        window: records in a window.
        episode_end_key: entry that is True at the end of an episode, for windows
            that never run across one; ``None``: they do.

    Raises:
        ValueError: if ``window`` is not positive.

    Example:
        >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
        >>> from drama_torchrl.data import UniformWindowSampler
        >>> TensorDictReplayBuffer(
        ...     storage=LazyTensorStorage(100), sampler=UniformWindowSampler(window=8)
        ... ).sampler
        UniformWindowSampler(window=8)
    """

    def __init__(
        self,
        slots: RingCursor | None = None,
        *,
        window: int,
        episode_end_key: NestedKey | None = None,
    ) -> None:
        slots = RingCursor() if slots is None else slots
        super().__init__(slots, window=window, episode_end_key=episode_end_key)

    def log_weights(self, storage: Storage) -> Tensor:
        """Returns 0 for all."""
        return torch.zeros(len(storage), device=storage.device)

    def count(self, starts: Tensor) -> None:
        """Keeps no counts."""
