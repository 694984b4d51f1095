"""The kernel takes the step that the layer writes out, and touches nothing else."""

from __future__ import annotations

import importlib.util
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from drama_torchrl.kernels import mamba2_step as kernels
from drama_torchrl.kernels.mamba2_step import can_step, mamba2_step
from drama_torchrl.modules.mamba2 import Mamba2

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="needs triton: pip install triton",
)


class Sizes(NamedTuple):
    """Of a batch and a layer; its head_dim is the width."""

    batch: int
    heads: int
    width: int
    states: int
    taps: int

    @property
    def channels(self) -> int:
        """Those that are convolved."""
        return self.heads * self.width + 2 * self.states


AGENT = Sizes(2, 8, 128, 16, 4)
SIZES = [
    pytest.param(AGENT, id="of-the-agent"),
    pytest.param(Sizes(3, 2, 16, 16, 4), id="one-program-a-sequence"),
    pytest.param(Sizes(2, 9, 20, 16, 4), id="ragged-channels"),
    pytest.param(Sizes(2, 5, 36, 5, 3), id="ragged-states"),
    pytest.param(Sizes(1, 2, 8, 256, 2), id="many-states"),
    pytest.param(Sizes(2, 2, 8, 1, 6), id="one-state"),
    pytest.param(Sizes(2, 2, 8, 4, 1), id="one-tap"),
    pytest.param(Sizes(0, 2, 8, 4, 4), id="no-sequences"),
]
DTYPES = [
    # Triton's interpreter takes the bits of bf16 for integers.
    pytest.param(torch.bfloat16, marks=pytest.mark.gpu, id="bf16"),
    pytest.param(torch.float16, id="fp16"),
    pytest.param(torch.float32, id="fp32"),
]


def assert_close(found: object, expected: object, *, error: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, rtol=10 * error, atol=error)


class Unnormalised(nn.RMSNorm):
    """Stands where the layer's norm does and leaves its input alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def make_layer(sizes: Sizes, device: torch.device) -> Mamba2:
    with device:
        layer = Mamba2(
            sizes.heads * sizes.width,
            expand=1,
            d_state=sizes.states,
            d_conv=sizes.taps,
            head_dim=sizes.width,
            dt_max=1.0,
        )
        nn.init.normal_(layer.D)  # it starts at one: a swap would not show
    return layer.requires_grad_(False)


def between_projections(layer: Mamba2) -> Mamba2:
    """Leaves of the layer what the kernel is to do."""
    layer.d_model = layer.in_proj.out_features
    layer.norm = Unnormalised(layer.d_inner)
    for name in ("in_proj", "out_proj"):
        setattr(layer, name, nn.Identity())
    return layer


def on_a_gpu(layer: Mamba2) -> Mamba2:
    """Moves a layer without values, where there need not be a GPU."""
    for part in layer.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                moved = torch.empty_like(parameter, device="cuda")
                part._parameters[name] = nn.Parameter(moved, requires_grad=False)
    return layer


def make_inputs(
    sizes: Sizes, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """The projection's outputs, and states such as a step leaves."""
    width = sizes.heads * (sizes.width + 1) + sizes.channels
    projected = torch.randn(sizes.batch, width, device=device).to(dtype)
    rows = torch.randn(sizes.batch, sizes.taps - 1, sizes.channels, device=device)
    shape = (sizes.batch, sizes.heads, sizes.width, sizes.states)
    ssm = torch.randn(shape, device=device)
    return projected, rows.to(dtype).transpose(1, 2), ssm


def weights(layer: Mamba2) -> tuple[Tensor, ...]:
    return (*layer._conv_parameters(), layer.dt_bias, layer.A_log, layer.D)


def expected_of(
    layer: Mamba2, projected: Tensor, conv: Tensor, ssm: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    state = TensorDict({"conv": conv, "ssm": ssm}, batch_size=conv.shape[:1])
    assert torch.is_grad_enabled()  # or it would take the kernel on a GPU
    gated, state = between_projections(layer).step(projected, state)
    return gated, state["conv"], state["ssm"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES)
def test_it_is_the_step_of_the_layer(
    sizes: Sizes, dtype: torch.dtype, device: torch.device
) -> None:
    layer, inputs = make_layer(sizes, device), make_inputs(sizes, dtype, device)
    gated, conv, ssm = mamba2_step(*inputs, *weights(layer))
    expected_gated, expected_conv, expected_ssm = expected_of(layer, *inputs)
    # x, B, C and the output, where rounded, may differ in their last bit.
    error = 1e-5 if dtype == torch.float32 else torch.finfo(dtype).eps
    assert_close(gated, expected_gated, error=error)
    assert_close(ssm, expected_ssm, error=error)
    assert conv.dtype == dtype
    assert torch.equal(conv, expected_conv)
    assert conv.transpose(1, 2).is_contiguous()
    assert ssm.is_contiguous()


@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_it_rounds_where_the_layer_does(
    dtype: torch.dtype, device: torch.device
) -> None:
    layer, inputs = make_layer(AGENT, device), make_inputs(AGENT, dtype, device)
    gated, _, ssm = mamba2_step(*inputs, *weights(layer))
    expected_gated, _, expected_ssm = expected_of(layer, *inputs)
    # Rounded elsewhere or not at all, most numbers would be another.
    for found, expected in ((gated, expected_gated), (ssm, expected_ssm)):
        same = torch.isclose(found, expected, rtol=1e-5, atol=1e-6)
        assert same.float().mean() > 0.99


@given(
    sizes=st.builds(
        Sizes,
        batch=st.integers(1, 2),
        heads=st.integers(1, 3),
        width=st.integers(1, 24),
        states=st.integers(1, 20),
        taps=st.integers(1, 5),
    ),
    tile=st.sampled_from([64, 256, 2048]),
)
@settings(max_examples=20)
def test_any_sizes_and_any_cut_give_the_step(sizes: Sizes, tile: int) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layer, inputs = make_layer(sizes, device), make_inputs(sizes, torch.float32, device)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_LAUNCH", kernels._LAUNCH._replace(tile=tile))
        found = mamba2_step(*inputs, *weights(layer))
    assert_close(found, expected_of(layer, *inputs))


def test_inputs_are_read_where_they_lie(device: torch.device) -> None:
    sizes = Sizes(3, 3, 20, 6, 4)
    layer = make_layer(sizes, device)
    projected, conv, ssm = make_inputs(sizes, torch.float32, device)
    expected = mamba2_step(projected, conv, ssm, *weights(layer))
    inputs = (
        torch.cat([projected, projected], 1)[:, : projected.shape[1]],
        conv.contiguous(),
        torch.stack([ssm, -ssm], 1)[:, 0],
    )
    assert [t.is_contiguous() for t in inputs] == [False, True, False]
    assert all(
        torch.equal(found, wanted)
        for found, wanted in zip(
            mamba2_step(*inputs, *weights(layer)), expected, strict=True
        )
    )
    columns = projected.t().contiguous().t()
    spread = [torch.stack([w, -w], -1)[..., 0] for w in weights(layer)]
    found = mamba2_step(columns, conv[:, :, :], ssm, *spread)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_the_states_of_another_precision_are_taken_on(device: torch.device) -> None:
    layer = make_layer(AGENT, device)
    projected, _, _ = make_inputs(AGENT, torch.float16, device)
    state = layer.initial_state(AGENT.batch)
    state["conv"].normal_()  # float32 and a row of taps for each channel
    inputs = (projected, state["conv"], state["ssm"])
    found = mamba2_step(*inputs, *weights(layer))
    expected = expected_of(layer, *inputs)
    assert torch.equal(found[1], expected[1])
    assert_close(found, expected, error=torch.finfo(torch.float16).eps)


def test_what_is_passed_is_not_written_to_nor_passed_on(device: torch.device) -> None:
    layer = make_layer(AGENT, device)
    arguments = (*make_inputs(AGENT, torch.float32, device), *weights(layer))
    copies = [t.clone() for t in arguments]
    for result in mamba2_step(*arguments):
        result.fill_(torch.nan)
    assert all(torch.equal(t, c) for t, c in zip(arguments, copies, strict=True))


def test_step_sizes_of_any_magnitude_are_exact(device: torch.device) -> None:
    sizes = Sizes(51, 1, 1, 1, 1)
    layer = make_layer(sizes, device)
    projected, conv, ssm = make_inputs(sizes, torch.float32, device)
    raw = torch.linspace(-100, 100, 51, dtype=torch.float64, device=device)
    projected[:] = 1.0
    projected[:, -1] = raw.float()
    layer.dt_bias.zero_()
    _, _, ssm = mamba2_step(projected, conv, torch.zeros_like(ssm), *weights(layer))
    # From zero, a state is the step size times what is the same for all.
    dt = torch.nn.functional.softplus(raw, threshold=200)
    normal = raw > -87  # no denormal numbers
    found = ssm.flatten().double() / ssm.flatten()[-1].double() * 100
    torch.testing.assert_close(found[normal], dt[normal], rtol=5e-6, atol=0)
    assert (found[~normal] < 1e-37).all()


def test_a_chain_of_steps_is_the_sequence(device: torch.device) -> None:
    layer = make_layer(Sizes(3, 2, 16, 16, 4), device)
    x = torch.randn(3, 5, 32, device=device)
    expected, last = layer(x)
    state = layer.initial_state(3)
    conv, ssm = state["conv"], state["ssm"]
    for t in range(5):
        projected = layer.in_proj(x[:, t])
        gated, conv, ssm = mamba2_step(projected, conv, ssm, *weights(layer))
        y = layer.out_proj(layer.norm(gated))
        assert_close(y, expected[:, t])
    assert_close(conv, last["conv"])
    assert_close(ssm, last["ssm"])


def test_the_operator_is_registered_as_torch_wants(device: torch.device) -> None:
    sizes = Sizes(2, 2, 8, 4, 4)
    layer = make_layer(sizes, device)
    arguments = (*make_inputs(sizes, torch.float16, device), *weights(layer))
    torch.library.opcheck(mamba2_step, arguments)


def test_on_a_gpu_one_operator_is_the_step_without_gradients() -> None:
    def step(x: Tensor, conv: Tensor, ssm: Tensor) -> Tensor:
        state = TensorDict({"conv": conv, "ssm": ssm}, batch_size=[2])
        y: Tensor = layer.step(x, state)[0]
        return y

    with FakeTensorMode(), torch.no_grad():
        layer = on_a_gpu(make_layer(AGENT, torch.device("meta")))
        x = torch.empty(2, layer.d_model, device="cuda")
        state = layer.initial_state(2)
        graph = make_fx(step)(x, state["conv"], state["ssm"]).graph
    called = [node.target for node in graph.nodes if node.op == "call_function"]
    assert called.count(torch.ops.drama_torchrl.mamba2_step.default) == 1
    assert torch.ops.aten.addcmul.default not in called


def test_only_what_it_can_do_is_given_to_it() -> None:
    device = torch.device("meta")
    with FakeTensorMode(), torch.no_grad():
        inputs = make_inputs(AGENT, torch.bfloat16, device)
        projected, conv, ssm, *rest = (
            torch.empty_like(t, device="cuda")
            for t in (*inputs, *weights(make_layer(AGENT, device)))
        )
        assert can_step(projected, conv, ssm, *rest)
        assert can_step(projected.float(), conv.float(), ssm, *rest)
        assert not can_step(projected.double(), conv, ssm, *rest)
        assert can_step(projected, conv, ssm.bfloat16(), *rest)
        assert not can_step(projected, conv, ssm.double(), *rest)
        assert not can_step(projected, conv, ssm, *(w.bfloat16() for w in rest))
        assert not can_step(projected, conv, ssm.repeat(1, 1, 1, 17), *rest)
        assert not can_step(projected.cpu(), conv, ssm, *rest)
        with torch.enable_grad():
            assert not can_step(projected, conv, ssm, *rest)
