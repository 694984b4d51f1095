"""The next-token model sees what came before, all of it, and nothing else."""

from __future__ import annotations

import pytest
import torch

from drama_torchrl.config import WorldModelConfig
from drama_torchrl.factories import make_dynamics
from drama_torchrl.gridworld.model import NUM_ACTIONS, TokenModel
from drama_torchrl.gridworld.tokens import VOCABULARY
from drama_torchrl.gridworld.world import CELLS
from tests.reference.backbones import KINDS


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> TokenModel:
    config = WorldModelConfig(
        dynamics=request.param,
        d_model=16,
        head_dim=8,
        attention_heads=2,
        attention_window=60,
        dropout=0.0,
    )
    return TokenModel(make_dynamics(config, len(CELLS), NUM_ACTIONS)).double()


@pytest.mark.parametrize("token", range(VOCABULARY))
def test_a_token_changes_all_predictions_from_its_own_on(
    model: TokenModel, token: int
) -> None:
    tokens = torch.full((1, 30), (token + 1) % VOCABULARY)
    other = tokens.clone()
    other[0, 10] = token
    with torch.no_grad():
        change = (model(tokens) - model(other)).abs().amax((0, 2))
    assert (change[:10] == 0).all()
    assert (change[10:] > 1e-12).all()


def test_tokens_are_all_different_to_it(model: TokenModel) -> None:
    with torch.no_grad():
        logits = model(torch.arange(VOCABULARY).unsqueeze(1))[:, 0]
    distances = torch.cdist(logits, logits) + torch.eye(VOCABULARY)
    assert distances.min() > 1e-4
