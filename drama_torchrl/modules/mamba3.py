"""Mamba3: one Mamba-3 layer in plain PyTorch; a sequence and its steps agree.

Parameters have the names, shapes and initialisation of
``mamba_ssm.modules.mamba3.Mamba3`` (one group, ``is_mimo=False``), so that weights load
both ways.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from drama_torchrl.modules.cumulative_rotation import add_turns, rotate_pairs, wrap
from drama_torchrl.modules.linear import AlignedLinear
from drama_torchrl.modules.normalization import RMSNorm
from drama_torchrl.modules.recurrence import wide
from drama_torchrl.modules.sequence_layer import (
    as_size,
    check_input,
    check_is_init,
    check_state,
)
from drama_torchrl.modules.trapezoidal_ssd import (
    Past,
    trapezoidal_ssd,
    trapezoidal_ssd_step,
)

__all__ = ["Mamba3"]

_PAST = ("ssm", "last_B", "last_x")  # where the state keeps a Past


class _Projected(NamedTuple):
    """What a layer makes of its inputs, for each step and head."""

    z: Tensor  # [..., NH, P]
    x: Tensor  # [..., NH, P]
    dt: Tensor  # [..., NH]: step sizes, > 0
    A: Tensor  # [..., NH]: decay rates, < 0
    share: Tensor  # [..., NH]: of the later input between two steps
    B: Tensor  # [..., NH, S], not turned yet
    C: Tensor  # [..., NH, S], not turned yet
    turn: Tensor  # [..., NH, R] radians


class Mamba3(nn.Module):
    """A Mamba-3 layer without its residual connection, with one input per head.

    With z, x, B, C, dt, A, λ, φ = in_proj(input), where B, C and φ are shared by the
    heads, per head (arXiv:2603.15569):

        dt = softplus(dt + dt_bias),  A = -max(softplus(A), A_floor),  λ = sigmoid(λ)
        θ_t = θ_{t-1} + dt_t π tanh(φ_t)
        B, C = (RMSNorm(B) + B_bias, RMSNorm(C) + C_bias), turned by θ
        h_t = α_t (h_{t-1} + (1 - λ_t) dt_t x_{t-1} B_{t-1}^T) + λ_t dt_t x_t B_t^T
        y_t = h_t C_t + D x_t,        α_t = exp(dt_t A_t)
        output = out_proj(y * SiLU(z))

    The R = rope_fraction S / 2 angles turn the first R pairs of neighbours in B and C.

    The recurrent state is a TensorDict of batch size [B] with the keys

    - ``"angle"`` [B, NH, R]: θ within [-π, π], never rounded, not even in imagination;
    - ``"ssm"`` [B, NH, P, S]: h;
    - ``"last_B"`` [B, NH, S]: B of the last step, turned;
    - ``"last_x"`` [B, NH, P]: x of the last step, in the dtype of the projection that
      made it: bfloat16 under autocast, where the others are float32.

    Passed states are never written to.

    Args:
        d_model: width D of inputs and outputs.
        d_state: width S of the state of each channel.
        expand: DI / D, where DI is the inner width.
        head_dim: channels P per head; there are NH = DI / P heads.
        rope_fraction: share of B and C that is turned.
        dt_min, dt_max: range of the initial step sizes, drawn log-uniformly.
        dt_init_floor: lower bound of the initial step sizes.
        A_floor: lower bound of the rates of decay -A.

    Raises:
        ValueError: if ``head_dim`` does not divide ``d_model * expand``, or if nothing
            or more than all of ``d_state`` is turned.

    Example:
        >>> layer = Mamba3(8, head_dim=4)
        >>> x = torch.randn(2, 5, 8)
        >>> y, state = layer(x[:, :4])
        >>> y_last, state = layer.step(x[:, 4], state)
        >>> torch.testing.assert_close(y_last, layer(x)[0][:, 4])
        >>> state["ssm"].shape, state["angle"].shape
        (torch.Size([2, 4, 4, 16]), torch.Size([2, 4, 4]))
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 16,
        expand: int = 2,
        head_dim: int = 128,
        rope_fraction: float = 0.5,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        A_floor: float = 1e-4,
    ) -> None:
        super().__init__()
        inner, angles = d_model * expand, int(d_state * rope_fraction) // 2
        if inner % head_dim:
            raise ValueError(
                f"expected d_model * expand = {d_model} * {expand} = {inner} to be a "
                f"multiple of head_dim, got head_dim={head_dim}; choose a head_dim "
                f"that divides {inner}, such as {math.gcd(inner, head_dim)}."
            )
        if not 0 < 2 * angles <= d_state:
            raise ValueError(
                "expected rope_fraction * d_state between 2 and d_state, got "
                f"{rope_fraction} * {d_state}; choose a larger d_state, or "
                "rope_fraction <= 1."
            )
        self.d_model, self.d_state, self.head_dim = d_model, d_state, head_dim
        self.d_inner, self.num_heads = inner, inner // head_dim
        self.num_angles, self.A_floor = angles, A_floor

        # The order of the draws is mamba_ssm's: one seed gives the same weights.
        self.in_proj = AlignedLinear(d_model, sum(self._widths()), bias=False)
        low, high = math.log(dt_min), math.log(dt_max)
        dt = torch.exp(torch.rand(self.num_heads) * (high - low) + low)
        dt = dt.clamp(min=dt_init_floor)
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))
        self.B_bias = nn.Parameter(torch.ones(self.num_heads, 1, d_state))
        self.C_bias = nn.Parameter(torch.ones(self.num_heads, 1, d_state))
        self.B_norm = RMSNorm(d_state, eps=1e-5)
        self.C_norm = RMSNorm(d_state, eps=1e-5)
        self.D = nn.Parameter(torch.ones(self.num_heads))
        for parameter in (self.dt_bias, self.D):
            parameter._no_weight_decay = True  # type: ignore[attr-defined]
        self.out_proj = nn.Linear(inner, d_model, bias=False)

    def initial_state(self, batch_size: int | torch.Size) -> TensorDict:
        """Give the state before the first step, zeros; a whole batch size serves too.

        Example:
            >>> Mamba3(8, head_dim=4).initial_state(3)["last_x"].shape
            torch.Size([3, 4, 4])
        """
        size, weight = as_size(batch_size), self.in_proj.weight
        zeros = {
            k: weight.new_zeros(*size, *s) for k, s in self._state_shapes().items()
        }
        state = {k: v if k == "last_x" else wide(v) for k, v in zeros.items()}
        return TensorDict(state, batch_size=size)

    def forward(
        self,
        x: Tensor,
        state: TensorDictBase | None = None,
        *,
        is_init: Tensor | None = None,
    ) -> tuple[Tensor, TensorDict]:
        """Run over a sequence.

        Args:
            x: [B, T, D] inputs, at least one step.
            state: what an earlier call returned; zeros where omitted.
            is_init: [B, T] bool, True where an episode starts: nothing from before
                that step, state included, is seen from it on.

        Returns:
            y [B, T, D], and the state after the last step.

        Raises:
            ValueError: if the shape of ``x``, ``state`` or ``is_init`` does not fit.
        """
        check_input(x, self.d_model, ndim=3)
        check_is_init(is_init, x)
        check_state(state, x.shape[0], **self._state_shapes())
        u = self._project_in(x)
        angle = add_turns(u.turn, None if state is None else state["angle"], is_init)
        B, C = rotate_pairs(u.B, angle), rotate_pairs(u.C, angle)
        past = None if state is None else Past(*map(state.get, _PAST))
        y, past = trapezoidal_ssd(
            u.x, u.dt, u.A, u.share, B, C, past=past, is_init=is_init
        )
        return self._project_out(y, u), _state_of(angle[:, -1], past)

    def step(self, x: Tensor, state: TensorDictBase) -> tuple[Tensor, TensorDict]:
        """Run one step; the cost does not depend on how many came before.

        Args:
            x: [B, D] inputs.
            state: what an earlier call or :meth:`initial_state` returned.

        Returns:
            y [B, D], and the state after the step.

        Raises:
            ValueError: if the shape of ``x`` or ``state`` does not fit.
        """
        check_input(x, self.d_model, ndim=2)
        check_state(state, x.shape[0], **self._state_shapes())
        u = self._project_in(x)
        angle = wide(state["angle"]) + u.turn
        B, C = rotate_pairs(u.B, angle), rotate_pairs(u.C, angle)
        y, past = trapezoidal_ssd_step(
            u.x, u.dt, u.A, u.share, B, C, Past(*map(state.get, _PAST))
        )
        return self._project_out(y, u), _state_of(angle, past)

    def _widths(self) -> tuple[int, ...]:
        """Give the widths of z, x, B, C, dt, A, λ and φ."""
        inner, states, heads = self.d_inner, self.d_state, self.num_heads
        return (inner, inner, states, states, heads, heads, heads, self.num_angles)

    def _state_shapes(self) -> dict[str, tuple[int, ...]]:
        heads, width, states = self.num_heads, self.head_dim, self.d_state
        return {
            "angle": (heads, self.num_angles),
            "ssm": (heads, width, states),
            "last_B": (heads, states),
            "last_x": (heads, width),
        }

    def _project_in(self, inputs: Tensor) -> _Projected:
        z, x, B, C, dt, A, share, turn = self.in_proj(inputs).split(self._widths(), -1)
        z, x = (u.unflatten(-1, (self.num_heads, self.head_dim)) for u in (z, x))
        dt = F.softplus(wide(dt) + wide(self.dt_bias))
        A = -F.softplus(wide(A)).clamp(min=self.A_floor)
        B = self.B_norm(B).unsqueeze(-2) + wide(self.B_bias).squeeze(1)
        C = self.C_norm(C).unsqueeze(-2) + wide(self.C_bias).squeeze(1)
        turn = dt.unsqueeze(-1) * (math.pi * torch.tanh(wide(turn))).unsqueeze(-2)
        return _Projected(z, x, dt, A, torch.sigmoid(wide(share)), B, C, turn)

    def _project_out(self, y: Tensor, u: _Projected) -> Tensor:
        """Add the skip D x, gate with z and project to [..., D]."""
        y, x, z = (t.to(self.D.dtype) for t in (y, u.x, u.z))
        return self.out_proj(((y + self.D.unsqueeze(-1) * x) * F.silu(z)).flatten(-2))


def _state_of(angle: Tensor, past: Past) -> TensorDict:
    state = {"angle": wrap(angle), **dict(zip(_PAST, past, strict=True))}
    return TensorDict(state, batch_size=angle.shape[:1])
