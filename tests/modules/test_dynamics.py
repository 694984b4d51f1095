"""The stack of layers: its formula and where it drops. The rest is its contract."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drama_torchrl.modules.backbones import Mamba2Dynamics
from drama_torchrl.modules.dynamics import Dynamics

BATCH, TIME, LATENT, ACTIONS, WIDTH = 3, 9, 10, 4, 8


def make_dynamics(*, dropout: float = 0.1, num_layers: int = 2) -> Dynamics:
    dynamics = Mamba2Dynamics(
        LATENT,
        ACTIONS,
        d_model=WIDTH,
        num_layers=num_layers,
        d_state=5,
        head_dim=4,
        dropout=dropout,
    )
    for name, parameter in dynamics.named_parameters():
        if "norm" in name:  # they start at one: a swap would not show
            nn.init.normal_(parameter)
    return dynamics.eval()


def sequence(batch: int = BATCH, time: int = TIME) -> tuple[Tensor, Tensor]:
    actions = torch.eye(ACTIONS)[torch.randint(ACTIONS, (batch, time))]
    return torch.rand(batch, time, LATENT), actions


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-12).sqrt() * weight


def test_it_computes_its_formula() -> None:
    dynamics, (latent, action) = make_dynamics(), sequence()
    weight = dict(dynamics.named_parameters())
    u = torch.cat([latent, action], -1) @ weight["stem.0.weight"].T
    u = F.silu(rms_norm(u + weight["stem.0.bias"], weight["stem.1.weight"]))
    for i, layer in enumerate(dynamics.layers):
        u = u + layer(rms_norm(u, weight[f"norms.{i}.weight"]))[0]
    expected = rms_norm(u, weight["final_norm.weight"])
    torch.testing.assert_close(dynamics(latent, action)[0], expected)


def inputs_of_norms(dynamics: Dynamics) -> tuple[Tensor, Tensor, Tensor]:
    """What stands in the residual stream before, between and after the layers."""
    seen: list[Tensor] = []
    norms = [*dynamics.norms, dynamics.final_norm]
    hooks = [
        norm.register_forward_pre_hook(lambda _, x: seen.append(x[0])) for norm in norms
    ]
    dynamics(*sequence(batch=8, time=32))
    for hook in hooks:
        hook.remove()
    return seen[0], seen[1], seen[2]


def test_dropout_acts_after_the_stem_and_on_each_residual_branch() -> None:
    stem, first, second = inputs_of_norms(make_dynamics(dropout=0.25).train())
    for branch in (stem, first - stem, second - first):
        dropped = (branch == 0).float().mean()
        assert abs(dropped - 0.25) < 0.05


def test_evaluation_drops_nothing() -> None:
    stem, first, second = inputs_of_norms(make_dynamics(dropout=0.25).eval())
    for branch in (stem, first - stem, second - first):
        assert (branch == 0).float().mean() < 0.01
