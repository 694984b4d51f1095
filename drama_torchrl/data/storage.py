"""A ring on a GPU that is written while the GPU is busy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.data import LazyTensorStorage

__all__ = ["UnblockedStorage"]


class UnblockedStorage(LazyTensorStorage):
    """TorchRL's tensor storage, without waiting for the device to write to it.

    Copying a record from the host to a GPU waits for all that the stream was given
    before. Here it has a stream of its own, which waits for the last read alone; what
    is queued after the write waits for it. So an environment's transition is stored
    while a whole training step is still running.

    On a CPU it is a ``LazyTensorStorage``.

    Args:
        max_size: number of records.
        device: where they are.

    Example:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> storage = UnblockedStorage(4, device="cpu")
        >>> storage.set(torch.arange(3), TensorDict(x=torch.arange(3), batch_size=[3]))
        >>> storage.get(torch.tensor([2, 0]))["x"]
        tensor([2, 0])
    """

    def __init__(self, max_size: int, *, device: torch.device | str) -> None:
        super().__init__(max_size, device=device)
        self._streams: tuple[torch.cuda.Stream, torch.cuda.Event] | None = None

    def set(
        self,
        cursor: int | Sequence[int] | slice | Tensor,
        data: TensorDictBase | Tensor,
        *,
        set_cursor: bool = True,
    ) -> None:
        """Write records, beside what the device is doing."""
        if self.device.type != "cuda" or not self.initialized:
            super().set(cursor, data, set_cursor=set_cursor)
            return
        main = torch.cuda.current_stream(self.device)
        writing, last_read = self._writing()
        writing.wait_event(last_read)
        with torch.cuda.stream(writing):
            super().set(cursor, data, set_cursor=set_cursor)
        main.wait_stream(writing)

    def get(self, index: int | Sequence[int] | slice | Tensor) -> Any:
        """Read records."""
        records = super().get(index)
        if self.device.type == "cuda":
            self._writing()[1].record(torch.cuda.current_stream(self.device))
        return records

    def _writing(self) -> tuple[torch.cuda.Stream, torch.cuda.Event]:
        if self._streams is None:
            # The first write waits for everything.
            self._streams = (torch.cuda.Stream(self.device), torch.cuda.Event())
            self._streams[1].record(torch.cuda.current_stream(self.device))
        return self._streams
