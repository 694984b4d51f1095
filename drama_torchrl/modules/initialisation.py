"""How the weights of the world model start."""

from __future__ import annotations

import math

from torch import nn

__all__ = [
    "TRUNCATED_NORMAL_STD",
    "truncated_normal_init_",
]

# The standard deviation of a standard normal truncated at +-2.
TRUNCATED_NORMAL_STD = 0.8796


def truncated_normal_init_(module: nn.Module) -> None:
    r"""Fills one layer with Glorot-scaled truncated normal weights and zero biases.

    ``std = sqrt(2 / (fan_in + fan_out)) / 0.8796``, truncated at ``+-2 std``: the
    division undoes the loss of variance by the truncation, so that the weights
    really have variance ``2 / (fan_in + fan_out)``. A fan is channels times kernel
    area. Layers other than ``Linear``, ``Conv2d`` and ``ConvTranspose2d`` are left
    alone, so that the function may be given to :meth:`torch.nn.Module.apply`.

    Args:
        module: the layer; its weights are ``[channels, channels, *kernel]``.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> layer = nn.Linear(300, 200).apply(truncated_normal_init_)
        >>> bool((layer.weight.std() - (2 / 500) ** 0.5).abs() < 1e-3)
        True
        >>> bool((layer.bias == 0).all())
        True
    """
    if not isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        return
    weight = module.weight
    kernel_area = math.prod(weight.shape[2:])
    fan_sum = (weight.shape[0] + weight.shape[1]) * kernel_area
    std = math.sqrt(2.0 / fan_sum) / TRUNCATED_NORMAL_STD
    nn.init.trunc_normal_(weight, std=std, a=-2.0 * std, b=2.0 * std)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
