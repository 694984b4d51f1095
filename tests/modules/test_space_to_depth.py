"""Convolutions on blocks equal PyTorch's on maps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from drama_torchrl.kernels.frame_blocks import frames_to_blocks
from drama_torchrl.modules.space_to_depth import (
    as_blocks,
    conv_on_blocks,
    conv_transpose_on_blocks,
    depth_to_space,
    space_to_depth,
    strided_conv_on_blocks,
    strided_conv_transpose_to_blocks,
)

Convolution = Callable[[Tensor, Tensor, Tensor], Tensor]


def conv_through_blocks(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return depth_to_space(conv_on_blocks(space_to_depth(x), weight, bias))


def strided_conv_through_blocks(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return strided_conv_on_blocks(space_to_depth(x), weight, bias)


def strided_transpose_through_blocks(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return depth_to_space(strided_conv_transpose_to_blocks(x, weight, bias))


def transpose_through_blocks(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return depth_to_space(conv_transpose_on_blocks(space_to_depth(x), weight, bias))


def test_space_to_depth_orders_channels_by_position_then_colour() -> None:
    red = torch.arange(16).view(4, 4)
    blocks = space_to_depth(torch.stack([red, red + 100]))
    assert blocks[:, 0, 1].tolist() == [2, 102, 3, 103, 6, 106, 7, 107]


@pytest.mark.parametrize("block", [2, 4], ids="block={}".format)
@pytest.mark.parametrize("lead", [(), (3,), (2, 5)], ids="lead={}".format)
def test_depth_to_space_undoes_space_to_depth(
    lead: tuple[int, ...], block: int
) -> None:
    x = torch.randint(0, 256, (*lead, 3, 8, 12), dtype=torch.uint8)
    blocks = space_to_depth(x, block)
    assert blocks.shape == (*lead, 3 * block**2, 8 // block, 12 // block)
    assert torch.equal(depth_to_space(blocks, block), x)


def test_space_to_depth_is_channels_last_in_memory() -> None:
    blocks = space_to_depth(torch.rand(2, 3, 8, 8))
    assert blocks.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7], ids="k={}".format)
@pytest.mark.parametrize(
    ("on_blocks", "on_map", "transposed"),
    [
        pytest.param(conv_through_blocks, F.conv2d, False, id="conv"),
        pytest.param(
            strided_conv_through_blocks,
            partial(F.conv2d, stride=2),
            False,
            id="strided",
        ),
        pytest.param(
            strided_transpose_through_blocks,
            partial(F.conv_transpose2d, stride=2, output_padding=1),
            True,
            id="strided-transpose",
        ),
        pytest.param(
            transpose_through_blocks, F.conv_transpose2d, True, id="transpose"
        ),
    ],
)
def test_convolution_on_blocks_equals_convolution_on_map(
    on_blocks: Convolution,
    on_map: Callable[..., Tensor],
    transposed: bool,
    kernel_size: int,
) -> None:
    """Values and gradients, on a map that is not square, in double precision."""
    channels = (3, 5) if transposed else (5, 3)
    inputs = [
        torch.randn(2, 3, 8, 12, dtype=torch.float64, requires_grad=True),
        torch.randn(
            *channels, kernel_size, kernel_size, dtype=torch.float64, requires_grad=True
        ),
        torch.randn(5, dtype=torch.float64, requires_grad=True),
    ]
    actual = on_blocks(*inputs)
    expected = on_map(*inputs, padding=kernel_size // 2)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)
    weights = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(actual, inputs, weights),
        torch.autograd.grad(expected, inputs, weights),
        rtol=0,
        atol=1e-10,
    )


def test_corner_tap_shifts_the_map_by_two_pixels() -> None:
    weight = torch.zeros(1, 1, 5, 5)
    weight[0, 0, 0, 1] = 1.0  # two rows above, one column to the left
    x = torch.arange(36.0).view(1, 1, 6, 6)
    y = depth_to_space(conv_on_blocks(space_to_depth(x), weight))[0, 0]
    assert y[:2].eq(0).all()
    assert y[2:, 0].eq(0).all()
    assert torch.equal(y[2:, 1:], x[0, 0, :-2, :-1])


def test_middle_tap_returns_the_map() -> None:
    x, weight = torch.rand(2, 3, 8, 8), torch.zeros(3, 3, 5, 5)
    weight[range(3), range(3), 2, 2] = 1.0
    assert torch.equal(depth_to_space(conv_on_blocks(space_to_depth(x), weight)), x)


def test_convolution_ignores_the_zero_channels_of_frame_blocks() -> None:
    frames, weight = torch.rand(2, 3, 8, 8), torch.randn(4, 3, 5, 5)
    torch.testing.assert_close(
        conv_on_blocks(frames_to_blocks(frames, torch.float32), weight),
        conv_on_blocks(space_to_depth(frames), weight),
    )


def test_frame_blocks_hold_every_byte_exactly_in_bf16() -> None:
    frames = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    blocks = frames_to_blocks(frames, torch.bfloat16)
    assert blocks.dtype == torch.bfloat16
    assert blocks.shape == (1, 16, 8, 8)
    assert torch.equal(depth_to_space(blocks[:, :12]).to(torch.uint8), frames)
    assert blocks[:, 12:].eq(0).all()


@pytest.mark.parametrize("block", [1, 2, 4], ids="block={}".format)
@pytest.mark.parametrize("present", [1, 2, 4], ids="present={}".format)
def test_maps_and_blocks_of_any_side_become_each_other(
    present: int, block: int
) -> None:
    x = torch.rand(2, 3, 8, 12)
    expected = space_to_depth(x, block)
    assert torch.equal(as_blocks(space_to_depth(x, present), 3, block), expected)


def test_space_to_depth_rejects_an_odd_map() -> None:
    with pytest.raises(ValueError, match=r"divisible by 2, got 7x8: pad or resize"):
        space_to_depth(torch.zeros(3, 7, 8))


def test_depth_to_space_rejects_channels_that_are_no_blocks() -> None:
    with pytest.raises(ValueError, match=r"multiple of 4 channels, got 6: pass what"):
        depth_to_space(torch.zeros(6, 8, 8))
