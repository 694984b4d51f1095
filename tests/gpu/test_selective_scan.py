"""The selective scan's kernels at training's sizes: exact, repeatable, captured."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from drama_torchrl.kernels.selective_scan import can_scan
from drama_torchrl.modules.selective_scan import selective_scan

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
INNER, STATES, RANK = 1024, 16, 32
SHAPES = [
    pytest.param(16, 128, id="training"),
    pytest.param(256, 8, id="contexts"),
    pytest.param(3, 1001, id="odd"),
    pytest.param(1, 16384, id="long"),
]


def make_inputs(
    batch: int, length: int, *, low: bool = True, past: bool = False
) -> list[Tensor]:
    """x, dt, A, B, C and perhaps a state, such as the layer has them at first."""
    torch.manual_seed(0)
    x = torch.randn(batch, length, INNER, device="cuda")
    dt = torch.empty_like(x).uniform_(-7, -2).exp()
    rates = torch.arange(1.0, STATES + 1, device="cuda").repeat(INNER, 1)
    joint = torch.randn(batch, length, RANK + 2 * STATES, device="cuda")
    _, B, C = (joint.bfloat16() if low else joint).split([RANK, STATES, STATES], -1)
    state = [torch.randn(batch, INNER, STATES, device="cuda")] if past else []
    return [x, dt, -rates, B, C, *state]


def outcome(inputs: list[Tensor], is_init: Tensor | None = None) -> list[Tensor]:
    """Both results, and the gradients with respect to all inputs."""
    leaves = [t.detach().requires_grad_() for t in inputs]
    state = leaves[5] if len(leaves) > 5 else None
    y, final = selective_scan(*leaves[:5], initial_state=state, is_init=is_init)
    wave = torch.linspace(-1, 9, y.numel(), device="cuda").sin().view_as(y)
    loss = (y * wave).sum() + final.square().sum()
    return [y.detach(), final.detach(), *torch.autograd.grad(loss, leaves)]


@pytest.mark.parametrize("past", [False, True], ids=["empty-past", "with-past"])
@pytest.mark.parametrize("low", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("batch", "length"), SHAPES)
def test_values_and_gradients_are_those_of_float64(
    batch: int, length: int, low: bool, past: bool
) -> None:
    inputs = make_inputs(batch, length, low=low, past=past)
    is_init = torch.rand(batch, length, device="cuda") < 0.01 if past else None
    assert can_scan(*inputs)
    found = outcome(inputs, is_init)
    doubled = [t.double() for t in inputs]
    assert not can_scan(*doubled)
    expected = outcome(doubled, is_init)
    for value, wanted in zip(found, expected, strict=True):
        last = 0.0 if value.dtype == torch.float32 else torch.finfo(value.dtype).eps
        assert (value - wanted).norm() <= (1e-5 + last) * wanted.norm()


def test_the_same_inputs_give_the_same_bits() -> None:
    inputs = make_inputs(16, 128)
    first = outcome(inputs)
    for _ in range(5):
        again = outcome(inputs)
        assert all(torch.equal(a, b) for a, b in zip(again, first, strict=True))


def test_a_compiler_and_a_graph_take_it() -> None:
    leaves = [t.detach().requires_grad_() for t in make_inputs(16, 128, low=False)]

    def run(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        y, final = selective_scan(*inputs)
        return 2 * y, final

    compiled = torch.compile(run, fullgraph=True, dynamic=False)

    def gradients(scan: object) -> list[Tensor]:
        assert callable(scan)
        y, final = scan(*leaves)
        loss = y.square().sum() + final.square().sum()
        return [y, *torch.autograd.grad(loss, leaves)]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    # Gradients are summed on the stream that first used a leaf: the captured one.
    with torch.cuda.stream(stream):
        expected = [t.clone() for t in gradients(run)]
        for _ in range(2):
            gradients(compiled)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        captured = gradients(compiled)
    for value in captured:
        value.detach().zero_()
    graph.replay()
    torch.cuda.synchronize()
    for value, wanted in zip(captured, expected, strict=True):
        assert (value - wanted).norm() <= 1e-5 * wanted.norm()


def test_training_keeps_no_states_of_single_steps() -> None:
    inputs = [t.detach().requires_grad_() for t in make_inputs(16, 128, low=False)]
    before = torch.cuda.memory_allocated()
    y, _ = selective_scan(*inputs)
    kept = torch.cuda.memory_allocated() - before
    assert y.requires_grad
    assert kept < inputs[0].numel() * STATES  # a fourth of [B, T, DI, S] in float32
