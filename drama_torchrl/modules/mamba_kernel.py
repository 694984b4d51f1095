"""mamba-ssm's fused selective scan behind the signature of the plain one.

It is used where the package is installed with its CUDA part; nothing needs it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from drama_torchrl.modules.recurrence import wide
from drama_torchrl.modules.selective_scan import selective_scan

__all__ = ["Kernel", "load_kernel", "scan_with_kernel"]

Kernel = Callable[..., tuple[Tensor, Tensor]]
"""``selective_scan_fn`` of ``mamba_ssm.ops.selective_scan_interface``."""


@cache
def load_kernel() -> Kernel | None:
    """Import mamba-ssm's scan, None where it is absent or was built without CUDA."""
    if not torch.cuda.is_available():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs, of their use of torch
        try:
            import_module("selective_scan_cuda")
            interface = import_module("mamba_ssm.ops.selective_scan_interface")
        except ImportError:
            return None
    kernel: Kernel = interface.selective_scan_fn
    return kernel


def scan_with_kernel(
    kernel: Kernel, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor
) -> tuple[Tensor, Tensor]:
    """Run a selective scan from an empty past, without resets, in one kernel.

    Args, returns and shapes as in :mod:`drama_torchrl.modules.selective_scan`.
    """
    # The kernel has time last: [B, DI, T] and [B, S, T].
    x, dt, B, C = (wide(t).transpose(1, 2).contiguous() for t in (x, dt, B, C))
    y, state = kernel(x, dt, A, B, C, return_last_state=True)
    return y.transpose(1, 2), _FinalState.apply(state.detach(), x, dt, A, B)


class _FinalState(torch.autograd.Function):
    """Give the final state the gradient that the kernel leaves out.

    The kernel's backward pass ignores it. Where one arrives, which it does only if a
    state is carried with its gradient, the scan is run again.
    """

    @staticmethod
    def forward(ctx: Any, state: Tensor, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        return state.view_as(state)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        inputs = [t.detach().requires_grad_() for t in ctx.saved_tensors]
        with torch.enable_grad():
            x, dt, A, B = inputs
            x, dt, B = (t.transpose(1, 2) for t in (x, dt, B))
            _, state = selective_scan(x, dt, A, B, B)
        return None, *torch.autograd.grad(state, inputs, gradients)
