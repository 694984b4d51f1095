"""Mamba2: one Mamba-2 layer in plain PyTorch; a sequence and its steps agree.

Parameters have the names, shapes and initialisation of
``mamba_ssm.modules.mamba2.Mamba2`` (one group), so that weights load both ways.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from drama_torchrl.kernels.mamba2_step import can_step, mamba2_step
from drama_torchrl.modules.causal_conv import causal_conv, causal_conv_step
from drama_torchrl.modules.recurrence import wide
from drama_torchrl.modules.sequence_layer import (
    as_size,
    check_input,
    check_is_init,
    check_state,
)
from drama_torchrl.modules.ssd import ssd, ssd_step

__all__ = ["Mamba2"]


class Mamba2(nn.Module):
    """A Mamba-2 layer without its residual connection.

    With z, x, B, C, dt = in_proj(input), per head (arXiv:2405.21060, sections 5 and 7):

        x, B, C = SiLU(causal depthwise convolution of (x, B, C))
        dt = softplus(dt + dt_bias)
        h_t = exp(-dt_t exp(A_log)) h_{t-1} + dt_t x_t B_t^T
        y_t = h_t C_t + D x_t
        output = out_proj(RMSNorm(y * SiLU(z)))

    The recurrent state is a TensorDict of batch size [B] with the keys

    - ``"conv"`` [B, DI + 2 S, d_conv - 1]: the last inputs of the convolution, oldest
      first, in the dtype of the projection that made them: bfloat16 under autocast;
    - ``"ssm"`` [B, NH, P, S]: h, float32 also under autocast.

    Passed states are never written to.

    Args:
        d_model: width D of inputs and outputs.
        d_state: width S of the state of each channel.
        d_conv: taps of the causal convolution, in steps.
        expand: DI / D, where DI is the inner width.
        head_dim: channels P per head; there are NH = DI / P heads.
        dt_min, dt_max: range of the initial step sizes, drawn log-uniformly.
        dt_init_floor: lower bound of the initial step sizes.
        A_init_range: range of the initial decay rates exp(A_log), drawn uniformly.

    Raises:
        ValueError: if ``head_dim`` does not divide ``d_model * expand``.

    Example:
        >>> layer = Mamba2(8, head_dim=4)
        >>> x = torch.randn(2, 5, 8)
        >>> y, state = layer(x[:, :4])
        >>> y_last, state = layer.step(x[:, 4], state)
        >>> torch.testing.assert_close(y_last, layer(x)[0][:, 4])
        >>> state["ssm"].shape
        torch.Size([2, 4, 4, 16])
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        head_dim: int = 128,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        A_init_range: tuple[float, float] = (1, 16),
    ) -> None:
        super().__init__()
        inner = d_model * expand
        if inner % head_dim:
            raise ValueError(
                f"expected d_model * expand = {d_model} * {expand} = {inner} to be a "
                f"multiple of head_dim, got head_dim={head_dim}; choose a head_dim "
                f"that divides {inner}, such as {math.gcd(inner, head_dim)}."
            )
        self.d_model, self.d_state, self.d_conv = d_model, d_state, d_conv
        self.head_dim, self.d_inner = head_dim, inner
        self.num_heads = inner // head_dim
        conv_width = inner + 2 * d_state

        # The order of the draws is mamba_ssm's: one seed gives the same weights.
        self.in_proj = nn.Linear(
            d_model, inner + conv_width + self.num_heads, bias=False
        )
        self.conv1d = nn.Conv1d(conv_width, conv_width, d_conv, groups=conv_width)
        low, high = math.log(dt_min), math.log(dt_max)
        dt = torch.exp(torch.rand(self.num_heads) * (high - low) + low)
        dt = dt.clamp(min=dt_init_floor)
        inverse_softplus = dt + torch.log(-torch.expm1(-dt))
        self.dt_bias = nn.Parameter(inverse_softplus)
        self.A_log = nn.Parameter(
            torch.empty(self.num_heads).uniform_(*A_init_range).log()
        )
        self.D = nn.Parameter(torch.ones(self.num_heads))
        for parameter in (self.dt_bias, self.A_log, self.D):
            parameter._no_weight_decay = True  # type: ignore[attr-defined]
        self.norm = nn.RMSNorm(inner, eps=1e-5)
        self.out_proj = nn.Linear(inner, d_model, bias=False)

    def initial_state(self, batch_size: int | torch.Size) -> TensorDict:
        """Give the state before the first step, zeros on the parameters' device.

        Args:
            batch_size: B, or the whole batch size.

        Returns:
            TensorDict of that batch size with the keys ``"conv"`` and ``"ssm"``.

        Example:
            >>> Mamba2(8, head_dim=4).initial_state(3)["conv"].shape
            torch.Size([3, 48, 3])
        """
        size = as_size(batch_size)
        weight = self.conv1d.weight
        conv = weight.new_zeros(*size, weight.shape[0], self.d_conv - 1)
        shape = (*size, self.num_heads, self.head_dim, self.d_state)
        ssm = wide(weight.new_zeros(shape))
        return TensorDict({"conv": conv, "ssm": ssm}, batch_size=size)

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

        Example:
            >>> y, state = Mamba2(8, head_dim=4)(torch.randn(2, 5, 8))
            >>> y.shape
            torch.Size([2, 5, 8])
        """
        check_input(x, self.d_model, ndim=3)
        check_is_init(is_init, x)
        self._check_state(state, x.shape[0])
        z, conv_inputs, dt = self._split(self.in_proj(x))
        past = None if state is None else state["conv"]
        convolved, past = causal_conv(
            conv_inputs, past, *self._conv_parameters(), is_init, dtype=z.dtype
        )
        inputs, B, C = self._split_heads(convolved)
        y, ssm = ssd(
            inputs,
            dt,
            self._decay_rates(),
            B,
            C,
            initial_state=None if state is None else state["ssm"],
            is_init=is_init,
        )
        new_state = TensorDict({"conv": past, "ssm": ssm}, batch_size=x.shape[:1])
        return self.out_proj(self.norm(self._gate(y, inputs, z))), new_state

    def step(self, x: Tensor, state: TensorDictBase) -> tuple[Tensor, TensorDict]:
        """Run one step; the cost does not depend on how many came before.

        Without gradients, on a GPU, one kernel does all between the projections.

        Args:
            x: [B, D] inputs.
            state: what an earlier call or :meth:`initial_state` returned.

        Returns:
            y [B, D], and the state after the step.

        Raises:
            ValueError: if the shape of ``x`` or ``state`` does not fit.

        Example:
            >>> layer = Mamba2(8, head_dim=4)
            >>> y, state = layer.step(torch.randn(2, 8), layer.initial_state(2))
            >>> y.shape
            torch.Size([2, 8])
        """
        check_input(x, self.d_model, ndim=2)
        self._check_state(state, x.shape[0])
        projected, conv, ssm = self.in_proj(x), state["conv"], state["ssm"]
        weights = (*self._conv_parameters(), self.dt_bias, self.A_log, self.D)
        if can_step(projected, conv, ssm, *weights, self.norm.weight):
            gated, conv, ssm = mamba2_step(projected, conv, ssm, *weights)
        else:
            z, u, dt = self._split(projected)
            convolved, conv = causal_conv_step(u, conv, *self._conv_parameters())
            inputs, B, C = self._split_heads(convolved.to(z.dtype))
            y, ssm = ssd_step(inputs, dt, self._decay_rates(), B, C, ssm)
            gated = self._gate(y, inputs, z)
        new_state = TensorDict({"conv": conv, "ssm": ssm}, batch_size=x.shape[:1])
        return self.out_proj(self.norm(gated)), new_state

    def _split(self, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give z [..., DI], the inputs of the convolution and dt [..., NH] > 0."""
        widths = (self.d_inner, self.d_inner + 2 * self.d_state, self.num_heads)
        z, conv_inputs, dt = projected.split(widths, dim=-1)
        return z, conv_inputs, F.softplus(wide(dt) + wide(self.dt_bias))

    def _conv_parameters(self) -> tuple[Tensor, Tensor]:
        """Give the kernel [C, d_conv] and the bias [C]."""
        assert self.conv1d.bias is not None
        return self.conv1d.weight.squeeze(1), self.conv1d.bias

    def _split_heads(self, convolved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give x [..., NH, P], B and C [..., S]."""
        widths = (self.d_inner, self.d_state, self.d_state)
        x, B, C = convolved.split(widths, dim=-1)
        return x.unflatten(-1, (self.num_heads, self.head_dim)), B, C

    def _decay_rates(self) -> Tensor:
        return -torch.exp(wide(self.A_log))

    def _gate(self, y: Tensor, x: Tensor, z: Tensor) -> Tensor:
        """Give (y + D x) * SiLU(z), [..., DI]."""
        dtype = self.norm.weight.dtype
        y = y.to(dtype) + self.D.unsqueeze(-1) * x.to(dtype)
        return y.flatten(-2) * F.silu(z.to(dtype))

    def _check_state(self, state: TensorDictBase | None, batch: int) -> None:
        conv = (self.conv1d.weight.shape[0], self.d_conv - 1)
        ssm = (self.num_heads, self.head_dim, self.d_state)
        check_state(state, batch, conv=conv, ssm=ssm)
