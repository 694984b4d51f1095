"""What compilers keep from run to run goes by the kernels' sources."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from drama_torchrl import acceleration, kernels
from drama_torchrl.acceleration import compile_regions


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
