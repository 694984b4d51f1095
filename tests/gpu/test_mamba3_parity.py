"""Mamba3 against mamba_ssm's own layer and its kernels, which compute in bfloat16."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from drama_torchrl.modules.mamba3 import Mamba3

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(
        importlib.util.find_spec("mamba_ssm") is None, reason="needs mamba-ssm"
    ),
    pytest.mark.filterwarnings("ignore"),  # theirs, from kernels we do not own
]
# Their kernels round inputs, maps, angles and outputs to bfloat16, whatever comes in.
# The inputs alone cost up to 0.004.
TOLERANCE = 0.02
SIZES = {
    "agent": {"d_state": 16, "head_dim": 128},
    "theirs": {"d_state": 128, "head_dim": 64},
}
sizes = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())


@pytest.fixture(scope="module")
def reference() -> Iterator[Any]:
    """mamba_ssm's Mamba3 class."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            importlib.import_module("selective_scan_cuda")
        except ImportError:
            # A wheel built without CUDA lacks this part of Mamba-1, but imports it.
            name = "selective_scan_cuda"
            patch.setitem(sys.modules, name, ModuleType(name))
        module = pytest.importorskip("mamba_ssm.modules.mamba3", exc_type=ImportError)
        yield module.Mamba3


def make_reference(reference: Any, d_state: int, head_dim: int) -> nn.Module:
    layer: nn.Module = reference(512, d_state=d_state, headdim=head_dim, is_mimo=False)
    return layer


def shake(layer: nn.Module) -> None:
    """Move what starts at one: a swap of B and C would not show there."""
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "proj" not in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)


def values_and_gradients(layer: nn.Module, x: Tensor) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    output = layer(x)
    y = output[0] if isinstance(layer, Mamba3) else output
    torch.manual_seed(1)
    layer.zero_grad()
    (y * torch.randn_like(y)).sum().backward()
    gradients = {name: p.grad for name, p in layer.named_parameters()}
    found = {"output": y.detach(), "gradient of x": x.grad, **gradients}
    assert all(value is not None for value in found.values())
    return {name: value for name, value in found.items() if value is not None}


@sizes
def test_one_seed_gives_the_weights_of_mamba_ssm(
    reference: Any, size: dict[str, int]
) -> None:
    torch.manual_seed(0)
    theirs = make_reference(reference, **size).state_dict()
    torch.manual_seed(0)
    ours = Mamba3(512, **size).state_dict()
    assert list(ours) == list(theirs)
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], rtol=0, atol=0)


@sizes
@pytest.mark.parametrize(("batch", "length"), [(16, 128), (4, 300)])
@pytest.mark.parametrize("weights_of", ["ours", "theirs"])
def test_values_and_gradients_equal_those_of_the_triton_kernels(
    reference: Any, batch: int, length: int, weights_of: str, size: dict[str, int]
) -> None:
    torch.manual_seed(0)
    ours = Mamba3(512, **size).cuda()
    theirs = make_reference(reference, **size).cuda()
    source, target = (ours, theirs) if weights_of == "ours" else (theirs, ours)
    shake(source)
    target.load_state_dict(source.state_dict(), strict=True)
    x = torch.randn(batch, length, 512, device="cuda")
    expected = values_and_gradients(theirs, x)
    found = values_and_gradients(ours, x)
    assert found.keys() == expected.keys()
    errors = {
        name: ((found[name] - expected[name]).norm() / expected[name].norm()).item()
        for name in expected
    }
    assert max(errors.values()) <= TOLERANCE, errors
