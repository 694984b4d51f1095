"""The kernel takes the convolution's step that torch writes out."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from drama_torchrl.kernels import causal_conv_step as kernels
from drama_torchrl.kernels.causal_conv_step import can_convolve
from drama_torchrl.modules.causal_conv import causal_conv_step

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="needs triton: pip install triton",
)
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
SIZES = [
    pytest.param((2, 1024, 4), id="of-the-agent"),
    pytest.param((3, 300, 3), id="ragged-channels"),
    pytest.param((2, 5, 1), id="one-tap"),
    pytest.param((0, 8, 4), id="no-sequences"),
]
DTYPES = [
    # Triton's interpreter takes the bits of bf16 for integers.
    pytest.param(torch.bfloat16, marks=pytest.mark.gpu, id="bf16"),
    pytest.param(torch.float16, id="fp16"),
    pytest.param(torch.float32, id="fp32"),
]


def make_inputs(
    sizes: tuple[int, int, int], dtype: torch.dtype, device: torch.device
) -> Inputs:
    """Half of a projection, a past such as a step leaves, and the parameters."""
    batch, channels, taps = sizes
    inputs, _ = torch.randn(batch, 2 * channels, device=device).to(dtype).chunk(2, -1)
    rows = torch.randn(batch, taps - 1, channels, device=device).to(dtype)
    weight = torch.randn(channels, taps, device=device)
    bias = torch.randn(channels, device=device)
    return inputs, rows.transpose(1, 2), weight, bias


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES)
def test_it_is_the_step_of_torch(
    sizes: tuple[int, int, int], dtype: torch.dtype, device: torch.device
) -> None:
    inputs = make_inputs(sizes, dtype, device)
    y, past = kernels.causal_conv_step(*inputs)
    assert torch.is_grad_enabled()  # or torch's would be the kernel on a GPU
    expected_y, expected_past = causal_conv_step(*inputs)
    assert y.dtype == expected_y.dtype == torch.float32
    torch.testing.assert_close(y, expected_y)
    assert past.dtype == dtype
    assert torch.equal(past, expected_past)
    assert past.transpose(1, 2).is_contiguous()


def test_a_past_of_another_precision_is_taken_on(device: torch.device) -> None:
    inputs, past, *parameters = make_inputs((2, 40, 4), torch.float16, device)
    past = torch.randn_like(past.float().contiguous())
    found = kernels.causal_conv_step(inputs, past, *parameters)
    torch.testing.assert_close(found, causal_conv_step(inputs, past, *parameters))


def test_inputs_are_read_where_they_lie_and_not_written_to(
    device: torch.device,
) -> None:
    inputs = make_inputs((2, 40, 4), torch.float32, device)
    copies = [t.clone() for t in inputs]
    spread = [torch.stack([t, -t], -1)[..., 0] for t in inputs]
    expected = kernels.causal_conv_step(*inputs)
    found = kernels.causal_conv_step(*spread)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    for result in expected:
        result.fill_(torch.nan)
    assert all(torch.equal(t, c) for t, c in zip(inputs, copies, strict=True))


def test_the_operator_is_registered_as_torch_wants(device: torch.device) -> None:
    inputs = make_inputs((2, 12, 4), torch.float16, device)
    torch.library.opcheck(kernels.causal_conv_step, inputs)


def test_only_what_it_can_do_is_given_to_it() -> None:
    with FakeTensorMode(), torch.no_grad():
        sizes, cuda = (2, 12, 4), torch.device("cuda")
        inputs, past, *parameters = make_inputs(sizes, torch.bfloat16, cuda)
        assert can_convolve(inputs, past, *parameters)
        assert can_convolve(inputs.float(), past, *parameters)
        assert not can_convolve(inputs.double(), past, *parameters)
        assert not can_convolve(inputs, past.double(), *parameters)
        assert not can_convolve(inputs, past, *(p.double() for p in parameters))
        assert not can_convolve(inputs.cpu(), past, *parameters)
        with torch.enable_grad():
            assert not can_convolve(inputs, past, *parameters)
