"""The kernels take a whole sequence of the convolution, and its gradients."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from drama_torchrl.kernels.causal_conv import can_convolve, causal_conv
from drama_torchrl.modules import causal_conv as torchs

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="needs triton: pip install triton",
)
Inputs = tuple[Tensor, Tensor, Tensor]
SIZES = [
    pytest.param((2, 128, 70, 4), id="of-training"),
    pytest.param((3, 8, 300, 4), id="of-imagination"),
    pytest.param((2, 45, 5, 3), id="ragged"),
    pytest.param((1, 2, 6, 4), id="shorter-than-the-taps"),
    pytest.param((2, 7, 9, 1), id="one-tap"),
]
# Of results in that dtype; what is summed up in float32 is within the last one.
DTYPES = [
    # Triton's interpreter takes the bits of bf16 for integers.
    pytest.param(torch.bfloat16, 8e-3, marks=pytest.mark.gpu, id="bf16"),
    pytest.param(torch.float16, 1e-3, id="fp16"),
    pytest.param(torch.float32, 1e-5, id="fp32"),
]
resets = pytest.mark.parametrize("resets", [False, True], ids=["whole", "episodes"])


def make_inputs(
    sizes: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device
) -> Inputs:
    """A part of a projection, as the layer gives it, and the parameters."""
    batch, length, channels, taps = sizes
    joint = torch.randn(batch, length, 2 * channels + 3, device=device).to(dtype)
    weight = torch.randn(channels, taps, device=device)
    _, inputs, _ = joint.split([channels, channels, 3], -1)
    return inputs, weight, torch.randn(channels, device=device)


def episodes(inputs: Tensor) -> Tensor:
    is_init = torch.rand(inputs.shape[:2], device=inputs.device) < 0.2
    is_init[:, 1:3] = True  # one right after the other
    return is_init


def results(y: Tensor, *leaves: Tensor) -> dict[str, Tensor]:
    weights = torch.linspace(-1, 2, y.numel(), device=y.device).view_as(y).sin()
    gradients = torch.autograd.grad((y * weights.to(y.dtype)).sum(), leaves)
    return dict(zip(("y", "dx", "dweight", "dbias"), (y, *gradients), strict=True))


@resets
@pytest.mark.parametrize(("dtype", "error"), DTYPES)
@pytest.mark.parametrize("sizes", SIZES)
def test_it_is_the_convolution_of_torch(
    sizes: tuple[int, int, int, int],
    dtype: torch.dtype,
    error: float,
    resets: bool,
    device: torch.device,
) -> None:
    inputs = make_inputs(sizes, dtype, device)
    is_init = episodes(inputs[0]) if resets else None
    leaves = [t.detach().requires_grad_() for t in inputs]
    found = results(causal_conv(*leaves, is_init, dtype), *leaves)
    exact = [t.detach().cpu().double().requires_grad_() for t in inputs]
    starts = None if is_init is None else is_init.cpu()
    u, weight, bias = exact
    y, _ = torchs.causal_conv(u, None, weight, bias, starts)
    for name, expected in results(y, *exact).items():
        assert found[name].dtype == (dtype if name in ("y", "dx") else torch.float32)
        off = (found[name].cpu().double() - expected).norm()
        assert off <= error * expected.norm(), f"{name}: {off / expected.norm()}"


def test_results_come_in_the_dtype_asked_for(device: torch.device) -> None:
    inputs = make_inputs((2, 9, 6, 4), torch.float16, device)
    y = causal_conv(*inputs, None, torch.float32)
    assert y.dtype == torch.float32
    assert torch.equal(y.half(), causal_conv(*inputs, None, torch.float16))


def test_the_same_inputs_give_the_same_bits(device: torch.device) -> None:
    inputs = make_inputs((3, 70, 40, 4), torch.float32, device)
    leaves = [t.detach().requires_grad_() for t in inputs]
    first, again = (
        results(causal_conv(*leaves, None, torch.float32), *leaves) for _ in "ab"
    )
    assert all(torch.equal(first[name], again[name]) for name in first)


@resets
def test_the_operator_is_registered_as_torch_wants(
    resets: bool, device: torch.device
) -> None:
    inputs = make_inputs((2, 6, 5, 4), torch.float32, device)
    leaves = [t.detach().requires_grad_() for t in inputs]
    is_init = episodes(inputs[0]) if resets else None
    torch.library.opcheck(causal_conv, (*leaves, is_init, torch.float32))


def test_only_what_it_can_do_is_given_to_it() -> None:
    with FakeTensorMode():
        cuda = torch.device("cuda")
        inputs, weight, bias = make_inputs((2, 8, 12, 4), torch.bfloat16, cuda)
        assert can_convolve(inputs, None, weight, bias)
        assert can_convolve(inputs.float(), None, weight, bias)
        assert not can_convolve(inputs, inputs.new_zeros(2, 12, 3), weight, bias)
        assert not can_convolve(inputs.double(), None, weight, bias)
        assert not can_convolve(inputs, None, weight.double(), bias.double())
        none, *_ = make_inputs((0, 8, 12, 4), torch.bfloat16, cuda)
        assert not can_convolve(none, None, weight, bias)
        assert not can_convolve(inputs.cpu(), None, weight, bias)
