"""The kernels walk chunks as the recurrence walks steps, there and back."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from drama_torchrl.kernels import ssd_chunks_cut
from drama_torchrl.kernels.ssd_chunks import can_chunk, ssd_chunks
from drama_torchrl.modules.ssd import ssd_recurrent

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="needs triton: pip install triton",
)
Run = Callable[..., tuple[Tensor, Tensor]]
# Of float32, and of 16 bits.
CHUNK, LARGE_CHUNK = 16, 64
BATCH, HEADS = 2, 2


def make_inputs(
    length: int,
    device: torch.device,
    *,
    width: int = 16,
    size: int = 16,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """x, B and C are parts of one tensor, as in the layer."""
    inner = HEADS * width
    joint = torch.randn(BATCH, length, inner + 2 * size, device=device).to(dtype)
    x, B, C = joint.split([inner, size, size], -1)
    steps = torch.randn(BATCH, length, HEADS, device=device) - 2
    return {
        "x": x.unflatten(-1, (HEADS, width)),
        "dt": torch.nn.functional.softplus(steps),
        "A": -torch.exp(torch.randn(HEADS, device=device)),
        "B": B,
        "C": C,
    }


def make_state(inputs: dict[str, Tensor]) -> Tensor:
    x, B = inputs["x"], inputs["B"]
    return torch.randn(BATCH, *x.shape[2:], B.shape[2], device=x.device)


def starts_at(
    length: int, first: list[int], second: list[int], device: torch.device
) -> Tensor:
    is_init = torch.zeros(BATCH, length, dtype=torch.bool, device=device)
    is_init[0, first] = True
    is_init[1, second] = True
    return is_init


def results(
    run: Run,
    inputs: dict[str, Tensor],
    is_init: Tensor | None = None,
    of: str = "y and state",
) -> dict[str, Tensor]:
    """Values, and gradients of weighted sums of the outputs and of the last state."""
    leaves = {name: t.detach().requires_grad_() for name, t in inputs.items()}
    y, state = run(**leaves, is_init=is_init)
    weights = torch.linspace(-1, 2, y.numel(), device=y.device).view_as(y).sin()
    outputs, last = (y * weights).sum(), (state * state.detach().cos()).sum()
    loss = {"y": outputs, "state": last, "y and state": outputs + last}[of]
    parts = list(leaves.values())
    gradients = torch.autograd.grad(loss, parts, materialize_grads=True)
    named = {f"d{name}": t for name, t in zip(leaves, gradients, strict=True)}
    return {"y": y, "state": state} | named


def assert_close(
    found: dict[str, Tensor], expected: dict[str, Tensor], *, error: float
) -> None:
    for name, wanted in expected.items():
        assert found[name].isfinite().all(), name
        off = (found[name].double() - wanted).norm()
        assert off <= error * wanted.norm(), f"{name}: {off / wanted.norm():.1e}"


def assert_agrees(
    inputs: dict[str, Tensor],
    is_init: Tensor | None = None,
    of: str = "y and state",
    error: float = 1e-5,
) -> None:
    exact = {name: t.double() for name, t in inputs.items()}
    expected = results(ssd_recurrent, exact, is_init, of)
    found = results(ssd_chunks, inputs, is_init, of)
    assert_close(found, expected, error=error)
    dtypes = {name: t.dtype for name, t in inputs.items()}
    assert {name: found[f"d{name}"].dtype for name in inputs} == dtypes
    assert found["y"].dtype == inputs["x"].dtype
    assert found["state"].dtype == torch.float32


@pytest.fixture
def three_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cuts time as on a GPU with many more processors, of two programs, than heads."""
    monkeypatch.setattr(ssd_chunks_cut, "processors", lambda _: 3 * BATCH * HEADS // 2)
    monkeypatch.setattr(ssd_chunks_cut, "_CHUNKS_A_SEGMENT", 1)


@pytest.mark.parametrize("length", [1, 15, 16, 17, 33])
def test_values_and_gradients_are_those_of_the_recurrence(
    length: int, device: torch.device
) -> None:
    assert_agrees(make_inputs(length, device))


@pytest.mark.parametrize(
    ("width", "size"), [(20, 5), (8, 1), (80, 17)], ids=lambda n: str(n)
)
def test_sizes_that_are_no_powers_of_two_are_filled_up(
    width: int, size: int, device: torch.device
) -> None:
    assert_agrees(make_inputs(19, device, width=width, size=size))


@pytest.mark.parametrize("of", ["y", "state", "y and state"])
def test_gradients_reach_everything_from_outputs_and_from_the_last_state(
    of: str, device: torch.device
) -> None:
    inputs = make_inputs(21, device)
    inputs["initial_state"] = make_state(inputs)
    assert_agrees(inputs, of=of)


EPISODES = [
    pytest.param([0], [1], id="at-the-first-step"),
    pytest.param([15, 16], [16, 32], id="at-chunk-borders"),
    pytest.param([7, 8, 9, 10], [31, 32, 33, 47], id="one-after-the-other"),
    pytest.param([49], [3, 20, 21, 40], id="at-the-end"),
    pytest.param([], list(range(50)), id="nowhere-and-everywhere"),
]


@pytest.mark.parametrize(("first", "second"), EPISODES)
def test_episodes_start_anew(
    first: list[int], second: list[int], device: torch.device
) -> None:
    inputs = make_inputs(50, device)
    inputs["initial_state"] = make_state(inputs)
    assert_agrees(inputs, starts_at(50, first, second, device))


@pytest.mark.parametrize(("first", "second"), EPISODES)
@pytest.mark.usefixtures("three_segments")
def test_segments_of_time_make_no_difference(
    first: list[int], second: list[int], device: torch.device
) -> None:
    inputs = make_inputs(50, device)
    assert ssd_chunks_cut.cut_of(inputs["x"], inputs["B"], 64, 2).segments == 2
    inputs["initial_state"] = make_state(inputs)
    assert_agrees(inputs, starts_at(50, first, second, device))


@pytest.mark.parametrize("length", [48, 81])
@pytest.mark.usefixtures("three_segments")
def test_segments_start_from_nothing_too(length: int, device: torch.device) -> None:
    inputs = make_inputs(length, device)
    assert ssd_chunks_cut.cut_of(inputs["x"], inputs["B"], 64, 2).segments == 3
    assert_agrees(inputs)


@pytest.mark.parametrize("width", [72, 128])
@pytest.mark.usefixtures("three_segments")
def test_blocks_of_a_wide_head_make_no_difference(
    width: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssd_chunks_cut, "processors", lambda _: 3 * BATCH * HEADS)
    inputs = make_inputs(50, device, width=width)
    cut = ssd_chunks_cut.cut_of(inputs["x"], inputs["B"], 64, 2)
    assert (cut.blocks, cut.segments) == (2, 2)
    inputs["initial_state"] = make_state(inputs)
    assert_agrees(inputs, starts_at(50, [15, 16], [7, 40], device))


def test_nothing_flows_across_the_start_of_an_episode(device: torch.device) -> None:
    inputs, start = make_inputs(40, device), 18
    inputs["initial_state"] = make_state(inputs)
    is_init = starts_at(40, [start], [start], device)
    leaves = {name: t.detach().requires_grad_() for name, t in inputs.items()}
    y, state = ssd_chunks(**leaves, is_init=is_init)
    loss = y[:, start:].sum() + state.sum()
    to_x, to_state = torch.autograd.grad(loss, [leaves["x"], leaves["initial_state"]])
    assert not to_x[:, :start].any()
    assert not to_state.any()
    assert (to_x[:, start:] != 0).all()
    inputs["x"] = inputs["x"].clone()
    inputs["x"][:, :start] = 1e4
    changed, _ = ssd_chunks(**inputs, is_init=is_init)
    assert torch.equal(changed[:, start:], y[:, start:])


@pytest.mark.parametrize("scale", [1e-6, 1e3], ids=["tiny-steps", "huge-steps"])
def test_extreme_decays_give_finite_values_and_gradients(
    scale: float, device: torch.device
) -> None:
    inputs = make_inputs(33, device)
    inputs["dt"] = inputs["dt"] * scale
    assert_agrees(inputs, starts_at(33, [5], [16, 17], device), error=1e-3)


@pytest.fixture
def products_of_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes Triton's interpreter, which multiplies the bits of bf16, widen them."""
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    multiply = interpreter.InterpreterBuilder.create_dot

    def wide(factor: Any) -> Any:
        if factor.dtype.scalar != tl.bfloat16:
            return factor
        numbers = (factor.data.astype(np.uint32) << 16).view(np.float32)
        return interpreter.TensorHandle(numbers, tl.float32)

    def product(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return multiply(self, wide(a), wide(b), *rest)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", product)


@pytest.mark.parametrize(
    ("dtype", "error"),
    [(torch.float16, 4e-3), (torch.bfloat16, 2e-2)],
    ids=["fp16", "bf16"],
)
@pytest.mark.usefixtures("three_segments", "products_of_bfloat16")
def test_half_precision_costs_no_more_than_its_rounding(
    dtype: torch.dtype, error: float, device: torch.device
) -> None:
    length = 2 * LARGE_CHUNK + 5
    inputs = make_inputs(length, device, dtype=dtype)
    inputs["initial_state"] = make_state(inputs)
    is_init = starts_at(length, [LARGE_CHUNK], [3, 70], device)
    assert_agrees(inputs, is_init, error=error)


def test_the_same_inputs_give_the_same_bits(device: torch.device) -> None:
    inputs = make_inputs(33, device)
    first, second = results(ssd_chunks, inputs), results(ssd_chunks, inputs)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_memory_layouts_do_not_matter(device: torch.device) -> None:
    inputs = make_inputs(18, device)
    expected = results(ssd_chunks, inputs)

    def strided(x: Tensor, **given: Any) -> tuple[Tensor, Tensor]:
        given["dt"] = given["dt"].transpose(0, 1).contiguous().transpose(0, 1)
        given["B"] = given["B"].mT.contiguous().mT
        return ssd_chunks(x.transpose(2, 3).contiguous().transpose(2, 3), **given)

    found = results(strided, inputs)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("keep", [False, True], ids=["inference", "training"])
def test_compilers_know_the_operator(keep: bool, device: torch.device) -> None:
    inputs = make_inputs(18, device)
    state, is_init = make_state(inputs), starts_at(18, [3], [], device)
    arguments = [*inputs.values(), state]
    if keep:
        arguments = [t.detach().clone().requires_grad_() for t in arguments]
    operator = torch.ops.drama_torchrl.ssd_chunks.default
    checks = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if keep:
        checks.append("test_aot_dispatch_static")
    torch.library.opcheck(operator, (*arguments, is_init, keep), test_utils=checks)


def test_states_are_kept_for_gradients_alone(device: torch.device) -> None:
    inputs = make_inputs(18, device)
    operator = torch.ops.drama_torchrl.ssd_chunks.default
    *_, kept = operator(*inputs.values(), None, None, False)
    assert kept.numel() == 0
    *_, kept = operator(*inputs.values(), None, None, True)
    assert kept.shape == (BATCH, 2, HEADS, 16, 16)
    assert not kept[:, 0].any()


def test_a_cpu_is_served_by_torch() -> None:
    inputs = make_inputs(128, torch.device("cpu"))
    assert not can_chunk(inputs["x"], inputs["B"], inputs["C"])
