"""The forms of the state-space recurrence, and whether they compute the same."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.harness import describe_failure, relative_error
from drama_torchrl.kernels.ssd_chunks import MIN_LENGTH, can_chunk, ssd_chunks
from drama_torchrl.modules.ssd import (
    ssd,
    ssd_chunked,
    ssd_quadratic,
    ssd_recurrent,
)

__all__ = [
    "HEADS",
    "LOOP_MAX_LENGTH",
    "Form",
    "Inputs",
    "SkippedError",
    "check",
    "forms",
    "import_mamba_scan",
    "make_inputs",
    "reference_form",
    "run",
    "wide",
]

HEADS, WIDTH, STATE = 8, 128, 16
LOOP_MAX_LENGTH = 512

Form = Callable[..., tuple[Tensor, Tensor]]


class Inputs(NamedTuple):
    """Arguments of every form."""

    x: Tensor  # [B, T, NH, P]
    dt: Tensor  # [B, T, NH]
    A: Tensor  # [NH]
    B: Tensor  # [B, T, S]
    C: Tensor  # [B, T, S]


class SkippedError(Exception):
    """A form is not run at a shape, for the reason given."""


def forms() -> dict[str, Form]:
    """Every way to run the recurrence, by name."""
    return {
        "recurrent": ssd_recurrent,
        "quadratic": ssd_quadratic,
        "chunked 64": partial(ssd_chunked, chunk_size=64),
        "chunked 128": partial(ssd_chunked, chunk_size=128),
        "chunked 256": partial(ssd_chunked, chunk_size=256),
        "Triton chunks": chunks_form,
        "ssd (ours, by length)": ssd,
        "mamba-ssm": mamba_form,
    }


def chunks_form(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor
) -> tuple[Tensor, Tensor]:
    """Run the agent's own kernels where ``ssd`` may choose them."""
    if not can_chunk(x, B, C):
        raise SkippedError(f"needs a CUDA device, Triton and {MIN_LENGTH} steps")
    return ssd_chunks(x, dt, A, B, C)


def mamba_form(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor
) -> tuple[Tensor, Tensor]:
    """Run mamba-ssm's Triton scan, in its own chunks of 256."""
    scan = import_mamba_scan()
    groups = (t.unsqueeze(2) for t in (B, C))
    return scan(x, dt, A, *groups, chunk_size=256, return_final_states=True)


def import_mamba_scan() -> Callable[..., tuple[Tensor, Tensor]]:
    """Import ``mamba_chunk_scan_combined``; its reason if that cannot be.

    A wheel built without CUDA lacks ``selective_scan_cuda``, a part of Mamba-1 that
    the package imports and Mamba-2 does not use: an empty module takes its place.

    Raises:
        SkippedError: if it cannot be imported.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if "selective_scan_cuda" not in sys.modules:
                try:
                    importlib.import_module("selective_scan_cuda")
                except ImportError:
                    name = "selective_scan_cuda"
                    sys.modules[name] = ModuleType(name)
            module = importlib.import_module("mamba_ssm.ops.triton.ssd_combined")
    except Exception as error:
        raise SkippedError(describe_failure(error)) from error
    scan: Callable[..., tuple[Tensor, Tensor]] = module.mamba_chunk_scan_combined
    return scan


def make_inputs(batch: int, length: int, device: torch.device) -> Inputs:
    """Draw inputs as they are after Mamba-2's initialisation."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    generator = torch.Generator(device).manual_seed(0)
    draw = partial(torch.randn, generator=generator, device=device)
    low, high = -6.9, -2.3  # log of 0.001 and 0.1
    logs = torch.rand(batch, length, HEADS, generator=generator, device=device)
    return Inputs(
        draw(batch, length, HEADS, WIDTH).to(dtype),
        (low + (high - low) * logs).exp(),
        -torch.linspace(1.0, 16.0, HEADS, device=device),
        draw(batch, length, STATE).to(dtype),
        draw(batch, length, STATE).to(dtype),
    )


def wide(inputs: Inputs) -> Inputs:
    """Give the same values in float32."""
    return Inputs(*(t.float() for t in inputs))


def reference_form(length: int) -> Form:
    """Give the slow, obvious form, or a checked one where that would take minutes."""
    if length <= LOOP_MAX_LENGTH:
        return ssd_recurrent
    return ssd_chunked


def run(form: Form, inputs: Inputs) -> dict[str, Tensor]:
    """Outputs, final state, and gradients of a sum that weighs each output apart."""
    leaves = Inputs(*(t.detach().clone().requires_grad_() for t in inputs))
    y, state = form(*leaves)
    weights = torch.linspace(-1, 2, y.numel(), device=y.device).view_as(y).sin()
    ((y.float() * weights).sum() + state.float().sum()).backward()
    gradients = {f"d{n}": t.grad for n, t in leaves._asdict().items()}
    values = {"y": y.detach(), "state": state.detach()}
    return values | {name: g for name, g in gradients.items() if g is not None}


def check(form: Form, inputs: Inputs, reference: dict[str, Tensor]) -> dict[str, float]:
    """Compare a form with the reference, and a long reference with the loop.

    Returns:
        Relative errors: ``"y"``, ``"state"`` and the gradients; ``"reference"`` of a
        reference that is not the loop itself.
    """
    found = run(form, inputs)
    errors = {name: relative_error(found[name], reference[name]) for name in reference}
    length = inputs.x.shape[1]
    if length > LOOP_MAX_LENGTH:
        some = wide(inputs)
        start = some._replace(
            **{n: getattr(some, n)[:, :LOOP_MAX_LENGTH] for n in ("x", "dt", "B", "C")}
        )
        with torch.no_grad():
            y, _ = ssd_recurrent(*start)
        errors["reference"] = relative_error(reference["y"][:, :LOOP_MAX_LENGTH], y)
    return errors
