"""BatchNorm and SiLU of maps and blocks, laid out as either, against the map's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from drama_torchrl.modules.block_norm import pooled_batch_norm_silu
from drama_torchrl.modules.space_to_depth import as_blocks, space_to_depth

LAYOUTS = pytest.mark.parametrize(
    ("present", "block"),
    [
        pytest.param(1, 1, id="map"),
        pytest.param(2, 2, id="blocks"),
        pytest.param(1, 2, id="map-to-blocks"),
        pytest.param(2, 1, id="blocks-to-map"),
        pytest.param(1, 4, id="map-to-larger-blocks"),
        pytest.param(4, 1, id="larger-blocks-to-map"),
    ],
)


def make_norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels).double()
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        assert tensor is not None
        nn.init.normal_(tensor)
    assert norm.running_var is not None
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return norm


@LAYOUTS
def test_any_layout_holds_what_batch_norm_and_silu_make_of_the_map(
    present: int, block: int
) -> None:
    """Values, gradients and statistics, on a map that is not square."""
    on_map, on_blocks = make_norm(3), nn.BatchNorm2d(3).double()
    on_blocks.load_state_dict(on_map.state_dict())
    x = torch.randn(4, 3, 8, 12, dtype=torch.float64, requires_grad=True)

    expected = F.silu(on_map(x))
    result = pooled_batch_norm_silu(space_to_depth(x, present), on_blocks, block)
    assert result.shape == (4, 3 * block**2, 8 // block, 12 // block)
    actual = as_blocks(result, 3, 1)

    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(on_blocks.state_dict(), on_map.state_dict())
    weights = torch.randn_like(x)
    torch.testing.assert_close(
        torch.autograd.grad(actual, [x, *on_blocks.parameters()], weights),
        torch.autograd.grad(expected, [x, *on_map.parameters()], weights),
        rtol=0,
        atol=1e-10,
    )


@LAYOUTS
def test_results_are_channels_last_in_memory(present: int, block: int) -> None:
    x = space_to_depth(torch.rand(2, 16, 8, 8), present)
    normed = pooled_batch_norm_silu(x, nn.BatchNorm2d(16), block)
    assert normed.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("shape", "block", "message"),
    [
        pytest.param((2, 3, 7, 8), 2, "divisible by 2 .* 7x8 map: resize", id="odd-h"),
        pytest.param((2, 3, 8, 7), 2, "divisible by 2 .* 8x7 map: resize", id="odd-w"),
        pytest.param((2, 12, 8, 8), 4, "blocks of side 2 of a 16x16", id="2-to-4"),
    ],
)
def test_what_cannot_become_blocks_is_refused_and_moves_no_statistics(
    shape: tuple[int, ...], block: int, message: str
) -> None:
    norm = nn.BatchNorm2d(3)
    with pytest.raises(ValueError, match=message):
        pooled_batch_norm_silu(torch.zeros(shape), norm, block)
    assert norm.num_batches_tracked is not None
    assert norm.num_batches_tracked.item() == 0
