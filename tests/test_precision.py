"""Rounded weights compute what autocast computes, and come back exact."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from drama_torchrl.precision import Precision


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 5), nn.SiLU(), nn.Linear(5, 3, bias=False))


def test_rounding_once_equals_rounding_at_every_call() -> None:
    net, x = network(), torch.randn(4, 7)
    precision = Precision("cpu", enabled=True)
    with torch.no_grad(), precision():
        expected = net(x)
    with torch.no_grad(), precision(), precision.rounding(net):
        assert torch.equal(net(x), expected)
        assert {p.dtype for p in net.state_dict().values()} == {torch.bfloat16}


def test_the_weights_come_back_even_after_an_error() -> None:
    net = network()
    before = dict(net.named_parameters())
    precision = Precision("cpu", enabled=True)
    with pytest.raises(RuntimeError, match="stop"), precision.rounding(net):
        raise RuntimeError("stop")
    after = dict(net.named_parameters())
    assert all(after[name] is before[name] for name in before)


def test_nothing_is_rounded_in_full_precision() -> None:
    net = network()
    with Precision("cpu", enabled=False).rounding(net):
        assert {p.dtype for p in net.parameters()} == {torch.float32}
