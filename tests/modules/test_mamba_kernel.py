"""mamba-ssm's kernel gives what the plain scan gives, here through a stand-in.

The stand-in has the kernel's signature and layout (time last), and like it computes no
gradient of the final state. The kernel itself is compared in ``tests/gpu``.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from drama_torchrl.modules.mamba_kernel import load_kernel, scan_with_kernel
from drama_torchrl.modules.selective_scan import selective_scan
from tests.modules.test_selective_scan import arguments, in_double, outcome


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> tuple[Tensor, Tensor]:
    assert D is z is delta_bias is None
    assert return_last_state
    assert not delta_softplus
    assert all(t.is_contiguous() for t in (u, delta, B, C))
    y, h = [], torch.zeros(*u.shape[:2], A.shape[1], dtype=u.dtype)
    for t in range(u.shape[-1]):
        decay = torch.exp(torch.einsum("bd,dn->bdn", delta[..., t], A))
        h = decay * h + torch.einsum("bd,bn->bdn", delta[..., t] * u[..., t], B[..., t])
        y.append(torch.einsum("bdn,bn->bd", h, C[..., t]))
    return torch.stack(y, -1), h.detach()


def scan(**inputs: Tensor) -> tuple[Tensor, Tensor]:
    return scan_with_kernel(selective_scan_fn, **inputs)


@pytest.mark.parametrize("length", [1, 40])
def test_values_and_gradients_are_those_of_the_plain_scan(length: int) -> None:
    inputs = arguments(length)
    expected = outcome(selective_scan, inputs)
    torch.testing.assert_close(outcome(scan, inputs), expected)


def test_the_final_state_alone_has_its_gradient() -> None:
    found = []
    for run in (scan, selective_scan):
        inputs = in_double(arguments_once)
        _, state = run(**inputs)
        needed = [inputs[name] for name in ("x", "dt", "A", "B")]
        found.append(torch.autograd.grad(state.square().sum(), needed))
    torch.testing.assert_close(found[0], found[1])


arguments_once = arguments(12)


def test_it_computes_in_float32_what_comes_in_bfloat16() -> None:
    inputs = {k: t.bfloat16() for k, t in arguments(12).items()}
    y, state = scan(**inputs | {"A": inputs["A"].float()})
    assert y.dtype == state.dtype == torch.float32


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_without_a_gpu_there_is_none() -> None:
    assert load_kernel() is None
