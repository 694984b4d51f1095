"""A storage on a GPU whose large entries lie in the host's memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.data import LazyTensorStorage

from drama_torchrl.data.page_locked import page_locked
from drama_torchrl.kernels.gather_rows import gather_rows

__all__ = ["HostStorage"]


class HostStorage(LazyTensorStorage):
    """TorchRL's storage on a GPU, with some entries in page-locked memory of the host.

    They are tensors of the GPU all the same (:mod:`drama_torchrl.data.page_locked`), so
    that everything is written, read and saved as in a ``LazyTensorStorage`` there, in
    the order of streams and without work of the host. Batches are read by a kernel that
    leaves most of the GPU to others.

    Args:
        max_size: records, capacity N.
        device: the GPU. On the host the storage is a plain ``LazyTensorStorage``.
        host_keys: entries that lie in the host's memory.

    Raises:
        KeyError: at the first write, if the records lack such an entry.

    Example:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import TensorDictReplayBuffer
        >>> buffer = TensorDictReplayBuffer(
        ...     storage=HostStorage(4, device="cpu", host_keys=["pixels"]), batch_size=2
        ... )
        >>> frames = torch.ones(6, 3, 2, 2, dtype=torch.uint8)
        >>> _ = buffer.extend(TensorDict(pixels=frames, batch_size=[6]))
        >>> len(buffer), buffer.sample()["pixels"].shape
        (4, torch.Size([2, 3, 2, 2]))
    """

    def __init__(
        self,
        max_size: int,
        *,
        device: torch.device | str,
        host_keys: Sequence[NestedKey],
    ) -> None:
        super().__init__(max_size, device=device)
        self.host_keys = list(host_keys)

    def _init(self, data: TensorDictBase) -> None:
        """Allocate all entries for records such as ``data``."""
        large = {
            key: page_locked(
                (self.max_size, *data[key].shape), data[key].dtype, self.device
            )
            for key in self.host_keys
        }
        super()._init(data.exclude(*self.host_keys))
        self._storage.update(large)

    def get(self, index: Any) -> TensorDictBase:
        """Read records.

        Args:
            index: as of a ``LazyTensorStorage``. A tensor of slots, of any shape, is
                read beside other work of the GPU and not checked.

        Returns:
            The records, new for a tensor of slots, views for slices.
        """
        slots = isinstance(index, Tensor) and index.dtype == torch.int64
        if not (self.initialized and slots):
            return super().get(index)
        stored = self._storage[: len(self)]
        records = stored.exclude(*self.host_keys)[index]
        for key in self.host_keys:
            records.set(key, gather_rows(stored.get(key), index))
        return records

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned, each entry where it belongs."""
        if state_dict["initialized"] and not self.initialized:
            stored = TensorDict().load_state_dict(state_dict["_storage"], strict=False)
            self._init(stored[0])
        super().load_state_dict(state_dict)
