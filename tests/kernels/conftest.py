"""Where kernels run: on a GPU, or on the CPU in Triton's interpreter."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Iterator

import pytest
import torch

import drama_torchrl.kernels
from drama_torchrl.kernels import conv_weight_gradient


@pytest.fixture(scope="package", autouse=True)
def kernels_run_on_this_device() -> Iterator[None]:
    """Interprets the kernels where there is no GPU to compile them for.

    TRITON_INTERPRET decides while functions are decorated, which other tests' imports
    have long done; this does for the modules concerned what it would have done.
    """
    if torch.cuda.is_available() or importlib.util.find_spec("triton") is None:
        yield
        return
    import triton.language as tl
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    package = drama_torchrl.kernels
    found = pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
    with pytest.MonkeyPatch.context() as patch:
        for module in (tl, *(importlib.import_module(info.name) for info in found)):
            for name, member in list(vars(module).items()):
                if isinstance(member, JITFunction):
                    patch.setattr(module, name, InterpretedFunction(member.fn))
        # An interpreted program takes as long for many elements as for few.
        patch.setattr(conv_weight_gradient, "_COMBINED_ELEMENTS", 2048)
        yield


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
