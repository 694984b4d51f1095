"""The four passes as operators of torch: opaque to compilers, with a gradient.

They mutate nothing, so that compilers need to know only shapes. ``swap`` = (P, Q, R)
says that y and dy hold as rows [·, Q, P, R] what x and dx hold as [·, P, Q, R].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from drama_torchrl.kernels.batch_norm_silu_backward_kernels import (
    combine_sums_kernel,
    gradient_sums_kernel,
    input_gradient_kernel,
)
from drama_torchrl.kernels.batch_norm_silu_forward_kernels import (
    combine_statistics_kernel,
    normalise_kernel,
    statistics_kernel,
)
from drama_torchrl.kernels.launch import fake_of
from drama_torchrl.kernels.optional_triton import triton
from drama_torchrl.kernels.processors import processors, takes_ptx
from drama_torchrl.parallel import all_sum, size

__all__ = [
    "channel_statistics",
    "normalise_silu",
    "normalise_silu_gradient",
    "normalise_silu_sums",
]


class _Pass(NamedTuple):
    """How a pass is cut up: elements of a tile, programs, warps and loads in flight."""

    tile: int
    programs_per_processor: int
    warps: int
    stages: int


# A thread holds tile / (32 · warps) elements, of which a 16-byte load brings 8 in bf16.
# The passes with sums keep them in registers and all their programs on the GPU at once;
# the elementwise ones have more programs, so that none is left alone at the end.
# The values are the fastest of a few for x [8388608, 16] in bf16: on one H200, those of
# the gradients in one sweep on an H100, where they lead for [2097152, 32], too.
_STATISTICS = _Pass(tile=4096, programs_per_processor=4, warps=4, stages=3)
_NORMALISE = _Pass(tile=4096, programs_per_processor=64, warps=4, stages=1)
_GRADIENT_SUMS = _Pass(tile=4096, programs_per_processor=4, warps=8, stages=3)
_INPUT_GRADIENT = _Pass(tile=2048, programs_per_processor=64, warps=4, stages=1)
_COMBINE_ROWS, _COMBINE_CHANNELS, _COMBINE_WARPS = 256, 16, 8


class _Cut(NamedTuple):
    """One pass over one matrix: what of it each program does."""

    programs: int
    width: int
    rows: int
    steps: int


def _cut(x: Tensor, how: _Pass) -> _Cut:
    width = triton.next_power_of_2(x.shape[1])
    rows = max(1, how.tile // width)
    tiles = triton.cdiv(x.shape[0], rows)
    steps = triton.cdiv(tiles, processors(x.device) * how.programs_per_processor)
    return _Cut(triton.cdiv(tiles, steps), width, rows, steps)


def _launch(
    kernel: Any,
    how: _Pass,
    x: Tensor,
    *arguments: Tensor | float,
    **constants: int,
) -> None:
    cut = _cut(x, how)
    with torch.cuda.device_of(x):
        kernel[(cut.programs,)](
            x,
            *arguments,
            M=x.shape[0],
            C=x.shape[1],
            WIDTH=cut.width,
            ROWS=cut.rows,
            STEPS=cut.steps,
            STAGES=how.stages,
            **constants,
            num_warps=how.warps,
        )


def _how(x: Tensor, swap: Sequence[int]) -> dict[str, Any]:
    rows = zip(("OUTER", "INNER", "UNIT"), swap, strict=True)
    return {"PTX": takes_ptx(x), **dict(rows)}


def _combine(kernel: Any, partials: Tensor) -> tuple[Tensor, Tensor]:
    """Reduces the programs' [2 or 3, P, C] to two [C] in one small launch."""
    _, programs, channels = partials.shape
    first, second = _two_vectors(partials, channels)
    with torch.cuda.device_of(partials):
        kernel[(triton.cdiv(channels, _COMBINE_CHANNELS),)](
            partials,
            first,
            second,
            P=programs,
            C=channels,
            WIDTH=_COMBINE_CHANNELS,
            ROWS=_COMBINE_ROWS,
            STEPS=triton.cdiv(programs, _COMBINE_ROWS),
            num_warps=_COMBINE_WARPS,
        )
    return first, second


def _two_vectors(like: Tensor, size: int) -> tuple[Tensor, Tensor]:
    first = like.new_empty(size, dtype=torch.float32)
    return first, torch.empty_like(first)


@torch.library.custom_op("drama_torchrl::channel_statistics", mutates_args=())
def channel_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each channel's mean and M2, its squared deviations' sum: [C] float32."""
    programs = _cut(x, _STATISTICS).programs
    partials = x.new_empty(3, programs, x.shape[1], dtype=torch.float32)
    _launch(statistics_kernel, _STATISTICS, x, partials)
    return _combine(combine_statistics_kernel, partials)


@torch.library.custom_op("drama_torchrl::normalise_silu", mutates_args=())
def normalise_silu(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    swap: Sequence[int],
) -> Tensor:
    """SiLU of x normalised by its own mean and variance, those over all processes.

    Its gradient takes them for functions of x.
    """
    y = torch.empty_like(x)
    vectors = (mean, variance, weight, bias)
    _launch(normalise_kernel, _NORMALISE, x, *vectors, y, eps, **_how(x, swap))
    return y


@torch.library.custom_op("drama_torchrl::normalise_silu_sums", mutates_args=())
def normalise_silu_sums(
    x: Tensor, dy: Tensor, vectors: list[Tensor], eps: float, swap: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Σ dz and Σ dz · x̂ [C] float32; vectors: mean, variance, weight and bias."""
    programs = _cut(x, _GRADIENT_SUMS).programs
    partials = x.new_empty(2, programs, x.shape[1], dtype=torch.float32)
    how, inputs = _GRADIENT_SUMS, (x, dy, *vectors)
    _launch(gradient_sums_kernel, how, *inputs, partials, eps, **_how(x, swap))
    return _combine(combine_sums_kernel, partials)


@torch.library.custom_op("drama_torchrl::normalise_silu_gradient", mutates_args=())
def normalise_silu_gradient(
    x: Tensor,
    dy: Tensor,
    vectors: list[Tensor],
    count: int,
    eps: float,
    swap: Sequence[int],
) -> Tensor:
    """dx; vectors: as above, then the two sums, all of them over ``count`` samples."""
    dx = torch.empty_like(x)
    how, inputs, share = _INPUT_GRADIENT, (x, dy, *vectors), 1.0 / count
    _launch(input_gradient_kernel, how, *inputs, dx, eps, share, **_how(x, swap))
    return dx


def _fake_vectors(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return _two_vectors(x, x.shape[1])


def _fake_matrix(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    *tensors, ctx.eps, ctx.swap = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, *vectors = ctx.saved_tensors
    dy = dy.contiguous()
    how = (ctx.eps, ctx.swap)
    sums = normalise_silu_sums(x, dy, vectors, *how)
    dx = None
    if ctx.needs_input_grad[0]:
        count = x.shape[0] * size()
        totals = all_sum(*sums)
        dx = normalise_silu_gradient(x, dy, [*vectors, *totals], count, *how)
    (dbias, dweight), (*_, weight, bias) = sums, vectors
    dweight, dbias = dweight.to(weight.dtype), dbias.to(bias.dtype)
    return dx, None, None, dweight, dbias, None, None


fake_of(channel_statistics)(_fake_vectors)
fake_of(normalise_silu)(_fake_matrix)
fake_of(normalise_silu_sums)(_fake_vectors)
fake_of(normalise_silu_gradient)(_fake_matrix)
normalise_silu.register_autograd(_backward, setup_context=_save)
