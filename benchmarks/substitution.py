"""Putting another function in the place of one that the package's modules share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from drama_torchrl.modules import distributions
from drama_torchrl.parallel import rank

__all__ = ["fixed_draws", "substituted"]

# Coprime to the sizes of batches, so that no two dimensions see noise in step.
_NOISE_ROWS = 4093


@contextmanager
def substituted(
    original: Callable[..., Any], substitute: Callable[..., Any]
) -> Iterator[None]:
    """Replace a function wherever a module of the package has it by name.

    Raises:
        LookupError: if none has it, so that nothing would be replaced.
    """
    places = [
        (module, name)
        for module in list(sys.modules.values())
        if isinstance(module, ModuleType)
        and module.__name__.startswith("drama_torchrl")
        for name, value in vars(module).items()
        if value is original
    ]
    if not places:
        raise LookupError(f"No module of drama_torchrl holds {original!r}.")
    for module, name in places:
        setattr(module, name, substitute)
    try:
        yield
    finally:
        for module, name in places:
            setattr(module, name, original)


@contextmanager
def fixed_draws(device: torch.device, num_classes: int) -> Iterator[None]:
    """Make every categorical draw a fixed function of its probabilities.

    argmax_m (log p_m + g_m) with Gumbel noise g from a table, one row per position
    in its batch (that of all processes), instead of fresh noise: the draws stay as
    varied as real ones, and two runs draw the same wherever their probabilities are
    the same. (The likeliest
    class, the simpler choice, would be decided by rounding far more often while the
    weights are new.)

    Args:
        device: where the draws are made; a GPU stands for all of them.
        num_classes: most classes of a categorical.
    """
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(_NOISE_ROWS, num_classes, generator=generator)
    noise = -(-uniform.clamp_min(1e-9).log()).log()
    gpus = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    tables = [noise.to(each) for each in (gpus if device.type == "cuda" else [device])]

    def draw(log_probs: Tensor) -> Tensor:
        with torch.no_grad():
            flat = log_probs.reshape(-1, log_probs.shape[-1])
            places = torch.arange(len(flat), device=flat.device) + rank() * len(flat)
            rows = places % _NOISE_ROWS
            race = flat + tables[flat.device.index or 0][rows, : flat.shape[-1]]
            winner = race.argmax(-1, keepdim=True)
            hot = torch.zeros_like(flat).scatter_(-1, winner, 1.0)
            return hot.reshape(log_probs.shape)

    with substituted(distributions.sample_one_hot, draw):
        yield
