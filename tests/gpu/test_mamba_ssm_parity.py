"""Mamba2 and Mamba against mamba_ssm's own layers and their kernels."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from drama_torchrl.modules.mamba import Mamba
from drama_torchrl.modules.mamba2 import Mamba2
from drama_torchrl.modules.mamba_kernel import load_kernel, scan_with_kernel
from drama_torchrl.modules.selective_scan import selective_scan, selective_scan_chunked

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(
        importlib.util.find_spec("mamba_ssm") is None, reason="needs mamba-ssm"
    ),
    pytest.mark.filterwarnings("ignore"),  # theirs, from kernels we do not own
]
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def reference() -> Iterator[Any]:
    """mamba_ssm's Mamba2 class, with its products as near to float32 as they go.

    Triton rounds float32 operands to TF32 (10 bits, 1e-3) by default; tf32x3 makes
    three such products of each and is as good as float32.
    """
    with (
        pytest.MonkeyPatch.context() as patch,
        warnings.catch_warnings(),
        torch.backends.cudnn.flags(allow_tf32=False),
    ):
        warnings.simplefilter("ignore")
        patch.setenv("TRITON_F32_DEFAULT", "tf32x3")
        try:
            importlib.import_module("selective_scan_cuda")
        except ImportError:
            # A wheel built without CUDA lacks this part of Mamba-1, but imports it.
            name = "selective_scan_cuda"
            patch.setitem(sys.modules, name, ModuleType(name))
        module = pytest.importorskip("mamba_ssm.modules.mamba2", exc_type=ImportError)
        yield module.Mamba2


def make_reference(reference: Any) -> nn.Module:
    # The fused path needs causal_conv1d; without it the same Triton scan is used.
    layer: nn.Module = reference(512, d_state=16, headdim=128, use_mem_eff_path=False)
    return layer


def values_and_gradients(layer: nn.Module, x: Tensor) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    output = layer(x)
    y = output[0] if isinstance(layer, Mamba | Mamba2) else output
    layer.zero_grad()
    (
        y * torch.linspace(-1, 2, y.numel(), device=y.device).view_as(y).sin()
    ).sum().backward()
    gradients = {name: p.grad for name, p in layer.named_parameters()}
    found = {"output": y.detach(), "gradient of x": x.grad, **gradients}
    assert all(value is not None for value in found.values())
    return {name: value for name, value in found.items() if value is not None}


def test_one_seed_gives_the_weights_of_mamba_ssm(reference: Any) -> None:
    torch.manual_seed(0)
    theirs = make_reference(reference).state_dict()
    torch.manual_seed(0)
    ours = Mamba2(512).state_dict()
    assert list(ours) == list(theirs)
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], rtol=0, atol=0)


@pytest.mark.parametrize(("batch", "length"), [(16, 128), (4, 300)])
@pytest.mark.parametrize("weights_of", ["ours", "theirs"])
def test_values_and_gradients_equal_those_of_the_triton_kernels(
    reference: Any, batch: int, length: int, weights_of: str
) -> None:
    torch.manual_seed(0)
    ours, theirs = Mamba2(512).cuda(), make_reference(reference).cuda()
    if weights_of == "ours":
        theirs.load_state_dict(ours.state_dict(), strict=True)
    else:
        ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(batch, length, 512, device="cuda")
    expected = values_and_gradients(theirs, x)
    found = values_and_gradients(ours, x)
    assert found.keys() == expected.keys()
    errors = {
        name: ((found[name] - expected[name]).norm() / expected[name].norm()).item()
        for name in expected
    }
    assert max(errors.values()) <= TOLERANCE, errors


@pytest.fixture(scope="module")
def first_reference() -> Any:
    """mamba_ssm's Mamba class, where its CUDA part is there too."""
    if load_kernel() is None:
        pytest.skip("needs mamba-ssm with its CUDA part")
    return importlib.import_module("mamba_ssm.modules.mamba_simple").Mamba


def test_one_seed_gives_the_weights_of_its_first_layer_too(
    first_reference: Any,
) -> None:
    torch.manual_seed(0)
    theirs = first_reference(512).state_dict()
    torch.manual_seed(0)
    ours = Mamba(512).state_dict()
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], rtol=0, atol=0)


@pytest.mark.parametrize(("batch", "length"), [(16, 128), (4, 300)])
@pytest.mark.parametrize("own", [False, True], ids=["theirs", "our-kernels"])
def test_values_and_gradients_equal_those_of_its_first_layer(
    first_reference: Any, batch: int, length: int, own: bool
) -> None:
    torch.manual_seed(0)
    ours, theirs = Mamba(512).cuda(), first_reference(512, use_fast_path=False).cuda()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    if own:
        ours._kernel = None
    x = torch.randn(batch, length, 512, device="cuda")
    expected = values_and_gradients(theirs, x)
    found = values_and_gradients(ours, x)
    assert found.keys() == expected.keys()
    errors = {
        name: ((found[name] - expected[name]).norm() / expected[name].norm()).item()
        for name in expected
    }
    assert max(errors.values()) <= TOLERANCE, errors


def test_the_kernels_final_state_is_that_of_our_scans(
    first_reference: Any,
) -> None:
    kernel = load_kernel()
    assert kernel is not None
    torch.manual_seed(0)
    inputs = {
        "x": torch.randn(2, 100, 64),
        "dt": torch.rand(2, 100, 64),
        "A": -torch.rand(64, 16) - 0.1,
        "B": torch.randn(2, 100, 16),
        "C": torch.randn(2, 100, 16),
    }
    found = []
    forms = (partial(scan_with_kernel, kernel), selective_scan, selective_scan_chunked)
    for scan in forms:
        leaves = {k: t.cuda().requires_grad_() for k, t in inputs.items()}
        y, state = scan(*leaves.values())
        loss = y.square().mean() + state.square().mean()
        gradients = torch.autograd.grad(loss, [*leaves.values()])
        found.append([y, state, *gradients])
    for ours in found[1:]:
        torch.testing.assert_close(ours, found[0], rtol=1e-3, atol=1e-4)
