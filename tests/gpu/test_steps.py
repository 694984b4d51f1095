"""Steps of Mamba layers at the agent's size: the kernels' are those of torch."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from drama_torchrl.modules.mamba import Mamba
from drama_torchrl.modules.mamba2 import Mamba2

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
WIDTH, STEPS, CONTEXT = 512, 5, 8
autocasts = pytest.mark.parametrize(
    "autocast", [False, True], ids=["float32", "bfloat16"]
)
Layer = Mamba | Mamba2
Results = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(params=[Mamba, Mamba2], ids=["mamba", "mamba2"])
def layer(request: pytest.FixtureRequest) -> Layer:
    layer: Layer = request.param(WIDTH).cuda()
    with torch.no_grad():
        layer.D.normal_()
    return layer


def inputs(rollouts: int, steps: int = STEPS) -> Tensor:
    return torch.randn(rollouts, steps, WIDTH, device="cuda")


def chain(layer: Layer, x: Tensor, conv: Tensor, ssm: Tensor) -> Results:
    """Steps over x [B, T, D]: the outputs and the last state."""
    state = TensorDict({"conv": conv, "ssm": ssm}, batch_size=x.shape[:1])
    outputs = []
    for t in range(x.shape[1]):
        y, state = layer.step(x[:, t], state)
        outputs.append(y)
    return torch.stack(outputs, 1), state["conv"], state["ssm"]


def start_of(layer: Layer, rollouts: int, context: int) -> tuple[Tensor, Tensor]:
    """The state after a context of random inputs; of an empty past after none."""
    state = layer.initial_state(rollouts)
    if context:
        with torch.no_grad():
            _, state = layer(inputs(rollouts, context))
    return state["conv"], state["ssm"]


def assert_close(found: Results, expected: Results, *, tolerance: float) -> None:
    for value, wanted in zip(found, expected, strict=True):
        assert value.dtype == wanted.dtype
        difference = (value.float() - wanted.float()).norm()
        assert difference <= tolerance * wanted.float().norm()


@pytest.mark.parametrize("context", [0, CONTEXT], ids=["empty-past", "after-context"])
@pytest.mark.parametrize("rollouts", [1, 1024])
@autocasts
def test_steps_without_gradients_are_those_with_them(
    layer: Layer, autocast: bool, rollouts: int, context: int
) -> None:
    x = inputs(rollouts)
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        start = start_of(layer, rollouts, context)
        before = [part.clone() for part in start]
        expected = chain(layer, x, *start)
        with torch.no_grad():
            found = chain(layer, x, *start)
    assert expected[0].requires_grad
    assert not found[0].requires_grad
    assert_close(found, expected, tolerance=2e-3 if autocast else 1e-5)
    assert all(torch.equal(part, old) for part, old in zip(start, before, strict=True))


@autocasts
def test_a_compiler_and_a_graph_take_them(layer: Layer, autocast: bool) -> None:
    x = inputs(64)

    def run(x: Tensor, conv: Tensor, ssm: Tensor) -> Results:
        return chain(layer, x, conv, ssm)

    compiled = torch.compile(run, fullgraph=True, dynamic=False)
    stream = torch.cuda.Stream()
    with (
        torch.no_grad(),
        torch.autocast("cuda", torch.bfloat16, enabled=autocast),
    ):
        start = start_of(layer, 64, CONTEXT)
        expected = chain(layer, x, *start)
        with torch.cuda.stream(stream):
            for _ in range(2):
                found = compiled(x, *start)
        torch.cuda.synchronize()
        assert_close(found, expected, tolerance=5e-3 if autocast else 1e-5)
        static = tuple(torch.zeros_like(part) for part in (x, *start))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            captured = compiled(*static)
    for place, value in zip(static, (x, *start), strict=True):
        place.copy_(value)
    graph.replay()
    torch.cuda.synchronize()
    assert_close(captured, expected, tolerance=5e-3 if autocast else 1e-5)
