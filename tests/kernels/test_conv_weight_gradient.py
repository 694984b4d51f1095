"""The kernels' weight gradient is the plain one's, at the borders and in every cut."""

from __future__ import annotations

import importlib.util

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from drama_torchrl.kernels import conv_weight_gradient as kernels
from drama_torchrl.kernels.conv_weight_gradient import weight_gradient_by_taps

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="needs triton: pip install triton",
)
CHANNELS = [
    pytest.param(16, 64, id="16-to-64"),
    pytest.param(64, 32, id="64-to-32"),
    pytest.param(32, 64, id="32-to-64"),
    pytest.param(64, 16, id="64-to-16"),
]


def random_maps(
    maps: int, channels: int, rows: int, columns: int, device: torch.device
) -> Tensor:
    """Channels last, in fp16: Triton's interpreter takes the bits of bf16 for numbers.

    Views into a larger tensor of NaN, which a kernel that reads beyond them would meet.
    """
    size = maps * rows * columns * channels
    memory = torch.full((size + 2048,), torch.nan, device=device).half()
    memory[1024 : 1024 + size] = torch.randn(size, device=device)
    return memory[1024 : 1024 + size].view(maps, rows, columns, channels).movedim(3, 1)


def exact(x: Tensor, dy: Tensor) -> Tensor:
    """In float64, from the operands that the kernels are given."""
    weight = x.new_zeros(
        dy.shape[1], x.shape[1], 3, 3, dtype=torch.float64, requires_grad=True
    )
    y = F.conv2d(x.double(), weight, padding=1)
    return torch.autograd.grad(y, weight, dy.double())[0]


def assert_rounded_once(actual: Tensor, expected: Tensor) -> None:
    assert actual.dtype == torch.float16
    slack = 1e-6 * float(expected.abs().max())
    torch.testing.assert_close(
        actual.double(), expected, rtol=1.001 * 2**-11, atol=slack
    )


@pytest.mark.parametrize(("channels", "channels_out"), CHANNELS)
@pytest.mark.parametrize(
    ("maps", "rows", "columns"),
    [
        pytest.param(2, 8, 8, id="8x8"),
        pytest.param(3, 5, 7, id="odd-sides"),
        pytest.param(1, 32, 32, id="32x32"),
        pytest.param(3, 6, 16, id="a-block-ends-in-a-map"),
        pytest.param(2, 3, 40, id="a-map-ends-in-a-block"),
        pytest.param(40, 1, 1, id="single-pixels"),
        pytest.param(2, 1, 9, id="single-rows"),
        pytest.param(2, 9, 1, id="single-columns"),
    ],
)
def test_it_is_that_of_float64_rounded_once(
    maps: int,
    channels: int,
    channels_out: int,
    rows: int,
    columns: int,
    device: torch.device,
) -> None:
    x = random_maps(maps, channels, rows, columns, device)
    dy = random_maps(maps, channels_out, rows, columns, device)
    assert_rounded_once(weight_gradient_by_taps(x, dy), exact(x, dy))


@pytest.mark.parametrize(("channels", "channels_out"), CHANNELS)
def test_each_tap_misses_the_pixels_beyond_its_border(
    channels: int, channels_out: int, device: torch.device
) -> None:
    maps, rows, columns = 3, 5, 6
    x = torch.ones(maps, channels, rows, columns, device=device).half()
    dy = torch.ones(maps, channels_out, rows, columns, device=device).half()
    dweight = weight_gradient_by_taps(x, dy)
    counts = maps * torch.outer(torch.tensor([4, 5, 4]), torch.tensor([5, 6, 5]))
    assert torch.equal(dweight.cpu(), counts.half().expand_as(dweight))


@pytest.mark.parametrize(("channels", "channels_out"), CHANNELS)
def test_two_pixels_meet_in_one_tap(
    channels: int, channels_out: int, device: torch.device
) -> None:
    x = torch.zeros(2, channels, 6, 5, device=device).half()
    dy = torch.zeros(2, channels_out, 6, 5, device=device).half()
    x[1, 3, 4, 2], dy[1, 7, 3, 3] = 2.0, 5.0
    dweight = weight_gradient_by_taps(x, dy)
    # The input lies one row below the result and one column to its left.
    assert dweight[7, 3, 2, 0] == 10.0
    assert dweight.count_nonzero() == 1


@pytest.mark.parametrize("processors", [2, 5, 200])
@pytest.mark.parametrize(("channels", "channels_out"), CHANNELS[:2])
def test_the_number_of_programs_does_not_matter(
    processors: int,
    channels: int,
    channels_out: int,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels, "processors", lambda _: processors)
    x = random_maps(6, channels, 10, 12, device)
    dy = random_maps(6, channels_out, 10, 12, device)
    assert_rounded_once(weight_gradient_by_taps(x, dy), exact(x, dy))


@pytest.mark.parametrize(
    "launch",
    [
        pytest.param(kernels._Launch(16, 1, 4, 4, 3, 2), id="one-row"),
        pytest.param(kernels._Launch(32, 3, 2, 4, 2, 1), id="three-rows"),
        pytest.param(kernels._Launch(64, 8, 4, 8, 1, 3), id="all-rows"),
    ],
)
@pytest.mark.parametrize(("channels", "channels_out"), CHANNELS[:2])
def test_the_cut_does_not_matter(
    launch: kernels._Launch,
    channels: int,
    channels_out: int,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    thin = min(channels, channels_out)
    monkeypatch.setitem(kernels._LAUNCHES, thin, launch)
    x = random_maps(5, channels, 7, 9, device)
    dy = random_maps(5, channels_out, 7, 9, device)
    assert_rounded_once(weight_gradient_by_taps(x, dy), exact(x, dy))


def test_memory_layouts_do_not_matter(device: torch.device) -> None:
    x = random_maps(2, 16, 3, 4, device)
    dy = random_maps(2, 64, 3, 4, device)
    dweight = weight_gradient_by_taps(x.contiguous(), dy.contiguous())
    assert torch.equal(dweight, weight_gradient_by_taps(x, dy))


def test_without_maps_it_is_zero(device: torch.device) -> None:
    x, dy = (torch.empty(0, c, 4, 4, device=device).half() for c in (16, 64))
    assert torch.equal(weight_gradient_by_taps(x, dy), x.new_zeros(64, 16, 3, 3))


# A stage holds two rows of wide and four of three neighbours of thin (and of zeros,
# where one load brings them): 24 kB of 32 columns of 16 channels, 64 kB of 64 of 32.
@pytest.mark.parametrize(
    ("memory", "thin", "stages"),
    [
        pytest.param(227, 16, 3, id="h100-16"),
        pytest.param(227, 32, 3, id="h100-32"),
        pytest.param(99, 16, 3, id="rtx-4090-16"),
        pytest.param(99, 32, 1, id="rtx-4090-32"),
        pytest.param(64, 16, 2, id="t4-16"),
        pytest.param(64, 32, 1, id="t4-32"),
    ],
)
def test_the_pipeline_fits_the_shared_memory(
    memory: int, thin: int, stages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "shared_memory", lambda _: memory * 1024)
    wide = torch.empty(2, 64, 32, 32, dtype=torch.float16)
    launch = kernels._launch(wide, wide[:, :thin])
    assert launch == kernels._LAUNCHES[thin]._replace(stages=stages)
