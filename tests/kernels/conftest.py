"""Where kernels run: on a GPU, or on the CPU in Triton's interpreter."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest
import torch

from tests.reference.interpreted import interpreted_kernels


@pytest.fixture(scope="package", autouse=True)
def kernels_run_on_this_device() -> Iterator[None]:
    """Interprets the kernels where there is no GPU to compile them for."""
    if torch.cuda.is_available() or importlib.util.find_spec("triton") is None:
        yield
        return
    with interpreted_kernels():
        yield


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
