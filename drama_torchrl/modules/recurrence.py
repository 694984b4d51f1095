"""What the state-space recurrences share: wide numbers and checks of their inputs."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["check_fits", "wide"]


def wide(t: Tensor) -> Tensor:
    """Give float32, or float64 where it came in.

    Example:
        >>> import torch
        >>> wide(torch.ones(1, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return t.to(torch.promote_types(t.dtype, torch.float32))


def check_fits(
    x: Tensor, arguments: str, sizes: dict[str, int], *given: Tensor | None
) -> None:
    """Refuse arguments whose shapes do not go with those of x.

    Args:
        x: named in the message.
        arguments: a name and its dimension letters for each, separated by commas.
        sizes: of the letters.
        given: the arguments in that order; ``None`` for an omitted one.

    Raises:
        ValueError: naming the first that does not fit.
    """
    for argument, tensor in zip(arguments.split(", "), given, strict=True):
        name, *letters = argument.split()
        expected = tuple(sizes[letter] for letter in letters)
        if tensor is not None and tensor.shape != expected:
            raise ValueError(
                f"{name}: expected shape [{', '.join(letters)}] = {expected} to go "
                f"with x {tuple(x.shape)}, got {tuple(tensor.shape)}; reshape {name}."
            )
