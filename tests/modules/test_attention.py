"""Causal attention over a window that slides: its formulas, and what it cannot see."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from drama_torchrl.modules.attention import Attention, rotate

WIDTH, HEADS = 8, 2
HEAD = WIDTH // HEADS
OFFSETS = (0, WIDTH, 2 * WIDTH)  # of queries, keys and values


def make_layer(window: int) -> Attention:
    return Attention(WIDTH, num_heads=HEADS, window=window).double()


def inputs(length: int) -> Tensor:
    return torch.randn(1, length, WIDTH).double()


def turned(vector: list[float], position: int) -> list[float]:
    out = [0.0] * HEAD
    for i in range(HEAD // 2):
        angle = position * 10_000 ** (-2 * i / HEAD)
        a, b = vector[i], vector[i + HEAD // 2]
        out[i] = a * math.cos(angle) - b * math.sin(angle)
        out[i + HEAD // 2] = a * math.sin(angle) + b * math.cos(angle)
    return out


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def layer_by_its_formulas(layer: Attention, x: Tensor) -> list[list[float]]:
    """The layer for one sequence [T, D], query by query, in plain Python numbers."""
    projected = F.linear(x, layer.in_proj.weight, layer.in_proj.bias).tolist()
    outputs = []
    for t in range(len(projected)):
        heads: list[float] = []
        for h in range(HEADS):
            q, k, v = (slice(i + h * HEAD, i + (h + 1) * HEAD) for i in OFFSETS)
            query = turned(projected[t][q], t)
            seen = range(max(0, t - layer.window + 1), t + 1)
            weights = [
                math.exp(dot(query, turned(projected[s][k], s)) / math.sqrt(HEAD))
                for s in seen
            ]
            total = sum(weights)
            heads += [
                sum(
                    w / total * projected[s][v][i]
                    for w, s in zip(weights, seen, strict=True)
                )
                for i in range(HEAD)
            ]
        outputs.append(heads)
    y = F.linear(torch.tensor(outputs).double(), layer.out_proj.weight)
    rows: list[list[float]] = (y + layer.out_proj.bias).tolist()
    return rows


@pytest.mark.parametrize("window", [1, 2, 5, 9, 100])
def test_it_computes_its_formulas(window: int) -> None:
    layer, x = make_layer(window), inputs(9)
    expected = torch.tensor(layer_by_its_formulas(layer, x[0])).double()
    torch.testing.assert_close(layer(x)[0][0], expected)


@pytest.mark.parametrize("window", [1, 2, 5, 9, 100])
def test_steps_and_pieces_are_the_sequence(window: int) -> None:
    layer, x = make_layer(window), inputs(9)
    whole, end = layer(x)
    for pieces in ([1] * 9, [4, 5], [8, 1], [1, 8]):
        outputs, state = [], layer.initial_state(1)
        for piece in x.split(pieces, dim=1):
            y, state = layer(piece, state)
            outputs.append(y)
        torch.testing.assert_close(torch.cat(outputs, 1), whole)
        torch.testing.assert_close(state.to_dict(), end.to_dict())


def test_what_leaves_the_window_is_not_seen() -> None:
    layer, x = make_layer(window=3), inputs(9)
    before, _ = layer(x)
    x[:, 2] += 1.0
    changed = (layer(x)[0] != before).any(-1)[0].tolist()
    assert changed == [False, False, True, True, True, False, False, False, False]


def test_a_product_of_rotated_vectors_depends_on_their_distance() -> None:
    a, b = torch.randn(2, 8, dtype=torch.float64)

    def product(at: int, other: int) -> Tensor:
        x = rotate(torch.stack([a, b]), torch.tensor([at, other]))
        return x[0] @ x[1]

    torch.testing.assert_close(product(105, 102), product(3, 0))
    assert not torch.isclose(product(105, 102), product(3, 1))


def test_a_late_start_changes_nothing_but_the_count() -> None:
    layer, x = make_layer(window=5), inputs(9)
    expected, _ = layer(x)
    late = layer.initial_state(1)
    for _ in range(20):  # as many steps as push what was there out of the window
        _, late = layer.step(inputs(1)[:, 0], late)
    _, late = layer(x[:, :4], late)
    y, state = layer(x[:, 4:], late)
    torch.testing.assert_close(y, expected[:, 4:])
    assert state["position"].tolist() == [29]


def test_the_position_counts_the_running_episode() -> None:
    is_init = torch.zeros(2, 6, dtype=torch.bool)
    is_init[0, [1, 4]] = True
    layer = make_layer(window=4)
    _, state = layer(torch.randn(2, 6, WIDTH).double(), is_init=is_init)
    assert state["position"].tolist() == [2, 6]
    used = state["keys"].ne(0).any(-1).any(1).tolist()
    assert used == [[False, True, True], [True, True, True]]


@pytest.mark.parametrize("num_heads", [3, 8])
def test_heads_of_no_even_width_are_refused(num_heads: int) -> None:
    message = rf"d_model = 8 into heads of even width, got num_heads={num_heads}; .* 4"
    with pytest.raises(ValueError, match=message):
        Attention(8, num_heads=num_heads)
