"""Evaluation and training mode for the length of a block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["evaluating", "training"]


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Put modules and their parts in evaluation mode, each back as it was afterwards.

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
    with _in_mode(modules, training=False):
        yield


@contextmanager
def training(*modules: nn.Module) -> Iterator[None]:
    """Put modules and their parts in training mode, each back as it was afterwards.

    Example:
        >>> layer = nn.Dropout().eval()
        >>> with training(layer):
        ...     print(layer.training)
        True
        >>> layer.training
        False
    """
    with _in_mode(modules, training=True):
        yield


@contextmanager
def _in_mode(modules: Iterable[nn.Module], *, training: bool) -> Iterator[None]:
    parts = [part for module in modules for part in module.modules()]
    changed = [part for part in parts if part.training != training]
    for part in changed:
        part.training = training
    try:
        yield
    finally:
        for part in changed:
            part.training = not training
