"""Mamba's recurrence: the chunked scan is the loop over time, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from drama_torchrl.modules.selective_scan import (
    linear_scan,
    selective_scan,
    selective_scan_chunked,
    selective_scan_recurrent,
    selective_scan_step,
)

BATCH, WIDTH, STATE = 2, 3, 4


def arguments(
    length: int, batch: int = BATCH, width: int = WIDTH, state: int = STATE
) -> dict[str, Any]:
    return {
        "x": torch.randn(batch, length, width),
        "dt": torch.rand(batch, length, width) + 0.1,
        "A": -torch.rand(width, state) - 0.1,
        "B": torch.randn(batch, length, state),
        "C": torch.randn(batch, length, state),
    }


def in_double(inputs: dict[str, Any]) -> dict[str, Any]:
    return {k: t.double().detach().requires_grad_() for k, t in inputs.items()}


def outcome(scan: Any, inputs: dict[str, Any], **options: Any) -> list[Tensor]:
    """Values and gradients with respect to every floating-point argument."""
    inputs = in_double(inputs)
    y, state = scan(**inputs, **options)
    weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
    loss = (y * weights.sin()).sum() + state.cos().sum()
    return [y, state, *torch.autograd.grad(loss, [*inputs.values()])]


@pytest.mark.parametrize("length", [1, 7, 8, 9, 31, 64, 100])
@pytest.mark.parametrize("chunk_size", [1, 5, 8, 64])
@pytest.mark.parametrize("stateful", [False, True], ids=["zero-state", "with-state"])
@pytest.mark.parametrize("resets", [False, True], ids=["one-episode", "episodes"])
def test_chunks_are_the_loop_in_values_and_all_gradients(
    length: int, chunk_size: int, stateful: bool, resets: bool
) -> None:
    inputs = arguments(length)
    if stateful:
        inputs["initial_state"] = torch.randn(BATCH, WIDTH, STATE)
    is_init = torch.rand(BATCH, length) < 0.2 if resets else None
    expected = outcome(selective_scan_recurrent, inputs, is_init=is_init)
    found = outcome(
        selective_scan_chunked, inputs, is_init=is_init, chunk_size=chunk_size
    )
    torch.testing.assert_close(found, expected)


def test_the_loop_computes_the_recurrence() -> None:
    inputs, h0 = arguments(6, batch=1), torch.randn(1, WIDTH, STATE)
    x, dt, A, B, C = (inputs[k].squeeze(0).tolist() for k in ("x", "dt", "A", "B", "C"))
    h = h0[0].tolist()
    y, state = selective_scan_recurrent(**inputs, initial_state=h0)
    for t in range(6):
        for c in range(WIDTH):
            for s in range(STATE):
                decay = math.exp(dt[t][c] * A[c][s])
                h[c][s] = decay * h[c][s] + dt[t][c] * x[t][c] * B[t][s]
            expected = sum(h[c][s] * C[t][s] for s in range(STATE))
            assert y[0, t, c].item() == pytest.approx(expected, abs=1e-5)
    torch.testing.assert_close(state[0], torch.tensor(h))


@pytest.mark.parametrize("length", range(1, 18))
def test_a_linear_scan_is_its_loop(length: int) -> None:
    decay, added = torch.rand(2, length, 3), torch.randn(2, length, 3)
    h, expected = torch.zeros(2, 3), []
    for t in range(length):
        h = decay[:, t] * h + added[:, t]
        expected.append(h)
    torch.testing.assert_close(linear_scan(decay, added), torch.stack(expected, 1))


def test_decays_of_any_strength_stay_finite() -> None:
    inputs = arguments(100)
    inputs["dt"] = inputs["dt"] * 1e3  # a step forgets by exp(-1000) at most
    y, state, *gradients = outcome(selective_scan, inputs)
    for value in (y, state, *gradients):
        assert value.isfinite().all()
    expected = outcome(selective_scan_recurrent, inputs)
    torch.testing.assert_close([y, state, *gradients], expected)


@contextmanager
def sizes_of_results() -> Iterator[list[int]]:
    """Collects the number of elements of each tensor that is computed meanwhile."""
    sizes: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            out = func(*args, **(kwargs or {}))
            found = out if isinstance(out, tuple | list) else [out]
            sizes.extend(t.numel() for t in found if isinstance(t, Tensor))
            return out

    with Watch():
        yield sizes


def test_states_of_one_chunk_exist_at_a_time_in_training_too() -> None:
    length, chunk, width, state = 256, 16, 8, 16
    inputs = in_double(arguments(length, 1, width, state))
    largest_input = max(t.numel() for t in inputs.values())
    assert chunk * width * state < largest_input < length * width * state
    saved: list[int] = []

    def save(t: Tensor) -> Tensor:
        saved.append(t.numel())
        return t

    with sizes_of_results() as sizes:
        with torch.autograd.graph.saved_tensors_hooks(save, lambda t: t):
            y, _ = selective_scan_chunked(**inputs, chunk_size=chunk)
        y.sum().backward()
    assert max(sizes) <= largest_input
    assert sum(saved) < length * width * state


def test_steps_under_autocast_keep_the_state_in_float32() -> None:
    inputs = arguments(5)
    low = {k: t if k in ("dt", "A") else t.bfloat16() for k, t in inputs.items()}
    with torch.autocast("cpu", torch.bfloat16):
        y, state = selective_scan(**low)
        step = {k: t if k == "A" else t[:, 0] for k, t in low.items()}
        y_step, state_step = selective_scan_step(**step, state=state)
    for value in (y, state, y_step, state_step):
        assert value.dtype == torch.float32
    torch.testing.assert_close(y, selective_scan(**inputs)[0], rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 5)}, r"x: expected shape \[B, T, DI\].*got \(2, 5\)"),
        ({"x": torch.zeros(2, 0, 3)}, r"at least one step, got \(2, 0, 3\)"),
        ({"dt": torch.zeros(2, 5)}, r"dt: expected shape \[B, T, DI\] = \(2, 5, 3\)"),
        ({"A": torch.zeros(3)}, r"A: expected shape \[DI, S\] = \(3, 4\).*got \(3,\)"),
        ({"C": torch.zeros(2, 5, 3)}, r"C: .*= \(2, 5, 4\) .*got \(2, 5, 3\)"),
        ({"is_init": torch.zeros(2, 5, 1)}, r"is_init: expected shape \[B, T\]"),
    ],
    ids=["x", "no step", "dt", "A", "C", "is_init"],
)
@pytest.mark.parametrize("scan", [selective_scan, selective_scan_recurrent])
def test_wrong_shapes_are_refused(
    scan: Any, change: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        scan(**(arguments(5) | change))
