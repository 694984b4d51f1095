"""The kernel equals the plain convolution, at the borders and in every cut."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from drama_torchrl.kernels import conv_silu as kernels
from drama_torchrl.kernels import conv_taps as launches
from drama_torchrl.kernels.conv_silu import conv_silu

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="needs triton: pip install triton",
)
DTYPES = [
    # Triton's interpreter multiplies the bits of bf16 as if they were integers.
    pytest.param(torch.bfloat16, marks=pytest.mark.gpu, id="bf16"),
    pytest.param(torch.float16, id="fp16"),
]


def random_layer(
    channels: int, channels_out: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    weight = torch.randn(channels_out, channels, 3, 3, device=device)
    return weight / (3 * channels**0.5), torch.randn(channels_out, device=device)


def exact(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """In float64, from the operands that the kernel is given."""
    weight = weight.to(x.dtype).double()
    sums = F.conv2d(x.double(), weight, bias.double(), padding=1)
    return sums * torch.sigmoid(sums)


@needs_triton
class TestMaps:
    @pytest.mark.parametrize(
        ("maps", "channels", "channels_out", "rows", "columns"),
        [
            pytest.param(2, 16, 64, 8, 8, id="first-layer"),
            pytest.param(2, 64, 32, 8, 8, id="second-layer"),
            pytest.param(3, 16, 64, 5, 7, id="odd-sides"),
            pytest.param(1, 32, 40, 4, 6, id="channels-no-power-of-two"),
            pytest.param(1, 16, 128, 4, 4, id="many-channels-out"),
            pytest.param(1, 128, 16, 4, 4, id="many-channels"),
            pytest.param(5, 32, 1, 3, 2, id="one-channel-out"),
            pytest.param(7, 16, 4, 1, 1, id="single-pixels"),
            pytest.param(2, 16, 4, 1, 9, id="single-rows"),
            pytest.param(2, 16, 4, 9, 1, id="single-columns"),
            pytest.param(0, 16, 4, 4, 4, id="no-maps"),
        ],
    )
    def test_the_kernel_agrees_with_float64(
        self,
        maps: int,
        channels: int,
        channels_out: int,
        rows: int,
        columns: int,
        device: torch.device,
    ) -> None:
        x = torch.randn(maps, channels, rows, columns, device=device).half()
        weight, bias = random_layer(channels, channels_out, device)
        y = kernels._fused(x, weight, bias)
        expected = exact(x, weight, bias)
        torch.testing.assert_close(y.double(), expected, atol=2e-5, rtol=5e-4)
        assert y.is_contiguous(memory_format=torch.channels_last)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_it_rounds_once_at_the_end(
        self, dtype: torch.dtype, device: torch.device
    ) -> None:
        x = torch.randn(3, 64, 6, 6, device=device).to(dtype)
        weight, bias = random_layer(64, 32, device)
        y = kernels._fused(x, weight, bias)
        assert y.dtype == dtype
        half_a_digit = torch.finfo(dtype).eps / 2
        torch.testing.assert_close(
            y.double(), exact(x, weight, bias), rtol=1.01 * half_a_digit, atol=2e-5
        )

    @pytest.mark.parametrize("rows", [1, 2, 8], ids="rows={}".format)
    @pytest.mark.parametrize("block", [16, 64, 128], ids="block={}".format)
    def test_any_cut_gives_the_same(
        self,
        block: int,
        rows: int,
        device: torch.device,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        launch = launches._Launch(block, rows, 4, 2)
        monkeypatch.setitem(launches._LAUNCHES, (16, 24), launch)
        monkeypatch.setattr(launches, "_FEW_PROGRAMS", 0)
        x = torch.randn(5, 16, 6, 4, device=device).half()
        weight, bias = random_layer(16, 24, device)
        y = kernels._fused(x, weight, bias)
        expected = exact(x, weight, bias)
        torch.testing.assert_close(y.double(), expected, atol=2e-5, rtol=5e-4)

    def test_few_maps_are_cut_smaller(self, device: torch.device) -> None:
        def rows(maps: int) -> int:
            x = torch.empty(maps, 16, 32, 32, dtype=torch.float16, device=device)
            return launches._launch(x, x.new_empty(9, 16, 64), 64).rows

        assert rows(1) < rows(2048) == launches._LAUNCHES[16, 64].rows

    @pytest.mark.parametrize(
        ("memory", "stages"), [(227, 3), (99, 2), (64, 1)], ids=str
    )
    def test_the_pipeline_fits_the_shared_memory(
        self,
        memory: int,
        stages: int,
        device: torch.device,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(launches, "shared_memory", lambda _: memory * 1024)
        x = torch.empty(8, 64, 32, 32, dtype=torch.float16, device=device)
        launch = launches._launch(x, x.new_empty(9, 64, 32), 32)
        assert launch.stages == stages

    @pytest.mark.parametrize("rows", [1, 2, 4], ids="rows={}".format)
    def test_nothing_is_read_beyond_a_border(
        self, rows: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        launch = launches._Launch(16, rows, 4, 2)
        monkeypatch.setitem(launches._LAUNCHES, (16, 8), launch)
        x = torch.ones(3, 16, 3, 4, device=device).half()
        weight = torch.full((8, 16, 3, 3), 1 / 16, device=device)
        y = kernels._fused(x, weight, torch.zeros(8, device=device))
        # How many of the nine neighbours lie inside the map.
        inside = torch.tensor([[4, 6, 6, 4], [6, 9, 9, 6], [4, 6, 6, 4]], device=device)
        torch.testing.assert_close(y, F.silu(inside.half()).expand(3, 8, 3, 4))

    def test_memory_layouts_do_not_matter(self, device: torch.device) -> None:
        x = torch.randn(2, 16, 4, 6, device=device).half()
        weight, bias = random_layer(16, 8, device)
        last = torch.channels_last
        ys = [
            kernels._fused(each, each_weight, bias)
            for each in (x, x.contiguous(memory_format=last))
            for each_weight in (weight, weight.contiguous(memory_format=last))
        ]
        assert all(torch.equal(y, ys[0]) for y in ys)

    def test_channels_beyond_the_weights_are_ignored(
        self, device: torch.device
    ) -> None:
        x = torch.randn(2, 16, 4, 4, device=device).half()
        weight, bias = random_layer(12, 8, device)
        x[:, 12:] = 0
        y = kernels._fused(x, weight, bias)
        expected = exact(x[:, :12], weight, bias)
        torch.testing.assert_close(y.double(), expected, atol=2e-5, rtol=5e-4)

    def test_the_operator_is_registered_as_torch_wants(
        self, device: torch.device
    ) -> None:
        x = torch.randn(2, 16, 4, 4, device=device).half()
        taps = torch.randn(9, 16, 16, device=device).half()
        bias = torch.zeros(16, device=device)
        torch.library.opcheck(kernels.conv_silu_by_taps, (x, taps, bias, 8))


class Recorder(TorchDispatchMode):
    """Collects the names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


class TestWhatRuns:
    @needs_triton
    @pytest.mark.parametrize(
        ("dtype", "channels", "channels_out", "fused"),
        [
            pytest.param(torch.bfloat16, 16, 64, True, id="first-layer"),
            pytest.param(torch.bfloat16, 64, 32, True, id="second-layer"),
            pytest.param(torch.float32, 16, 64, False, id="fp32"),
            pytest.param(torch.bfloat16, 48, 32, False, id="48-channels"),
            pytest.param(torch.bfloat16, 64, 40, False, id="weights-too-many"),
        ],
    )
    def test_on_a_gpu_the_kernel_runs_where_it_can(
        self, dtype: torch.dtype, channels: int, channels_out: int, fused: bool
    ) -> None:
        with FakeTensorMode(), Recorder() as ran, torch.no_grad():
            shape = (channels_out, channels, 3, 3)
            weight = torch.empty(shape, device="cuda", requires_grad=True)
            x = torch.empty(2, 8, 8, channels, dtype=dtype, device="cuda").movedim(3, 1)
            y = conv_silu(x, weight, weight.new_empty(channels_out))
        assert (y.shape, y.dtype) == ((2, channels_out, 8, 8), dtype)
        assert ("drama_torchrl::conv_silu" in ran.names) == fused
        assert ("aten::convolution" in ran.names) != fused

    @pytest.mark.gpu
    @pytest.mark.parametrize("learning", ["x", "weight", "bias"])
    def test_on_a_gpu_they_do_not_where_a_gradient_is_wanted(
        self, learning: str
    ) -> None:
        operands = {
            "x": torch.zeros(2, 16, 8, 8, device="cuda").bfloat16(),
            "weight": torch.zeros(64, 16, 3, 3, device="cuda"),
            "bias": torch.zeros(64, device="cuda"),
        }
        operands[learning].requires_grad_()
        with Recorder() as ran:
            conv_silu(**operands).sum().backward()
        assert "drama_torchrl::conv_silu" not in ran.names
        assert operands[learning].grad is not None

    def test_gradients_are_those_of_the_plain_convolution(self) -> None:
        x, weight = torch.randn(2, 16, 4, 4), torch.randn(8, 16, 3, 3)
        bias = torch.randn(8)
        operands = (x, weight, bias)
        for operand in operands:
            operand.requires_grad_()
        y = conv_silu(x, weight, bias)
        expected = F.silu(F.conv2d(x, weight, bias, padding=1))
        for gradient, plain in zip(
            torch.autograd.grad(y.square().sum(), operands),
            torch.autograd.grad(expected.square().sum(), operands),
            strict=True,
        ):
            torch.testing.assert_close(gradient, plain, rtol=1e-4, atol=1e-4)

    def test_it_works_without_triton(self) -> None:
        program = (
            "import sys; sys.modules['triton'] = None\n"
            "import torch\n"
            "from drama_torchrl.kernels.conv_silu import conv_silu\n"
            "ones = torch.ones(1, 16, 3, 3)\n"
            "print(conv_silu(ones, ones / 16, torch.zeros(1))[0, 0, 1, 1].item())"
        )
        command = [sys.executable, "-W", "ignore", "-c", program]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        assert float(result.stdout) == pytest.approx(9 / (1 + 2.718281828**-9))


MAPS, KERNEL, BIAS = torch.zeros(1, 16, 4, 4), torch.zeros(8, 16, 3, 3), torch.zeros(8)


class TestBadInput:
    @pytest.mark.parametrize(
        ("x", "weight", "bias", "message"),
        [
            pytest.param(MAPS[0], KERNEL, BIAS, r"maps \[N, C, H, W\]", id="3d"),
            pytest.param(
                MAPS[:, :12], KERNEL, BIAS, "multiple of 16", id="12-channels"
            ),
            pytest.param(MAPS[:, :0], KERNEL, BIAS, "multiple of 16", id="0-channels"),
            pytest.param(MAPS.int(), KERNEL, BIAS, "bf16, fp16 or fp32", id="integers"),
            pytest.param(MAPS, KERNEL[..., :1], BIAS, r"16, 3, 3\]", id="3x1"),
            pytest.param(MAPS, KERNEL.repeat(1, 2, 1, 1), BIAS, "16, 3", id="too-deep"),
            pytest.param(MAPS, KERNEL, BIAS[:7], r"got .* and \[7\]", id="bias"),
            pytest.param(
                MAPS, KERNEL.repeat(17, 1, 1, 1), BIAS.repeat(17), "128", id="too-many"
            ),
        ],
    )
    def test_maps(self, x: Tensor, weight: Tensor, bias: Tensor, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            conv_silu(x, weight, bias)


@pytest.mark.gpu
class TestOnAGPU:
    def test_it_is_captured_in_a_graph_and_compiled(self) -> None:
        device = torch.device("cuda")
        x = torch.randn(64, 16, 32, 32, device=device).bfloat16()
        first, second = random_layer(16, 64, device), random_layer(64, 32, device)

        def encode(x: Tensor) -> Tensor:
            return conv_silu(conv_silu(x, *first), *second)

        plain = encode(x)
        compiled = torch.compile(encode, fullgraph=True, dynamic=False)
        compiled(x)
        graph, static = torch.cuda.CUDAGraph(), torch.zeros_like(x)
        with torch.cuda.graph(graph):
            captured = compiled(static)
        static.copy_(x)
        graph.replay()
        torch.testing.assert_close(captured, plain, atol=2e-2, rtol=2e-2)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_large_sums_do_not_overflow(self, dtype: torch.dtype) -> None:
        x = torch.ones(1, 16, 1, 1, dtype=dtype, device="cuda")
        sums = torch.tensor([-1e30, -1e3, -100.0, 0.0, 100.0, 1e3, 1e30]).cuda()
        weight = torch.zeros(7, 16, 3, 3, device="cuda")
        y = conv_silu(x, weight, sums).flatten()
        torch.testing.assert_close(y, F.silu(sums).to(dtype), rtol=0.01, atol=1e-6)

    @pytest.mark.skipif(
        torch.cuda.is_available()
        and torch.cuda.get_device_properties(0).total_memory < 24e9,
        reason="needs 24 GB of GPU memory",
    )
    def test_maps_may_have_more_elements_than_an_int32_counts(self) -> None:
        device = torch.device("cuda")
        maps = 2**31 // (32 * 32 * 16) + 3
        x = torch.zeros(maps, 16, 32, 32, dtype=torch.bfloat16, device=device)
        x = x.to(memory_format=torch.channels_last)
        x[-3:] = torch.randn(3, 16, 32, 32, device=device)
        weight, bias = random_layer(16, 16, device)
        y = conv_silu(x, weight, bias)
        assert torch.equal(y[-3:], conv_silu(x[-3:], weight, bias))
