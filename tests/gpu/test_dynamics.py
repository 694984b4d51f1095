"""The dynamics on a GPU: steps are the sequence, and a graph replays both."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from drama_torchrl.config import WorldModelConfig
from drama_torchrl.factories import make_dynamics
from drama_torchrl.modules import Dynamics
from tests.reference.backbones import KINDS, leaves

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.parametrize("kind", KINDS),
]
BATCH, TIME, LATENT, ACTIONS = 4, 40, 64, 6


def make(kind: str) -> tuple[Dynamics, Tensor, Tensor]:
    torch.manual_seed(0)
    config = WorldModelConfig(
        dynamics=kind, d_model=128, head_dim=64, attention_window=16
    )
    dynamics = make_dynamics(config, LATENT, ACTIONS).cuda().eval()
    action = torch.eye(ACTIONS).cuda()[torch.randint(ACTIONS, (BATCH, TIME))]
    return dynamics, torch.rand(BATCH, TIME, LATENT, device="cuda"), action


def by_steps(
    dynamics: Dynamics, latent: Tensor, action: Tensor, state: TensorDict
) -> tuple[Tensor, TensorDict]:
    beliefs = []
    for t in range(latent.shape[1]):
        belief, state = dynamics.step(latent[:, t], action[:, t], state)
        beliefs.append(belief)
    return torch.stack(beliefs, 1), state


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
def test_steps_are_the_sequence(kind: str, autocast: bool) -> None:
    dynamics, latent, action = make(kind)
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        whole, end = dynamics(latent, action)
        steps, last = by_steps(dynamics, latent, action, dynamics.initial_state(BATCH))
    tolerance = 0.03 if autocast else 1e-4
    assert (steps - whole).norm() < tolerance * whole.norm()
    for name, value in leaves(end).items():
        other = leaves(last)[name]
        assert value.dtype == other.dtype
        difference = (value - other).float().norm()
        assert difference <= tolerance * value.float().norm(), name


@pytest.mark.parametrize("resets", [False, True], ids=["one-episode", "episodes"])
def test_a_captured_graph_gives_values_and_gradients(kind: str, resets: bool) -> None:
    dynamics, latent, action = make(kind)
    is_init = None
    if resets:
        is_init = torch.zeros(BATCH, TIME, dtype=torch.bool, device="cuda")
        is_init[:, 7] = True
    parameters = [*dynamics.parameters()]

    def run() -> list[Tensor]:
        with torch.autocast("cuda", torch.bfloat16):
            belief, state = dynamics(latent, action, is_init=is_init)
            step, _ = dynamics.step(latent[:, 0], action[:, 0], state)
        loss = belief.square().mean() + step.square().mean()
        return [belief, step, *torch.autograd.grad(loss, parameters)]

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            expected = run()
    torch.cuda.synchronize()
    expected = [value.clone() for value in expected]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        found = run()
    for value in found:
        value.detach().zero_()
    graph.replay()
    torch.cuda.synchronize()
    for value, wanted in zip(found, expected, strict=True):
        assert (value - wanted).norm() <= 1e-3 * wanted.norm() + 1e-6
