"""What compilers keep from run to run: all regions, by the kernels' sources."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor
from torch._dynamo.utils import counters

from drama_torchrl import acceleration, kernels
from drama_torchrl.acceleration import check_shapes, compile_regions, shapes_of


def batch(rows: int, width: int = 3, **more: Tensor) -> TensorDict:
    windows = TensorDict(x=torch.ones(rows, width), **more, batch_size=[rows])
    return TensorDict(windows=windows, done=torch.zeros(4))


def test_a_batch_of_the_recorded_shapes_may_be_copied() -> None:
    check_shapes(batch(4), shapes_of(batch(4)))


@pytest.mark.parametrize(
    ("other", "got"),
    [
        (batch(1), r"\('windows', 'x'\) of \(1, 3\)"),
        (batch(4, width=1), r"\('windows', 'x'\) of \(4, 1\)"),
        (batch(4).exclude("done"), "no done"),
        (batch(4, y=torch.ones(4)), r"\('windows', 'y'\) of \(4,\)"),
    ],
    ids=["one row", "narrow", "a key less", "a key more"],
)
def test_a_batch_that_would_be_spread_over_the_recorded_one_is_refused(
    other: TensorDict, got: str
) -> None:
    with pytest.raises(ValueError, match=f"recorded with.*got {got}; "):
        check_shapes(other, shapes_of(batch(4)))


class Update:
    """Of no regions."""

    regions: tuple[()] = ()


def key(monkeypatch: pytest.MonkeyPatch, folder: Path) -> str:
    monkeypatch.setattr(kernels, "__file__", str(folder / "__init__.py"))
    monkeypatch.setattr(torch.compiler.config, "cache_key_tag", "")
    acceleration._digest_kernels.cache_clear()
    compile_regions(Update())  # type: ignore[arg-type]
    acceleration._digest_kernels.cache_clear()
    return torch.compiler.config.cache_key_tag


def test_a_kernel_that_changes_is_compiled_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "kernels"
    shutil.copytree(Path(str(kernels.__file__)).parent, folder)
    before = key(monkeypatch, folder)
    assert before == key(monkeypatch, folder)
    source = folder / "conv_same.py"
    source.write_text(source.read_text() + "\n")
    assert key(monkeypatch, folder) != before


class Region:
    """An update of one region, part of which stays out of autocast."""

    regions: tuple[tuple[Region, str], ...]

    def __init__(self) -> None:
        self.regions = ((self, "square"),)

    def square(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return x @ x


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")
def test_a_region_that_switches_autocast_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    kept = []
    for _ in range(2):
        torch.compiler.reset()
        counters.clear()
        update = Region()
        compile_regions(update)  # type: ignore[arg-type]
        update.square(torch.eye(2))
        kept.append(counters["aot_autograd"])
    first, second = kept
    assert (first["autograd_cache_saved"], second["autograd_cache_hit"]) == (1, 1)
