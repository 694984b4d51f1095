"""Evaluation and training mode for the length of a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["evaluating", "training"]


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Put modules in evaluation mode and return those that trained to training.

    Dropout is off, BatchNorm and :class:`RunningNorm` use their running statistics
    and leave them alone.

    Example:
        >>> layer = nn.Dropout()
        >>> with evaluating(layer):
        ...     print(layer.training)
        False
        >>> layer.training
        True
    """
    trained = [module for module in modules if module.training]
    for module in trained:
        module.eval()
    try:
        yield
    finally:
        for module in trained:
            module.train()


@contextmanager
def training(*modules: nn.Module) -> Iterator[None]:
    """Put modules in training mode and return those that did not train.

    Example:
        >>> layer = nn.Dropout().eval()
        >>> with training(layer):
        ...     print(layer.training)
        True
        >>> layer.training
        False
    """
    evaluated = [module for module in modules if not module.training]
    for module in evaluated:
        module.train()
    try:
        yield
    finally:
        for module in evaluated:
            module.eval()
