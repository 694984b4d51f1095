"""The feed-forward branch: a map of each step, and nothing remembered."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from drama_torchrl.modules.feed_forward import FeedForward


def test_it_computes_its_formula_at_each_step() -> None:
    layer, x = FeedForward(4, width=6), torch.randn(2, 5, 4)
    weight = dict(layer.named_parameters())
    hidden = F.silu(x @ weight["layers.0.weight"].T + weight["layers.0.bias"])
    expected = hidden @ weight["layers.2.weight"].T + weight["layers.2.bias"]
    y, state = layer(x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(layer.step(x[:, 3], state)[0], expected[:, 3])


def test_it_remembers_nothing() -> None:
    layer = FeedForward(4, width=6)
    _, state = layer(torch.randn(2, 5, 4))
    for empty in (state, layer.initial_state(2), layer.initial_state(torch.Size([2]))):
        assert list(empty.keys()) == []
        assert empty.batch_size == (2,)
