"""Mamba: one Mamba layer in plain PyTorch; a sequence and its steps agree.

Parameters have the names, shapes and initialisation of
``mamba_ssm.modules.mamba_simple.Mamba``, so that weights load both ways.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from drama_torchrl.kernels.mamba_step import can_step, mamba_step
from drama_torchrl.modules.causal_conv import causal_conv, causal_conv_step
from drama_torchrl.modules.mamba_kernel import load_kernel, scan_with_kernel
from drama_torchrl.modules.recurrence import wide
from drama_torchrl.modules.selective_scan import selective_scan, selective_scan_step
from drama_torchrl.modules.sequence_layer import (
    as_size,
    check_input,
    check_is_init,
    check_state,
)

__all__ = ["Mamba"]


class Mamba(nn.Module):
    """A Mamba layer without its residual connection.

    With x, z = in_proj(input), per channel (arXiv:2312.00752, section 3):

        x = SiLU(causal depthwise convolution of x)
        dt, B, C = x_proj(x)
        dt = softplus(dt_proj(dt))
        h_t = exp(-dt_t exp(A_log)) h_{t-1} + dt_t x_t B_t
        y_t = h_t · C_t + D x_t
        output = out_proj(y * SiLU(z))

    The recurrent state is a TensorDict of batch size [B] with the keys

    - ``"conv"`` [B, DI, d_conv - 1]: the last inputs of the convolution, oldest first,
      in the dtype of the projection that made them: bfloat16 under autocast;
    - ``"ssm"`` [B, DI, S]: h, float32 also under autocast.

    Passed states are never written to. On a GPU with Triton, sequences run through
    kernels of our own, and steps too where no gradient is wanted. Where mamba-ssm is
    installed, sequences from an empty past run through its kernel instead, but not
    under ``torch.compile``, which does not know it, nor where torch is to use
    repeatable algorithms, which it is not. Elsewhere all is plain PyTorch.

    Args:
        d_model: width D of inputs and outputs.
        d_state: width S of the state of each channel.
        d_conv: taps of the causal convolution, in steps.
        expand: DI / D, where DI is the inner width.
        dt_rank: rank of the map from x to dt; D / 16 rounded up by default.
        dt_min, dt_max: range of the initial step sizes, drawn log-uniformly.
        dt_init_floor: lower bound of the initial step sizes.

    Example:
        >>> layer = Mamba(8)
        >>> x = torch.randn(2, 5, 8)
        >>> y, state = layer(x[:, :4])
        >>> y_last, state = layer.step(x[:, 4], state)
        >>> torch.testing.assert_close(y_last, layer(x)[0][:, 4])
        >>> state["ssm"].shape
        torch.Size([2, 16, 16])
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
    ) -> None:
        super().__init__()
        inner = d_model * expand
        self.d_model, self.d_state, self.d_conv = d_model, d_state, d_conv
        self.d_inner = inner
        self.dt_rank = math.ceil(d_model / 16) if dt_rank is None else dt_rank

        # The order of the draws is mamba_ssm's: one seed gives the same weights.
        self.in_proj = nn.Linear(d_model, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, d_conv, groups=inner)
        self.x_proj = nn.Linear(inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = _StepSizes(
            self.dt_rank, inner, dt_min=dt_min, dt_max=dt_max, floor=dt_init_floor
        )
        rates = torch.arange(1, d_state + 1, dtype=torch.float32)
        self.A_log = nn.Parameter(rates.log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        for parameter in (self.A_log, self.D):
            parameter._no_weight_decay = True  # type: ignore[attr-defined]
        self.out_proj = nn.Linear(inner, d_model, bias=False)
        self._kernel = load_kernel()

    def initial_state(self, batch_size: int | torch.Size) -> TensorDict:
        """Give the state before the first step, zeros on the parameters' device.

        Args:
            batch_size: B, or the whole batch size.

        Returns:
            TensorDict of that batch size with the keys ``"conv"`` and ``"ssm"``.
        """
        size = as_size(batch_size)
        weight = self.conv1d.weight
        conv = weight.new_zeros(*size, self.d_inner, self.d_conv - 1)
        ssm = wide(weight.new_zeros(*size, self.d_inner, self.d_state))
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
        """
        check_input(x, self.d_model, ndim=3)
        check_is_init(is_init, x)
        self._check_state(state, x.shape[0])
        inputs, z = self.in_proj(x).chunk(2, dim=-1)
        past = None if state is None else state["conv"]
        convolved, past = causal_conv(inputs, past, *self._conv_parameters(), is_init)
        low_rank, B, C = self._select(convolved)
        arguments = (convolved, self.dt_proj(low_rank), self._decay_rates(), B, C)
        if self._kernel and state is None and is_init is None and _fits_kernel(x):
            y, ssm = scan_with_kernel(self._kernel, *arguments)
        else:
            y, ssm = selective_scan(
                *arguments,
                initial_state=None if state is None else state["ssm"],
                is_init=is_init,
            )
        new_state = TensorDict({"conv": past, "ssm": ssm}, batch_size=x.shape[:1])
        return self.out_proj(self._gate(y, convolved, z)), new_state

    def step(self, x: Tensor, state: TensorDictBase) -> tuple[Tensor, TensorDict]:
        """Run one step; the cost does not depend on how many came before.

        Without gradients, on a GPU, one kernel convolves and another does all that
        follows the step sizes' projection.

        Args:
            x: [B, D] inputs.
            state: what an earlier call or :meth:`initial_state` returned.

        Returns:
            y [B, D], and the state after the step.

        Raises:
            ValueError: if the shape of ``x`` or ``state`` does not fit.
        """
        check_input(x, self.d_model, ndim=2)
        self._check_state(state, x.shape[0])
        inputs, z = self.in_proj(x).chunk(2, dim=-1)
        convolved, past = causal_conv_step(
            inputs, state["conv"], *self._conv_parameters()
        )
        low_rank, B, C = self._select(convolved)
        ssm, rates = state["ssm"], (self.dt_proj.bias, self.A_log, self.D)
        if can_step(convolved, low_rank, z, ssm, *rates):
            raw = F.linear(low_rank, self.dt_proj.weight)
            gated, ssm = mamba_step(convolved, raw, B, C, z, ssm, *rates)
        else:
            dt, decay_rates = self.dt_proj(low_rank), self._decay_rates()
            y, ssm = selective_scan_step(convolved, dt, decay_rates, B, C, ssm)
            gated = self._gate(y, convolved, z)
        new_state = TensorDict({"conv": past, "ssm": ssm}, batch_size=x.shape[:1])
        return self.out_proj(gated), new_state

    def _conv_parameters(self) -> tuple[Tensor, Tensor]:
        """Give the kernel [DI, d_conv] and the bias [DI]."""
        assert self.conv1d.bias is not None
        return self.conv1d.weight.squeeze(1), self.conv1d.bias

    def _select(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give the low-rank dt [..., rank], B and C [..., S]."""
        widths = (self.dt_rank, self.d_state, self.d_state)
        low_rank, B, C = self.x_proj(x).split(widths, dim=-1)
        return low_rank, B, C

    def _decay_rates(self) -> Tensor:
        return -torch.exp(wide(self.A_log))

    def _gate(self, y: Tensor, x: Tensor, z: Tensor) -> Tensor:
        """Give (y + D x) * SiLU(z), [..., DI]."""
        y = y + self.D * x
        return y * F.silu(z.to(y.dtype))

    def _check_state(self, state: TensorDictBase | None, batch: int) -> None:
        conv, ssm = (self.d_inner, self.d_conv - 1), (self.d_inner, self.d_state)
        check_state(state, batch, conv=conv, ssm=ssm)


def _fits_kernel(x: Tensor) -> bool:
    if torch.compiler.is_compiling() or torch.are_deterministic_algorithms_enabled():
        return False
    return x.is_cuda and x.dtype != torch.float64


class _StepSizes(nn.Module):
    """dt = softplus(W r + b) in float32, from the low-rank r.

    Not a linear layer: its bias is the logarithm of a step size and is never rounded.
    """

    def __init__(
        self, rank: int, inner: int, *, dt_min: float, dt_max: float, floor: float
    ) -> None:
        super().__init__()
        linear = nn.Linear(rank, inner)
        self.weight, self.bias = linear.weight, linear.bias
        nn.init.uniform_(self.weight, -(rank**-0.5), rank**-0.5)
        low, high = math.log(dt_min), math.log(dt_max)
        dt = torch.exp(torch.rand(inner) * (high - low) + low).clamp(min=floor)
        with torch.no_grad():
            self.bias.copy_(dt + torch.log(-torch.expm1(-dt)))

    def forward(self, low_rank: Tensor) -> Tensor:
        """Map [..., rank] to [..., DI] > 0."""
        raw = F.linear(low_rank, self.weight)
        return F.softplus(wide(raw) + wide(self.bias))
