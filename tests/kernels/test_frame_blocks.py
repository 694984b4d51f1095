"""The kernel moves every byte to its channel, and nothing else into the blocks."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from drama_torchrl.kernels import frame_blocks as kernels
from drama_torchrl.kernels.frame_blocks import (
    frames_to_blocks,
    frames_to_blocks_by_pairs,
    frames_to_blocks_reference,
)

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="needs triton: pip install triton",
)
COMPUTE = [
    pytest.param(frames_to_blocks_reference, id="reference"),
    pytest.param(frames_to_blocks_by_pairs, id="kernel", marks=needs_triton),
]
DTYPES = [
    # Triton's interpreter takes the bits of bf16 for integers.
    pytest.param(torch.bfloat16, marks=pytest.mark.gpu, id="bf16"),
    pytest.param(torch.float16, id="fp16"),
    pytest.param(torch.float32, id="fp32"),
]
SIZES = [
    pytest.param(2, 64, 64, id="of-the-agent"),
    pytest.param(3, 10, 14, id="odd-blocks"),
    pytest.param(5, 2, 2, id="single-blocks"),
    pytest.param(3, 2, 34, id="single-rows"),
    pytest.param(700, 2, 4, id="frames-across-programs"),
    pytest.param(0, 4, 4, id="no-frames"),
]


def random_frames(*shape: int, device: torch.device) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, device=device)


@pytest.mark.parametrize("compute", COMPUTE)
def test_channels_are_ordered_by_position_then_colour(
    compute: Callable[[Tensor, torch.dtype], Tensor], device: torch.device
) -> None:
    red = torch.arange(16, dtype=torch.uint8, device=device).view(4, 4)
    frames = torch.stack([red, red + 100, red + 200]).unsqueeze(0)
    blocks = compute(frames, torch.float32)
    corner = [2, 102, 202, 3, 103, 203, 6, 106, 206, 7, 107, 207, 0, 0, 0, 0]
    assert blocks[0, :, 0, 1].tolist() == corner


@needs_triton
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("frames", "height", "width"), SIZES)
def test_the_kernel_moves_every_byte_to_its_channel(
    frames: int, height: int, width: int, dtype: torch.dtype, device: torch.device
) -> None:
    x = random_frames(frames, 3, height, width, device=device)
    y = frames_to_blocks_by_pairs(x, dtype)
    corners = [x[:, :, r::2, s::2] for r in (0, 1) for s in (0, 1)]
    assert torch.equal(y[:, :12], torch.cat(corners, 1).to(dtype))
    assert y.dtype == dtype
    assert not y[:, 12:].any()
    assert y.shape == (frames, 16, height // 2, width // 2)
    assert y.is_contiguous(memory_format=torch.channels_last)


@needs_triton
@pytest.mark.parametrize("pixels", [16, 128, 1024], ids="pixels={}".format)
def test_any_cut_gives_the_same(
    pixels: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "_PIXELS", pixels)
    frames = random_frames(7, 3, 12, 20, device=device)
    y = frames_to_blocks_by_pairs(frames, torch.float32)
    assert torch.equal(y, frames_to_blocks_reference(frames, torch.float32))


@pytest.mark.parametrize("compute", COMPUTE)
def test_frames_need_not_be_contiguous(
    compute: Callable[[Tensor, torch.dtype], Tensor], device: torch.device
) -> None:
    frames = random_frames(2, 8, 8, 3, device=device).permute(0, 3, 1, 2)
    y = compute(frames, torch.float32)
    assert torch.equal(y, compute(frames.contiguous(), torch.float32))
    assert y.is_contiguous(memory_format=torch.channels_last)


@needs_triton
def test_a_part_of_a_buffer_is_read_where_it_lies(device: torch.device) -> None:
    frames = random_frames(5, 3, 2, 6, device=device)
    y = frames_to_blocks_by_pairs(frames[1:], torch.float32)
    assert torch.equal(y, frames_to_blocks_by_pairs(frames, torch.float32)[1:])


def test_floating_frames_keep_their_values_and_gradient() -> None:
    frames = torch.randn(2, 3, 6, 4, dtype=torch.float64, requires_grad=True)
    blocks = frames_to_blocks(frames, torch.float64)
    weight = torch.randn_like(blocks)
    (blocks * weight).sum().backward()
    assert frames.grad is not None
    by_position = weight[:, :12].unflatten(1, (4, 3)).transpose(1, 2).flatten(1, 2)
    assert torch.equal(frames.grad, F.pixel_shuffle(by_position, 2))
    assert blocks.sum().item() == pytest.approx(frames.sum().item())


@needs_triton
def test_the_operator_is_registered_as_torch_wants(device: torch.device) -> None:
    frames = random_frames(2, 3, 8, 8, device=device)
    torch.library.opcheck(frames_to_blocks_by_pairs, (frames, torch.float32))


@needs_triton
def test_on_a_gpu_one_operator_makes_the_blocks() -> None:
    with FakeTensorMode():
        frames = torch.empty(2, 3, 16, 12, dtype=torch.uint8, device="cuda")

        def blocks(frames: Tensor) -> Tensor:
            return frames_to_blocks(frames, torch.bfloat16)

        graph = make_fx(blocks)(frames)
        called = [n.target for n in graph.graph.nodes if n.op == "call_function"]
        assert called == [torch.ops.drama_torchrl.frames_to_blocks.default]


@pytest.mark.parametrize(
    "shape",
    [(3, 4, 4), (1, 1, 4, 4), (1, 3, 5, 4), (1, 3, 4, 5)],
    ids=["3d", "grey", "odd-height", "odd-width"],
)
def test_wrong_shapes_are_refused_with_a_remedy(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"frames \[N, 3, H, W\].*even.*resize"):
        frames_to_blocks(torch.zeros(shape, dtype=torch.uint8), torch.float32)


@pytest.mark.gpu
def test_a_cuda_graph_replays_it_and_a_compiler_takes_it() -> None:
    def blocks(frames: Tensor) -> Tensor:
        return frames_to_blocks(frames, torch.bfloat16)

    frames = random_frames(64, 3, 64, 64, device=torch.device("cuda"))
    compiled = torch.compile(blocks, fullgraph=True, dynamic=False)
    compiled(frames)
    graph, static = torch.cuda.CUDAGraph(), torch.zeros_like(frames)
    with torch.cuda.graph(graph):
        captured = compiled(static)
    static.copy_(frames)
    graph.replay()
    assert torch.equal(captured, frames_to_blocks_reference(frames, torch.bfloat16))
