"""A compiler that traces an operator has its kernels compiled before they run."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from drama_torchrl.kernels import launch
from drama_torchrl.kernels.causal_conv import causal_conv

triton = pytest.importorskip("triton")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]


@pytest.fixture
def compiled(tmp_path: Path) -> Iterator[list[str]]:
    """Names of the kernels, as they are compiled, none of them before."""
    names: list[str] = []

    def note(*, src: Any, cache_hit: bool, **_: Any) -> None:
        if not cache_hit:
            names.append(src.name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton.knobs.cache, "dir", str(tmp_path))
        patch.setattr(triton.knobs.compilation, "listener", note)
        yield names


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(launch, "_threads", lambda: pool)
        yield pool


def make_inputs(channels: int, length: int = 24) -> list[Tensor]:
    x = torch.randn(2, length, channels, device="cuda")
    weight = torch.randn(channels, 4, device="cuda")
    return [x, weight, torch.randn(channels, device="cuda")]


def test_a_launch_finds_what_fake_tensors_had_compiled(
    compiled: list[str], threads: ThreadPoolExecutor
) -> None:
    # A width that no other test has compiled in this process.
    inputs = make_inputs(344)
    with FakeTensorMode() as mode:
        causal_conv(*(mode.from_tensor(t) for t in inputs), None, torch.bfloat16)
    threads.shutdown()
    assert compiled == ["causal_conv_kernel"]
    causal_conv(*inputs, None, torch.bfloat16)
    assert compiled == ["causal_conv_kernel"]


def test_a_compiler_need_not_know_the_sizes(compiled: list[str]) -> None:
    def doubled(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y: Tensor = causal_conv(x, weight, bias, None, torch.float32)
        return 2 * y

    function = torch.compile(doubled, dynamic=True, fullgraph=True)
    for length in (24, 31):
        inputs = make_inputs(352, length)
        torch.testing.assert_close(function(*inputs), doubled(*inputs))
    assert "causal_conv_kernel" in compiled
