"""Dynamic frequency-based sampling of windows (paper section 2.4, arXiv:2410.08893)."""

from __future__ import annotations

import math

from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.data.replay_buffers.storages import Storage

from drama_torchrl.data.visit_counts import VisitCounts
from drama_torchrl.data.window_sampler import WindowSampler

__all__ = [
    "DFSImaginationSampler",
    "DFSSampler",
    "imagination_log_weights",
    "model_log_weights",
]


def model_log_weights(visits: Tensor, temperature: float) -> Tensor:
    """Returns log p = −v/τ up to a constant, ``[num_slots]``, of v ``[num_slots]``."""
    return visits / -temperature


def imagination_log_weights(
    model: Tensor, imagination: Tensor, ratio: float, temperature: float
) -> Tensor:
    """Returns log p = min(0, v − b/ρ)/τ up to a constant, all ``[num_slots]``."""
    return (model - imagination / ratio).clamp_(max=0).div_(temperature)


class DFSSampler(WindowSampler):
    """Draws windows for the world model, rarely seen starts first.

    Without replacement with p ∝ exp(−v/τ), then v += 1 for the starts drawn (paper
    section 2.4, arXiv:2410.08893); v is ``counts.model``. A sample of the buffer is
    a tensordict ``[batch_size, window]``: see :class:`WindowSampler`.

    Args:
        counts: the counts of the storage, shared with ``DFSImaginationSampler``.
        window: records in a window.
        temperature: τ, in draws; higher is closer to uniform.
        episode_end_key: entry that is True at the end of an episode, for windows
            that never run across one; ``None``: they do.

    Raises:
        ValueError: if ``window`` or ``temperature`` is not positive.

    Example:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
        >>> from drama_torchrl.data import DFSSampler, VisitCounts
        >>> buffer = TensorDictReplayBuffer(
        ...     storage=LazyTensorStorage(100),
        ...     sampler=DFSSampler(VisitCounts(), window=8),
        ...     batch_size=4,
        ... )
        >>> _ = buffer.extend(TensorDict({"time": torch.arange(50)}, [50]))
        >>> buffer.sample()["time"].shape
        torch.Size([4, 8])
    """

    def __init__(
        self,
        counts: VisitCounts,
        *,
        window: int,
        temperature: float = 10.0,
        episode_end_key: NestedKey | None = None,
    ) -> None:
        super().__init__(counts, window=window, episode_end_key=episode_end_key)
        self.counts = counts
        self.temperature = _positive("temperature", temperature)

    def log_weights(self, storage: Storage) -> Tensor:
        """Returns −v/τ."""
        return model_log_weights(self.counts.model[: len(storage)], self.temperature)

    def count(self, starts: Tensor) -> None:
        """Adds 1 to v of ``starts``."""
        self.counts.model[starts] += 1


class DFSImaginationSampler(WindowSampler):
    """Draws contexts for imagination, where the world model was trained most.

    Without replacement with p ∝ exp(min(0, v − b/ρ)/τ), then b += 1 for the starts
    drawn (paper section 2.4, arXiv:2410.08893); b is ``counts.imagination``. A
    sample of the buffer is a tensordict ``[batch_size, window]``: see
    :class:`WindowSampler`.

    Args:
        counts: the counts of the storage, shared with ``DFSSampler``.
        window: records in a window.
        ratio: ρ, draws for imagination that one draw for the world model is worth:
            the quotient of the two batch sizes.
        temperature: τ, in draws for the world model; higher is closer to uniform.
        episode_end_key: entry that is True at the end of an episode, for windows
            that never run across one; ``None``: they do.

    Raises:
        ValueError: if ``window``, ``ratio`` or ``temperature`` is not positive.

    Example:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import (
        ...     ImmutableDatasetWriter, LazyTensorStorage, TensorDictReplayBuffer
        ... )
        >>> from drama_torchrl.data import DFSImaginationSampler, DFSSampler
        >>> from drama_torchrl.data import VisitCounts
        >>> storage, counts = LazyTensorStorage(100), VisitCounts()
        >>> buffer = TensorDictReplayBuffer(
        ...     storage=storage, sampler=DFSSampler(counts, window=32), batch_size=4
        ... )
        >>> contexts = TensorDictReplayBuffer(
        ...     storage=storage,
        ...     sampler=DFSImaginationSampler(counts, window=8, ratio=4.0),
        ...     writer=ImmutableDatasetWriter(),
        ...     batch_size=16,
        ... )
        >>> _ = buffer.extend(TensorDict({"time": torch.arange(50)}, [50]))
        >>> contexts.sample()["time"].shape
        torch.Size([16, 8])
    """

    def __init__(
        self,
        counts: VisitCounts,
        *,
        window: int,
        ratio: float = 64.0,
        temperature: float = 10.0,
        episode_end_key: NestedKey | None = None,
    ) -> None:
        super().__init__(counts, window=window, episode_end_key=episode_end_key)
        self.counts = counts
        self.ratio = _positive("ratio", ratio)
        self.temperature = _positive("temperature", temperature)

    def log_weights(self, storage: Storage) -> Tensor:
        """Returns min(0, v − b/ρ)/τ."""
        model = self.counts.model[: len(storage)]
        imagination = self.counts.imagination[: len(storage)]
        return imagination_log_weights(model, imagination, self.ratio, self.temperature)

    def count(self, starts: Tensor) -> None:
        """Adds 1 to b of ``starts``."""
        self.counts.imagination[starts] += 1


def _positive(name: str, value: float) -> float:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be a positive number, got {value}.")
    return float(value)
