"""The encoder and decoder: two equal paths, their shapes, their start, their errors."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from drama_torchrl.kernels.frame_blocks import frames_to_blocks
from drama_torchrl.modules.initialisation import truncated_normal_init_
from drama_torchrl.modules.pixel_decoder import PixelDecoder
from drama_torchrl.modules.pixel_encoder import PixelEncoder

SMALL: dict[str, Any] = {"filters": (8, 16, 16), "frame_size": 16}
MODES = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def make_frames(*lead: int, size: int = 16) -> Tensor:
    return torch.randint(0, 256, (*lead, 3, size, size), dtype=torch.uint8)


def with_random_norms(module: nn.Module) -> nn.Module:
    """Gives each BatchNorm parameters and statistics that are not 0 and 1."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            nn.init.normal_(norm.weight, 1.0, 0.3)
            nn.init.normal_(norm.bias, 0.0, 0.3)
            nn.init.normal_(norm.running_mean, 0.0, 0.3)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return module


def assert_paths_agree(
    by_layers: nn.Module, verb: str, x: Tensor, resizings: int, tolerance: float
) -> None:
    """Compares values, all gradients and all buffers after one call of each path."""
    by_blocks = copy.deepcopy(by_layers)
    expected = getattr(by_layers, f"{verb}_by_layers")(x)
    actual = getattr(by_blocks, f"{verb}_by_blocks")(x, resizings)
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
    weights = torch.randn_like(expected)
    expected.backward(weights)
    actual.backward(weights)
    for (name, p), q in zip(
        by_layers.named_parameters(), by_blocks.parameters(), strict=True
    ):
        assert p.grad is not None
        assert q.grad is not None
        error = (p.grad - q.grad).norm() / p.grad.norm()
        assert error < 10 * tolerance, name
    torch.testing.assert_close(
        dict(by_blocks.named_buffers()),
        dict(by_layers.named_buffers()),
        rtol=tolerance,
        atol=tolerance,
    )


PRECISIONS = pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        pytest.param(torch.float64, 1e-11, id="float64"),
        pytest.param(torch.float32, 2e-5, id="float32"),
    ],
)


# How many layers that halve or double a map run on blocks: at least one.
DEPTHS = pytest.mark.parametrize("resizings", [1, 2, 4], ids="blocks={}".format)
# The smallest has one such layer alone, and maps that are odd after one more.
TINY: dict[str, Any] = {"filters": (4, 8), "frame_size": 6}


@PRECISIONS
@MODES
@DEPTHS
@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        pytest.param({}, Tensor.byte, id="64-uint8"),
        pytest.param(SMALL, Tensor.byte, id="16-uint8"),
        pytest.param(SMALL, lambda frames: frames / 255, id="16-float"),
        pytest.param(TINY, Tensor.byte, id="6-uint8"),
    ],
)
def test_encoder_by_blocks_equals_by_layers(
    arguments: dict,
    read: Callable[[Tensor], Tensor],
    resizings: int,
    training: bool,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    encoder = with_random_norms(PixelEncoder(**arguments)).to(dtype).train(training)
    frames = make_frames(3, size=arguments.get("frame_size", 64))
    assert_paths_agree(encoder, "encode", read(frames), resizings, tolerance)


@PRECISIONS
@MODES
@DEPTHS
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({}, id="64"),
        pytest.param(SMALL, id="16"),
        pytest.param(TINY, id="6"),
    ],
)
def test_decoder_by_blocks_equals_by_layers(
    arguments: dict,
    resizings: int,
    training: bool,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    decoder = with_random_norms(PixelDecoder(**arguments, in_features=48))
    latent = torch.randn(3, 48, dtype=dtype)
    decoder = decoder.to(dtype).train(training)
    assert_paths_agree(decoder, "decode", latent, resizings, tolerance)


@DEPTHS
def test_pixels_and_latents_receive_the_same_gradient_on_both_paths(
    resizings: int,
) -> None:
    encoder, decoder = PixelEncoder(**SMALL).double(), PixelDecoder(**SMALL).double()
    pixels = torch.rand(2, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    latent = torch.randn(2, 1024, dtype=torch.float64, requires_grad=True)
    for x, by_layers, by_blocks in (
        (pixels, encoder.encode_by_layers, encoder.encode_by_blocks),
        (latent, decoder.decode_by_layers, decoder.decode_by_blocks),
    ):
        (expected,) = torch.autograd.grad(by_layers(x).square().sum(), x)
        (actual,) = torch.autograd.grad(by_blocks(x, resizings).square().sum(), x)
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("lead", [(), (6,), (2, 3), (1, 2, 3)], ids="lead={}".format)
def test_leading_dimensions_are_kept(lead: tuple[int, ...]) -> None:
    encoder = PixelEncoder(**SMALL, out_features=32).eval()
    decoder = PixelDecoder(**SMALL, in_features=32).eval()
    frames = make_frames(*lead)
    latent = encoder(frames)
    assert latent.shape == (*lead, 32)
    assert decoder(latent).shape == frames.shape
    flat = encoder.encode_by_layers(frames.reshape(-1, 3, 16, 16))
    torch.testing.assert_close(latent.reshape(-1, 32), flat, rtol=1e-5, atol=1e-5)


def test_bytes_and_their_unit_interval_floats_encode_alike() -> None:
    encoder = PixelEncoder(**SMALL).eval()
    frames = make_frames(4)
    unit = frames / 255.0
    assert torch.equal(encoder.encode_by_layers(frames), encoder.encode_by_layers(unit))
    torch.testing.assert_close(encoder(frames), encoder(unit), rtol=1e-5, atol=1e-6)


def test_encoder_reads_frames_of_any_memory_layout() -> None:
    encoder = PixelEncoder(**SMALL).eval()
    frames = make_frames(4)
    channels_last = frames.contiguous(memory_format=torch.channels_last)
    assert torch.equal(encoder(frames), encoder(channels_last))


class BatchNormPasses(TorchDispatchMode):
    """Counts how often a batch norm is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += "batch_norm" in func.__name__
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("training", "passes"), [(True, 3), (False, 0)])
def test_evaluation_makes_no_pass_for_batch_norm(training: bool, passes: int) -> None:
    encoder = PixelEncoder(**SMALL).train(training)
    with torch.no_grad(), BatchNormPasses() as normed:
        encoder(make_frames(2))
    assert normed.count == passes


def test_the_two_fused_layers_equal_two_ordinary_ones() -> None:
    encoder = with_random_norms(PixelEncoder()).eval()
    assert isinstance(encoder, PixelEncoder)
    frames = make_frames(2, size=64)
    expected = frames / 255.0
    for conv, norm in list(zip(encoder.convs, encoder.norms, strict=True))[:2]:
        expected = nn.functional.silu(norm(conv(expected)))
    with torch.no_grad():
        blocks = frames_to_blocks(frames, torch.float32)
        actual = encoder.encode_twice_fused(blocks, 1 / 255)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def record_map_sizes(layers: nn.ModuleList) -> list[tuple[int, ...]]:
    sizes: list[tuple[int, ...]] = []
    for layer in layers:
        layer.register_forward_hook(lambda _, __, y: sizes.append(tuple(y.shape[1:])))
    return sizes


def test_encoder_halves_the_map_four_times() -> None:
    encoder = PixelEncoder().eval()
    sizes = record_map_sizes(encoder.convs)
    encoder.encode_by_layers(make_frames(1, size=64))
    assert sizes == [
        (16, 64, 64),
        (32, 32, 32),
        (48, 16, 16),
        (64, 8, 8),
        (64, 4, 4),
    ]


def test_decoder_doubles_the_map_four_times() -> None:
    decoder = PixelDecoder().eval()
    sizes = record_map_sizes(nn.ModuleList([decoder.linear_norm, *decoder.convs]))
    decoder.decode_by_layers(torch.randn(1, 1024))
    assert sizes == [
        (64, 4, 4),
        (64, 8, 8),
        (48, 16, 16),
        (32, 32, 32),
        (16, 64, 64),
    ]


def test_untrained_decoder_with_zero_kernels_draws_mid_grey() -> None:
    decoder = PixelDecoder(**SMALL)
    nn.init.zeros_(decoder.to_pixels.weight)
    assert decoder(torch.randn(2, 1024)).eq(0.5).all()


def test_decoder_bias_colours_every_pixel_alike() -> None:
    decoder = PixelDecoder(**SMALL)
    nn.init.zeros_(decoder.to_pixels.weight)
    assert decoder.to_pixels.bias is not None
    decoder.to_pixels.bias.data = torch.tensor([0.0, math.log(3.0), -math.log(3.0)])
    frame = decoder(torch.randn(2, 1024))[0]
    expected = torch.tensor([0.5, 0.75, 0.25]).view(3, 1, 1).expand(3, 16, 16)
    torch.testing.assert_close(frame, expected)


@pytest.mark.parametrize(
    ("module", "count"),
    [
        pytest.param(PixelEncoder, 1_281_648, id="encoder"),
        pytest.param(PixelDecoder, 1_281_651, id="decoder"),
    ],
)
def test_parameter_count_is_the_papers(
    module: Callable[[], nn.Module], count: int
) -> None:
    assert sum(p.numel() for p in module().parameters()) == count


def test_state_dict_has_plain_layers_names_and_shapes() -> None:
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    encoder = {k: tuple(v.shape) for k, v in PixelEncoder().state_dict().items()}
    decoder = {k: tuple(v.shape) for k, v in PixelDecoder().state_dict().items()}
    assert set(encoder) == {
        *(f"convs.{i}.weight" for i in range(5)),
        *(f"norms.{i}.{name}" for i in range(5) for name in norm),
        *("linear.weight", "linear.bias"),
    }
    assert set(decoder) == {
        *("linear.weight", "linear.bias"),
        *(f"linear_norm.{name}" for name in norm),
        *(f"convs.{i}.weight" for i in range(4)),
        *(f"norms.{i}.{name}" for i in range(4) for name in norm),
        *("to_pixels.weight", "to_pixels.bias"),
    }
    assert encoder["convs.0.weight"] == (16, 3, 5, 5)
    assert encoder["convs.3.weight"] == (64, 48, 5, 5)
    assert decoder["convs.1.weight"] == (64, 48, 5, 5)
    assert decoder["to_pixels.weight"] == (16, 3, 5, 5)


def test_state_dict_round_trip_gives_the_same_frames() -> None:
    trained, fresh = PixelDecoder(**SMALL), PixelDecoder(**SMALL)
    latent = torch.randn(4, 1024)
    trained(latent)  # moves the running statistics
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(fresh.eval()(latent), trained.eval()(latent))


def test_evaluation_leaves_the_running_statistics_alone() -> None:
    encoder = PixelEncoder(**SMALL).eval()
    before = copy.deepcopy(encoder.state_dict())
    encoder(make_frames(4))
    torch.testing.assert_close(encoder.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("layer", "fan_sum"),
    [
        pytest.param(nn.Linear(300, 200), 500, id="linear"),
        pytest.param(nn.Conv2d(24, 40, 5), 64 * 25, id="conv"),
        pytest.param(nn.ConvTranspose2d(40, 24, 5), 64 * 25, id="conv-transpose"),
    ],
)
def test_initial_weights_have_glorot_variance_and_no_tail(
    layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d, fan_sum: int
) -> None:
    layer.apply(truncated_normal_init_)
    std = math.sqrt(2.0 / fan_sum)
    assert layer.weight.std().item() == pytest.approx(std, rel=0.02)
    assert layer.weight.mean().item() == pytest.approx(0.0, abs=0.03 * std)
    largest = layer.weight.abs().max().item()
    assert 0.98 * 2 * std / 0.8796 < largest <= 2 * std / 0.8796 * (1 + 1e-6)
    assert layer.bias is not None
    assert layer.bias.eq(0).all()


def test_encoder_and_decoder_start_from_that_initialisation() -> None:
    for module in (PixelEncoder(), PixelDecoder()):
        for layer in module.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                shape = layer.weight.shape
                fan_sum = (shape[0] + shape[1]) * math.prod(shape[2:])
                expected = math.sqrt(2.0 / fan_sum)
                assert layer.weight.std().item() == pytest.approx(expected, rel=0.08)


def test_initialisation_leaves_other_layers_alone() -> None:
    norm = nn.BatchNorm2d(4).apply(truncated_normal_init_)
    assert norm.weight.eq(1).all()


@MODES
def test_bf16_autocast_stays_near_float32(training: bool) -> None:
    encoder = PixelEncoder(**SMALL, out_features=32).train(training)
    decoder = PixelDecoder(**SMALL, in_features=32).train(training)
    frames, latent = make_frames(8), torch.randn(8, 32)
    logits, drawn = encoder(frames), decoder(latent)
    with torch.autocast("cpu", torch.bfloat16):
        rough_logits, rough_drawn = encoder(frames), decoder(latent)
    assert rough_logits.dtype == torch.bfloat16
    assert rough_drawn.dtype == torch.float32
    assert (rough_logits - logits).norm() < 0.03 * logits.norm()
    assert (rough_drawn - drawn).abs().max() < 0.03
    (rough_logits.float().square().sum() + rough_drawn.sum()).backward()
    gradients = [p.grad for m in (encoder, decoder) for p in m.parameters()]
    assert all(g is not None and g.dtype == torch.float32 for g in gradients)
    assert all(g is not None and g.isfinite().all() for g in gradients)


@MODES
def test_forward_compiles_without_graph_breaks(training: bool) -> None:
    encoder = PixelEncoder(**SMALL, out_features=32).train(training)
    decoder = PixelDecoder(**SMALL, in_features=32).train(training)
    frames, latent = make_frames(2, 2), torch.randn(2, 2, 32)
    for module, x in ((encoder, frames), (decoder, latent)):
        expected = copy.deepcopy(module)(x)
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), expected, rtol=1e-5, atol=1e-5)


def test_encoder_and_decoder_are_tensordict_modules() -> None:
    encode = TensorDictModule(
        PixelEncoder(**SMALL, out_features=32),
        in_keys=["pixels"],
        out_keys=["posterior_logits"],
    )
    decode = TensorDictModule(
        PixelDecoder(**SMALL, in_features=32),
        in_keys=["posterior_logits"],
        out_keys=["reco_pixels"],
    )
    data = decode(encode(TensorDict(pixels=make_frames(2, 3), batch_size=[2, 3])))
    assert data["posterior_logits"].shape == (2, 3, 32)
    assert data["reco_pixels"].shape == (2, 3, 3, 16, 16)


@pytest.mark.gpu
@MODES
def test_cuda_graph_replays_what_the_layers_compute(training: bool) -> None:
    encoder = PixelEncoder().cuda().train(training)
    reference = copy.deepcopy(encoder)
    frames = make_frames(8, size=64).cuda()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(stream):
        for _ in range(3):
            copy.deepcopy(encoder)(frames)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        replayed = encoder(frames)
    graph.replay()
    with torch.no_grad():
        expected = reference.encode_by_layers(frames)
    torch.testing.assert_close(replayed, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        dict(encoder.named_buffers()),
        dict(reference.named_buffers()),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            {"frame_size": 60},
            r"frame_size divisible by 16 for 5 filters, got 60: resize",
            id="frame-not-divisible",
        ),
        pytest.param(
            {"filters": (8, 8, 8, 8, 8, 8, 8), "frame_size": 32},
            r"divisible by 64 for 7 filters, got 32: resize .* or give fewer filters",
            id="frame-too-small",
        ),
        pytest.param(
            {"frame_size": 0}, r"divisible by 16 for 5 filters, got 0", id="no-frame"
        ),
        pytest.param(
            {"kernel_size": 4},
            r"an odd kernel_size, got \(16, 32, 48, 64, 64\) and 4",
            id="even-kernel",
        ),
        pytest.param(
            {"filters": (16,)}, r"two or more .*, got \(16,\)", id="one-filter"
        ),
        pytest.param({"filters": ()}, r"two or more .*, got \(\)", id="no-filter"),
        pytest.param(
            {"filters": (16, 0)}, r"positive .*, got \(16, 0\)", id="zero-filter"
        ),
    ],
)
@pytest.mark.parametrize("module", [PixelEncoder, PixelDecoder])
def test_impossible_ladder_is_refused(
    module: Callable[..., nn.Module], arguments: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=f"{module.__name__} expected .*{message}"):
        module(**arguments)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        pytest.param(torch.zeros(2, 3, 32, 32), r"got \[2, 3, 32, 32\]", id="size"),
        pytest.param(torch.zeros(2, 16, 16, 3), r"put the colours first", id="layout"),
        pytest.param(torch.zeros(2, 1, 16, 16), r"\['\*', 3, 16, 16\]", id="grey"),
        pytest.param(torch.zeros(16, 16), r"got \[16, 16\]", id="no-colours"),
        pytest.param(
            torch.zeros(3, 16, 16, dtype=torch.int64),
            r"torch.uint8 .* or floating point .* in torch.int64: .*convert",
            id="dtype",
        ),
    ],
)
def test_encoder_refuses_other_frames(pixels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PixelEncoder(**SMALL)(pixels)


@pytest.mark.parametrize(
    ("latent", "message"),
    [
        pytest.param(
            torch.zeros(2, 31), r"latents \[\*, 32\], got \[2, 31\]", id="width"
        ),
        pytest.param(torch.zeros(()), r"latents \[\*, 32\], got \[\]", id="scalar"),
        pytest.param(
            torch.zeros(2, 32, dtype=torch.bool),
            r"in torch.bool: .*\.float\(\)",
            id="bool",
        ),
    ],
)
def test_decoder_refuses_other_latents(latent: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PixelDecoder(**SMALL, in_features=32)(latent)
