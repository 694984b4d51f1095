"""The checks that all layers share say what was expected, what came, what to do."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from drama_torchrl.modules.sequence_layer import (
    as_size,
    check_input,
    check_is_init,
    check_state,
)


@pytest.mark.parametrize("given", [3, torch.Size([3])], ids=["int", "size"])
def test_a_number_of_sequences_is_a_batch_size(given: int | torch.Size) -> None:
    assert as_size(given) == (3,)


@pytest.mark.parametrize(
    ("shape", "ndim", "message"),
    [
        ((2, 8), 3, r"x: expected shape \[B, T, D\].*got \(2, 8\); use forward"),
        ((2, 3, 7), 3, r"d_model = 8, got \(2, 3, 7\)"),
        ((2, 0, 8), 3, r"got \(2, 0, 8\); use forward for \[B, T, D\], T > 0"),
        ((2, 3, 8), 2, r"expected shape \[B, D\].*got \(2, 3, 8\)"),
    ],
)
def test_wrong_inputs_are_refused(
    shape: tuple[int, ...], ndim: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_input(torch.zeros(shape), 8, ndim=ndim)


def test_episode_starts_with_a_trailing_dimension_are_refused() -> None:
    is_init = torch.zeros(2, 3, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"\(2, 3\), got \(2, 3, 1\); squeeze"):
        check_is_init(is_init, torch.zeros(2, 3, 8))


def test_a_state_of_another_batch_size_is_refused() -> None:
    state = TensorDict({"hidden": torch.zeros(3, 8)}, [3])
    message = (
        r'state\["hidden"\]: expected shape \(2, 8\) .* batch size 2, got \(3, 8\); '
        r"start with initial_state\(2\)"
    )
    with pytest.raises(ValueError, match=message):
        check_state(state, 2, hidden=(8,))


def test_what_fits_or_is_absent_passes() -> None:
    check_input(torch.zeros(2, 3, 8), 8, ndim=3)
    check_input(torch.zeros(2, 8), 8, ndim=2)
    check_is_init(None, torch.zeros(2, 3, 8))
    check_state(None, 2, hidden=(8,))
    check_state(TensorDict({"hidden": torch.zeros(2, 8)}, [2]), 2, hidden=(8,))
