"""What fake tensors have compiled, and what real ones launch, of every operator.

    python -m tests.reference.launches

A process of its own: Triton's interpreter, which other tests use, leaves its language
changed behind. There need not be a GPU: a driver stands in that compiles for one and
launches nothing. Prints what happened as JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import triton
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from drama_torchrl.kernels import batch_norm_silu_operators as norm
from drama_torchrl.kernels import (
    causal_conv,
    causal_conv_step,
    conv_same,
    conv_silu,
    conv_silu_twice,
    frame_blocks,
    launch,
    mamba2_step,
    mamba_step,
    race,
    selective_scan,
    ssd_chunks,
    ssd_chunks_backward,
    ssd_one_chunk,
)
from drama_torchrl.kernels.optional_triton import tl

__all__ = ["OPERATORS"]

half = torch.bfloat16


class Driver:
    """Of an H100 or H200, as far as Triton's compiler and launcher ask for it."""

    def __init__(self) -> None:
        self.launched: list[str] = []
        self.utils = SimpleNamespace(
            get_device_properties=lambda _: {"max_shared_mem": 1 << 18},
            load_binary=lambda name, *_: (name, name, 0, 0, 1024),
        )

    def launcher_cls(self, _source: Any, metadata: Any) -> Callable[..., None]:
        return lambda *_: self.launched.append(metadata.name)

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int) -> int:
        return 0


def randn(*shape: int, dtype: torch.dtype = half) -> Tensor:
    return torch.randn(shape).to(dtype)


def maps(frames: int, channels: int) -> Tensor:
    return randn(frames, 8, 8, channels).movedim(-1, 1)


def flags(*shape: int) -> Tensor:
    return torch.rand(shape) < 0.1


def recurrence(length: int) -> list[Tensor]:
    """x, dt, A, B and C of Mamba-2: x, B and C are parts of one tensor."""
    x, B, C = randn(2, length, 8 * 16 + 32).split([8 * 16, 16, 16], -1)
    dt, A = torch.rand(2, length, 8), -torch.rand(8)
    return [x.unflatten(-1, (8, 16)), dt, A, B, C]


def scanned() -> list[Tensor | None]:
    """What Mamba's scan takes."""
    x, dt, (B, C) = (
        randn(2, 40, 24),
        randn(2, 40, 24),
        randn(2, 40, 2 * 16).chunk(2, -1),
    )
    return [x, dt, -torch.rand(24, 16), B, C, torch.rand(2, 24, 16), flags(2, 40)]


def single(*shape: int) -> Tensor:
    return randn(*shape, dtype=torch.float32)


def raises(x: tl.tensor) -> None:
    tl.store(x, unknown)  # type: ignore[name-defined]  # noqa: F821


OPERATORS: dict[str, Callable[[], tuple[Any, list[Any]]]] = {
    "channel_statistics": lambda: (norm.channel_statistics, [randn(512, 16)]),
    "normalise_silu": lambda: (
        norm.normalise_silu,
        [randn(512, 16), *single(4, 16).exp(), 1e-5, (2, 4, 8)],
    ),
    "normalise_silu_sums": lambda: (
        norm.normalise_silu_sums,
        [randn(512, 16), randn(512, 16), [*single(4, 16).exp()], 1e-5, (1, 1, 1)],
    ),
    "normalise_silu_gradient": lambda: (
        norm.normalise_silu_gradient,
        [*randn(2, 512, 16), [*single(6, 16).exp()], 512, 1e-5, (1, 1, 1)],
    ),
    "causal_conv": lambda: (
        causal_conv.causal_conv,
        [randn(2, 24, 40), single(40, 4), single(40), flags(2, 24), half],
    ),
    "causal_conv_gradients": lambda: (
        causal_conv.causal_conv_gradients,
        [*randn(2, 2, 24, 40), single(40, 4), single(40), None],
    ),
    "causal_conv_step": lambda: (
        causal_conv_step.causal_conv_step,
        [randn(2, 40), randn(2, 3, 40).mT, single(40, 4), single(40)],
    ),
    "conv_same": lambda: (
        conv_same._convolve,
        [maps(2, 16), randn(64, 16, 3, 3)],
    ),
    "conv_same_input_gradient": lambda: (
        conv_same._input_gradient,
        [maps(2, 64), randn(9, 64, 32)],
    ),
    "conv_same_weight_gradient": lambda: (
        conv_same._weight_gradient,
        [maps(2, 16), maps(2, 64)],
    ),
    "conv_silu": lambda: (
        conv_silu.conv_silu_by_taps,
        [maps(2, 16), randn(9, 16, 64), single(64), 64],
    ),
    "conv_silu_twice": lambda: (
        conv_silu_twice.conv_silu_twice_by_taps,
        [
            maps(2, 16),
            randn(9, 16, 64),
            single(64),
            64,
            randn(9, 64, 32),
            single(32),
            32,
        ],
    ),
    "frames_to_blocks": lambda: (
        frame_blocks.frames_to_blocks_by_pairs,
        [torch.zeros(2, 3, 64, 64, dtype=torch.uint8), half],
    ),
    "mamba2_step": lambda: (
        mamba2_step.mamba2_step,
        [
            randn(2, 2 * 128 + 32 + 8),
            randn(2, 3, 160).mT,
            single(2, 8, 16, 16),
            single(160, 4),
            single(160),
            *single(3, 8),
        ],
    ),
    "mamba_step": lambda: (
        mamba_step.mamba_step,
        [
            *randn(2, 2, 24),
            *randn(2, 32).chunk(2, -1),
            randn(2, 24),
            single(2, 24, 16),
            single(24),
            single(24, 16),
            single(24),
        ],
    ),
    "race": lambda: (race.race, [single(5000), 4, torch.tensor([7])]),
    "selective_scan": lambda: (selective_scan.selective_scan, scanned()),
    "selective_scan_gradients": lambda: (
        selective_scan.selective_scan_gradients,
        [single(2, 40, 24), None, *scanned(), single(2, 1, 24, 16)],
    ),
    "ssd_chunks": lambda: (
        ssd_chunks._ssd_chunks,
        [*recurrence(128), single(2, 8, 16, 16), flags(2, 128), True],
    ),
    "ssd_chunks_gradients": lambda: (
        ssd_chunks_backward.ssd_chunks_gradients,
        [
            *recurrence(128),
            flags(2, 128),
            single(2, 2, 8, 16, 16),
            randn(2, 128, 8, 16),
            single(2, 8, 16, 16),
            True,
        ],
    ),
    "ssd_one_chunk": lambda: (ssd_one_chunk.ssd_one_chunk, recurrence(8)),
}


def take_over() -> tuple[Driver, list[str]]:
    """Puts the driver in place; its launches, and the names of what is compiled."""
    driver, compiled = Driver(), list[str]()
    triton.knobs.cache.dir = tempfile.mkdtemp()
    triton.runtime.driver._active = driver
    triton.knobs.compilation.listener = lambda *, src, **_: compiled.append(src.name)
    return driver, compiled


def trace(launching: Callable[..., object], arguments: list[Any]) -> None:
    """Calls with fake tensors, twice, and waits for what it has compiled."""
    with (
        ThreadPoolExecutor(2) as pool,
        mock.patch.object(launch, "_threads", return_value=pool),
        FakeTensorMode() as mode,
    ):
        fakes = pytree.tree_map_only(Tensor, mode.from_tensor, arguments)
        launching(*fakes)
        launching(*fakes)


def main() -> None:
    """Every operator in turn, and a kernel that cannot be compiled."""
    driver, compiled = take_over()
    report: dict[str, Any] = {}
    for name, make in OPERATORS.items():
        operator, arguments = make()
        compiled.clear()
        driver.launched.clear()
        trace(operator._init_fn, arguments)
        seen = {"from_fakes": [*compiled], "launched_by_fakes": [*driver.launched]}
        operator(*arguments)
        seen |= {"compiled": [*compiled], "launched": [*driver.launched]}
        report[name] = seen
    broken = launch.kernel(raises)
    trace(broken[(1,)], [single(1)])
    try:
        broken[(1,)](single(1))
    except triton.CompilationError as error:
        report["error"] = str(error)
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main()
