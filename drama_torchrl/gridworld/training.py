"""Training on drawn sequences, with what it costs."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from drama_torchrl.acceleration import CapturedUpdate
from drama_torchrl.gridworld.model import TokenModel
from drama_torchrl.optim import clip_gradients, linear_warmup
from drama_torchrl.precision import Precision
from drama_torchrl.updates import Update

__all__ = ["MAX_GRAD_NORM", "Cost", "Learner", "Stopwatch", "next_token_loss"]

MAX_GRAD_NORM = 1.0
# The first updates make kernels, plans, optimiser state and, on a GPU, the graph.
_BURN_IN = 5
_GB = 1e9


class Cost(NamedTuple):
    """What training has cost.

    Args:
        ms: median milliseconds of an update, drawing its sequences not counted.
        peak_gb: most memory that tensors took at once during an update, in 10⁹ bytes;
            None on a CPU, where nobody counts it.
        loss: mean loss of the last tenth of the updates, in nats a token.
    """

    ms: float
    peak_gb: float | None
    loss: float


def next_token_loss(logits: Tensor, tokens: Tensor, last: int) -> Tensor:
    """Give the cross-entropy of the last tokens of each sequence.

    Args:
        logits: ``[B, L, V]``, at each token those of the next one.
        tokens: ``[B, L]``.
        last: tokens that count, at most L - 1.

    Returns:
        Nats a token, a scalar.

    Example:
        >>> logits = torch.tensor([[[50.0, 0.0], [50.0, 0.0], [0.0, 50.0]]])
        >>> tokens = torch.tensor([[1, 0, 1]])  # the last of them is a surprise
        >>> next_token_loss(logits, tokens, last=2)
        tensor(25.)
    """
    predictions = logits[:, -1 - last : -1]
    return F.cross_entropy(predictions.flatten(0, 1), tokens[:, -last:].flatten())


class Learner:
    """Train a model on next tokens by Adam, with linear warmup and clipped gradients.

    On a GPU an update is a CUDA graph: what it costs is what the device computes, not
    what Python takes to ask for it.

    Args:
        model: trained in place.
        last: tokens of a sequence that count, fewer than it has.
        learning_rate: after the warmup.
        warmup: updates until then.
        precision: of the forward pass.
    """

    def __init__(
        self,
        model: TokenModel,
        *,
        last: int,
        learning_rate: float,
        warmup: int,
        precision: Precision,
    ) -> None:
        self.model = model
        self.last = last
        self.precision = precision
        self.device = model.head.weight.device
        on_gpu = self.device.type == "cuda"
        # A tensor, so that a captured graph sees the warmup move it.
        rate = torch.tensor(learning_rate, device=self.device)
        self.optimizer = torch.optim.Adam(
            model.parameters(), lr=rate, capturable=on_gpu
        )
        self.schedule = linear_warmup(self.optimizer, warmup)
        self._run: Update = (
            CapturedUpdate(self._update, device=self.device) if on_gpu else self._update
        )

    def update(self, tokens: Tensor) -> Tensor:
        """Train once on ``[B, L]`` and return the loss; nothing waits for the device.

        All calls need sequences of one shape.
        """
        loss = self._run(TensorDict(tokens=tokens))["loss"].clone()
        self.schedule.step()
        return loss

    def _update(self, batch: TensorDictBase) -> TensorDict:
        tokens = batch["tokens"]
        self.optimizer.zero_grad()
        with self.precision():
            logits = self.model(tokens)
        loss = next_token_loss(logits, tokens, self.last)
        loss.backward()
        clip_gradients(self.optimizer, MAX_GRAD_NORM)
        self.optimizer.step()
        return TensorDict(loss=loss.detach())

    def train(self, draw: Callable[[], Tensor], updates: int) -> Cost:
        """Train on fresh sequences.

        Args:
            draw: gives tokens ``[B, L]``, other ones at each call.
            updates: how often.
        """
        self.model.train()
        watch = Stopwatch(self.device)
        losses = []
        with watch.memory():
            for _ in range(updates):
                tokens = draw()
                with watch:
                    losses.append(self.update(tokens))
        tail = torch.stack(losses[-max(1, updates // 10) :])
        return Cost(watch.median_ms(), watch.peak_gb, tail.mean().item())


class Stopwatch:
    """Time blocks, by CUDA events that nothing waits for, or by the wall clock.

    Args:
        device: where the blocks compute.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.peak_gb: float | None = None
        self._marks: list[float | torch.cuda.Event] = []

    def __enter__(self) -> None:
        self._mark()

    def __exit__(self, *_: object) -> None:
        self._mark()

    def _mark(self) -> None:
        if self.device.type != "cuda":
            self._marks.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append(event)

    def median_ms(self) -> float:
        """Give the median over all blocks but the first five, if there are more."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        pairs = zip(self._marks[::2], self._marks[1::2], strict=True)
        times = [_elapsed_ms(start, end) for start, end in pairs]
        return statistics.median(times[_BURN_IN:] or times)

    @contextmanager
    def memory(self) -> Iterator[None]:
        """Watch the peak of the block's memory, where the device counts it."""
        if self.device.type != "cuda":
            yield
            return
        gc.collect()  # an optimiser and its schedule outlive their names
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        yield
        torch.cuda.synchronize()
        self.peak_gb = torch.cuda.max_memory_allocated() / _GB


def _elapsed_ms(
    start: float | torch.cuda.Event, end: float | torch.cuda.Event
) -> float:
    if isinstance(start, float) or isinstance(end, float):
        assert isinstance(start, float)
        assert isinstance(end, float)
        return 1e3 * (end - start)
    return start.elapsed_time(end)
