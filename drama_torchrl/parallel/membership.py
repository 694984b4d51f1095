"""The processes of one training run: joining, leaving, and what a lost one means.

What CUDA graphs need of NCCL: connections made before the first capture
(:func:`connect`), captures in mode ``thread_local`` beside NCCL's own threads, and
graphs that end before the connections do (:func:`before_leaving`).
``TORCH_NCCL_ASYNC_ERROR_HANDLING`` may stay as it is, ``TORCH_NCCL_BLOCKING_WAIT`` must
not be set, for hosts cannot wait during a capture; neither sees what a graph replays,
which would wait for ever for a process that has ended. So each process is watched
(:class:`Watch`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from drama_torchrl.parallel.watch import Watch

__all__ = [
    "ProcessFailedError",
    "abandon",
    "before_leaving",
    "connect",
    "group",
    "leave",
    "local_rank",
    "local_size",
    "processes",
    "rank",
    "size",
    "talking",
]

_FAILED = "drama_torchrl/failed"

# Plain numbers, which compilers take for constants and guard.
_size = 1
_rank = 0
_store: Any = None
_groups: dict[torch.device, dist.ProcessGroup] = {}
_abandoned = False
_leaving: list[Callable[[], None]] = []
_watch: Watch | None = None


class ProcessFailedError(RuntimeError):
    """Another process of the run failed, and so this one cannot go on."""


def size() -> int:
    """Number of processes that share each batch; 1 outside :func:`processes`.

    Example:
        >>> size()
        1
    """
    return _size


def rank() -> int:
    """Number of this process, from 0: the first one plays, writes and shows."""
    return _rank


def local_size() -> int:
    """Number of the processes that are on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if _size > 1 else 1


def local_rank() -> int:
    """Number of this process among them, from 0."""
    return int(os.environ["LOCAL_RANK"]) if _size > 1 else 0


@contextmanager
def processes(device: torch.device) -> Iterator[None]:
    """Join the processes that ``torchrun`` started; alone without it.

    Tensors of a CUDA device are exchanged by NCCL, those of the host by gloo. An error
    that leaves the block is made known, so that no process waits for this one.

    Args:
        device: what trains; CUDA becomes the GPU of this process.

    Raises:
        ValueError: if there are more processes than GPUs.
        ProcessFailedError: if another process failed.

    Example:
        >>> with processes(torch.device("cpu")):
        ...     rank(), size()
        (0, 1)
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    _join(device)
    try:
        yield
    except Exception as error:
        abandon(error)
        raise
    finally:
        leave()


def _join(device: torch.device) -> None:
    global _size, _rank, _store, _abandoned, _watch
    if device.type == "cuda":
        local, found = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= found:
            raise ValueError(
                f"Expected a GPU for each process, got {found} for "
                f"{os.environ.get('LOCAL_WORLD_SIZE', local + 1)} processes on this "
                "machine; lower --nproc-per-node."
            )
        torch.cuda.set_device(local)
    _store, this, count = next(dist.rendezvous("env://"))
    dist.init_process_group("gloo", store=_store, rank=this, world_size=count)
    _rank, _size, _abandoned = this, count, False
    _watch = Watch(this, count, lost=_lose, say=_what_happened)
    if device.type == "cuda":
        connect(torch.device("cuda", local_rank()))


def connect(device: torch.device) -> None:
    """Let tensors of a GPU be exchanged, each process those of one of its own.

    All processes call it; :func:`processes` has done so for the GPU that trains.

    Args:
        device: with its number.
    """
    if _size > 1 and device.type == "cuda" and device not in _groups:
        # With a device, NCCL connects now and not while a graph is captured.
        _groups[device] = dist.new_group(backend="nccl", device_id=device)


def group(device: torch.device) -> dist.ProcessGroup | None:
    """Give the connections that tensors of a device go by; None: those of the host."""
    return _groups.get(device)


def leave() -> None:
    """Be alone again before the end of :func:`processes`, when all others are too."""
    global _size, _rank, _store
    if _size == 1:
        return
    # NCCL's communicators do not end before the graphs that use them.
    for callback in _leaving:
        callback()
    _leaving.clear()
    _groups.clear()
    if _watch is not None:
        _watch.end(in_order=not _abandoned)
    if not _abandoned:  # else it might wait for processes that have ended
        dist.destroy_process_group()
    _size, _rank, _store = 1, 0, None


def before_leaving(callback: Callable[[], None]) -> None:
    """Have something called at the end of :func:`processes`; nothing if alone."""
    if _size > 1:
        _leaving.append(callback)


def abandon(error: Exception) -> None:
    """Tell the other processes why this one answers no more; the first error counts."""
    global _abandoned
    if _size == 1 or _abandoned:
        return
    _abandoned = True
    if not isinstance(error, ProcessFailedError):
        said = f"process {_rank} of {_size}: {type(error).__name__}: {error}"
        _store.set(_FAILED, said)


@contextmanager
def talking() -> Iterator[None]:
    """Say which process failed where a connection is found broken."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessFailedError(_what_happened()) from error


def _lose() -> None:
    global _abandoned
    _abandoned = True


def _what_happened() -> str:
    said = "one that ended without a word"
    try:
        if _store.check([_FAILED]):
            said = _store.get(_FAILED).decode()
    except RuntimeError:  # whoever kept the store has ended too
        pass
    return f"Process {_rank} of {_size} lost another one and ends too: {said}."
