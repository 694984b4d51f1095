"""Kernels, and what lets threads compile them while a compiler traces.

Triton compiles a kernel when it is first launched, one kernel after the other. Whoever
traces an operator with fake tensors, as ``torch.compile`` does, learns long before what
its kernels will be launched with: threads compile them meanwhile.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.library import CustomOpDef
from torch.utils import _pytree as pytree

from drama_torchrl.kernels.optional_triton import jit

__all__ = ["Kernel", "fake_of", "kernel"]

_Outputs = TypeVar("_Outputs", bound=Callable[..., Any])
_MOST_THREADS = 8


class Kernel:
    """A Triton kernel; launched with fake tensors it is compiled in a thread.

    Args:
        function: what ``triton.jit`` makes of a function.
    """

    def __init__(self, function: Any) -> None:
        self.function = function
        self._asked: set[tuple[Any, ...]] = set()
        self._compiling: list[Future[None]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return functools.partial(self._launch, grid)

    def _launch(self, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        if isinstance(arguments[0], FakeTensor):
            self._compile(arguments, constants)
            return
        if self._compiling:
            compiling, self._compiling = self._compiling, []
            for each in compiling:
                each.exception()  # The launch would meet it too, and raise it.
        self.function[grid](*arguments, **constants)

    def _compile(self, arguments: tuple[Any, ...], constants: dict[str, Any]) -> None:
        kinds = [t.dtype if isinstance(t, Tensor) else t for t in arguments]
        asked = (arguments[0].device, *kinds, *constants.items())
        if asked not in self._asked:
            self._asked.add(asked)
            given = (arguments[0], kinds, constants)
            self._compiling.append(_threads().submit(self._warm_up, *given))

    def _warm_up(
        self, first: Tensor, kinds: list[Any], constants: dict[str, Any]
    ) -> None:
        with torch.cuda.device_of(first):
            self.function.warmup(*kinds, grid=(1,), **constants)


def kernel(function: Callable[..., Any], **options: Any) -> Kernel:
    """Makes a function a kernel as ``triton.jit`` does, for operators to launch."""
    return Kernel(jit(function, **options))


def fake_of(operator: CustomOpDef) -> Callable[[_Outputs], _Outputs]:
    """Registers what allocates an operator's results as its fake.

    Where shapes are numbers and there is a GPU, a compiler that calls it has the
    operator's kernels compiled.

    Args:
        operator: whose kernels are of the class :class:`Kernel`.
    """

    def register(outputs: _Outputs) -> _Outputs:
        @operator.register_fake
        def fake(*arguments: Any) -> Any:
            if _tells_launches(arguments):
                operator._init_fn(*arguments)
            return outputs(*arguments)

        return outputs

    return register


def _tells_launches(arguments: tuple[Any, ...]) -> bool:
    leaves = pytree.tree_leaves(arguments)
    fakes = [leaf for leaf in leaves if isinstance(leaf, FakeTensor)]
    numbers = [n for fake in fakes for n in (*fake.shape, *fake.stride())]
    return (
        torch.cuda.is_available()
        and any(fake.is_cuda for fake in fakes)
        and not any(isinstance(n, torch.SymInt) for n in (*leaves, *numbers))
    )


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1))
