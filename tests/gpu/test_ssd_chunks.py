"""The recurrence in chunks at training's sizes: the kernels' is that of torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from drama_torchrl.kernels.ssd_chunks import MIN_LENGTH, can_chunk, ssd_chunks
from drama_torchrl.modules.ssd import ssd, ssd_chunked

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
Run = Callable[..., tuple[Tensor, Tensor]]
HEADS, WIDTH, STATE = 8, 128, 16
# Relative errors: of float32 sums, and of factors rounded to bf16.
ERRORS = {torch.float32: 1e-4, torch.bfloat16: 1.5e-2}
dtypes = pytest.mark.parametrize("dtype", ERRORS, ids=["float32", "bfloat16"])


@pytest.fixture(autouse=True)
def exact_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


def make_inputs(
    batch: int, length: int, dtype: torch.dtype, *, stateful: bool = False
) -> dict[str, Tensor]:
    """Parts of one tensor with decays as after the layer's initialisation."""
    inner = HEADS * WIDTH
    joint = torch.randn(batch, length, inner + 2 * STATE, device="cuda").to(dtype)
    x, B, C = joint.split([inner, STATE, STATE], -1)
    steps = torch.rand(batch, length, HEADS, device="cuda") * 4.6 - 6.9
    inputs = {
        "x": x.unflatten(-1, (HEADS, WIDTH)),
        "dt": steps.exp(),
        "A": -torch.linspace(1.0, 16.0, HEADS, device="cuda"),
        "B": B,
        "C": C,
    }
    if stateful:
        shape = (batch, HEADS, WIDTH, STATE)
        inputs["initial_state"] = torch.randn(shape, device="cuda")
    return inputs


def episodes(batch: int, length: int) -> Tensor:
    is_init = torch.rand(batch, length, device="cuda") < 0.02
    is_init[:, 63:65] = True
    return is_init


def results(
    run: Run, inputs: dict[str, Tensor], is_init: Tensor | None
) -> dict[str, Tensor]:
    leaves = {name: t.detach().requires_grad_() for name, t in inputs.items()}
    y, state = run(**leaves, is_init=is_init)
    weights = torch.linspace(-1, 2, y.numel(), device="cuda").view_as(y).sin()
    weights = weights.bfloat16().to(y.dtype)
    loss = (y * weights).sum() + (state * state.detach().cos()).sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    named = {f"d{name}": t for name, t in zip(leaves, gradients, strict=True)}
    return {"y": y, "state": state} | named


def assert_close(
    found: dict[str, Tensor], expected: dict[str, Tensor], error: float
) -> None:
    for name, wanted in expected.items():
        off = (found[name].double() - wanted.double()).norm()
        assert off <= error * wanted.double().norm(), f"{name}: {off / wanted.norm()}"


@dtypes
@pytest.mark.parametrize("resets", [False, True], ids=["one-episode", "episodes"])
@pytest.mark.parametrize("stateful", [False, True], ids=["zero-state", "with-state"])
@pytest.mark.parametrize(
    ("batch", "length"),
    [(16, 128), (16, 256), (3, 1001), (1, 8192)],
    ids=lambda n: str(n),
)
def test_it_agrees_with_the_blocks_of_torch_in_float64(
    batch: int, length: int, stateful: bool, resets: bool, dtype: torch.dtype
) -> None:
    inputs = make_inputs(batch, length, dtype, stateful=stateful)
    is_init = episodes(batch, length) if resets else None
    exact = {name: t.double() for name, t in inputs.items()}
    expected = results(ssd_chunked, exact, is_init)
    assert_close(results(ssd_chunks, inputs, is_init), expected, ERRORS[dtype])


@dtypes
def test_the_same_inputs_give_the_same_bits(dtype: torch.dtype) -> None:
    inputs, is_init = make_inputs(2, 4096, dtype), episodes(2, 4096)
    first = results(ssd_chunks, inputs, is_init)
    for _ in range(5):
        again = results(ssd_chunks, inputs, is_init)
        assert all(torch.equal(first[name], again[name]) for name in first)


def test_it_serves_what_is_long_enough() -> None:
    for length, served in ((MIN_LENGTH - 1, False), (MIN_LENGTH, True)):
        inputs = make_inputs(2, length, torch.bfloat16)
        x, B, C = inputs["x"], inputs["B"], inputs["C"]
        assert can_chunk(x, B, C) is served
        assert not can_chunk(x.double(), B.double(), C.double())
        assert not can_chunk(x, B.float(), C)


@pytest.mark.parametrize("resets", [False, True], ids=["one-episode", "episodes"])
def test_a_compiler_and_a_graph_take_it(resets: bool) -> None:
    inputs = make_inputs(16, 128, torch.bfloat16)
    is_init = episodes(16, 128) if resets else None
    expected = results(ssd, inputs, is_init)
    compiled = torch.compile(ssd, fullgraph=True, dynamic=False)
    assert_close(results(compiled, inputs, is_init), expected, 1e-2)

    leaves = {name: t.detach().requires_grad_() for name, t in inputs.items()}
    upstream = torch.ones_like(inputs["x"])

    def both() -> tuple[Tensor, ...]:
        y, _ = ssd(**leaves, is_init=is_init)
        return (y, *torch.autograd.grad(y, list(leaves.values()), upstream))

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        eager = [t.detach().clone() for t in both()]
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        captured = both()
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(captured, eager, strict=True))
