"""Options of the studies: read, checked, all of use."""

from __future__ import annotations

import pytest

from drama_torchrl.config import ConfigError
from drama_torchrl.gridworld.options import (
    GridWorldOptions,
    MemoryOptions,
    StudyOptions,
    read_options,
)


def test_the_defaults_are_the_papers_lengths_and_sizes() -> None:
    options = read_options(GridWorldOptions, [])
    assert options.lengths == [8 * 26, 64 * 26] == [208, 1664]
    assert options.models == ["mamba2", "mamba3", "mamba", "gru", "transformer"]
    assert (options.d_model, options.num_layers, options.d_state) == (512, 2, 16)
    assert read_options(MemoryOptions, []).steps[-1] == 16_384


def test_what_is_given_wins_over_the_preset_wherever_it_stands() -> None:
    arguments = ["updates=7", "preset=quick", "models=gru,mamba", "lengths=52"]
    options = read_options(GridWorldOptions, arguments)
    assert (options.updates, options.models, options.lengths) == (
        7,
        ["gru", "mamba"],
        [52],
    )
    assert options.d_model < 512


def test_models_have_no_dropout_and_the_asked_window() -> None:
    sizes = read_options(GridWorldOptions, []).dynamics("transformer", window=208)
    assert (sizes.dropout, sizes.attention_window) == (0.0, 208)


@pytest.mark.parametrize(
    ("kind", "argument", "message"),
    [
        (GridWorldOptions, "updates", r"expected key=value"),
        (GridWorldOptions, "update=3", r"expected one of preset, .*updates.* 'update'"),
        (GridWorldOptions, "updates=0", r"updates: expected .* at least 1, got 0"),
        (GridWorldOptions, "updates=many", r"updates: expected int, got 'many'"),
        (GridWorldOptions, "lengths=200", r"lengths: expected .* 26 tokens"),
        (GridWorldOptions, "lengths=26", r"lengths: .*two steps"),
        (GridWorldOptions, "models=lstm", r"models: expected a list of mamba2"),
        (GridWorldOptions, "models=gru,gru", r"models: .*once"),
        (GridWorldOptions, "preset=xs", r"preset: expected one of full, quick"),
        (GridWorldOptions, "head_dim=100", r"^head_dim: expected a divisor .*=1024"),
        (GridWorldOptions, "d_model=100", r"^head_dim: expected a divisor .*got 128"),
        (GridWorldOptions, "attention_heads=7", r"^attention_heads: expected a div"),
        (MemoryOptions, "d_state=3", r"^d_state: expected at least 4"),
        (GridWorldOptions, "out=", r"expected key=value"),
        (MemoryOptions, "steps=4,4", r"steps: expected ascending"),
        (MemoryOptions, "steps=8,4", r"steps: expected ascending"),
        (MemoryOptions, "steps=0", r"steps: expected a list"),
    ],
)
def test_what_cannot_work_is_said(
    kind: type[StudyOptions], argument: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read_options(kind, [argument])
