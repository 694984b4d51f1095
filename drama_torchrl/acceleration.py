"""Speed in one place: compiled regions, and updates replayed as CUDA graphs."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch._inductor import config as inductor
from torch._inductor.async_compile import maybe_warm_pool

from drama_torchrl import kernels
from drama_torchrl.parallel import before_leaving, size
from drama_torchrl.updates import BehaviourUpdate, Update, WorldModelUpdate

__all__ = ["CapturedUpdate", "check_shapes", "compile_regions", "shapes_of"]

# By name and version: what they do is in their arguments, which are part of the key.
_CACHEABLE = {
    f"torch.amp.autocast_mode.{name}": "1"
    for name in ("_enter_autocast", "_exit_autocast")
}


def shapes_of(batch: TensorDictBase) -> dict[NestedKey, torch.Size]:
    """Shapes of all entries of a batch, nested ones too."""
    return {key: value.shape for key, value in batch.items(True, True)}


def check_shapes(
    batch: TensorDictBase, recorded: Mapping[NestedKey, torch.Size]
) -> None:
    """Refuse a batch that cannot be copied, entry by entry, to where a graph reads.

    Copying would repeat a single row until it fits, and keep what is not in the batch.

    Args:
        batch: the next batch.
        recorded: :func:`shapes_of` the one that was recorded.

    Raises:
        ValueError: if an entry is missing, new or of another shape.

    Example:
        >>> from tensordict import TensorDict
        >>> check_shapes(TensorDict(x=torch.ones(2)), {"x": torch.Size([2])})
    """
    shapes = shapes_of(batch)
    if shapes == recorded:
        return
    keys = {**recorded, **shapes}
    different = [key for key in keys if shapes.get(key) != recorded.get(key)]
    expected, got = (
        ", ".join(
            f"{k} of {tuple(each[k])}" if k in each else f"no {k}" for k in different
        )
        for each in (recorded, shapes)
    )
    raise ValueError(
        "Expected a batch of the shapes that the update was recorded with, "
        f"{expected}, got {got}; give all batches one size, or make another "
        "CapturedUpdate."
    )


class _Recording(NamedTuple):
    """A graph, the batch that it reads, with its shapes, and what it writes."""

    graph: torch.cuda.CUDAGraph
    batch: TensorDictBase
    shapes: dict[NestedKey, torch.Size]
    metrics: TensorDictBase


class CapturedUpdate:
    """Replay an update as a CUDA graph after a few ordinary calls.

    The first ``warmup`` calls run the update as it is: they train, and they let
    lazy initialisation (optimizer state, cuDNN plans) happen outside the graph. The
    next one records it; from then on every call copies the batch to where the graph
    reads it and launches everything at once. Nothing waits for the device
    (``tensordict.nn.CudaGraphModule`` synchronises at every call).

    Random numbers are fresh at every replay. What changes between calls must be a
    tensor on the device: the learning rate is one.

    Args:
        update: the update to capture; it must not synchronise with the host.
        device: the GPU on which it runs; the current one by default.
        warmup: ordinary calls before the capture.

    The metrics it returns are overwritten by the next call.

    Example:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> if torch.cuda.is_available():
        ...     double = CapturedUpdate(lambda batch: batch.apply(lambda x: 2 * x))
        ...     batch = TensorDict(x=torch.ones(1, device="cuda"), batch_size=[1])
        ...     assert all(double(batch)["x"].item() == 2 for _ in range(5))
    """

    def __init__(
        self,
        update: Update,
        *,
        device: torch.device | str = "cuda",
        warmup: int = 3,
    ) -> None:
        self.update = update
        self.device = device
        self.warmup = warmup
        self.calls = 0
        # Before branches of no priority, which large kernels run on.
        self._stream = torch.cuda.Stream(device, priority=-1)
        self._recording: _Recording | None = None
        before_leaving(self.forget)

    def __call__(self, batch: TensorDictBase) -> TensorDictBase:
        """Run, record or replay the update on ``batch``.

        Raises:
            ValueError: if a batch has other shapes than the one that was recorded.
        """
        self.calls += 1
        with torch.cuda.device(self.device):
            if self.calls <= self.warmup:
                return self._run(batch)
            if self._recording is None:
                self._recording = self._record(batch)
            check_shapes(batch, self._recording.shapes)
            self._recording.batch.copy_(batch)
            self._recording.graph.replay()
            return self._recording.metrics

    def forget(self) -> None:
        """Drop the recording: what it reads has been replaced, not changed in place."""
        self._recording = None

    def _run(self, batch: TensorDictBase) -> TensorDictBase:
        # Capture wants the stream that will be recorded to be warm too.
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            metrics = self.update(batch)
        current.wait_stream(self._stream)
        return metrics

    def _record(self, batch: TensorDictBase) -> _Recording:
        static_batch = batch.clone()
        graph = torch.cuda.CUDAGraph()
        # Beside other processes, NCCL's own thread asks for events meanwhile.
        mode = "global" if size() == 1 else "thread_local"
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode=mode):
            metrics = self.update(static_batch.copy())
        return _Recording(graph, static_batch, shapes_of(static_batch), metrics)


def compile_regions(update: WorldModelUpdate | BehaviourUpdate) -> None:
    """Compile the arithmetic of an update, in place.

    Several regions instead of the whole update keep the start-up short and let the
    update run parts of itself beside each other; what is left between them costs
    nothing once a CUDA graph replays it. The networks themselves stay as they are:
    acting, films and evaluation call them with other shapes.

    Compilers keep what they compiled from run to run, and know our operators by their
    names alone: the sources of the kernels become part of their key. A region that
    switches autocast they would trace and differentiate anew at each start. The
    processes that compile for them take seconds to start, and start now.

    Args:
        update: its ``regions`` are compiled, each at its first call.
    """
    maybe_warm_pool()
    torch.compiler.config.cache_key_tag = _digest_kernels()
    inductor.unsafe_marked_cacheable_functions |= _CACHEABLE
    for owner, method in update.regions:
        region = torch.compile(getattr(owner, method), dynamic=False, fullgraph=True)
        setattr(owner, method, region)


@functools.cache
def _digest_kernels() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(kernels.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return f"drama_torchrl {digest.hexdigest()}"
