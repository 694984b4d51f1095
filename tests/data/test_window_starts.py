"""The largest of many values, found block by block."""

from __future__ import annotations

import pytest
import torch

from drama_torchrl.data.window_starts import largest

# Whole blocks or not; too few values for blocks, just enough, many.
SIZES = [5, 2047, 2048, 10 * 2048, 10 * 2048 + 1, 10 * 2048 + 255, 100_003]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [1, 3])
def test_the_largest_are_those_of_all(size: int, count: int) -> None:
    generator = torch.Generator().manual_seed(size)
    values = torch.rand(size, dtype=torch.float64, generator=generator)
    assert torch.equal(largest(values, count), values.topk(count).indices)


def test_the_largest_may_share_a_block_or_follow_the_last_one() -> None:
    values = torch.zeros(100 * 256 + 7, dtype=torch.float64)
    values[[4, 6, 5, -1]] = torch.tensor([4.0, 2.0, 3.0, 5.0], dtype=torch.float64)
    assert largest(values, 4).tolist() == [25606, 4, 5, 6]


def test_impossible_values_come_last() -> None:
    values = torch.full((100 * 256,), -torch.inf, dtype=torch.float64)
    values[[9000, 20]] = torch.tensor([-3000.0, -5000.0], dtype=torch.float64)
    assert largest(values, 5)[:2].tolist() == [9000, 20]
    assert largest(values, 5).unique().numel() == 5
