"""Filling a replay buffer again as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torchrl.data import TensorDictReplayBuffer

__all__ = ["first_kept", "refilling"]


def first_kept(replay: TensorDictReplayBuffer, written: int) -> int:
    """Number of the oldest transition that a buffer still holds.

    Args:
        replay: written round-robin, one transition after another.
        written: transitions that have come; the first one's number is 0.

    Example:
        >>> from torchrl.data import LazyTensorStorage
        >>> replay = TensorDictReplayBuffer(storage=LazyTensorStorage(4))
        >>> first_kept(replay, 3), first_kept(replay, 6)
        (0, 2)
    """
    return max(0, written - replay.storage.max_size)


@contextmanager
def refilling(replay: TensorDictReplayBuffer, written: int) -> Iterator[None]:
    """Let transitions return to the slots that they had when ``written`` had come.

    The block writes them, oldest first; after it, the next one goes where it would
    have gone then.

    Args:
        replay: empty.
        written: transitions that it had received.

    Example:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.data import LazyTensorStorage
        >>> replay = TensorDictReplayBuffer(storage=LazyTensorStorage(4))
        >>> with refilling(replay, written=6):
        ...     _ = replay.extend(TensorDict({"time": torch.arange(2, 6)}, [4]))
        >>> replay[:]["time"], replay.write_count
        (tensor([4, 5, 2, 3]), 6)
    """
    capacity = replay.storage.max_size
    cursor = first_kept(replay, written) % capacity
    replay.writer.load_state_dict({"_cursor": cursor, "_write_count": 0})
    yield
    cursor = written % capacity
    replay.writer.load_state_dict({"_cursor": cursor, "_write_count": written})
