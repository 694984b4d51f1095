"""The kernel makes what the recurrence makes that the reference writes out."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import Tensor

from drama_torchrl.kernels.ssd_one_chunk import (
    MAX_LENGTH,
    fits_one_chunk,
    ssd_one_chunk,
)
from drama_torchrl.modules.ssd import ssd, ssd_recurrent

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="needs triton: pip install triton",
)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def inputs(
    batch: int, length: int, heads: int, width: int, size: int, device: torch.device
) -> list[Tensor]:
    """x, dt, A, B, C; x, B and C are parts of one tensor, as in the layer."""
    inner = heads * width
    joint = torch.randn(batch, length, inner + 2 * size, device=device)
    x, B, C = joint.split([inner, size, size], -1)
    dt = torch.rand(batch, length, heads, device=device)
    A = -torch.rand(heads, device=device) * 4
    return [x.unflatten(-1, (heads, width)), dt, A, B, C]


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((3, 8, 2, 16, 16), id="context"),
        pytest.param((2, 1, 3, 16, 32), id="one-step"),
        pytest.param((1, 32, 1, 32, 16), id="longest"),
    ],
)
def test_it_equals_the_recurrence(
    shape: tuple[int, int, int, int, int], device: torch.device
) -> None:
    arguments = inputs(*shape, device)
    y, state = ssd_one_chunk(*arguments)
    expected_y, expected_state = ssd_recurrent(*(t.double() for t in arguments))
    torch.testing.assert_close(y, expected_y.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state, expected_state.float(), rtol=1e-4, atol=1e-5)


def test_half_precision_inputs_are_widened_first(device: torch.device) -> None:
    x, dt, A, B, C = inputs(2, 8, 2, 16, 16, device)
    x, B, C = x.half(), B.half(), C.half()
    y, state = ssd_one_chunk(x, dt, A, B, C)
    wide = (x.double(), dt.double(), A.double(), B.double(), C.double())
    expected_y, expected_state = ssd_recurrent(*wide)
    assert y.dtype == torch.float16
    torch.testing.assert_close(state, expected_state.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(y, expected_y.half(), rtol=2e-3, atol=2e-3)


def test_only_what_it_can_do_is_given_to_it() -> None:
    x, _, _, B, _ = inputs(2, 8, 2, 16, 16, torch.device("cpu"))
    with torch.no_grad():
        assert not fits_one_chunk(x, B)  # a CPU


@needs_gpu
@pytest.mark.gpu
class TestOnAGpu:
    def test_it_serves_short_sequences_without_gradients(self) -> None:
        x, _, _, B, _ = inputs(2, 8, 2, 16, 16, torch.device("cuda"))
        long = inputs(2, MAX_LENGTH + 1, 2, 16, 16, torch.device("cuda"))
        assert not fits_one_chunk(x, B)
        with torch.no_grad():
            assert fits_one_chunk(x, B)
            assert not fits_one_chunk(long[0], long[3])
            assert not fits_one_chunk(x[..., :15], B)

    def test_it_agrees_with_the_matrix_form_at_the_agents_size(self) -> None:
        arguments = inputs(1024, 8, 8, 128, 16, torch.device("cuda"))
        expected_y, expected_state = ssd(*arguments)
        with torch.no_grad():
            y, state = ssd(*arguments)
        torch.testing.assert_close(y, expected_y, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(state, expected_state, rtol=1e-3, atol=1e-3)
