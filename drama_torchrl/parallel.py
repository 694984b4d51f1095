"""One training run on several processes, each with its share of every batch.

A process has all networks and all of the replay; it trains on its rows of each batch.
What a mean over the batch is computed from is combined over the processes, so that they
train as one process would: :func:`all_sum`, :func:`all_mean` and :func:`pool_moments`.
Outside :func:`processes` there is one process, and they return what they are given.

Each process differentiates the *sum* of all processes' losses with respect to its own
numbers: the gradient of :func:`all_sum` is the sum of all gradients. The mean of the
processes' gradients is then that of the mean of their losses.

The collectives are operators of ours rather than torch's functional ones: opaque to
compilers, which keep them where they are in a region, one call in eager mode, on the
current stream and so in CUDA graphs, through NCCL as through gloo.

What CUDA graphs need of NCCL: connections made before the first capture (``device_id``
below), captures in mode ``thread_local`` beside NCCL's own threads, and graphs that end
before the connections do (:func:`before_leaving`). ``TORCH_NCCL_ASYNC_ERROR_HANDLING``
may stay as it is, ``TORCH_NCCL_BLOCKING_WAIT`` must not be set, for hosts cannot wait
during a capture; neither sees what a graph replays, which would wait for ever for a
process that has ended. So each process is watched (:class:`_Watch`).
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = [
    "ProcessFailedError",
    "abandon",
    "all_mean",
    "all_sum",
    "before_leaving",
    "gather",
    "leave",
    "my_share",
    "pool_moments",
    "processes",
    "rank",
    "size",
    "tell",
]

_FAILED = "drama_torchrl/failed"
_CPU = torch.device("cpu")
# A process whose host is not stuck ends by itself and in order, within this time.
_GRACE_S = 10.0
_Sliceable = TypeVar("_Sliceable")

# Plain numbers, which compilers take for constants and guard.
_size = 1
_rank = 0
_store: Any = None
_abandoned = False
_leaving: list[Callable[[], None]] = []
_watch: _Watch | None = None


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
    options: dict[str, Any] = {"backend": "gloo"}
    if device.type == "cuda":
        local, found = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= found:
            raise ValueError(
                f"Expected a GPU for each process, got {found} for "
                f"{os.environ.get('LOCAL_WORLD_SIZE', local + 1)} processes on this "
                "machine; lower --nproc-per-node."
            )
        torch.cuda.set_device(local)
        gpu = torch.device("cuda", local)
        # With a device, NCCL connects now and not while a graph is captured.
        options = {"backend": "cpu:gloo,cuda:nccl", "device_id": gpu}
    _store, this, count = next(dist.rendezvous("env://"))
    dist.init_process_group(store=_store, rank=this, world_size=count, **options)
    _rank, _size, _abandoned = this, count, False
    _watch = _Watch()


def leave() -> None:
    """Be alone again before the end of :func:`processes`, when all others are too."""
    global _size, _rank, _store
    if _size == 1:
        return
    # NCCL's communicators do not end before the graphs that use them.
    for callback in _leaving:
        callback()
    _leaving.clear()
    if _watch is not None:
        _watch.end()
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
def _talking() -> Iterator[None]:
    """Say which process failed where a connection is found broken."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessFailedError(_what_happened()) from error


def _what_happened() -> str:
    said = "one that ended without a word"
    try:
        if _store.check([_FAILED]):
            said = _store.get(_FAILED).decode()
    except RuntimeError:  # whoever kept the store has ended too
        pass
    return f"Process {_rank} of {_size} lost another one and ends too: {said}."


class _Watch:
    """Ends this process if it still waits when another one has ended.

    The first process listens to all others and these to it, on connections that carry
    nothing but a farewell: one that breaks tells at once that its process is gone,
    while the main thread may wait for a GPU that waits for the other one's.
    """

    def __init__(self) -> None:
        self._group = dist.new_group(backend="gloo", timeout=timedelta(days=365))
        self._left = threading.Event()
        self._others = range(1, _size) if _rank == 0 else range(1)
        self._threads = [
            threading.Thread(target=self._listen, args=(other,), daemon=True)
            for other in self._others
        ]
        for thread in self._threads:
            thread.start()

    def _listen(self, other: int) -> None:
        global _abandoned
        try:
            dist.recv(torch.empty(1), src=other, group=self._group)
        except RuntimeError:
            _abandoned = True
            if not self._left.wait(_GRACE_S):
                print(f"error: {_what_happened()}", file=sys.stderr, flush=True)  # noqa: T201  no other way out
                os._exit(1)

    def end(self) -> None:
        """Say farewell, wait for that of the others; silent if something failed."""
        self._left.set()
        if _abandoned:
            return
        try:
            for other in self._others:
                dist.send(torch.zeros(1), dst=other, group=self._group)
        except RuntimeError:  # it has ended, as the thread that listens will notice
            pass
        for thread in self._threads:
            thread.join()


@torch.library.custom_op("drama_torchrl::all_sum", mutates_args=())
def _all_sum(x: Tensor) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    with _talking():
        dist.all_reduce(total)
    return total


@torch.library.custom_op("drama_torchrl::gather", mutates_args=())
def _gather(x: Tensor) -> Tensor:
    everywhere = x.new_empty(_size, *x.shape)
    with _talking():
        dist.all_gather(list(everywhere.unbind()), x.contiguous())
    return everywhere


def _sum_gradients(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG001
    return _all_sum(gradient)


_all_sum.register_fake(
    lambda x: torch.empty_like(x, memory_format=torch.contiguous_format)
)
_all_sum.register_autograd(_sum_gradients)
_gather.register_fake(lambda x: x.new_empty(_size, *x.shape))


def all_sum(*values: Tensor) -> tuple[Tensor, ...]:
    """Sum each tensor over the processes, in one exchange, with gradients.

    y = Σ_r x_r,  ∂/∂x_r Σ_s L_s = Σ_s ∂L_s/∂y

    Args:
        values: of one dtype, and of the same shapes in all processes.

    Returns:
        The sums, the same to the bit in all processes.

    Example:
        >>> all_sum(torch.ones(2))
        (tensor([1., 1.]),)
    """
    if _size == 1:
        return values
    total = _all_sum(torch.cat([value.reshape(-1) for value in values]))
    parts = total.split([value.numel() for value in values])
    return tuple(p.view(v.shape) for p, v in zip(parts, values, strict=True))


def all_mean(*values: Tensor) -> tuple[Tensor, ...]:
    """Average each tensor over the processes, as :func:`all_sum` sums.

    Example:
        >>> all_mean(torch.ones(()), torch.zeros(2))
        (tensor(1.), tensor([0., 0.]))
    """
    if _size == 1:
        return values
    return tuple(total / _size for total in all_sum(*values))


def gather(x: Tensor) -> Tensor:
    """Join the rows of all processes, without gradient.

    Args:
        x: ``[N, *]``, of the same shape in all processes.

    Returns:
        ``[R·N, *]`` for R processes, in their order.

    Example:
        >>> gather(torch.arange(2))
        tensor([0, 1])
    """
    return x if _size == 1 else _gather(x.detach()).flatten(0, 1)


def pool_moments(mean: Tensor, m2: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Pool means and sums of squared deviations of as many samples in each process.

    μ = mean_r μ_r,  M = Σ_r M_r + n Σ_r (μ_r - μ)²   (Chan et al. 1979)

    Args:
        mean: ``[C]``, of this process's samples.
        m2: ``[C]``, their squared deviations from it, summed.
        count: number n of them.

    Returns:
        Both over the samples of all processes, without gradient.

    Example:
        >>> pool_moments(torch.zeros(1), torch.ones(1), 3)
        (tensor([0.]), tensor([1.]))
    """
    if _size == 1:
        return mean, m2
    means, m2s = _gather(torch.stack([mean.detach(), m2.detach()])).unbind(1)
    mean = means.mean(0)
    return mean, m2s.sum(0) + count * (means - mean).square().sum(0)


def my_share(rows: _Sliceable) -> _Sliceable:
    """Take this process's rows of a tensor or tensordict that all processes have.

    Raises:
        ValueError: if the rows cannot be shared evenly.

    Example:
        >>> my_share(torch.arange(4))
        tensor([0, 1, 2, 3])
    """
    if _size == 1:
        return rows
    total = len(rows)  # type: ignore[arg-type]
    if total % _size:
        raise ValueError(
            f"Expected a batch that {_size} processes can share evenly, got {total} "
            "rows: choose a multiple."
        )
    count = total // _size
    return rows[_rank * count : (_rank + 1) * count]  # type: ignore[index]


def tell(message: Any) -> Any:
    """Return what the first process told, any object; the others' is not looked at.

    It goes from host to host and waits for no device.
    """
    if _size == 1:
        return message
    box = [message]
    with _talking():
        dist.broadcast_object_list(box, src=0, device=_CPU)
    return box[0]
