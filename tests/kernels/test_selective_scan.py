"""The kernels run the recurrence that the reference writes out, and its gradients."""

from __future__ import annotations

import importlib.util
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from drama_torchrl.kernels import selective_scan as kernels
from drama_torchrl.kernels.selective_scan import can_scan, selective_scan
from drama_torchrl.modules import selective_scan as modules

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="needs triton: pip install triton",
)
Inputs = dict[str, Tensor | None]
Sizes = tuple[int, int, int, int]
NAMES = ("x", "dt", "A", "B", "C", "initial_state", "is_init")
SIZES = [
    pytest.param((2, 4, 32, 16), id="one-chunk"),
    pytest.param((2, 1, 8, 4), id="one-step"),
    pytest.param((1, 9, 36, 16), id="a-last-chunk-of-one-step"),
    pytest.param((2, 14, 5, 4), id="many-chunks"),
    pytest.param((1, 7, 3, 5), id="ragged-states"),
    pytest.param((1, 5, 3, 256), id="many-states"),
    pytest.param((2, 6, 3, 1), id="one-state"),
]
DTYPES = [
    # Triton's interpreter takes the bits of bf16 for integers.
    pytest.param(torch.bfloat16, marks=pytest.mark.gpu, id="bf16"),
    pytest.param(torch.float16, id="fp16"),
]
CHUNK = 4
stateful = pytest.mark.parametrize(
    "past", [False, True], ids=["empty-past", "with-past"]
)


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's interpreter takes a millisecond for each step of each program."""
    monkeypatch.setattr(kernels, "_LENGTH", CHUNK)


def make_inputs(
    sizes: Sizes, device: torch.device, *, past: bool = True, resets: bool = True
) -> Inputs:
    """Of a layer: B and C are parts of one tensor."""
    batch, length, inner, states = sizes
    joint = torch.randn(batch, length, 2 + 2 * states, device=device)
    _, B, C = joint.split([2, states, states], -1)
    return {
        "x": torch.randn(batch, length, inner, device=device),
        "dt": torch.rand(batch, length, inner, device=device),
        "A": -torch.rand(inner, states, device=device) * 4,
        "B": B,
        "C": C,
        "initial_state": torch.randn(batch, inner, states, device=device)
        if past
        else None,
        "is_init": torch.rand(batch, length, device=device) < 0.1 if resets else None,
    }


def outcome(
    scan: Any, inputs: Inputs, *, of: tuple[str, ...] = ("y", "final")
) -> dict[str, Tensor]:
    """Values, and gradients with respect to all that has one."""
    leaves = {
        name: value.detach().requires_grad_()
        for name, value in inputs.items()
        if value is not None and value.is_floating_point()
    }
    y, final = scan(**inputs | leaves)[:2]
    found = {"y": y, "final": final}
    waves = (
        value * torch.linspace(-1, 9, value.numel()).sin().view_as(value).to(value)
        for value in (found[name] for name in of)
    )
    loss = torch.stack([wave.sum() for wave in waves]).sum()
    gradients = torch.autograd.grad(loss, [*leaves.values()], allow_unused=True)
    for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
        found[f"d{name}"] = torch.zeros_like(leaf) if gradient is None else gradient
    return {name: value.detach() for name, value in found.items()}


def exact(inputs: Inputs, **options: Any) -> dict[str, Tensor]:
    """The reference's outcome, in float64."""
    given = {
        name: value.double()
        if value is not None and value.is_floating_point()
        else value
        for name, value in inputs.items()
    }
    return outcome(modules.selective_scan_recurrent, given, **options)


def assert_agree(
    found: dict[str, Tensor], expected: dict[str, Tensor], *, error: float = 1e-5
) -> None:
    """Differences are small beside the largest number, and that of its dtype's last."""
    assert found.keys() == expected.keys()
    for name, value in found.items():
        last = 0.0 if value.dtype == torch.float32 else torch.finfo(value.dtype).eps
        # Float32 ends at 1e-38.
        atol = error * max(1e-30, expected[name].abs().max().item())
        torch.testing.assert_close(
            value.double(),
            expected[name],
            rtol=error + last,
            atol=atol,
            msg=partial("{}: {}".format, name),
        )


@stateful
@pytest.mark.parametrize("sizes", SIZES)
def test_it_is_the_recurrence_in_values_and_all_gradients(
    sizes: Sizes, past: bool, device: torch.device
) -> None:
    inputs = make_inputs(sizes, device, past=past, resets=not past)
    assert_agree(outcome(selective_scan, inputs), exact(inputs))


@stateful
def test_episodes_may_start_anywhere(past: bool, device: torch.device) -> None:
    sizes = (6, 3 * CHUNK + 1, 3, 2)
    inputs = make_inputs(sizes, device, past=past, resets=False)
    starts = torch.zeros(sizes[:2], dtype=torch.bool, device=device)
    for row, steps in enumerate([[0], [CHUNK], [CHUNK - 1, 2 * CHUNK], [1, 2], [12]]):
        starts[row, steps] = True
    found = outcome(selective_scan, inputs | {"is_init": starts})
    assert_agree(found, exact(inputs | {"is_init": starts}))


def test_chunks_have_the_length_that_they_have(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    inputs = make_inputs((1, 2 * kernels._LENGTH + 3, 3, 4), device)
    assert_agree(outcome(selective_scan, inputs), exact(inputs))


@stateful
@pytest.mark.parametrize("of", ["y", "final"])
def test_either_result_alone_has_its_gradient(
    of: str, past: bool, device: torch.device
) -> None:
    inputs = make_inputs((2, 10, 5, 4), device, past=past, resets=False)
    found = outcome(selective_scan, inputs, of=(of,))
    assert_agree(found, exact(inputs, of=(of,)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_half_precision_inputs_are_widened_first(
    dtype: torch.dtype, device: torch.device
) -> None:
    inputs = make_inputs((2, 11, 20, 8), device)
    low = {
        name: value.to(dtype)
        if value is not None and name in ("x", "B", "C", "initial_state")
        else value
        for name, value in inputs.items()
    }
    found = outcome(selective_scan, low)
    for name, value in found.items():
        given = low.get(name.removeprefix("d")) if name.startswith("d") else None
        assert value.dtype == (torch.float32 if given is None else given.dtype)
    assert_agree(found, exact(low))


@given(
    sizes=st.tuples(
        st.integers(1, 2), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)
    ),
    length=st.sampled_from([1, 2, 5]),
    states=st.sampled_from([16, 128]),
)
@settings(max_examples=10, deadline=None)
def test_any_sizes_and_any_cut_give_it(sizes: Sizes, length: int, states: int) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    inputs = make_inputs(sizes, device)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_LENGTH", length)
        patch.setattr(kernels, "_STATES_OF_A_WARP", states)
        patch.setattr(kernels, "_LEAST_CHANNELS", 2)
        found = outcome(selective_scan, inputs)
    assert_agree(found, exact(inputs))


def test_inputs_are_read_where_they_lie(device: torch.device) -> None:
    inputs = make_inputs((2, 9, 6, 4), device)
    expected = outcome(selective_scan, inputs)
    spread = {
        name: None if value is None else torch.stack([value, value], -1)[..., 0]
        for name, value in inputs.items()
    }
    assert not any(t.is_contiguous() for t in spread.values() if t is not None)
    found = outcome(selective_scan, spread)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_steps_that_forget_all_leave_no_nan(device: torch.device) -> None:
    inputs = make_inputs((1, 9, 4, 4), device)
    assert inputs["dt"] is not None
    inputs["dt"] = inputs["dt"] * 1e4
    assert_agree(outcome(selective_scan, inputs), exact(inputs))


def test_what_is_passed_is_not_written_to(device: torch.device) -> None:
    inputs = make_inputs((2, 9, 4, 4), device)
    copies = {k: None if t is None else t.clone() for k, t in inputs.items()}
    outcome(selective_scan, inputs)
    for name, value in inputs.items():
        copy = copies[name]
        assert value is not None
        assert copy is not None
        assert torch.equal(value, copy)


@stateful
def test_the_operators_are_registered_as_torch_wants(
    past: bool, device: torch.device
) -> None:
    inputs = make_inputs((1, 6, 2, 2), device, past=past, resets=past)
    leaves = [
        t.requires_grad_() if t is not None and t.is_floating_point() else t
        for t in inputs.values()
    ]
    leaves[3:5] = [t.detach().requires_grad_() for t in leaves[3:5] if t is not None]
    torch.library.opcheck(selective_scan, tuple(leaves))
    y, final, starts = selective_scan(*leaves)
    arguments = [y, final, *leaves, starts]
    detached = tuple(None if t is None else t.detach() for t in arguments)
    torch.library.opcheck(kernels.selective_scan_gradients, detached)


@pytest.mark.parametrize("grad", [False, True], ids=["values", "gradients"])
def test_on_a_gpu_one_operator_is_the_scan(grad: bool) -> None:
    def run(*inputs: Tensor) -> Tensor:
        return modules.selective_scan(*inputs)[0]

    with FakeTensorMode(), torch.set_grad_enabled(grad):
        inputs = make_inputs((2, 9, 4, 4), torch.device("cuda"), resets=False)
        graph = make_fx(run)(*(inputs[name] for name in NAMES[:5])).graph
    called = [node.target for node in graph.nodes if node.op == "call_function"]
    assert called.count(torch.ops.drama_torchrl.selective_scan.default) == 1
    assert torch.ops.aten.addcmul.default not in called


def test_a_compiler_takes_it_whole(device: torch.device) -> None:
    inputs = make_inputs((2, 9, 4, 4), device)

    def scan(**inputs: Tensor | None) -> Any:
        y, final, _ = selective_scan(**inputs)
        return y * 1.0, final

    compiled = torch.compile(scan, fullgraph=True, backend="aot_eager")
    assert_agree(outcome(compiled, inputs), exact(inputs))


def test_only_what_it_can_do_is_given_to_it() -> None:
    with FakeTensorMode():
        inputs = make_inputs((2, 18, 4, 4), torch.device("cuda"), resets=False)
        x, dt, A, B, C, state, _ = (inputs[name] for name in NAMES)
        assert x is not None
        assert A is not None
        assert state is not None
        assert can_scan(x, dt, A, B, C, None)
        assert can_scan(x.bfloat16(), dt, A, B, C, state.bfloat16())
        assert not can_scan(x.double(), dt, A, B, C, None)
        assert not can_scan(x, dt, A, B, C, state.double())
        assert not can_scan(x, dt, A.repeat(1, 65), B, C, None)
        assert not can_scan(x.cpu(), dt, A, B, C, None)
