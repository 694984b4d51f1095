"""The weight gradient at training's sizes, where cuDNN's rounded sums are the bar."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from drama_torchrl.kernels.conv_weight_gradient import weight_gradient_by_taps

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
CHANNELS = [
    pytest.param(16, 64, id="16-to-64"),
    pytest.param(64, 32, id="64-to-32"),
    pytest.param(32, 64, id="32-to-64"),
    pytest.param(64, 16, id="64-to-16"),
]


def random_maps(maps: int, channels: int, side: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(
        (maps, side, side, channels), device="cuda", dtype=dtype
    ).movedim(3, 1)


def plain_gradient(x: Tensor, dy: Tensor) -> Tensor:
    weight = x.new_zeros(dy.shape[1], x.shape[1], 3, 3, requires_grad=True)
    y = torch.conv2d(x, weight, padding=1)
    return torch.autograd.grad(y, weight, dy)[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("maps", "side"), [(2048, 32), (67, 32), (300, 16), (33, 8)])
@pytest.mark.parametrize(("channels", "channels_out"), CHANNELS)
def test_it_agrees_with_float32(
    channels: int, channels_out: int, maps: int, side: int, dtype: torch.dtype
) -> None:
    x = random_maps(maps, channels, side, dtype)
    dy = random_maps(maps, channels_out, side, dtype)
    actual = weight_gradient_by_taps(x, dy)
    true = plain_gradient(x.float(), dy.float())
    assert actual.dtype == dtype
    error = actual.float() - true
    # One rounding; sums of a million numbers in float32 differ by less.
    rounding = torch.finfo(dtype).eps / 2
    assert error.square().mean() <= (0.7 * rounding) ** 2 * true.square().mean()
    assert error.abs().max() <= 1.1 * rounding * true.abs().max()


def test_the_same_maps_give_the_same_gradient() -> None:
    x = random_maps(500, 32, 32, torch.bfloat16)
    dy = random_maps(500, 64, 32, torch.bfloat16)
    first = weight_gradient_by_taps(x, dy)
    assert all(torch.equal(first, weight_gradient_by_taps(x, dy)) for _ in range(5))
