"""The kernel takes the step that the layer writes out, and touches nothing else."""

from __future__ import annotations

import importlib.util
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from tensordict import TensorDict
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from drama_torchrl.kernels import mamba_step as kernels
from drama_torchrl.kernels.mamba_step import can_step, mamba_step
from drama_torchrl.modules.mamba import Mamba
from drama_torchrl.modules.selective_scan import selective_scan_step

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="needs triton: pip install triton",
)


class Sizes(NamedTuple):
    """Of a batch and a layer."""

    batch: int
    inner: int
    states: int


AGENT = Sizes(2, 1024, 16)
SIZES = [
    pytest.param(AGENT, id="of-the-agent"),
    pytest.param(Sizes(3, 32, 16), id="one-program-a-sequence"),
    pytest.param(Sizes(2, 300, 5), id="ragged"),
    pytest.param(Sizes(1, 20, 256), id="many-states"),
    pytest.param(Sizes(2, 16, 1), id="one-state"),
    pytest.param(Sizes(0, 16, 4), id="no-sequences"),
]
DTYPES = [
    # Triton's interpreter takes the bits of bf16 for integers.
    pytest.param(torch.bfloat16, marks=pytest.mark.gpu, id="bf16"),
    pytest.param(torch.float16, id="fp16"),
    pytest.param(torch.float32, id="fp32"),
]


def make_inputs(
    sizes: Sizes, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, ...]:
    """What the projections give, in parts as the layer cuts them, and a state."""
    batch, inner, states = sizes
    x = torch.randn(batch, inner, device=device)
    raw = torch.randn(batch, inner, device=device).to(dtype)
    selected = torch.randn(batch, 3 + 2 * states, device=device).to(dtype)
    _, B, C = selected.split([3, states, states], -1)
    _, z = torch.randn(batch, 2 * inner, device=device).to(dtype).chunk(2, -1)
    ssm = torch.randn(batch, inner, states, device=device)
    return x, raw, B, C, z, ssm


def make_weights(sizes: Sizes, device: torch.device) -> tuple[Tensor, ...]:
    """dt_bias, A_log and D."""
    _, inner, states = sizes
    shapes = ((inner,), (inner, states), (inner,))
    return tuple(torch.randn(shape, device=device) for shape in shapes)


def expected_of(
    inputs: tuple[Tensor, ...], weights: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """The layer's formulas in float64."""
    x, raw, B, C, z, ssm, dt_bias, A_log, D = (t.double() for t in (*inputs, *weights))
    dt = F.softplus(raw + dt_bias, threshold=100)
    y, ssm = selective_scan_step(x, dt, -A_log.exp(), B, C, ssm)
    return (y + D * x) * F.silu(z), ssm


def assert_close(found: Tensor, expected: Tensor, *, error: float = 1e-5) -> None:
    torch.testing.assert_close(
        found, expected, rtol=error, atol=error, check_dtype=False
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES)
def test_it_computes_the_formulas(
    sizes: Sizes, dtype: torch.dtype, device: torch.device
) -> None:
    inputs, weights = make_inputs(sizes, dtype, device), make_weights(sizes, device)
    gated, ssm = mamba_step(*inputs, *weights)
    expected_gated, expected_ssm = expected_of(inputs, weights)
    assert gated.dtype == ssm.dtype == torch.float32
    assert_close(ssm, expected_ssm)
    assert_close(gated, expected_gated, error=1e-4)  # a sum of 256 numbers


@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_a_state_keeps_its_precision(dtype: torch.dtype, device: torch.device) -> None:
    inputs, weights = make_inputs(AGENT, dtype, device), make_weights(AGENT, device)
    inputs = (*inputs[:5], inputs[5].to(dtype))
    gated, ssm = mamba_step(*inputs, *weights)
    expected_gated, expected_ssm = expected_of(inputs, weights)
    assert ssm.dtype == dtype
    assert_close(ssm, expected_ssm, error=torch.finfo(dtype).eps)
    assert_close(gated, expected_gated, error=1e-4)  # of the state before rounding


@pytest.mark.parametrize("tile", [16, 128])
def test_any_cut_gives_the_step(
    tile: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = Sizes(2, 21, 5)
    inputs = make_inputs(sizes, torch.float32, device)
    weights = make_weights(sizes, device)
    monkeypatch.setattr(kernels, "_TILE", tile)
    found = mamba_step(*inputs, *weights)
    for value, expected in zip(found, expected_of(inputs, weights), strict=True):
        assert_close(value, expected)


def test_inputs_are_read_where_they_lie_and_not_written_to(
    device: torch.device,
) -> None:
    sizes = Sizes(2, 21, 5)
    arguments = (
        *make_inputs(sizes, torch.float32, device),
        *make_weights(sizes, device),
    )
    copies = [t.clone() for t in arguments]
    spread = [torch.stack([t, -t], -1)[..., 0] for t in arguments]
    expected, found = mamba_step(*arguments), mamba_step(*spread)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    for result in expected:
        result.fill_(torch.nan)
    assert all(torch.equal(t, c) for t, c in zip(arguments, copies, strict=True))


def test_the_operator_is_registered_as_torch_wants(device: torch.device) -> None:
    sizes = Sizes(2, 8, 4)
    inputs = make_inputs(sizes, torch.float16, device)
    torch.library.opcheck(mamba_step, (*inputs, *make_weights(sizes, device)))


def on_a_gpu(layer: Mamba) -> Mamba:
    """Moves a layer without values, where there need not be a GPU."""
    for part in layer.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                moved = torch.empty_like(parameter, device="cuda")
                part._parameters[name] = nn.Parameter(moved, requires_grad=False)
    return layer


def test_on_a_gpu_two_operators_are_the_step_without_gradients() -> None:
    def step(x: Tensor, conv: Tensor, ssm: Tensor) -> Tensor:
        state = TensorDict({"conv": conv, "ssm": ssm}, batch_size=[2])
        y: Tensor = layer.step(x, state)[0]
        return y

    with FakeTensorMode(), torch.no_grad():
        with torch.device("meta"):
            layer = Mamba(8)
        layer = on_a_gpu(layer)
        state = layer.initial_state(2)
        x = torch.empty(2, 8, device="cuda")
        graph = make_fx(step)(x, state["conv"], state["ssm"]).graph
    called = [node.target for node in graph.nodes if node.op == "call_function"]
    assert called.count(torch.ops.drama_torchrl.causal_conv_step.default) == 1
    assert called.count(torch.ops.drama_torchrl.mamba_step.default) == 1
    assert not {torch.ops.aten.addcmul.default, torch.ops.aten.exp.default} & {*called}


def test_only_what_it_can_do_is_given_to_it() -> None:
    with FakeTensorMode(), torch.no_grad():
        cuda = torch.device("cuda")
        x, raw, _, _, z, ssm = make_inputs(AGENT, torch.bfloat16, cuda)
        rates = make_weights(AGENT, cuda)
        assert can_step(x, raw, z, ssm, *rates)
        assert can_step(x, raw, z, ssm.bfloat16(), *rates)
        assert not can_step(x.double(), raw, z, ssm, *rates)
        assert not can_step(x, raw, z, ssm.double(), *rates)
        assert not can_step(x, raw, z, ssm, *(r.bfloat16() for r in rates))
        assert not can_step(x, raw, z, ssm.repeat(1, 1, 17), *rates)
        assert not can_step(x.cpu(), raw, z, ssm, *rates)
        with torch.enable_grad():
            assert not can_step(x, raw, z, ssm, *rates)
