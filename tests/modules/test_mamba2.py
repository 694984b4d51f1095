"""One Mamba-2 layer: parallel, step by step and split anywhere are the same layer."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor

from drama_torchrl.modules.mamba2 import Mamba2

BATCH, WIDTH, STATE, TAPS, HEAD = 2, 6, 5, 4, 4
INNER = 2 * WIDTH
HEADS = INNER // HEAD
LENGTHS = [1, 7, 63, 128, 300]
with_and_without_state = pytest.mark.parametrize(
    "stateful", [False, True], ids=["zero-state", "with-state"]
)


@pytest.fixture
def layer() -> Mamba2:
    torch.manual_seed(0)
    layer = Mamba2(WIDTH, d_state=STATE, head_dim=HEAD, dt_max=1.0).double()
    with torch.no_grad():  # D and the norm start at one: a swap would not show
        layer.D.normal_()
        layer.norm.weight.normal_()
    return layer


def make_state(layer: Mamba2, batch: int = BATCH) -> TensorDict:
    return layer.initial_state(batch).apply(torch.randn_like)


def results(
    layer: Mamba2, x: Tensor, state: TensorDict | None, *, pieces: list[int]
) -> list[Tensor]:
    """Values and gradients when x is run in pieces; a piece of 0 is one step()."""
    x = x.detach().requires_grad_()
    leaves = [x, *layer.parameters()]
    if state is not None:
        state = state.clone().requires_grad_()
        leaves += [state["conv"], state["ssm"]]
    outputs, carried, at = [], state, 0
    for length in pieces:
        if length:
            y, carried = layer(x[:, at : at + length], carried)
        else:
            if carried is None:
                carried = layer.initial_state(x.shape[0])
            y, carried = layer.step(x[:, at], carried)
            y = y.unsqueeze(1)
        at += max(length, 1)
        outputs.append(y)
    assert at == x.shape[1]
    assert carried is not None
    y = torch.cat(outputs, dim=1)
    weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
    loss = (y * weights.sin()).sum() + carried["conv"].square().sum()
    loss = loss + (carried["ssm"] * carried["ssm"].detach().cos()).sum()
    gradients = torch.autograd.grad(loss, leaves)
    return [y, carried["conv"], carried["ssm"], *gradients]


@pytest.mark.parametrize("length", LENGTHS)
@with_and_without_state
def test_step_agrees_with_forward_in_values_and_all_gradients(
    layer: Mamba2, length: int, stateful: bool
) -> None:
    x = torch.randn(BATCH, length, WIDTH, dtype=torch.float64)
    state = make_state(layer) if stateful else None
    whole = results(layer, x, state, pieces=[length])
    torch.testing.assert_close(results(layer, x, state, pieces=[0] * length), whole)


@pytest.mark.parametrize("first", range(1, 12))
@with_and_without_state
def test_a_split_anywhere_changes_no_value_and_no_gradient(
    layer: Mamba2, first: int, stateful: bool
) -> None:
    x = torch.randn(BATCH, 12, WIDTH, dtype=torch.float64)
    state = make_state(layer) if stateful else None
    whole = results(layer, x, state, pieces=[12])
    split = results(layer, x, state, pieces=[first, 12 - first])
    torch.testing.assert_close(split, whole)


@pytest.mark.parametrize(
    ("length", "pieces"),
    [
        (7, [1, 2, 1, 3]),
        (63, [2, 0, 0, 59]),
        (128, [1, 127]),
        (300, [299, 1]),
        (300, [257, 0, 42]),
    ],
)
@with_and_without_state
def test_mixed_pieces_and_steps_change_nothing(
    layer: Mamba2, length: int, pieces: list[int], stateful: bool
) -> None:
    x = torch.randn(BATCH, length, WIDTH, dtype=torch.float64)
    state = make_state(layer) if stateful else None
    whole = results(layer, x, state, pieces=[length])
    torch.testing.assert_close(results(layer, x, state, pieces=pieces), whole)


def block_by_its_formulas(
    layer: Mamba2, x: list[list[float]], conv: list[list[float]], ssm: list[Any]
) -> list[list[float]]:
    """The whole block for one sequence [T][D] in plain Python numbers.

    ``conv`` is [channels][taps - 1] and ``ssm`` [NH][P][S]; both are consumed.
    """
    weights = {name: p.tolist() for name, p in layer.state_dict().items()}
    kernel, kernel_bias = weights["conv1d.weight"], weights["conv1d.bias"]
    outputs = []
    for u in x:
        projected = [
            sum(w * v for w, v in zip(row, u, strict=True))
            for row in weights["in_proj.weight"]
        ]
        z, mixed = projected[:INNER], projected[INNER : 2 * INNER + 2 * STATE]
        raw_dt = projected[2 * INNER + 2 * STATE :]
        activated = []
        for c, value in enumerate(mixed):
            taps = [*conv[c], value]
            conv[c] = taps[1:]
            total = kernel_bias[c]
            for k in range(TAPS):
                total += kernel[c][0][k] * taps[k]
            activated.append(silu(total))
        B = activated[INNER : INNER + STATE]
        C = activated[INNER + STATE :]
        gated = []
        for head in range(HEADS):
            dt = math.log1p(math.exp(raw_dt[head] + weights["dt_bias"][head]))
            decay = math.exp(-dt * math.exp(weights["A_log"][head]))
            for p in range(HEAD):
                channel = head * HEAD + p
                h, value = ssm[head][p], activated[channel]
                for s in range(STATE):
                    h[s] = decay * h[s] + dt * B[s] * value
                y = sum(h[s] * C[s] for s in range(STATE))
                y += weights["D"][head] * value
                gated.append(y * silu(z[channel]))
        rms = math.sqrt(sum(g * g for g in gated) / INNER + 1e-5)
        normed = [
            g / rms * w for g, w in zip(gated, weights["norm.weight"], strict=True)
        ]
        outputs.append(
            [
                sum(w * g for w, g in zip(row, normed, strict=True))
                for row in weights["out_proj.weight"]
            ]
        )
    return outputs


def silu(value: float) -> float:
    return value / (1 + math.exp(-value))


@pytest.mark.parametrize("length", [1, 2, 40])
@with_and_without_state
def test_the_block_computes_its_formulas(
    layer: Mamba2, length: int, stateful: bool
) -> None:
    x = torch.randn(1, length, WIDTH, dtype=torch.float64)
    state = make_state(layer, 1) if stateful else layer.initial_state(1)
    conv, ssm = state["conv"][0].tolist(), state["ssm"][0].tolist()
    expected = block_by_its_formulas(layer, x[0].tolist(), conv, ssm)
    y, final = layer(x, state)
    torch.testing.assert_close(y[0].tolist(), expected)
    torch.testing.assert_close(final["conv"][0].tolist(), conv)
    torch.testing.assert_close(final["ssm"][0].tolist(), ssm)


@pytest.mark.parametrize("step", [0, 3, 150])
def test_outputs_before_a_changed_step_stay_bit_identical(
    layer: Mamba2, step: int
) -> None:
    x = torch.randn(BATCH, 300, WIDTH, dtype=torch.float64)
    before, _ = layer(x)
    x[:, step] += 1.0
    after, _ = layer(x)
    torch.testing.assert_close(after[:, :step], before[:, :step], rtol=0, atol=0)
    assert (after[:, step : step + TAPS] != before[:, step : step + TAPS]).all()


@pytest.mark.parametrize("start", [0, 1, 2, 3, 17, 38, 39])
@with_and_without_state
def test_an_episode_start_equals_a_fresh_run(
    layer: Mamba2, start: int, stateful: bool
) -> None:
    x = torch.randn(BATCH, 40, WIDTH, dtype=torch.float64)
    state = make_state(layer) if stateful else None
    is_init = torch.zeros(BATCH, 40, dtype=torch.bool)
    is_init[0, start] = True
    y, final = layer(x, state, is_init=is_init)
    fresh, fresh_state = layer(x[:, start:])
    torch.testing.assert_close(y[0, start:], fresh[0])
    assert_close_states(final[0], fresh_state[0])
    unbroken, unbroken_state = layer(x, state)
    torch.testing.assert_close(y[0, :start], unbroken[0, :start])
    torch.testing.assert_close(y[1], unbroken[1])
    assert_close_states(final[1], unbroken_state[1])


@pytest.mark.parametrize("split", range(1, 12))
def test_a_split_behind_an_episode_start_does_not_see_across_it(
    layer: Mamba2, split: int
) -> None:
    x = torch.randn(BATCH, 12, WIDTH, dtype=torch.float64)
    is_init = torch.zeros(BATCH, 12, dtype=torch.bool)
    is_init[0, [4, 6]] = is_init[1, 10] = True
    state = make_state(layer)
    y, final = layer(x, state, is_init=is_init)
    first, state = layer(x[:, :split], state, is_init=is_init[:, :split])
    second, state = layer(x[:, split:], state, is_init=is_init[:, split:])
    torch.testing.assert_close(torch.cat([first, second], 1), y)
    assert_close_states(state, final)


def test_passed_states_are_not_written_to(layer: Mamba2) -> None:
    state = make_state(layer)
    copy = state.clone()
    x = torch.randn(BATCH, 5, WIDTH, dtype=torch.float64)
    is_init = torch.ones(BATCH, 5, dtype=torch.bool)
    for _, new in (
        layer(x, state),
        layer(x, state, is_init=is_init),
        layer.step(x[:, 0], state),
    ):
        new.apply_(torch.Tensor.zero_)
    assert (state == copy).all()


def test_bfloat16_autocast_stays_close_and_keeps_dtypes() -> None:
    torch.manual_seed(0)
    layer = Mamba2(64, head_dim=32)
    x, state = torch.randn(4, 300, 64), make_state(layer, 4)
    y, final = layer(x, state)
    y_step, final_step = layer.step(x[:, 0], state)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y_16, final_16 = layer(x, state)
        y_step_16, final_step_16 = layer.step(x[:, 0], state)
    assert y_16.dtype == y_step_16.dtype == torch.bfloat16
    assert (y_16 - y).norm() < 0.02 * y.norm()
    assert (y_step_16 - y_step).norm() < 0.02 * y_step.norm()
    for low, full in ((final_16, final), (final_step_16, final_step)):
        assert low["ssm"].dtype == torch.float32
        assert low["conv"].dtype == torch.bfloat16
        for key in ("conv", "ssm"):
            assert (low[key] - full[key]).norm() < 0.02 * full[key].norm()


def test_bfloat16_autocast_gives_every_parameter_a_close_gradient() -> None:
    torch.manual_seed(0)
    layer = Mamba2(64, head_dim=32)
    x = torch.randn(4, 100, 64)
    target = torch.randn(4, 100, 64)
    exact = torch.autograd.grad((layer(x)[0] * target).sum(), [*layer.parameters()])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = (layer(x)[0] * target).sum()
    gradients = torch.autograd.grad(loss, [*layer.parameters()])
    for (name, _), low, full in zip(
        layer.named_parameters(), gradients, exact, strict=True
    ):
        assert low.dtype == torch.float32
        assert (low - full).norm() < 0.03 * full.norm(), name


def test_parameters_have_the_names_and_shapes_of_mamba_ssm() -> None:
    shapes = {k: tuple(v.shape) for k, v in Mamba2(512).state_dict().items()}
    assert shapes == {
        "dt_bias": (8,),
        "A_log": (8,),
        "D": (8,),
        "in_proj.weight": (2088, 512),
        "conv1d.weight": (1056, 1, 4),
        "conv1d.bias": (1056,),
        "norm.weight": (1024,),
        "out_proj.weight": (512, 1024),
    }


def test_initialisation_has_the_stated_ranges() -> None:
    torch.manual_seed(0)
    layer = Mamba2(2048, head_dim=1, d_state=1)  # 4096 heads: both ends are reached
    dt = torch.nn.functional.softplus(layer.dt_bias)
    rates = layer.A_log.exp()
    assert 0.001 * 0.999 < dt.min() < 0.00105
    assert 0.095 < dt.max() < 0.1 * 1.001
    assert dt.log().mean().item() == pytest.approx(math.log(0.01), abs=0.1)
    assert 1 <= rates.min() < 1.1
    assert 15.9 < rates.max() <= 16
    assert rates.mean().item() == pytest.approx(8.5, abs=0.3)
    assert (layer.D == 1).all()
    assert (layer.norm.weight == 1).all()
    floored = Mamba2(8, head_dim=1, dt_min=1e-8, dt_max=1e-7, dt_init_floor=1e-3)
    torch.testing.assert_close(
        torch.nn.functional.softplus(floored.dt_bias), torch.full((16,), 1e-3)
    )


def test_the_recurrence_parameters_are_marked_for_no_weight_decay() -> None:
    marked = {
        name
        for name, parameter in Mamba2(8, head_dim=4).named_parameters()
        if getattr(parameter, "_no_weight_decay", False)
    }
    assert marked == {"dt_bias", "A_log", "D"}


def test_a_state_dict_round_trip_gives_bit_equal_outputs(layer: Mamba2) -> None:
    other = Mamba2(WIDTH, d_state=STATE, head_dim=HEAD).double()
    other.load_state_dict(layer.state_dict(), strict=True)
    x = torch.randn(BATCH, 9, WIDTH, dtype=torch.float64)
    torch.testing.assert_close(other(x)[0], layer(x)[0], rtol=0, atol=0)


@pytest.mark.parametrize(
    "batch_size", [3, torch.Size([3]), torch.Size([]), torch.Size([5, 3])], ids=str
)
def test_initial_state_is_zero_and_has_the_batch_size(
    batch_size: int | torch.Size,
) -> None:
    state = Mamba2(8, head_dim=4).initial_state(batch_size)
    size = (batch_size,) if isinstance(batch_size, int) else tuple(batch_size)
    assert state.batch_size == size
    assert state["conv"].shape == (*size, 48, 3)
    assert state["ssm"].shape == (*size, 4, 4, 16)
    assert state["ssm"].dtype == torch.float32
    assert not state.any()


@pytest.mark.parametrize("taps", [1, 2, 6])
def test_any_number_of_taps_steps_as_it_runs(taps: int) -> None:
    torch.manual_seed(0)
    layer = Mamba2(WIDTH, head_dim=HEAD, d_conv=taps).double()
    x = torch.randn(BATCH, 9, WIDTH, dtype=torch.float64)
    torch.testing.assert_close(
        results(layer, x, None, pieces=[2] + [0] * 7),
        results(layer, x, None, pieces=[9]),
    )


def test_it_is_a_tensordict_module_that_feeds_itself(layer: Mamba2) -> None:
    module = TensorDictModule(
        layer, in_keys=["x", "state"], out_keys=["y", ("next", "state")]
    )
    x = torch.randn(BATCH, 8, WIDTH, dtype=torch.float64)
    whole, _ = layer(x)
    td = TensorDict({"x": x[:, :5], "state": layer.initial_state(BATCH)}, [BATCH])
    td = module(td)
    again = TensorDict({"x": x[:, 5:], "state": td["next", "state"]}, [BATCH])
    again = module(again)
    torch.testing.assert_close(torch.cat([td["y"], again["y"]], 1), whole)
    assert again["next", "state"].batch_size == (BATCH,)


@pytest.mark.parametrize("resets", [False, True], ids=["one-episode", "episodes"])
def test_it_compiles_without_a_graph_break(layer: Mamba2, resets: bool) -> None:
    x, state = torch.randn(BATCH, 7, WIDTH, dtype=torch.float64), make_state(layer)
    is_init = torch.zeros(BATCH, 7, dtype=torch.bool) if resets else None

    def run(x: Tensor, state: TensorDict) -> tuple[Tensor, Tensor, Tensor]:
        y, state = layer(x, state, is_init=is_init)
        y_step, state = layer.step(x[:, 0], state)
        return y, y_step, state["ssm"]

    compiled = torch.compile(run, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, state), run(x, state))


def assert_close_states(state: TensorDict, expected: TensorDict) -> None:
    assert set(state.keys()) == set(expected.keys()) == {"conv", "ssm"}
    for key in ("conv", "ssm"):
        torch.testing.assert_close(state[key], expected[key])


def test_a_head_dim_that_does_not_divide_is_refused() -> None:
    message = r"8 \* 2 = 16 to be a multiple of head_dim, got head_dim=12; .*such as 4"
    with pytest.raises(ValueError, match=message):
        Mamba2(8, head_dim=12)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 8), r"x: expected shape \[B, T, D\].*got \(2, 8\); use forward"),
        ((2, 3, 7), r"d_model = 8, got \(2, 3, 7\)"),
        ((2, 0, 8), r"got \(2, 0, 8\); use forward for \[B, T, D\], T > 0"),
    ],
)
def test_forward_refuses_wrong_inputs(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mamba2(8, head_dim=4)(torch.zeros(shape))


def test_step_refuses_a_sequence() -> None:
    layer = Mamba2(8, head_dim=4)
    with pytest.raises(ValueError, match=r"expected shape \[B, D\].*got \(2, 3, 8\)"):
        layer.step(torch.zeros(2, 3, 8), layer.initial_state(2))


def test_a_state_of_another_batch_size_is_refused() -> None:
    layer = Mamba2(8, head_dim=4)
    message = (
        r'state\["conv"\]: expected shape \(2, 48, 3\) .* batch size 2, '
        r"got \(3, 48, 3\); start with initial_state\(2\)"
    )
    with pytest.raises(ValueError, match=message):
        layer(torch.zeros(2, 1, 8), layer.initial_state(3))
    with pytest.raises(ValueError, match=message):
        layer.step(torch.zeros(2, 8), layer.initial_state(3))


def test_is_init_with_a_trailing_dimension_is_refused() -> None:
    is_init = torch.zeros(2, 3, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"\(2, 3\), got \(2, 3, 1\); squeeze"):
        Mamba2(8, head_dim=4)(torch.zeros(2, 3, 8), is_init=is_init)
