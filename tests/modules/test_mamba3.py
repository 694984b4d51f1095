"""One Mamba-3 layer: its formulas, its beginnings, and an angle that stays exact."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from drama_torchrl.modules.mamba3 import Mamba3
from drama_torchrl.precision import round_as_autocast

BATCH, WIDTH, STATE, HEAD = 2, 6, 7, 4
INNER, ANGLES = 2 * WIDTH, 1
HEADS = INNER // HEAD
with_and_without_state = pytest.mark.parametrize(
    "stateful", [False, True], ids=["zero-state", "with-state"]
)


@pytest.fixture
def layer() -> Mamba3:
    torch.manual_seed(0)
    return shaken(Mamba3(WIDTH, d_state=STATE, head_dim=HEAD, dt_max=1.0).double())


def shaken(layer: Mamba3) -> Mamba3:
    with torch.no_grad():  # what starts at one would hide a swap
        for parameter in (layer.D, layer.B_bias, layer.C_bias):
            parameter.normal_()
        for norm in (layer.B_norm, layer.C_norm):
            norm.weight.normal_()
    return layer


def make_state(layer: Mamba3, batch: int = BATCH) -> TensorDict:
    return layer.initial_state(batch).apply(torch.randn_like)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def softplus(value: float) -> float:
    return math.log1p(math.exp(value))


def normed(values: list[float], weight: list[float]) -> list[float]:
    rms = math.sqrt(sum(v * v for v in values) / len(values) + 1e-5)
    return [v / rms * w for v, w in zip(values, weight, strict=True)]


def turned(values: list[float], angles: list[float]) -> list[float]:
    values = list(values)
    for i, angle in enumerate(angles):
        a, b = values[2 * i : 2 * i + 2]
        values[2 * i] = a * math.cos(angle) - b * math.sin(angle)
        values[2 * i + 1] = a * math.sin(angle) + b * math.cos(angle)
    return values


def block_by_its_formulas(
    layer: Mamba3, x: list[list[float]], state: dict[str, Any]
) -> list[list[float]]:
    """The whole block for one sequence [T][D] in plain Python numbers.

    Of the state, ``ssm`` is [NH][P][S], ``last_B`` [NH][S], ``last_x`` [NH][P] and
    ``angle`` [NH][R]; it is changed.
    """
    weights = {name: p.tolist() for name, p in layer.state_dict().items()}
    outputs = []
    for u in x:
        row = [
            sum(w * v for w, v in zip(weight, u, strict=True))
            for weight in weights["in_proj.weight"]
        ]
        parts = []
        for width in (INNER, INNER, STATE, STATE, HEADS, HEADS, HEADS, ANGLES):
            parts.append(row[:width])
            row = row[width:]
        assert row == []
        z, value, B, C, raw_dt, raw_A, raw_share, raw_turn = parts
        B, C = normed(B, weights["B_norm.weight"]), normed(C, weights["C_norm.weight"])
        gated = []
        for n in range(HEADS):
            dt = softplus(raw_dt[n] + weights["dt_bias"][n])
            decay = math.exp(-dt * max(softplus(raw_A[n]), 1e-4))
            share = sigmoid(raw_share[n])
            angle = [
                theta + dt * math.pi * math.tanh(turn)
                for theta, turn in zip(state["angle"][n], raw_turn, strict=True)
            ]
            biases = weights["B_bias"][n][0], weights["C_bias"][n][0]
            B_n = turned([b + c for b, c in zip(B, biases[0], strict=True)], angle)
            C_n = turned([b + c for b, c in zip(C, biases[1], strict=True)], angle)
            x_n = value[n * HEAD : (n + 1) * HEAD]
            for p in range(HEAD):
                h = state["ssm"][n][p]
                for s in range(STATE):
                    earlier = state["last_x"][n][p] * state["last_B"][n][s]
                    h[s] = (
                        decay * h[s]
                        + (1 - share) * dt * decay * earlier
                        + share * dt * x_n[p] * B_n[s]
                    )
                y = sum(h[s] * C_n[s] for s in range(STATE))
                y += weights["D"][n] * x_n[p]
                gate = z[n * HEAD + p]
                gated.append(y * gate * sigmoid(gate))
            state["angle"][n], state["last_B"][n], state["last_x"][n] = angle, B_n, x_n
        outputs.append(
            [
                sum(w * g for w, g in zip(weight, gated, strict=True))
                for weight in weights["out_proj.weight"]
            ]
        )
    return outputs


@pytest.mark.parametrize("length", [1, 2, 40])
@with_and_without_state
def test_the_block_computes_its_formulas(
    layer: Mamba3, length: int, stateful: bool
) -> None:
    x = torch.randn(1, length, WIDTH, dtype=torch.float64)
    state = make_state(layer, 1) if stateful else layer.initial_state(1)
    numbers = {name: value[0].tolist() for name, value in state.items()}
    expected = block_by_its_formulas(layer, x[0].tolist(), numbers)
    y, final = layer(x, state)
    torch.testing.assert_close(y[0].tolist(), expected)
    for name in ("ssm", "last_B", "last_x"):
        torch.testing.assert_close(final[name][0].tolist(), numbers[name])
    angle = torch.tensor(numbers["angle"]).double()
    torch.testing.assert_close(final["angle"][0].cos(), angle.cos())
    torch.testing.assert_close(final["angle"][0].sin(), angle.sin())
    assert final["angle"].abs().max() <= math.pi


@pytest.mark.parametrize("length", [128, 300])
@with_and_without_state
def test_long_sequences_are_their_steps_in_values_and_all_gradients(
    layer: Mamba3, length: int, stateful: bool
) -> None:
    x = torch.randn(BATCH, length, WIDTH, dtype=torch.float64).requires_grad_()
    state = make_state(layer) if stateful else layer.initial_state(BATCH)
    state.requires_grad_()
    leaves = [x, *layer.parameters(), *state.values()]

    def results(y: Tensor, end: TensorDict) -> list[Tensor]:
        found = [y, *end.values()]
        loss = sum(
            (v * torch.linspace(-1, 2, v.numel()).view_as(v).sin()).sum() for v in found
        )
        assert isinstance(loss, Tensor)
        return [*found, *torch.autograd.grad(loss, leaves)]

    outputs, carried = [], state
    for t in range(length):
        y, carried = layer.step(x[:, t], carried)
        outputs.append(y)
    steps = results(torch.stack(outputs, 1), carried)
    torch.testing.assert_close(results(*layer(x, state)), steps)


@pytest.mark.parametrize("step", [0, 3, 150])
def test_outputs_before_a_changed_step_stay_bit_identical(
    layer: Mamba3, step: int
) -> None:
    x = torch.randn(BATCH, 300, WIDTH, dtype=torch.float64)
    before, _ = layer(x)
    x[:, step] += 1.0
    after, _ = layer(x)
    assert torch.equal(after[:, :step], before[:, :step])
    assert (after[:, step] != before[:, step]).all()


@pytest.mark.parametrize("start", [0, 1, 17, 39])
@with_and_without_state
def test_an_episode_start_equals_a_fresh_run(
    layer: Mamba3, start: int, stateful: bool
) -> None:
    x = torch.randn(BATCH, 40, WIDTH, dtype=torch.float64)
    state = make_state(layer) if stateful else None
    is_init = torch.zeros(BATCH, 40, dtype=torch.bool)
    is_init[0, start] = True
    y, final = layer(x, state, is_init=is_init)
    fresh, fresh_state = layer(x[:, start:])
    torch.testing.assert_close(y[0, start:], fresh[0])
    unbroken, unbroken_state = layer(x, state)
    torch.testing.assert_close(y[0, :start], unbroken[0, :start])
    torch.testing.assert_close(y[1], unbroken[1])
    for name in ("angle", "ssm", "last_B", "last_x"):
        torch.testing.assert_close(final[name][0], fresh_state[name][0])
        torch.testing.assert_close(final[name][1], unbroken_state[name][1])


def test_bfloat16_autocast_stays_close_and_keeps_dtypes() -> None:
    torch.manual_seed(0)
    layer = shaken(Mamba3(64, head_dim=32))
    x, target = torch.randn(4, 300, 64), torch.randn(4, 300, 64)
    y, final = layer(x)
    exact = torch.autograd.grad((y * target).sum(), [*layer.parameters()])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low, low_final = layer(x)
        loss = (low * target).sum()
        stepped, after = layer.step(x[:, 0], low_final)
    gradients = torch.autograd.grad(loss, [*layer.parameters()])
    assert low.dtype == stepped.dtype == torch.bfloat16
    assert (low - y).norm() < 0.02 * y.norm()
    for (name, _), found, expected in zip(
        layer.named_parameters(), gradients, exact, strict=True
    ):
        assert found.dtype == torch.float32
        assert (found - expected).norm() < 0.03 * expected.norm(), name
    for name in ("angle", "ssm", "last_B", "last_x"):
        kept = torch.bfloat16 if name == "last_x" else torch.float32
        assert low_final[name].dtype == after[name].dtype == kept
        assert (low_final[name] - final[name]).norm() < 0.02 * final[name].norm()


def test_the_angle_is_not_rounded_where_other_states_are() -> None:
    torch.manual_seed(0)
    layer = Mamba3(64, head_dim=32)
    x, state = torch.randn(2, 400, 64), layer.initial_state(2)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        _, whole = layer(x)
        for t in range(400):
            _, state = layer.step(x[:, t], state)
            state = round_as_autocast(state)
    # Rounded, an angle of a radian would stand still at turns below 1/512.
    off = (state["angle"] - whole["angle"]).abs()
    assert off.max() < 0.005
    assert state["angle"].dtype == torch.float32
    assert state["ssm"].dtype == state["last_B"].dtype == torch.bfloat16


def test_parameters_have_the_names_and_shapes_of_mamba_ssm() -> None:
    shapes = {k: tuple(v.shape) for k, v in Mamba3(512).state_dict().items()}
    assert shapes == {
        "dt_bias": (8,),
        "B_bias": (8, 1, 16),
        "C_bias": (8, 1, 16),
        "D": (8,),
        "in_proj.weight": (2108, 512),
        "B_norm.weight": (16,),
        "C_norm.weight": (16,),
        "out_proj.weight": (512, 1024),
    }


def test_initialisation_has_the_stated_ranges() -> None:
    torch.manual_seed(0)
    layer = Mamba3(2048, head_dim=1, d_state=4)  # 4096 heads: both ends are reached
    dt = torch.nn.functional.softplus(layer.dt_bias)
    assert 0.001 * 0.999 < dt.min() < 0.00105
    assert 0.095 < dt.max() < 0.1 * 1.001
    assert dt.log().mean().item() == pytest.approx(math.log(0.01), abs=0.1)
    for ones in (layer.D, layer.B_bias, layer.C_bias, *layer.B_norm.parameters()):
        assert (ones == 1).all()
    floored = Mamba3(8, head_dim=1, dt_min=1e-8, dt_max=1e-7, dt_init_floor=1e-3)
    torch.testing.assert_close(
        torch.nn.functional.softplus(floored.dt_bias), torch.full((16,), 1e-3)
    )


def test_the_rate_of_decay_has_a_floor() -> None:
    layer = Mamba3(8, head_dim=16, A_floor=0.5)
    rows = slice(32 + 32 + 1, 32 + 32 + 2)  # after z, x, B, C and dt of the one head
    with torch.no_grad():
        layer.in_proj.weight[rows] = -100.0
    assert layer._project_in(torch.ones(1, 8)).A.item() == -0.5


def test_the_recurrence_parameters_are_marked_for_no_weight_decay() -> None:
    marked = {
        name
        for name, parameter in Mamba3(8, head_dim=4).named_parameters()
        if getattr(parameter, "_no_weight_decay", False)
    }
    assert marked == {"dt_bias", "D"}


@pytest.mark.parametrize(
    ("fraction", "states", "angles"), [(0.5, 16, 4), (1.0, 16, 8), (0.5, 7, 1)]
)
def test_a_share_of_the_state_is_turned(
    fraction: float, states: int, angles: int
) -> None:
    layer = Mamba3(8, head_dim=4, d_state=states, rope_fraction=fraction)
    assert layer.initial_state(3)["angle"].shape == (3, 4, angles)
    assert layer.in_proj.out_features == 32 + 2 * states + 3 * 4 + angles


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head_dim": 12}, r"8 \* 2 = 16 .* head_dim=12; .*such as 4"),
        ({"head_dim": 4, "d_state": 3}, r"between 2 and d_state, got 0\.5 \* 3"),
        ({"head_dim": 4, "rope_fraction": 2.0}, r"got 2\.0 \* 16; .*rope_fraction <="),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Mamba3(8, **options)


def test_a_state_of_another_batch_size_is_refused() -> None:
    layer = Mamba3(8, head_dim=4)
    message = r"expected shape \(2, 4, 4\) .* start with initial_state\(2\)"
    with pytest.raises(ValueError, match=message):
        layer(torch.zeros(2, 1, 8), layer.initial_state(3))
    with pytest.raises(ValueError, match=message):
        layer.step(torch.zeros(2, 8), layer.initial_state(3))
