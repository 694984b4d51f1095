"""One GRU layer: its formulas, whichever way it is run."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from drama_torchrl.modules.gru import GRU

WIDTH = 5


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def times(matrix: list[list[float]], vector: list[float]) -> list[float]:
    return [sum(w * v for w, v in zip(row, vector, strict=True)) for row in matrix]


def layer_by_its_formulas(
    layer: GRU, x: list[list[float]], h: list[float]
) -> list[list[float]]:
    """The layer for one sequence [T][D] in plain Python numbers."""
    weights = {name: p.tolist() for name, p in layer.state_dict().items()}
    outputs = []
    for u in x:
        of_input = times(weights["cell.weight_ih"], u)
        of_state = times(weights["cell.weight_hh"], h)
        a = [w + b for w, b in zip(of_input, weights["cell.bias_ih"], strict=True)]
        c = [w + b for w, b in zip(of_state, weights["cell.bias_hh"], strict=True)]
        new = []
        for j in range(WIDTH):
            r = sigmoid(a[j] + c[j])
            i = sigmoid(a[WIDTH + j] + c[WIDTH + j])
            n = math.tanh(a[2 * WIDTH + j] + r * c[2 * WIDTH + j])
            new.append((1 - i) * n + i * h[j])
        h = new
        outputs.append(h)
    return outputs


def run_whole(layer: GRU, x: Tensor, h: Tensor) -> Tensor:
    state = layer.initial_state(1)
    state["hidden"] = h
    return layer(x, state)[0]


def run_by_steps(layer: GRU, x: Tensor, h: Tensor) -> Tensor:
    state, outputs = layer.initial_state(1), []
    state["hidden"] = h
    for t in range(x.shape[1]):
        y, state = layer.step(x[:, t], state)
        outputs.append(y)
    return torch.stack(outputs, 1)


def run_as_episodes(layer: GRU, x: Tensor, h: Tensor) -> Tensor:
    state = layer.initial_state(1)
    state["hidden"] = h
    return layer(x, state, is_init=torch.zeros(1, x.shape[1], dtype=torch.bool))[0]


@pytest.mark.parametrize("run", [run_whole, run_by_steps, run_as_episodes])
def test_every_way_computes_the_formulas(run) -> None:  # type: ignore[no-untyped-def]
    layer = GRU(WIDTH).double()
    x, h = torch.randn(1, 7, WIDTH).double(), torch.randn(1, WIDTH).double()
    expected = layer_by_its_formulas(layer, x[0].tolist(), h[0].tolist())
    torch.testing.assert_close(run(layer, x, h)[0].tolist(), expected)


def test_the_state_is_the_last_output() -> None:
    y, state = GRU(WIDTH)(torch.randn(2, 7, WIDTH))
    assert torch.equal(state["hidden"], y[:, -1])


def test_it_has_the_parameters_of_a_cell() -> None:
    shapes = {k: tuple(v.shape) for k, v in GRU(512).state_dict().items()}
    assert shapes == {
        "cell.weight_ih": (1536, 512),
        "cell.weight_hh": (1536, 512),
        "cell.bias_ih": (1536,),
        "cell.bias_hh": (1536,),
    }
