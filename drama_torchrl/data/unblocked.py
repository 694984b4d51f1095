"""A replay buffer that is written and sampled while the GPU is busy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import TensorDictReplayBuffer

__all__ = ["UnblockedReplayBuffer"]


class UnblockedReplayBuffer(TensorDictReplayBuffer):
    """TorchRL's replay buffer, working beside what the GPU is doing.

    On the stream that trains, copying a record from the host would wait for all that
    is queued there, and the small kernels that draw and read a batch for the whole
    training step before them. Here writes, draws and reads follow each other on a
    stream of their own; what is queued after one of them waits for it. So the next
    batch is drawn, read and, from a storage on the host, sent while the device still
    trains on the last one.

    What goes through the buffer is in order. Whoever touches ``storage`` or the state
    of the sampler directly does so :meth:`in_turn`.

    Args:
        stream: of this buffer's work, the same one for all buffers of a storage;
            ``None``, without a GPU, makes this a ``TensorDictReplayBuffer``.
        device: where batches are delivered; that of the stream by default.
        options: those of ``TensorDictReplayBuffer``, without ``prefetch``.

    Raises:
        ValueError: if ``prefetch`` is asked for: its threads know no stream.

    Example:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import LazyTensorStorage
        >>> buffer = UnblockedReplayBuffer(
        ...     stream=torch.cuda.Stream() if torch.cuda.is_available() else None,
        ...     storage=LazyTensorStorage(4),
        ...     batch_size=2,
        ... )
        >>> _ = buffer.extend(TensorDict(x=torch.ones(3), batch_size=[3]))
        >>> buffer.sample()["x"].tolist()
        [1.0, 1.0]
    """

    def __init__(
        self,
        *,
        stream: torch.cuda.Stream | None,
        device: torch.device | None = None,
        **options: Any,
    ) -> None:
        if options.get("prefetch"):
            raise ValueError(
                f"UnblockedReplayBuffer expected no prefetch, got "
                f"{options['prefetch']}: its threads know no stream, and a sample "
                "already runs beside the training; leave prefetch out."
            )
        self.stream = stream
        # A copy between devices waits for what is queued on the current streams of
        # both: where the batch arrives, that may be a whole update that reads another.
        self._arrival = stream
        if stream is not None and device not in (None, stream.device):
            self._arrival = torch.cuda.Stream(device)
        super().__init__(**options)

    def add(self, data: TensorDictBase) -> int:
        """Write one record."""
        with self._beside():
            return super().add(data)

    def extend(
        self, tensordicts: TensorDictBase, *, update_priority: bool | None = None
    ) -> Tensor:
        """Write records; return their slots."""
        with self._beside():
            return super().extend(tensordicts, update_priority=update_priority)

    def sample(
        self,
        batch_size: int | None = None,
        return_info: bool = False,
        include_info: bool | None = None,
    ) -> Any:
        """Draw a batch, delivered where it is wanted."""
        if self.stream is None or self._arrival is None:  # both, without a GPU
            return super().sample(batch_size, return_info, include_info)
        with torch.cuda.stream(self.stream):
            drawn = super().sample(batch_size, return_info, include_info)
            batch, *info = drawn if return_info else (drawn,)
            with torch.cuda.stream(self._arrival):
                batch = batch.to(self._arrival.device, non_blocking=True)
        reader = torch.cuda.current_stream(self._arrival.device)
        reader.wait_stream(self._arrival)
        # Freed while it is still to be read, its memory would go to the next batch.
        for value in batch.values(include_nested=True, leaves_only=True):
            value.record_stream(reader)
        return (batch, *info) if return_info else batch

    def __getitem__(self, index: Any) -> Any:
        """Read records by slot, or an entry of all of them by key."""
        with self.in_turn():
            return super().__getitem__(index)

    def empty(self, empty_write_count: bool = True) -> None:
        """Forget all records."""
        with self.in_turn():
            super().empty(empty_write_count)

    def state_dict(self) -> dict[str, Any]:
        """Everything, as TorchRL arranges it."""
        with self.in_turn():
            return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        with self.in_turn():
            super().load_state_dict(state_dict)

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Touch what the buffer works on: neither runs before the other has ended."""
        if self.stream is None:
            yield
            return
        current = torch.cuda.current_stream(self.stream.device)
        current.wait_stream(self.stream)
        yield
        self.stream.wait_stream(current)

    @contextmanager
    def _beside(self) -> Iterator[None]:
        """What is queued after the block waits for it; it waits for this buffer's."""
        if self.stream is None:
            yield
            return
        with torch.cuda.stream(self.stream):
            yield
        torch.cuda.current_stream(self.stream.device).wait_stream(self.stream)
