"""The models of the paper's comparisons, and Mamba-3, are of one size."""

from __future__ import annotations

import pytest
from torch import nn

from drama_torchrl.modules.attention import Attention
from drama_torchrl.modules.backbones import (
    GRUDynamics,
    Mamba2Dynamics,
    Mamba3Dynamics,
    MambaDynamics,
    TransformerDynamics,
)
from drama_torchrl.modules.dynamics import Dynamics
from drama_torchrl.modules.feed_forward import FeedForward
from drama_torchrl.modules.gru import GRU
from drama_torchrl.modules.mamba import Mamba
from drama_torchrl.modules.mamba2 import Mamba2
from drama_torchrl.modules.mamba3 import Mamba3


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("kind", "millions"),
    [
        (Mamba2Dynamics, 3.73),
        (Mamba3Dynamics, 3.74),
        (MambaDynamics, 3.92),
        (GRUDynamics, 3.68),
        (TransformerDynamics, 3.68),
    ],
)
def test_parameters_at_the_sizes_of_the_paper(
    kind: type[Dynamics], millions: float
) -> None:
    dynamics = kind(1024, 6)  # type: ignore[call-arg]
    assert round(count(dynamics) / 1e6, 2) == millions
    assert round(count(dynamics.stem) / 1e6, 2) == 0.53


@pytest.mark.parametrize(
    ("kind", "layers"),
    [
        (Mamba2Dynamics, [Mamba2] * 3),
        (Mamba3Dynamics, [Mamba3] * 3),
        (MambaDynamics, [Mamba] * 3),
        (GRUDynamics, [GRU] * 3),
        (TransformerDynamics, [Attention, FeedForward] * 3),
    ],
)
def test_they_differ_in_their_layers(
    kind: type[Dynamics], layers: list[type[nn.Module]]
) -> None:
    dynamics = kind(4, 3, d_model=128, num_layers=3)  # type: ignore[call-arg]
    assert [type(layer) for layer in dynamics.layers] == layers
    assert len(dynamics.norms) == len(layers)


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        (Mamba2Dynamics, 39_104),
        (Mamba3Dynamics, 35_136),
        (MambaDynamics, 38_912),
        (GRUDynamics, 1_024),
        (TransformerDynamics, 129_024),
    ],
)
def test_what_is_carried_at_the_sizes_of_the_paper(
    kind: type[Dynamics], numbers: int
) -> None:
    state = kind(1024, 6).initial_state(1)  # type: ignore[call-arg]
    entries = state.flatten_keys().values()
    assert sum(t.numel() for t in entries if t.is_floating_point()) == numbers
