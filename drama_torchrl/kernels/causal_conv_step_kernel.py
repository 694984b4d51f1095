"""A kernel that takes a causal depthwise convolution one step on."""

from __future__ import annotations

from drama_torchrl.kernels.launch import kernel
from drama_torchrl.kernels.mamba2_step_kernel import convolved, keep, window_of
from drama_torchrl.kernels.optional_triton import tl

__all__ = ["causal_conv_step_kernel"]


@kernel
def causal_conv_step_kernel(
    inputs: tl.tensor,
    past: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    y: tl.tensor,
    new_past: tl.tensor,
    past_batch: tl.tensor,
    past_channel: tl.tensor,
    past_tap: tl.tensor,
    ROW: tl.constexpr,
    CHANNELS: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Convolves BLOCK channels of one sequence: y [B, CHANNELS], in float32."""
    blocks = tl.cdiv(CHANNELS, BLOCK)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    channel = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = channel < CHANNELS
    inputs += batch * ROW
    past += batch * past_batch
    window = window_of(inputs, past, channel, inside, past_channel, past_tap, TAPS)
    value = convolved(window, weight, bias, channel, inside, TAPS)
    tl.store(y + batch * CHANNELS + channel, value, mask=inside)
    new_past += batch * ((TAPS - 1) * CHANNELS)
    keep(new_past, window, channel, inside, CHANNELS, TAPS)
