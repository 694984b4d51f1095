"""The encoder and decoder on blocks are as exact as the same layers one by one."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from drama_torchrl.modules.pixel_decoder import PixelDecoder
from drama_torchrl.modules.pixel_encoder import PixelEncoder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
DEVICE = torch.device("cuda")
FRAMES = 64
CASES = pytest.mark.parametrize(
    ("make", "verb", "x"),
    [
        pytest.param(
            PixelEncoder,
            "encode",
            torch.randint(0, 256, (FRAMES, 3, 64, 64), dtype=torch.uint8),
            id="encoder",
        ),
        pytest.param(PixelDecoder, "decode", torch.randn(FRAMES, 1024), id="decoder"),
    ],
)


def outcome(
    module: nn.Module, compute: Callable[[nn.Module], Tensor]
) -> dict[str, Tensor]:
    """The result, the gradients and the statistics, of a copy."""
    module = copy.deepcopy(module)
    y = compute(module)
    generator = torch.Generator(DEVICE).manual_seed(0)
    weights = torch.randn(y.shape, generator=generator, device=DEVICE)
    (y * weights).sum().backward()
    gradients = {f"d{n}": p.grad for n, p in module.named_parameters()}
    found = {"y": y.detach(), **gradients, **dict(module.named_buffers())}
    return {name: value.double() for name, value in found.items()}  # type: ignore[union-attr]


def assert_as_near(
    actual: dict[str, Tensor], rival: dict[str, Tensor], exact: dict[str, Tensor]
) -> None:
    """No result is three times as far from the exact one as the rival's."""
    for name, true in exact.items():
        error, allowed = (actual[name] - true).norm(), (rival[name] - true).norm()
        assert error <= 3 * allowed + 1e-5 * true.norm(), name


@CASES
@pytest.mark.parametrize("resizings", [1, 2, 4], ids="blocks={}".format)
@pytest.mark.parametrize("autocast", [True, False], ids=["bf16", "fp32"])
def test_training_on_blocks_is_as_exact_as_by_layers(
    make: Callable[[], nn.Module], verb: str, x: Tensor, resizings: int, autocast: bool
) -> None:
    torch.manual_seed(0)
    module, x = make().to(DEVICE), x.to(DEVICE)
    wide = x if x.dtype == torch.uint8 else x.double()
    by_layers, by_blocks = f"{verb}_by_layers", f"{verb}_by_blocks"
    exact = outcome(module.double(), lambda m: getattr(m, by_layers)(wide))
    module = module.float()
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        rival = outcome(module, lambda m: getattr(m, by_layers)(x))
        actual = outcome(module, lambda m: getattr(m, by_blocks)(x, resizings))
    assert_as_near(actual, rival, exact)


@CASES
def test_evaluation_on_blocks_is_as_exact_as_by_layers(
    make: Callable[[], nn.Module], verb: str, x: Tensor
) -> None:
    torch.manual_seed(0)
    module, x = make().to(DEVICE).eval(), x.to(DEVICE)
    wide = x if x.dtype == torch.uint8 else x.double()
    by_layers = f"{verb}_by_layers"
    with torch.no_grad():
        exact = getattr(copy.deepcopy(module).double(), by_layers)(wide)
        with torch.autocast("cuda", torch.bfloat16):
            rival = getattr(module, by_layers)(x)
            for resizings in (1, 2, 4):
                actual = getattr(module, f"{verb}_by_blocks")(x, resizings)
                assert_as_near(
                    {"y": actual.double()}, {"y": rival.double()}, {"y": exact}
                )
