"""Triton kernels on the CPU."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import drama_torchrl.kernels
from drama_torchrl.kernels import conv_weight_gradient
from drama_torchrl.kernels.launch import Kernel


@contextmanager
def interpreted_kernels() -> Iterator[None]:
    """Lets Triton's interpreter run the kernels, which takes CPU tensors.

    TRITON_INTERPRET decides while functions are decorated, which other tests' imports
    have long done; this does for the modules concerned what it would have done.
    """
    import triton.language as tl
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    package = drama_torchrl.kernels
    found = pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
    with pytest.MonkeyPatch.context() as patch:
        ours = (importlib.import_module(info.name) for info in found)
        # Its functions call each other by their names there.
        random = importlib.import_module("triton.language.random")
        for module in (tl, random, *ours):
            for name, member in list(vars(module).items()):
                if isinstance(member, JITFunction):
                    patch.setattr(module, name, InterpretedFunction(member.fn))
                elif isinstance(member, Kernel):
                    interpreted = InterpretedFunction(member.function.fn)
                    patch.setattr(member, "function", interpreted)
        # An interpreted program takes as long for many elements as for few.
        patch.setattr(conv_weight_gradient, "_COMBINED_ELEMENTS", 2048)
        yield
