"""A Mamba-2 layer is the same layer however a sequence is cut up."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torch import Tensor

from drama_torchrl.modules.mamba2 import Mamba2


@st.composite
def partitions(draw: st.DrawFn) -> list[int]:
    """Lengths of pieces; 0 is one step taken by ``step``."""
    return draw(st.lists(st.integers(0, 9) | st.just(0), min_size=1, max_size=12))


sizes = st.fixed_dictionaries(
    {
        "d_model": st.sampled_from([2, 4, 6]),
        "d_state": st.integers(1, 5),
        "d_conv": st.integers(2, 6),
        "head_dim": st.sampled_from([1, 2, 4]),
    }
)


def run_in_pieces(
    layer: Mamba2,
    x: Tensor,
    state: TensorDict,
    is_init: Tensor | None,
    pieces: list[int],
) -> list[Tensor]:
    outputs, at = [], 0
    for length in pieces:
        here = slice(at, at + max(length, 1))
        starts = None if is_init is None else is_init[:, here]
        if length or is_init is not None:
            y, state = layer(x[:, here], state, is_init=starts)
        else:
            y, state = layer.step(x[:, at], state)
            y = y.unsqueeze(1)
        outputs.append(y)
        at += max(length, 1)
    return [torch.cat(outputs, 1), state["conv"], state["ssm"]]


@settings(max_examples=200)
@given(
    sizes=sizes,
    pieces=partitions(),
    batch=st.integers(1, 3),
    episodes=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_pieces_agree_with_the_whole(
    sizes: dict[str, Any], pieces: list[int], batch: int, episodes: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    layer = Mamba2(**sizes, dt_max=1.0).double()
    state = layer.initial_state(batch).apply(torch.randn_like)
    length = sum(max(piece, 1) for piece in pieces)
    x = torch.randn(batch, length, sizes["d_model"], dtype=torch.float64)
    is_init = torch.rand(batch, length) < 0.2 if episodes else None
    whole = run_in_pieces(layer, x, state, is_init, [length])
    torch.testing.assert_close(run_in_pieces(layer, x, state, is_init, pieces), whole)
