"""Two layers on some maps at a time are the two layers on all maps."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from drama_torchrl.kernels import conv_silu_twice as kernels
from drama_torchrl.kernels.conv_silu import conv_silu_reference, taps_and_bias
from drama_torchrl.kernels.conv_silu_twice import (
    conv_silu_twice,
    conv_silu_twice_by_taps,
)

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="needs triton: pip install triton",
)
BETWEEN, OUT = 64, 32


def layers(device: torch.device) -> tuple[tuple[Tensor, Tensor], ...]:
    return tuple(
        (torch.randn(o, c, 3, 3, device=device) / c**0.5 / 3, torch.randn(o).to(device))
        for c, o in ((12, BETWEEN), (BETWEEN, OUT))
    )


@needs_triton
@pytest.mark.parametrize("maps", [7, 6, 2, 0])
def test_slices_of_maps_give_what_all_give(
    maps: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "_MAPS", 3)
    x = torch.randn(maps, 16, 4, 6, device=device).half()
    first, second = layers(device)
    y = conv_silu_twice_by_taps(
        x,
        *taps_and_bias(*first, 16, x.dtype),
        BETWEEN,
        *taps_and_bias(*second, BETWEEN, x.dtype),
        OUT,
    )
    expected = conv_silu_reference(conv_silu_reference(x, *first), *second)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, expected, atol=4e-3, rtol=4e-3)


def test_float32_takes_the_plain_layers(device: torch.device) -> None:
    x, (first, second) = torch.randn(2, 16, 4, 6, device=device), layers(device)
    expected = conv_silu_reference(conv_silu_reference(x, *first), *second)
    assert torch.equal(conv_silu_twice(x, first, second), expected)


@needs_triton
def test_a_compiler_knows_its_results() -> None:
    with FakeTensorMode():
        x = torch.empty(5, 16, 4, 6, dtype=torch.bfloat16, device="cuda")
        first, second = (
            tuple(torch.empty(size, device="cuda") for size in ((o, c, 3, 3), (o,)))
            for c, o in ((12, BETWEEN), (BETWEEN, OUT))
        )
        y = conv_silu_twice(x, first, second)  # type: ignore[arg-type]
    assert (y.shape, y.dtype) == ((5, OUT, 4, 6), torch.bfloat16)
    assert y.is_contiguous(memory_format=torch.channels_last)
