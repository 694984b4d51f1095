"""The convolution over time: torch's own, and a past that can be cut."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from drama_torchrl.modules.causal_conv import causal_conv, causal_conv_step

BATCH, TIME, WIDTH = 2, 9, 3


def parameters(taps: int) -> tuple[Tensor, Tensor]:
    return torch.randn(WIDTH, taps), torch.randn(WIDTH)


def reference(inputs: Tensor, past: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    window = torch.cat([past, inputs.transpose(1, 2)], dim=-1)
    y = F.conv1d(window, weight.unsqueeze(1), bias, groups=WIDTH)
    return F.silu(y).transpose(1, 2)


@pytest.mark.parametrize("taps", [1, 2, 4, 12])
@pytest.mark.parametrize("stateful", [False, True], ids=["no-past", "past"])
def test_it_is_torchs_convolution(taps: int, stateful: bool) -> None:
    inputs, (weight, bias) = torch.randn(BATCH, TIME, WIDTH), parameters(taps)
    zeros = torch.zeros(BATCH, WIDTH, taps - 1)
    past = torch.randn_like(zeros) if stateful else None
    y, after = causal_conv(inputs, past, weight, bias)
    before = zeros if past is None else past
    torch.testing.assert_close(y, reference(inputs, before, weight, bias))
    window = torch.cat([before, inputs.transpose(1, 2)], dim=-1)
    assert torch.equal(after, window[..., TIME:])


def test_steps_are_the_sequence() -> None:
    inputs, (weight, bias) = torch.randn(BATCH, TIME, WIDTH), parameters(4)
    past = torch.randn(BATCH, WIDTH, 3)
    whole, end = causal_conv(inputs, past, weight, bias)
    outputs = []
    for t in range(TIME):
        y, past = causal_conv_step(inputs[:, t], past, weight, bias)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, 1), whole)
    assert torch.equal(past, end)


@pytest.mark.parametrize("stateful", [False, True], ids=["no-past", "past"])
@pytest.mark.parametrize("resets", [False, True], ids=["whole", "episodes"])
@pytest.mark.parametrize("length", [1, 2, 3, 9])
def test_the_past_it_leaves_is_that_of_its_steps(
    length: int, resets: bool, stateful: bool
) -> None:
    inputs, (weight, bias) = torch.randn(BATCH, length, WIDTH), parameters(4)
    past = torch.randn(BATCH, WIDTH, 3) if stateful else None
    is_init = torch.rand(BATCH, length) < 0.4 if resets else None
    _, found = causal_conv(inputs, past, weight, bias, is_init)
    expected = torch.zeros(BATCH, WIDTH, 3) if past is None else past
    for t in range(length):
        if is_init is not None:
            expected = expected.masked_fill(is_init[:, t, None, None], 0.0)
        _, expected = causal_conv_step(inputs[:, t], expected, weight, bias)
    assert torch.equal(found, expected)
    assert found.stride() == expected.stride()


@pytest.mark.parametrize("start", [0, 1, 4, 7, 8])
def test_an_episode_start_equals_a_fresh_run(start: int) -> None:
    inputs, (weight, bias) = torch.randn(BATCH, TIME, WIDTH), parameters(4)
    past = torch.randn(BATCH, WIDTH, 3)
    is_init = torch.zeros(BATCH, TIME, dtype=torch.bool)
    is_init[0, start] = True
    y, after = causal_conv(inputs, past, weight, bias, is_init)
    fresh, fresh_after = causal_conv(inputs[:, start:], None, weight, bias)
    unbroken, unbroken_after = causal_conv(inputs, past, weight, bias)
    torch.testing.assert_close(y[0, start:], fresh[0])
    torch.testing.assert_close(y[0, :start], unbroken[0, :start])
    torch.testing.assert_close(y[1], unbroken[1])
    assert torch.equal(after[0], fresh_after[0])
    assert torch.equal(after[1], unbroken_after[1])
