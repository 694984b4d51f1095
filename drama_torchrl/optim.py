"""LaProp and how gradients are formed and applied."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn

__all__ = [
    "LaProp",
    "clip_gradients",
    "differentiate",
    "linear_warmup",
]


class LaProp(torch.optim.Optimizer):
    """LaProp: momentum of gradients that are normalised first.

    v ← β₂ v + (1-β₂) g²,  m ← β₁ m + (1-β₁) g / (√(v / (1-β₂ᵗ)) + ε),
    θ ← θ - lr (m / (1-β₁ᵗ) + λ θ)   (arXiv:2002.04839, algorithm 1; the weight
    decay λ is decoupled as in AdamW)

    All tensors of a group are updated by fused multi-tensor operations. The step
    count is a tensor on the parameters' device and the learning rate may be one
    too, so that a captured CUDA graph sees both move.

    A step changes nothing, moments and counts included, while ``applied`` is a scalar
    tensor that is false: gradients that are not finite do no harm then, and the host
    need not know.

    Args:
        params: parameters or groups of them.
        lr: learning rate; a tensor on the parameters' device under CUDA graphs.
        betas: β₁ and β₂.
        eps: ε.
        weight_decay: λ.

    Raises:
        ValueError: if a number is out of its range.

    Example:
        >>> import torch
        >>> theta = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = LaProp([theta], lr=0.1)
        >>> theta.square().sum().backward()
        >>> _ = optimizer.step()
        >>> theta.data
        tensor([0.9000])
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float | Tensor = 4e-5,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-20,
        weight_decay: float = 0.0,
    ) -> None:
        if not all(0 <= beta < 1 for beta in betas) or eps < 0 or weight_decay < 0:
            raise ValueError(
                "LaProp expects betas in [0, 1), eps >= 0 and weight_decay >= 0, got "
                f"betas={betas}, eps={eps} and weight_decay={weight_decay}."
            )
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
        }
        super().__init__(params, defaults)
        self.applied: Tensor | None = None

    def _moments(
        self, params: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        for p in params:
            state = self.state[p]
            if not state:
                state["step"] = torch.zeros((), device=p.device)
                state["exp_avg"] = torch.zeros_like(p)
                state["exp_avg_sq"] = torch.zeros_like(p)
        states = [self.state[p] for p in params]
        return (
            [state["step"] for state in states],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
        )

    @torch.no_grad()
    def step(  # type: ignore[override]  # torch types the closure's loss as float
        self, closure: Callable[[], Tensor] | None = None
    ) -> Tensor | None:
        """Update all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(params, group)
        return loss

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        steps, means, squares = self._moments(params)
        grads = [p.grad for p in params if p.grad is not None]
        self.move(
            params,
            grads,
            means,
            squares,
            steps,
            self.applied,
            lr=group["lr"],
            betas=group["betas"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
        )

    @staticmethod
    def move(
        params: list[Tensor],
        grads: list[Tensor],
        means: list[Tensor],
        squares: list[Tensor],
        steps: list[Tensor],
        applied: Tensor | None,
        *,
        lr: float | Tensor,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        """Change parameters, moments m and v and step counts t in place.

        Lists of as many tensors each, so that one kernel updates many of them. Nothing
        changes where ``applied``, a bool scalar, is false.
        """
        beta1, beta2 = betas
        one = steps[0].new_ones(())
        moved = one if applied is None else applied.to(one.dtype)
        if applied is not None:
            grads = [torch.where(applied, grad, 0.0) for grad in grads]
        # A list: adding one scalar tensor to all reads it on the host first.
        torch._foreach_add_(steps, [moved] * len(steps))
        # 1 - βᵗ, for each parameter's own t; t is 0 if no step was ever applied.
        times = torch._foreach_clamp_min(steps, 1.0)
        correction1 = torch._foreach_pow(beta1, times)
        correction2 = torch._foreach_pow(beta2, times)
        for correction in (correction1, correction2):
            torch._foreach_sub_(correction, 1.0)
            torch._foreach_neg_(correction)

        torch._foreach_mul_(squares, torch.where(moved > 0, beta2, one))
        torch._foreach_addcmul_(squares, grads, grads, 1.0 - beta2)
        scale = torch._foreach_div(squares, correction2)
        torch._foreach_sqrt_(scale)
        torch._foreach_add_(scale, eps)
        normalised = list(torch._foreach_div(grads, list(scale)))
        torch._foreach_mul_(means, torch.where(moved > 0, beta1, one))
        torch._foreach_add_(means, normalised, alpha=1.0 - beta1)

        delta = torch._foreach_div(means, correction1)
        if weight_decay:
            torch._foreach_add_(delta, params, alpha=weight_decay)
        torch._foreach_mul_(delta, lr * moved)
        torch._foreach_sub_(params, delta)


def linear_warmup(
    optimizer: torch.optim.Optimizer, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Raise the learning rate linearly from lr / steps to lr, then hold it.

    lr_t = lr · min(1, t / steps), t counting from 1   (Drama A.4)

    Args:
        optimizer: its learning rates are scaled.
        steps: optimiser steps until the full rate; 0 for none.

    Returns:
        A scheduler to step after each optimiser step.

    Example:
        >>> import torch
        >>> optimizer = LaProp([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> schedule = linear_warmup(optimizer, 4)
        >>> schedule.get_last_lr()
        [0.25]
    """
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: min(1.0, (t + 1) / max(1, steps))
    )


def differentiate(losses: TensorDictBase, optimizer: torch.optim.Optimizer) -> None:
    """Replace the gradients by those of the sum of the losses.

    Args:
        losses: entries named ``loss_*`` are summed.
        optimizer: its gradients are forgotten first.

    Example:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> theta = torch.nn.Parameter(torch.tensor([2.0]))
        >>> optimizer = torch.optim.SGD([theta], lr=1.0)
        >>> differentiate(TensorDict(loss_theta=theta.square().sum()), optimizer)
        >>> theta.grad
        tensor([4.])
    """
    total = sum(value for name, value in losses.items() if name.startswith("loss_"))
    optimizer.zero_grad(set_to_none=True)
    total.backward()


def clip_gradients(optimizer: torch.optim.Optimizer, max_norm: float) -> Tensor:
    """Scale the gradients down where their norm exceeds a bound.

    Args:
        optimizer: all its parameters are clipped together.
        max_norm: bound of the norm of the gradient.

    Returns:
        The norm of the gradient before clipping, a scalar tensor.

    Example:
        >>> import torch
        >>> theta = torch.nn.Parameter(torch.tensor([2.0]))
        >>> theta.grad = torch.tensor([4.0])
        >>> clip_gradients(torch.optim.SGD([theta], lr=1.0), max_norm=1.0), theta.grad
        (tensor(4.), tensor([1.0000]))
    """
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return nn.utils.clip_grad_norm_(params, max_norm, foreach=True)
