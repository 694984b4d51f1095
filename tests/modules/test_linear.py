"""Padding a matrix product changes neither its values nor its gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from drama_torchrl.modules.linear import AlignedLinear, aligned_linear


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize(("width", "out"), [(8, 16), (10, 16), (8, 5), (3, 1)])
def test_it_equals_an_ordinary_linear_layer(width: int, out: int, bias: bool) -> None:
    shapes = [(2, 3, width), (out, width), *([(out,)] if bias else [])]
    leaves = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    x, weight, *rest = leaves
    expected = F.linear(x, weight, *rest)
    actual = aligned_linear(x, weight, rest[0] if rest else None)
    torch.testing.assert_close(actual, expected)
    cotangent = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(actual, leaves, cotangent),
        torch.autograd.grad(expected, leaves, cotangent),
    )


def test_the_layer_has_the_parameters_of_an_ordinary_one() -> None:
    torch.manual_seed(0)
    ordinary = torch.nn.Linear(10, 3)
    torch.manual_seed(0)
    aligned = AlignedLinear(10, 3)
    x = torch.randn(4, 10)
    torch.testing.assert_close(aligned.state_dict(), ordinary.state_dict())
    assert torch.equal(aligned(x), ordinary(x))
