"""Slow, obvious forms of what the package computes fast, in plain Python numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence


def lambda_return_loop(
    values: Sequence[float],
    rewards: Sequence[float],
    terminated: Sequence[bool],
    *,
    discount: float,
    trace_decay: float,
) -> list[float]:
    """G_t = r_t + γ(1-e_t)[(1-λ)V_{t+1} + λG_{t+1}], G_H = V_H; values has H+1."""
    future = values[-1]
    returns: list[float] = []
    for t in reversed(range(len(rewards))):
        mixed = (1 - trace_decay) * values[t + 1] + trace_decay * future
        future = rewards[t] + discount * (1 - terminated[t]) * mixed
        returns.insert(0, future)
    return returns


def laprop_loop(
    parameter: float,
    gradients: Sequence[float],
    learning_rates: Sequence[float],
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-20,
    weight_decay: float = 0.0,
) -> list[float]:
    """Algorithm 1 of arXiv:2002.04839 for one number, decay decoupled as in AdamW."""
    beta1, beta2 = betas
    second = momentum = 0.0
    trajectory = []
    for t, (g, lr) in enumerate(zip(gradients, learning_rates, strict=True), start=1):
        second = beta2 * second + (1 - beta2) * g**2
        normalised = g / (math.sqrt(second / (1 - beta2**t)) + eps)
        momentum = beta1 * momentum + (1 - beta1) * normalised
        decayed = parameter * (1 - lr * weight_decay)
        parameter = decayed - lr * momentum / (1 - beta1**t)
        trajectory.append(parameter)
    return trajectory
