"""Angles add up within episodes, and pairs are turned by them."""

from __future__ import annotations

import math

import pytest
import torch

from drama_torchrl.modules.cumulative_rotation import add_turns, rotate_pairs, wrap


@pytest.mark.parametrize("resets", [False, True], ids=["one-episode", "episodes"])
@pytest.mark.parametrize("past", [False, True], ids=["empty-past", "with-past"])
def test_angles_are_sums_since_the_episode_started(resets: bool, past: bool) -> None:
    torch.manual_seed(0)
    turns = torch.randn(2, 9, 3, 4).double()
    before = torch.randn(2, 3, 4).double() if past else None
    starts = torch.zeros(2, 9, dtype=torch.bool)
    if resets:
        starts[0, 0] = starts[1, [3, 4, 7]] = True
    angle = torch.zeros(2, 3, 4).double() if before is None else before
    expected = []
    for t in range(9):
        angle = angle.masked_fill(starts[:, t, None, None], 0.0) + turns[:, t]
        expected.append(angle)
    found = add_turns(turns, before, starts if resets else None)
    torch.testing.assert_close(found, torch.stack(expected, 1))


def test_no_gradient_crosses_an_episode_start() -> None:
    turns = torch.randn(1, 6, 2).double().requires_grad_()
    past = torch.randn(1, 2).double().requires_grad_()
    starts = torch.tensor([[False, False, True, False, True, False]])
    angles = add_turns(turns, past, starts)
    found = torch.autograd.grad(angles[:, 3].sum(), [turns, past])
    expected = torch.tensor([0.0, 0, 1, 1, 0, 0]).double()
    torch.testing.assert_close(found[0][0, :, 0], expected)
    torch.testing.assert_close(found[1], torch.zeros(1, 2).double())


def test_wrapped_angles_are_the_same_and_within_half_a_turn() -> None:
    angles = torch.linspace(-50, 50, 1001).double().requires_grad_()
    wrapped = wrap(angles)
    assert wrapped.abs().max() <= math.pi
    torch.testing.assert_close(wrapped.cos(), angles.cos())
    torch.testing.assert_close(wrapped.sin(), angles.sin())
    (gradient,) = torch.autograd.grad(wrapped.sum(), angles)
    assert (gradient == 1).all()
    small = torch.linspace(-3.14, 3.14, 101)
    assert torch.equal(wrap(small), small)


def test_a_wrapped_sum_stays_exact_in_float32() -> None:
    # As large as turns get: a step size of 0.1 and half a turn of each.
    torch.manual_seed(0)
    turns = 0.1 * math.pi * torch.rand(10_000).double()
    angle = torch.zeros(())
    for turn in turns.float():
        angle = wrap(angle + turn)
    off = wrap(angle.double() - turns.sum()).abs()
    assert off < 1e-4


def test_neighbours_are_turned_as_complex_numbers_and_the_rest_is_left() -> None:
    torch.manual_seed(0)
    u, angles = torch.randn(2, 3, 7).double(), torch.randn(2, 3, 2).double()
    turned = rotate_pairs(u, angles)
    pairs = torch.view_as_complex(u[..., :4].unflatten(-1, (2, 2)).contiguous())
    expected = pairs * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(
        turned[..., :4], torch.view_as_real(expected).flatten(-2)
    )
    assert torch.equal(turned[..., 4:], u[..., 4:])


def test_a_product_depends_on_the_turns_between_alone() -> None:
    torch.manual_seed(0)
    u, v = torch.randn(2, 6).double()
    a, b, more = torch.randn(3, 2).double()
    first = rotate_pairs(u, a) @ rotate_pairs(v, b)
    second = rotate_pairs(u, a + more) @ rotate_pairs(v, b + more)
    torch.testing.assert_close(first, second)
