"""The kernel reads the rows that plain indexing reads."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import Tensor

from drama_torchrl.kernels import gather_rows as kernels
from drama_torchrl.kernels.gather_rows import (
    gather_rows,
    gather_rows_by_few,
    gather_rows_reference,
)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="needs triton: pip install triton",
)


def random_rows(*shape: int, device: torch.device) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, device=device)


@pytest.mark.parametrize(
    ("row", "index"),
    [
        pytest.param((3, 64, 64), (4, 16), id="of-the-agent"),
        pytest.param((3, 84, 84), (2, 3), id="more-than-a-block"),
        pytest.param((5,), (70,), id="odd"),
        pytest.param((), (3, 2), id="single-bytes"),
        pytest.param((4, 2), (), id="one-row"),
        pytest.param((4, 2), (0, 3), id="none"),
    ],
)
def test_it_reads_what_plain_indexing_reads(
    row: tuple[int, ...], index: tuple[int, ...], device: torch.device
) -> None:
    rows = random_rows(9, *row, device=device)
    which = torch.randint(0, 9, index, device=device)
    found = gather_rows_by_few(rows, which)
    assert torch.equal(found, gather_rows_reference(rows, which))
    assert found.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.int64])
def test_any_numbers_are_copied_whole(dtype: torch.dtype, device: torch.device) -> None:
    rows = torch.randn(6, 3, 5, device=device).to(dtype)
    index = torch.tensor([[5, 0], [5, 2]], device=device)
    found = gather_rows_by_few(rows, index)
    assert found.dtype == dtype
    assert torch.equal(found, rows[index])


def test_rows_are_numbered_from_either_end(device: torch.device) -> None:
    rows = random_rows(8, 7, device=device)[:5]
    index = torch.tensor([-1, 0, -5, 4], device=device)
    assert torch.equal(gather_rows_by_few(rows, index), rows[[4, 0, 0, 4]])


@pytest.mark.parametrize(("programs", "block"), [(1, 16), (3, 4096), (500, 64)])
def test_any_cut_gives_the_same(
    programs: int, block: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "_PROGRAMS", programs)
    monkeypatch.setattr(kernels, "_BLOCK", block)
    rows = random_rows(11, 100, device=device)
    index = torch.randint(0, 11, (40,), device=device)
    assert torch.equal(gather_rows_by_few(rows, index), rows[index])


def test_an_index_need_not_be_contiguous(device: torch.device) -> None:
    rows = random_rows(12, 10, device=device)
    index = torch.arange(12, device=device).view(3, 4).t()
    assert torch.equal(gather_rows_by_few(rows, index), rows[index])


def test_what_the_kernel_cannot_do_is_read_by_torch(device: torch.device) -> None:
    rows = random_rows(6, 2, 3, device=device)
    spread = rows.transpose(1, 2)
    index = torch.tensor([3, 1])
    assert torch.equal(gather_rows(spread, index.to(device)), spread[index])
    assert torch.equal(gather_rows(rows, index.int().to(device)), rows[index])
    assert torch.equal(gather_rows(rows, index), rows[index])
