"""The convolution and its gradients are the plain one's, whichever kernel does them."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from drama_torchrl.kernels import conv_same as kernels
from drama_torchrl.kernels.conv_same import (
    conv_same,
    conv_same_by_taps,
    conv_same_reference,
)

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="needs triton: pip install triton",
)
CHANNELS = [
    pytest.param(16, 64, id="16-to-64"),
    pytest.param(64, 32, id="64-to-32"),
    pytest.param(32, 64, id="32-to-64"),
    pytest.param(64, 16, id="64-to-16"),
]
LAST = torch.channels_last


def random_operands(
    maps: int, channels: int, channels_out: int, rows: int, columns: int
) -> tuple[Tensor, Tensor, Tensor]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    weight = torch.randn(channels_out, channels, 3, 3, device=device)
    return (
        # Triton's interpreter multiplies the bits of bf16 as if they were integers.
        torch.randn(maps, channels, rows, columns, device=device).half(),
        weight / (3 * channels**0.5),
        torch.randn(channels_out, device=device),
    )


def leaves(operands: Iterable[Tensor]) -> list[Tensor]:
    return [operand.detach().clone().requires_grad_() for operand in operands]


def exact(
    operands: tuple[Tensor, Tensor, Tensor], dy: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Values and gradients in float64, from the operands that the kernels are given."""
    dtype = operands[0].dtype
    doubles = leaves(operand.to(dtype).double() for operand in operands)
    x, weight, bias = doubles
    y = F.conv2d(x, weight, bias, padding=1)
    return y.detach(), torch.autograd.grad(y, doubles, dy.double())


class Recorder(TorchDispatchMode):
    """Collects the names of the operators that run and what gradients are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.masks: list[list[bool]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.append(func.name())
        if func is torch.ops.aten.convolution_backward.default:
            self.masks.append(list(args[-1]))
        return func(*args, **(kwargs or {}))

    def ours(self) -> list[str]:
        """Those of interest, without their namespaces."""
        ours = [name.split("::")[1] for name in self.names if "conv" in name]
        return [name for name in ours if name != "_to_copy"]


@needs_triton
class TestByTaps:
    @pytest.mark.parametrize(("channels", "channels_out"), CHANNELS)
    @pytest.mark.parametrize(
        ("maps", "rows", "columns"),
        [
            pytest.param(2, 8, 8, id="8x8"),
            pytest.param(3, 5, 7, id="5x7"),
            pytest.param(5, 1, 3, id="1x3"),
        ],
    )
    def test_values_and_gradients_are_those_of_float64(
        self, channels: int, channels_out: int, maps: int, rows: int, columns: int
    ) -> None:
        operands = random_operands(maps, channels, channels_out, rows, columns)
        inputs = leaves(operands)
        y = conv_same_by_taps(*inputs)
        dy = torch.randn_like(y)
        dx, dweight, dbias = torch.autograd.grad(y, inputs, dy)
        expected, gradients = exact(operands, dy)
        assert (y.dtype, dx.dtype) == (torch.float16, torch.float16)
        assert (dweight.dtype, dbias.dtype) == (torch.float32, torch.float32)
        assert y.is_contiguous(memory_format=LAST)
        # Two roundings, before and after the bias; the other sums are rounded once.
        torch.testing.assert_close(y.double(), expected, rtol=1e-3, atol=2e-3)
        for actual, true in zip((dx, dweight, dbias), gradients, strict=True):
            scale = float(true.abs().max())
            torch.testing.assert_close(
                actual.double(), true, rtol=1e-3, atol=1e-3 * scale
            )

    @pytest.mark.parametrize(("channels", "channels_out"), CHANNELS)
    def test_no_gradient_of_x_is_computed_where_none_is_wanted(
        self, channels: int, channels_out: int
    ) -> None:
        x, weight, bias = random_operands(2, channels, channels_out, 4, 4)
        inputs = leaves((weight, bias))
        with Recorder() as ran:
            y = conv_same_by_taps(x, *inputs)
            actual = torch.autograd.grad(y, inputs, torch.ones_like(y))
        _, (_, *expected) = exact((x, weight, bias), torch.ones_like(y))
        for gradient, true in zip(actual, expected, strict=True):
            torch.testing.assert_close(gradient.double(), true, rtol=1e-3, atol=2e-2)
        assert "conv_same_input_gradient" not in ran.ours()
        assert "conv_same_weight_gradient" in ran.ours()
        assert ran.masks == []

    @pytest.mark.parametrize(("channels", "channels_out"), CHANNELS)
    def test_the_weights_may_be_frozen(self, channels: int, channels_out: int) -> None:
        x, weight, bias = random_operands(2, channels, channels_out, 4, 4)
        (leaf,) = leaves([x])
        with Recorder() as ran:
            y = conv_same_by_taps(leaf, weight, bias)
            (dx,) = torch.autograd.grad(y, leaf, torch.ones_like(y))
        assert "conv_same_weight_gradient" not in ran.ours()
        _, (true, *_) = exact((x, weight, bias), torch.ones_like(y))
        torch.testing.assert_close(dx.double(), true, rtol=1e-3, atol=5e-3)

    @pytest.mark.parametrize(("channels", "channels_out"), CHANNELS)
    def test_memory_layouts_do_not_matter(
        self, channels: int, channels_out: int
    ) -> None:
        x, weight, bias = random_operands(2, channels, channels_out, 3, 4)
        dy = torch.randn(2, channels_out, 3, 4, device=x.device).half()
        ys, gradients = [], []
        for layout in (torch.contiguous_format, LAST):
            inputs = leaves(t.contiguous(memory_format=layout) for t in (x, weight))
            ys.append(conv_same_by_taps(inputs[0], inputs[1], bias))
            dy = dy.contiguous(memory_format=layout)
            gradients.append(torch.autograd.grad(ys[-1], inputs, dy))
        torch.testing.assert_close(*ys)
        torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-2)

    def test_compiled_it_computes_the_same(self) -> None:
        """Through a chain of layers, with the gradients of all their parameters."""
        x, first, _ = random_operands(2, 16, 64, 5, 4)
        _, second, bias = random_operands(2, 64, 32, 5, 4)
        _, third, _ = random_operands(2, 32, 64, 5, 4)
        parameters = leaves((first, second, third, bias))

        def norm(x: Tensor) -> Tensor:
            return F.silu(F.batch_norm(x.float(), None, None, training=True)).half()

        def chain(x: Tensor) -> Tensor:
            x = norm(conv_same_by_taps(x, parameters[0]))
            x = norm(conv_same_by_taps(x, *parameters[1::2]))
            return conv_same_by_taps(x, parameters[2])

        def outcome(y: Tensor) -> tuple[Tensor, ...]:
            assert y.is_contiguous(memory_format=LAST)
            weights = torch.linspace(-1.0, 1.0, y.numel(), device=y.device)
            loss = (y.float() * weights.view_as(y)).sum()
            return (y.detach(), *torch.autograd.grad(loss, parameters))

        compiled = torch.compile(chain, fullgraph=True, backend="aot_eager")
        actual, expected = outcome(compiled(x)), outcome(chain(x))
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)
        assert all(gradient.abs().max() > 0.1 for gradient in expected[1:4])

    @pytest.mark.parametrize(("channels", "channels_out"), CHANNELS)
    def test_the_operators_are_registered_as_torch_wants(
        self, channels: int, channels_out: int
    ) -> None:
        x, weight, _ = random_operands(2, channels, channels_out, 4, 3)
        weight = weight.half()
        torch.library.opcheck(kernels._convolve, (x, weight))
        torch.library.opcheck(kernels._convolve, tuple(leaves((x, weight))))
        taps = torch.randn(9, channels, channels_out, device=x.device).half()
        torch.library.opcheck(kernels._input_gradient, (x, taps))
        dy = torch.randn(2, channels_out, 4, 3, device=x.device).half()
        torch.library.opcheck(kernels._weight_gradient, (x, dy))


class TestWhatRuns:
    @needs_triton
    @pytest.mark.parametrize(
        ("dtype", "channels", "channels_out", "side", "fused"),
        [
            pytest.param(torch.bfloat16, 16, 64, 3, True, id="16-to-64"),
            pytest.param(torch.float16, 64, 32, 3, True, id="64-to-32"),
            pytest.param(torch.bfloat16, 32, 64, 3, True, id="32-to-64"),
            pytest.param(torch.bfloat16, 64, 16, 3, True, id="64-to-16"),
            pytest.param(torch.bfloat16, 32, 32, 3, False, id="32-to-32"),
            pytest.param(torch.bfloat16, 16, 64, 5, False, id="5x5"),
            pytest.param(torch.float32, 16, 64, 3, False, id="fp32"),
        ],
    )
    def test_on_a_gpu_the_operator_runs_where_it_is_faster(
        self,
        dtype: torch.dtype,
        channels: int,
        channels_out: int,
        side: int,
        fused: bool,
    ) -> None:
        with FakeTensorMode(), Recorder() as ran, torch.no_grad():
            shape = (channels_out, channels, side, side)
            weight = torch.empty(shape, dtype=dtype, device="cuda")
            x = torch.empty(2, 8, 8, channels, dtype=dtype, device="cuda").movedim(3, 1)
            y = conv_same(x, weight, weight.new_empty(channels_out))
        assert (y.shape, y.dtype) == ((2, channels_out, 8, 8), dtype)
        assert ran.ours() == (["conv_same"] if fused else ["convolution"])

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_autocast_to_another_dtype_is_left_to_autocast(
        self, dtype: torch.dtype
    ) -> None:
        x, weight = torch.empty(2, 16, 4, 4).bfloat16(), torch.empty(64, 16, 3, 3)
        assert kernels._fits(x, weight)
        with torch.autocast("cpu", dtype):
            assert kernels._fits(x, weight) == (dtype == x.dtype)

    @needs_triton
    @pytest.mark.parametrize(
        ("channels", "channels_out", "ours"),
        [
            pytest.param(16, 64, {"weight"}, id="16-to-64"),
            pytest.param(64, 32, {"weight"}, id="64-to-32"),
            pytest.param(32, 64, {"input", "weight"}, id="32-to-64"),
            pytest.param(64, 16, {"input", "weight"}, id="64-to-16"),
        ],
    )
    @pytest.mark.parametrize("unmeasured", [set(), {"weight"}], ids=["all", "no-dW"])
    def test_gradients_are_shared_out_by_speed(
        self,
        channels: int,
        channels_out: int,
        ours: set[str],
        unmeasured: set[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for part in unmeasured:
            monkeypatch.setattr(kernels, f"_FASTER_{part.upper()}_GRADIENT", ())
        ours = ours - unmeasured
        operands = random_operands(2, channels, channels_out, 4, 4)
        inputs = leaves(operands[:2])
        y = conv_same_by_taps(*inputs)
        with Recorder() as ran:
            gradients = torch.autograd.grad(y, inputs, torch.ones_like(y))
        names = {f"conv_same_{part}_gradient" for part in ours}
        assert {name for name in ran.ours() if name.startswith("conv_same_")} == names
        plain = [part not in ours for part in ("input", "weight")]
        assert ran.masks == ([[*plain, False]] if any(plain) else [])
        _, (*expected, _) = exact(operands, torch.ones_like(y))
        for gradient, true in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient.double(), true, rtol=1e-3, atol=2e-2)

    @pytest.mark.parametrize("side", [1, 3, 5])
    def test_without_a_gpu_it_is_the_plain_convolution(self, side: int) -> None:
        x, bias = torch.randn(2, 16, 4, 5), torch.randn(64)
        weight = torch.randn(64, 16, side, side)
        with Recorder() as ran:
            y = conv_same(x, weight, bias)
        assert ran.ours() == ["convolution"]
        last = x.contiguous(memory_format=LAST)
        assert torch.equal(y, F.conv2d(last, weight, bias, padding=side // 2))


@pytest.mark.gpu
class TestOnAGPU:
    @pytest.mark.parametrize(("channels", "channels_out"), CHANNELS)
    def test_thousands_of_maps_agree_with_float32(
        self, channels: int, channels_out: int
    ) -> None:
        x, *others = random_operands(2048, channels, channels_out, 32, 32)
        x = x.bfloat16().contiguous(memory_format=LAST)
        inputs = leaves((x, *others))
        with torch.autocast("cuda", torch.bfloat16), Recorder() as ran:
            y = conv_same(*inputs)
        assert "conv_same" in ran.ours()
        dy = torch.randn_like(y)
        gradients = torch.autograd.grad(y, inputs, dy)
        plain = leaves(each.bfloat16().float() for each in (x, *others))
        expected = conv_same_reference(*plain)
        trues = torch.autograd.grad(expected, plain, dy.float())
        for actual, true in zip((y, *gradients), (expected, *trues), strict=True):
            error = actual.float() - true
            assert error.square().mean() <= (2**-8) ** 2 * true.square().mean()
            assert error.abs().max() <= 2**-6 * true.abs().max()

    def test_it_is_captured_in_a_graph_and_compiled(self) -> None:
        x, first, _ = random_operands(64, 16, 64, 32, 32)
        _, second, bias = random_operands(1, 64, 32, 1, 1)
        _, third, _ = random_operands(1, 32, 64, 1, 1)
        parameters = leaves((first, second, bias, third))

        def chain(x: Tensor) -> Tensor:
            first, second, bias, third = parameters
            x = F.silu(conv_same(x, first))
            return conv_same(F.silu(conv_same(x, second, bias)), third)

        compiled = torch.compile(chain, fullgraph=True, dynamic=False)

        def step(x: Tensor) -> tuple[Tensor, ...]:
            with torch.autocast("cuda", torch.bfloat16):
                y = compiled(x)
            return (y, *torch.autograd.grad(y.float().square().mean(), parameters))

        x = x.bfloat16().contiguous(memory_format=LAST)
        static = torch.zeros_like(x)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                step(static)
            plain = [each.detach().clone() for each in step(x)]
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = step(static)
        static.copy_(x)
        graph.replay()
        for actual, expected in zip(captured, plain, strict=True):
            assert expected.abs().max() > 0
            scale = float(expected.abs().max())
            torch.testing.assert_close(actual, expected, rtol=2e-2, atol=1e-2 * scale)
