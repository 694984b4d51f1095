"""A causal depthwise convolution over time as pure functions: a sequence, or a step.

    y_t = SiLU(bias + sum_k weight_k u_{t-K+1+k})    for K taps, k = 0 ... K-1

in front of the state-space recurrences (arXiv:2312.00752, section 3.4). They share
these shapes:

    inputs   [B, T, C]      u, one value per channel; [B, C] for a step
    past     [B, C, K-1]    the inputs before, oldest first; zero where omitted
    weight   [C, K], bias [C]
    is_init  [B, T] bool    True where an episode starts: earlier inputs are not seen

Each returns ``(y, past)``: y in the dtype of the parameters, of a sequence in another
one if that is asked for, and the past after the last step in that of the inputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from drama_torchrl.kernels import causal_conv as sequence_kernels
from drama_torchrl.kernels import causal_conv_step as step_kernels

__all__ = ["causal_conv", "causal_conv_step"]


def causal_conv(
    inputs: Tensor,
    past: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    is_init: Tensor | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Convolve a sequence; ``dtype`` is that of y.

    A sum of shifted products, with episode starts as masks on its terms: it fuses where
    a depthwise cuDNN convolution is slow. On a GPU one kernel takes sequences that have
    no past.

    Example:
        >>> weight, bias = torch.tensor([[1.0, -1.0]]), torch.zeros(1)
        >>> y, past = causal_conv(torch.tensor([[[0.0], [2.0]]]), None, weight, bias)
        >>> y.flatten(), past.flatten()  # SiLU(0), SiLU(0 - 2)
        (tensor([ 0.0000, -0.2384]), tensor([2.]))
    """
    length, before = inputs.shape[1], weight.shape[1] - 1
    episode = None if is_init is None else F.pad(is_init.cumsum(1), (before, 0))
    recent = _recent(inputs, past, before, episode)
    if sequence_kernels.can_convolve(inputs, past, weight, bias):
        options = {"is_init": is_init, "dtype": dtype or weight.dtype}
        return sequence_kernels.causal_conv(inputs, weight, bias, **options), recent
    inputs = inputs.to(weight.dtype)
    if past is None:
        window = F.pad(inputs, (0, 0, before, 0))
    else:
        window = torch.cat([past.to(weight.dtype).transpose(1, 2), inputs], dim=1)
    total = window[:, before:] * weight[:, before] + bias
    for tap in range(before):
        tapped = window[:, tap : tap + length]
        if episode is not None:
            ended = episode[:, tap : tap + length] != episode[:, before:]
            tapped = tapped.masked_fill(ended.unsqueeze(-1), 0.0)
        total = total + tapped * weight[:, tap]
    return F.silu(total).to(dtype or total.dtype), recent


def _recent(
    inputs: Tensor, past: Tensor | None, count: int, episode: Tensor | None
) -> Tensor:
    """The last inputs [B, C, count], as the step after the sequence sees them.

    Episodes [B, count + T] are numbered, those of the inputs before it, too.
    """
    length = inputs.shape[1]
    recent, missing = inputs[:, max(length - count, 0) :], max(count - length, 0)
    if past is None or not missing:
        recent = F.pad(recent, (0, 0, missing, 0))
    else:
        earlier = past[..., length:].to(inputs.dtype).transpose(1, 2)
        recent = torch.cat([earlier, recent], dim=1)
    if episode is not None:
        ended = episode[:, length:] != episode[:, -1:]
        recent = recent.masked_fill(ended.unsqueeze(-1), 0.0)
    # Channels are neighbours in memory: the next step reads whole rows of them.
    return recent.contiguous().transpose(1, 2)


def causal_conv_step(
    inputs: Tensor, past: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Convolve one more step; the cost does not depend on how many came before.

    Without gradients, on a GPU, one kernel does it.

    Example:
        >>> weight, bias = torch.tensor([[1.0, -1.0]]), torch.zeros(1)
        >>> past = torch.zeros(1, 1, 1)
        >>> y, past = causal_conv_step(torch.tensor([[2.0]]), past, weight, bias)
        >>> y.flatten(), past.flatten()
        (tensor([-0.2384]), tensor([2.]))
    """
    if step_kernels.can_convolve(inputs, past, weight, bias):
        return step_kernels.causal_conv_step(inputs, past, weight, bias)
    past = past.to(inputs.dtype).transpose(1, 2)
    window = torch.cat([past, inputs.unsqueeze(1)], dim=1)
    y = F.silu((window * weight.t()).sum(1) + bias)
    return y, window[:, 1:].contiguous().transpose(1, 2)
