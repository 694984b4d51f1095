"""The fused BatchNorm + SiLU against plain torch in float64.

Without a GPU the kernels run in Triton's interpreter, a few milliseconds a program:
matrices are just large enough for every loop to turn and every mask to matter.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("triton", reason="needs triton: pip install triton (Linux)")

from drama_torchrl.kernels import batch_norm_silu_backward_kernels as backward
from drama_torchrl.kernels import batch_norm_silu_forward_kernels as forward
from drama_torchrl.kernels import batch_norm_silu_operators as operators
from drama_torchrl.kernels.batch_norm_silu import (
    batch_norm_silu,
    batch_norm_silu_fused,
    batch_norm_silu_reference,
)

# NumPy's word for it in the interpreter; the infinity is wanted: SiLU(-1000) is 0.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Several programs with several tiles each, the last tile partly outside.
SIZES = [
    pytest.param(1301, 16, id="1301x16"),
    pytest.param(777, 32, id="777x32"),
    pytest.param(333, 48, id="333x48"),
    pytest.param(333, 64, id="333x64"),
    pytest.param(41, 5, id="41x5"),
    pytest.param(2, 1, id="2x1"),
]
STEP = {"momentum": 0.1, "eps": 1e-5}
# Rows of 6×20 maps, whose bands of 40 rows straddle the tiles' ends; a band longer than
# a tile; and bands that are no power of two in any dimension.
SWAPS = [
    pytest.param((2, 10, 2), 6 * 6 * 20, 16, id="to-blocks"),
    pytest.param((10, 2, 2), 6 * 6 * 20, 16, id="to-map"),
    pytest.param((2, 70, 2), 2 * 280, 64, id="to-wide-blocks"),
    pytest.param((70, 2, 2), 2 * 280, 64, id="to-wide-map"),
    pytest.param((3, 5, 7), 4 * 105, 48, id="odd"),
]


def make_inputs(
    m: int, c: int, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    x = torch.randn(m, c, device=DEVICE) * torch.linspace(0.1, 3.0, c, device=DEVICE)
    return {
        "x": (x + torch.linspace(-2.0, 2.0, c, device=DEVICE)).to(dtype),
        "weight": 1.0 + 0.5 * torch.randn(c, device=DEVICE),
        "bias": torch.randn(c, device=DEVICE),
        "running_mean": torch.randn(c, device=DEVICE),
        "running_var": torch.rand(c, device=DEVICE),
    }


def call(compute: Callable[..., Tensor], inputs: dict[str, Tensor]) -> Tensor:
    return compute(**inputs, **STEP)


def outcome(
    compute: Callable[..., Tensor], inputs: dict[str, Tensor], dy: Tensor
) -> dict[str, Tensor]:
    """Everything one call and its backward produce or change."""
    inputs = {name: value.clone() for name, value in inputs.items()}
    leaves = {n: inputs[n].requires_grad_() for n in ("x", "weight", "bias")}
    y = call(compute, inputs)
    y.backward(dy)
    gradients = {f"d{name}": leaf.grad for name, leaf in leaves.items()}
    buffers = {n: inputs[n] for n in ("running_mean", "running_var")}
    return {"y": y.detach(), **gradients, **buffers}  # type: ignore[dict-item]


def exact(inputs: dict[str, Tensor], dy: Tensor) -> dict[str, Tensor]:
    doubles = {name: value.double() for name, value in inputs.items()}
    return outcome(batch_norm_silu_reference, doubles, dy.double())


def assert_near(
    actual: dict[str, Tensor], expected: dict[str, Tensor], matrix: float, vector: float
) -> None:
    """Compares root mean square errors, and no element may lie far off either."""
    assert actual.keys() == expected.keys()
    for name, true in expected.items():
        tolerance = matrix if true.dim() == 2 else vector
        error, scale = (actual[name].double() - true).abs(), true.square().mean().sqrt()
        assert error.square().mean().sqrt() <= tolerance * scale, name
        assert error.max() <= 10 * tolerance * true.abs().max(), name


@pytest.mark.parametrize(("m", "c"), SIZES)
def test_values_gradients_and_statistics_are_those_of_float64(m: int, c: int) -> None:
    inputs, dy = make_inputs(m, c), torch.randn(m, c, device=DEVICE)
    actual, expected = outcome(batch_norm_silu_fused, inputs, dy), exact(inputs, dy)
    if m == 2:  # Two samples normalise to ±1 whatever they are: dx is all rounding.
        assert (actual.pop("dx") - expected.pop("dx")).abs().max() < 1e-4
    assert_near(actual, expected, matrix=1e-5, vector=1e-5)


@pytest.mark.parametrize(("swap", "m", "c"), SWAPS)
def test_swapped_rows_are_those_of_the_reference(
    swap: tuple[int, int, int], m: int, c: int
) -> None:
    """Values and gradients: x and dx keep their order, y and dy have the other one."""
    inputs, dy = make_inputs(m, c), torch.randn(m, c, device=DEVICE)
    fused, reference = (
        partial(compute, swap=swap)
        for compute in (batch_norm_silu_fused, batch_norm_silu_reference)
    )
    doubles = {name: value.double() for name, value in inputs.items()}
    actual = outcome(fused, inputs, dy)
    expected = outcome(reference, doubles, dy.double())
    assert_near(actual, expected, matrix=1e-5, vector=1e-5)


@pytest.mark.parametrize(
    "compute",
    [
        pytest.param(batch_norm_silu_fused, id="fused"),
        pytest.param(batch_norm_silu_reference, id="reference"),
    ],
)
def test_a_swap_moves_whole_rows(compute: Callable[..., Tensor]) -> None:
    inputs = make_inputs(24, 5)
    in_place = call(compute, inputs)
    swapped = call(partial(compute, swap=(2, 3, 2)), inputs)
    order = [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]
    torch.testing.assert_close(swapped, in_place[order + [12 + i for i in order]])


@pytest.mark.parametrize(
    ("dtype", "rounding"),
    [
        pytest.param(torch.bfloat16, 2**-8, id="bf16"),
        pytest.param(torch.float16, 2**-11, id="fp16"),
    ],
)
def test_half_precision_rounds_results_once(
    dtype: torch.dtype, rounding: float
) -> None:
    inputs, dy = make_inputs(333, 48, dtype), torch.randn(333, 48, device=DEVICE)
    actual = outcome(batch_norm_silu_fused, inputs, dy.to(dtype))
    assert actual["y"].dtype == actual["dx"].dtype == dtype
    assert actual["dweight"].dtype == torch.float32
    expected = exact(inputs, dy.to(dtype))
    assert_near(actual, expected, matrix=rounding, vector=1e-5)


def test_running_statistics_follow_batch_norm_over_several_calls() -> None:
    norm = nn.BatchNorm2d(16, momentum=0.3, device=DEVICE)
    twin = nn.BatchNorm2d(16, momentum=0.3, device=DEVICE)
    for scale in (1.0, 5.0, 0.2):
        maps = scale * torch.randn(3, 16, 8, 8, device=DEVICE) + scale
        norm(maps)
        batch_norm_silu_fused(
            maps.movedim(1, 3).reshape(-1, 16),
            twin.weight,
            twin.bias,
            twin.running_mean,  # type: ignore[arg-type]
            twin.running_var,  # type: ignore[arg-type]
            momentum=0.3,
            eps=twin.eps,
        )
    torch.testing.assert_close(twin.running_mean, norm.running_mean)
    torch.testing.assert_close(twin.running_var, norm.running_var)


def test_hundreds_of_programs_combine_as_few_do() -> None:
    chunks = torch.randn(700, 4, 5, device=DEVICE) + torch.randn(
        700, 1, 5, device=DEVICE
    )
    mean = chunks.mean(1)
    m2 = (chunks - mean[:, None]).square().sum(1)
    partials = torch.stack([torch.full_like(mean, 4.0), mean, m2])
    combine = operators._combine
    actual = torch.stack(combine(forward.combine_statistics_kernel, partials))
    flat = chunks.flatten(0, 1)
    expected = torch.stack([flat.mean(0), flat.var(0, correction=0) * len(flat)])
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    sums = torch.stack(combine(backward.combine_sums_kernel, partials[1:]))
    torch.testing.assert_close(sums, partials[1:].sum(1), rtol=1e-5, atol=1e-5)


def test_a_mean_far_above_the_deviation_costs_no_digits() -> None:
    inputs = make_inputs(1301, 16)
    inputs["x"] = 1000.0 + 0.1 * torch.randn(1301, 16, device=DEVICE)
    mean, m2 = operators.channel_statistics(inputs["x"])
    doubles = inputs["x"].double()
    # A sum of squares less the squared sum would be off by several times M2 itself.
    true = (doubles - doubles.mean(0)).square().sum(0)
    torch.testing.assert_close(m2.double(), true, rtol=1e-4, atol=0)
    torch.testing.assert_close(mean.double(), doubles.mean(0), rtol=1e-6, atol=0)
    dy = torch.randn(1301, 16, device=DEVICE)
    actual = outcome(batch_norm_silu_fused, inputs, dy)
    assert_near(actual, exact(inputs, dy), matrix=2e-3, vector=2e-3)


def test_large_inputs_neither_overflow_nor_lose_their_gradient() -> None:
    inputs, dy = make_inputs(333, 64), torch.ones(333, 64, device=DEVICE)
    inputs["weight"] = torch.full_like(inputs["weight"], 300.0)
    actual = outcome(batch_norm_silu_fused, inputs, dy)
    assert all(bool(value.isfinite().all()) for value in actual.values())
    assert_near(actual, exact(inputs, dy), matrix=1e-4, vector=1e-4)


def test_gradients_predict_the_change_along_a_direction() -> None:
    inputs = make_inputs(333, 48)
    dy = torch.randn(333, 48, device=DEVICE)
    gradients = outcome(batch_norm_silu_fused, inputs, dy)
    ways = {n: torch.randn_like(inputs[n]) for n in ("x", "weight", "bias")}
    # Along its gradient, so that x contributes as much as the parameters.
    ways["x"] = gradients["dx"] / gradients["dx"].norm()

    def moved(length: float) -> Tensor:
        shifted = {n: v.clone() for n, v in inputs.items()}
        shifted |= {n: inputs[n] + length * way for n, way in ways.items()}
        y = call(batch_norm_silu_fused, shifted)
        return (y.double() * dy.double()).sum()

    slope = (moved(0.01) - moved(-0.01)) / 0.02
    predicted = sum((gradients[f"d{n}"].double() * w).sum() for n, w in ways.items())
    torch.testing.assert_close(slope, predicted, rtol=2e-3, atol=0)


def test_a_strided_gradient_is_read_correctly() -> None:
    inputs, dy = make_inputs(41, 5), torch.randn(5, 41, device=DEVICE).T
    assert_near(
        outcome(batch_norm_silu_fused, inputs, dy), exact(inputs, dy), 1e-5, 1e-5
    )


def test_parameters_learn_where_the_input_needs_no_gradient() -> None:
    inputs, dy = make_inputs(41, 5), torch.randn(41, 5, device=DEVICE)
    expected = exact(inputs, dy)
    weight = inputs["weight"].requires_grad_()
    call(batch_norm_silu_fused, inputs).backward(dy)
    assert weight.grad is not None
    true = {"dweight": expected["dweight"]}
    assert_near({"dweight": weight.grad}, true, 1e-5, 1e-5)


def test_results_repeat_to_the_bit() -> None:
    inputs, dy = make_inputs(777, 32), torch.randn(777, 32, device=DEVICE)
    first, second = (outcome(batch_norm_silu_fused, inputs, dy) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "backend",
    ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.gpu)],
)
@pytest.mark.filterwarnings("ignore:TensorFloat32")
def test_a_compiled_region_computes_the_same_and_moves_the_buffers(
    backend: str,
) -> None:
    inputs, dy = make_inputs(40, 5), torch.randn(40, 5, device=DEVICE)

    def region(x: Tensor, **others: Any) -> Tensor:
        x = (3.0 * x).contiguous()
        return 2.0 * batch_norm_silu_fused(x, **others, swap=(2, 5, 2))

    expected = outcome(region, inputs, dy)
    torch.compiler.reset()
    compiled = torch.compile(region, backend=backend, fullgraph=True)
    actual = outcome(compiled, inputs, dy)
    torch.testing.assert_close(actual, expected)
    assert not torch.equal(actual["running_mean"], inputs["running_mean"])
    assert not torch.equal(actual["running_var"], inputs["running_var"])


def test_the_operators_keep_torchs_contract() -> None:
    inputs = make_inputs(40, 5)
    x, weight, bias = (inputs[n].requires_grad_() for n in ("x", "weight", "bias"))
    mean, m2 = operators.channel_statistics(x.detach())
    torch.library.opcheck(operators.channel_statistics, (x.detach(),))
    torch.library.opcheck(
        operators.normalise_silu,
        (x, mean, m2 / 40, weight, bias, 1e-5, [2, 5, 2]),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_choice_of_path_changes_nothing(dtype: torch.dtype) -> None:
    inputs = {n: v.to(dtype) for n, v in make_inputs(41, 5).items()}
    dy = torch.randn(41, 5, device=DEVICE, dtype=dtype)
    actual = outcome(batch_norm_silu, inputs, dy)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    assert_near(actual, exact(inputs, dy), tolerance, tolerance)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"x": torch.ones(4, 16, 2, 2)}, r"x \[M, C\].*flatten", id="map"),
        pytest.param({"x": torch.ones(1, 16)}, "two or more", id="one-sample"),
        pytest.param({"x": torch.ones(8, 16).int()}, "torch.int32", id="integers"),
        pytest.param({"x": torch.ones(16, 8).T}, r"strides \(1, 8\)", id="strided"),
        pytest.param({"bias": torch.ones(15)}, r"\[15\].*channels", id="bias"),
        pytest.param({"running_var": torch.ones(1)}, r"\[1\]\]", id="statistics"),
    ],
)
def test_wrong_input_is_refused_with_a_remedy(
    change: dict[str, Tensor], message: str
) -> None:
    inputs = {n: v.cpu() for n, v in make_inputs(8, 16).items()} | change
    with pytest.raises(ValueError, match=message):
        call(batch_norm_silu, inputs)


@pytest.mark.parametrize("swap", [(2, 3, 2), (2, 2), (0, 2, 2)], ids=str)
def test_a_swap_that_does_not_divide_the_rows_is_refused(swap: tuple[int, ...]) -> None:
    inputs = {n: v.cpu() for n, v in make_inputs(8, 16).items()}
    with pytest.raises(ValueError, match=r"divides the 8 rows .*\(1, 1, 1\) to leave"):
        call(partial(batch_norm_silu, swap=swap), inputs)


def test_the_module_serves_without_triton() -> None:
    program = """
import sys, torch
sys.modules["triton"] = None
from drama_torchrl.kernels.batch_norm_silu import batch_norm_silu
from drama_torchrl.kernels.optional_triton import triton
assert triton is None
mean, ones = torch.zeros(3), torch.ones(3)
batch_norm_silu(torch.rand(4, 3), ones, mean, mean, ones, momentum=0.1, eps=1e-5)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)


REAL_SIZES = [
    pytest.param(2048 * 4096, 16, id="64x64x16"),
    pytest.param(2048 * 1024, 32, id="32x32x32"),
    pytest.param(2048 * 256, 48, id="16x16x48"),
    pytest.param(2048 * 64, 64, id="8x8x64"),
    pytest.param(2048 * 16, 64, id="4x4x64"),
]


@pytest.mark.gpu
@pytest.mark.parametrize(("m", "c"), REAL_SIZES)
def test_real_sizes_in_bf16_are_near_float64(m: int, c: int) -> None:
    inputs = make_inputs(m, c, torch.bfloat16)
    dy = torch.randn(m, c, device=DEVICE).bfloat16()
    # Sums of millions of terms of both signs: their scale is sqrt(M), not their size.
    actual = outcome(batch_norm_silu, inputs, dy)
    assert_near(actual, exact(inputs, dy), matrix=2**-8, vector=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "swap",
    [pytest.param((2, 16, 2), id="to-blocks"), pytest.param((16, 2, 2), id="to-map")],
)
def test_real_sizes_in_bf16_swap_rows_exactly(swap: tuple[int, int, int]) -> None:
    m, c = 2048 * 1024, 32
    inputs = make_inputs(m, c, torch.bfloat16)
    dy = torch.randn(m, c, device=DEVICE).bfloat16()
    there, back = ((-1, *sizes, c) for sizes in (swap, (swap[1], swap[0], swap[2])))
    in_place = outcome(
        batch_norm_silu, inputs, dy.view(back).transpose(1, 2).reshape(m, c)
    )
    swapped = outcome(partial(batch_norm_silu, swap=swap), inputs, dy)
    in_place["y"] = in_place["y"].view(there).transpose(1, 2).reshape(m, c)
    for name, value in swapped.items():
        assert torch.equal(value, in_place[name]), name


@pytest.mark.gpu
def test_a_cuda_graph_replays_all_of_it() -> None:
    inputs = make_inputs(2048, 64, torch.bfloat16)
    dy = torch.randn(2048, 64, device=DEVICE).bfloat16()
    expected = outcome(batch_norm_silu, inputs, dy)
    leaves = {n: inputs[n].requires_grad_() for n in ("x", "weight", "bias")}
    start = inputs["running_var"].clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = call(batch_norm_silu, inputs)
        gradients = torch.autograd.grad(y, list(leaves.values()), dy)
    assert torch.equal(inputs["running_var"], start)
    graph.replay()
    actual = {"y": y, **{f"d{n}": g for n, g in zip(leaves, gradients, strict=True)}}
    for name, value in actual.items():
        assert torch.equal(value, expected[name]), name
    assert torch.equal(inputs["running_var"], expected["running_var"])
    graph.replay()
    assert not torch.equal(inputs["running_var"], expected["running_var"])
