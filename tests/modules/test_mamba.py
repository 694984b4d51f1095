"""One Mamba layer: its formulas, its parameters and how they start."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from drama_torchrl.modules.mamba import Mamba

BATCH, WIDTH, STATE, TAPS, RANK = 2, 6, 5, 4, 3
INNER = 2 * WIDTH


@pytest.fixture
def layer() -> Mamba:
    torch.manual_seed(0)
    layer = Mamba(WIDTH, d_state=STATE, dt_rank=RANK, dt_max=1.0).double()
    with torch.no_grad():  # D starts at one, rows of A_log alike: a swap would not show
        layer.D.normal_()
        layer.A_log.normal_()
    return layer


def silu(value: float) -> float:
    return value / (1 + math.exp(-value))


def times(matrix: list[list[float]], vector: list[float]) -> list[float]:
    return [sum(w * v for w, v in zip(row, vector, strict=True)) for row in matrix]


def block_by_its_formulas(
    layer: Mamba, x: list[list[float]], conv: list[list[float]], ssm: list[Any]
) -> list[list[float]]:
    """The block for one sequence [T][D] in plain Python numbers.

    ``conv`` is [DI][taps - 1] and ``ssm`` [DI][S]; both are consumed.
    """
    weights = {name: p.tolist() for name, p in layer.state_dict().items()}
    outputs = []
    for u in x:
        projected = times(weights["in_proj.weight"], u)
        inputs, z = projected[:INNER], projected[INNER:]
        activated = []
        for c, value in enumerate(inputs):
            taps = [*conv[c], value]
            conv[c] = taps[1:]
            kernel, bias = weights["conv1d.weight"][c][0], weights["conv1d.bias"][c]
            activated.append(silu(bias + times([kernel], taps)[0]))
        selected = times(weights["x_proj.weight"], activated)
        B, C = selected[RANK : RANK + STATE], selected[RANK + STATE :]
        raw_dt = times(weights["dt_proj.weight"], selected[:RANK])
        gated = []
        for c in range(INNER):
            dt = math.log1p(math.exp(raw_dt[c] + weights["dt_proj.bias"][c]))
            h = ssm[c]
            for s in range(STATE):
                decay = math.exp(-dt * math.exp(weights["A_log"][c][s]))
                h[s] = decay * h[s] + dt * B[s] * activated[c]
            y = sum(h[s] * C[s] for s in range(STATE))
            gated.append((y + weights["D"][c] * activated[c]) * silu(z[c]))
        outputs.append(times(weights["out_proj.weight"], gated))
    return outputs


@pytest.mark.parametrize("length", [1, 2, 40])
@pytest.mark.parametrize("stateful", [False, True], ids=["zero-state", "with-state"])
def test_the_block_computes_its_formulas(
    layer: Mamba, length: int, stateful: bool
) -> None:
    x = torch.randn(1, length, WIDTH, dtype=torch.float64)
    state = layer.initial_state(1)
    if stateful:
        state = state.apply(torch.randn_like)
    conv, ssm = state["conv"][0].tolist(), state["ssm"][0].tolist()
    expected = block_by_its_formulas(layer, x[0].tolist(), conv, ssm)
    y, final = layer(x, state)
    torch.testing.assert_close(y[0].tolist(), expected)
    torch.testing.assert_close(final["conv"][0].tolist(), conv)
    torch.testing.assert_close(final["ssm"][0].tolist(), ssm)


@pytest.mark.parametrize("step", [0, 3, 70])
def test_outputs_before_a_changed_step_stay_bit_identical(
    layer: Mamba, step: int
) -> None:
    x = torch.randn(BATCH, 100, WIDTH, dtype=torch.float64)
    before, _ = layer(x)
    x[:, step] += 1.0
    after, _ = layer(x)
    torch.testing.assert_close(after[:, :step], before[:, :step], rtol=0, atol=0)
    assert (after[:, step : step + TAPS] != before[:, step : step + TAPS]).all()


@pytest.mark.parametrize("taps", [1, 2, 6])
def test_any_number_of_taps_steps_as_it_runs(taps: int) -> None:
    layer = Mamba(WIDTH, d_conv=taps).double()
    x = torch.randn(BATCH, 9, WIDTH, dtype=torch.float64)
    state, outputs = layer.initial_state(BATCH), []
    for t in range(9):
        y, state = layer.step(x[:, t], state)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, 1), layer(x)[0])


def test_parameters_have_the_names_and_shapes_of_mamba_ssm() -> None:
    shapes = {k: tuple(v.shape) for k, v in Mamba(512).state_dict().items()}
    assert shapes == {
        "A_log": (1024, 16),
        "D": (1024,),
        "in_proj.weight": (2048, 512),
        "conv1d.weight": (1024, 1, 4),
        "conv1d.bias": (1024,),
        "x_proj.weight": (64, 1024),
        "dt_proj.weight": (1024, 32),
        "dt_proj.bias": (1024,),
        "out_proj.weight": (512, 1024),
    }


def step_sizes(layer: Mamba) -> Tensor:
    return torch.nn.functional.softplus(layer.dt_proj.bias)


def test_initialisation_has_the_stated_ranges() -> None:
    layer = Mamba(1024)
    dt = step_sizes(layer)
    assert 0.001 * 0.999 < dt.min() < 0.0011
    assert 0.095 < dt.max() < 0.1 * 1.001
    assert dt.log().mean().item() == pytest.approx(math.log(0.01), abs=0.1)
    assert layer.dt_rank == 64
    assert layer.dt_proj.weight.abs().max() <= 64**-0.5
    assert layer.dt_proj.weight.abs().max() > 0.99 * 64**-0.5
    rates = torch.arange(1.0, 17.0).expand(2048, 16)
    torch.testing.assert_close(layer.A_log.exp(), rates)
    assert (layer.D == 1).all()
    floored = Mamba(8, dt_min=1e-8, dt_max=1e-7, dt_init_floor=1e-3)
    torch.testing.assert_close(step_sizes(floored), torch.full((16,), 1e-3))


def test_the_recurrence_parameters_are_marked_for_no_weight_decay() -> None:
    marked = {
        name
        for name, parameter in Mamba(8).named_parameters()
        if getattr(parameter, "_no_weight_decay", False)
    }
    assert marked == {"A_log", "D"}


def test_a_state_dict_round_trip_gives_bit_equal_outputs(layer: Mamba) -> None:
    other = Mamba(WIDTH, d_state=STATE, dt_rank=RANK).double()
    other.load_state_dict(layer.state_dict(), strict=True)
    x = torch.randn(BATCH, 9, WIDTH, dtype=torch.float64)
    torch.testing.assert_close(other(x)[0], layer(x)[0], rtol=0, atol=0)


@pytest.mark.parametrize(
    "batch_size", [3, torch.Size([3]), torch.Size([]), torch.Size([5, 3])], ids=str
)
def test_initial_state_is_zero_and_has_the_batch_size(
    batch_size: int | torch.Size,
) -> None:
    state = Mamba(8).initial_state(batch_size)
    size = (batch_size,) if isinstance(batch_size, int) else tuple(batch_size)
    assert state.batch_size == size
    assert state["conv"].shape == (*size, 16, 3)
    assert state["ssm"].shape == (*size, 16, 16)
    assert not state.any()


@pytest.mark.parametrize("resets", [False, True], ids=["one-episode", "episodes"])
def test_it_compiles_without_a_graph_break(layer: Mamba, resets: bool) -> None:
    x = torch.randn(BATCH, 7, WIDTH, dtype=torch.float64)
    state = layer.initial_state(BATCH).apply(torch.randn_like)
    is_init = torch.zeros(BATCH, 7, dtype=torch.bool) if resets else None

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        y, after = layer(x, state, is_init=is_init)
        return y, layer.step(x[:, 0], after)[0]

    compiled = torch.compile(run, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), run(x))
