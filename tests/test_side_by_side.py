"""Rows of many tensors, and a module's twin that gets all of it."""

from __future__ import annotations

import torch
from torch import nn

from drama_torchrl.side_by_side import HandOver, SideBySide


def test_each_dtype_has_a_row_in_the_order_of_the_tensors() -> None:
    floats = [torch.tensor(1.5), torch.tensor([[2.0, 3.0]])]
    counts = [torch.tensor(7), torch.tensor([8, 9])]
    empty = torch.zeros(0)
    mixed = SideBySide([floats[0], counts[0], empty, floats[1], counts[1]])
    assert [row.tolist() for row in mixed.join()] == [[1.5, 2.0, 3.0], [7, 8, 9]]


def test_rows_are_copies_and_may_be_used_again() -> None:
    x = torch.ones(2)
    both = SideBySide([x, torch.zeros(1)])
    rows = both.join()
    x.fill_(5.0)
    assert rows[0].tolist() == [1.0, 1.0, 0.0]
    assert both.join(out=rows)[0] is rows[0]
    assert rows[0].tolist() == [5.0, 5.0, 0.0]


def test_spreading_changes_the_tensors_in_place_and_no_gradient_sees_it() -> None:
    weight = nn.Parameter(torch.zeros(2, 2))
    strided = torch.zeros(3, 2).T
    SideBySide([weight, strided]).spread([torch.arange(10.0)])
    assert weight.tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert strided.tolist() == [[4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]
    assert weight.grad_fn is None


def test_a_twin_gets_parameters_statistics_and_counts() -> None:
    (linear, norm), (copied, counted) = (
        (nn.Linear(3, 4), nn.BatchNorm1d(4)) for _ in range(2)
    )
    source, target = nn.Sequential(linear, norm), nn.Sequential(copied, counted)
    hand_over = HandOver(source, target)
    kept = list(target.parameters())
    for _ in range(2):
        source(torch.randn(5, 3))
        nn.init.normal_(linear.weight)
        hand_over()
        for name, value in source.state_dict().items():
            assert torch.equal(target.state_dict()[name], value), name
    assert counted.num_batches_tracked == 2
    assert all(a is b for a, b in zip(target.parameters(), kept, strict=True))
    nn.init.zeros_(linear.weight)
    assert copied.weight.any()
