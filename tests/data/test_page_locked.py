"""How much is locked; that a GPU sees it, tests/gpu tells."""

from __future__ import annotations

import pytest
import torch

from drama_torchrl.data.page_locked import (
    largest_page_locked,
    page_locked,
    page_locked_bytes,
)


def test_the_host_gets_a_plain_tensor() -> None:
    tensor = page_locked([3, 2], torch.int16, torch.device("cpu"))
    assert tensor.shape == (3, 2)
    assert tensor.dtype == torch.int16
    assert tensor.is_contiguous()


@pytest.mark.parametrize(
    ("size", "locked"), [(0, 1), (1, 1), (2, 2), (3, 4), (4096, 4096), (4097, 8192)]
)
def test_the_next_power_of_two_is_locked(size: int, locked: int) -> None:
    assert page_locked_bytes(size) == locked


@pytest.mark.parametrize("free", [0, 1, 2, 3, 1000, 1024])
def test_the_largest_that_fits_fits_and_one_byte_more_does_not(free: int) -> None:
    largest = largest_page_locked(free)
    if free:
        assert page_locked_bytes(largest) <= free
    assert page_locked_bytes(largest + 1) > free
