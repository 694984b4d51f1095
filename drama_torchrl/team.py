"""Who says what several processes do: the first one, which alone plays and writes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, ParamSpec, Protocol, Self, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from drama_torchrl.parallel import abandon, leave, rank, size, tell

__all__ = ["Team"]

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class _Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


class Team:
    """Call functions in all processes of a run when the first one calls them.

    The others need no environment and no schedule: they do what they are told, with the
    arguments that they are told, so that any environment can be played, and a signal, a
    time limit or an error in the first process ends all of them between two calls.

    Args:
        parts: what :meth:`align` makes the same everywhere.

    Example:
        >>> with Team() as team:
        ...     double = team.everywhere(lambda x: 2 * x)
        ...     team.follow()
        ...     double(3)
        6
    """

    def __init__(self, *parts: _Stateful) -> None:
        self._parts = parts
        # In the order of definition, which is that of the program in all processes.
        self._functions: list[Callable[..., Any]] = [self._load]
        self._calling = False

    def everywhere(
        self, function: Callable[_Arguments, _Result]
    ) -> Callable[_Arguments, _Result]:
        """Return what calls ``function`` here and in the other processes."""
        if size() == 1:
            return function
        number = len(self._functions)
        self._functions.append(function)

        def call(*args: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
            self._calling = True
            tell((number, args, options))
            result = function(*args, **options)
            self._calling = False
            return result

        return call

    def align(self) -> None:
        """Give the others the state that the parts have in this process."""
        if size() > 1:
            states = [part.state_dict() for part in self._parts]
            # On the host: another process has another GPU.
            states = tree_map_only(Tensor, lambda value: value.cpu(), states)
            self._calling = True
            tell((0, (states,), {}))
            self._calling = False

    def _load(self, states: list[dict[str, Any]]) -> None:
        for part, state in zip(self._parts, states, strict=True):
            part.load_state_dict(state)

    def follow(self) -> None:
        """Go on in the first process; do in the others what it says until it ends.

        Raises:
            SystemExit: in the others, when the first one is done.
        """
        if rank() == 0:
            return
        with torch.enable_grad():
            while (message := tell(None)) is not None:
                number, args, options = message
                self._functions[number](*args, **options)
        sys.exit()

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release the others and be alone, unless they are in the middle of a call."""
        if size() > 1 and rank() == 0:
            if not self._calling:
                tell(None)
                leave()
            elif isinstance(error, Exception):
                abandon(error)
