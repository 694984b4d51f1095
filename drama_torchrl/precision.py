"""Matrix products in bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from tensordict import TensorDict
from torch import Tensor, nn

__all__ = ["EXACT_ENTRIES", "Precision", "round_as_autocast"]

EXACT_ENTRIES = frozenset({"angle"})
"""Entries of recurrent states that no rounding may touch: bfloat16 keeps an angle of
half a turn to 1/128 radian, and the steps after would add up what it loses."""


class Precision:
    """bfloat16 autocast on a device type, or none.

    Args:
        device_type: ``"cuda"`` or ``"cpu"``.
        enabled: whether matrix products run in bfloat16; parameters stay float32.

    Example:
        >>> import torch
        >>> with Precision("cpu", enabled=True)():
        ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        torch.bfloat16
    """

    def __init__(self, device_type: str, *, enabled: bool) -> None:
        self.device_type = device_type
        self.enabled = enabled

    def __call__(self) -> AbstractContextManager[None]:
        """Open a context of this precision.

        The weights cast inside are kept until it closes. One context must not span
        a pass without gradients and one with them over the same weights: the second
        would find casts that carry no gradient.
        """
        return torch.autocast(
            self.device_type, dtype=torch.bfloat16, enabled=self.enabled
        )

    @contextmanager
    def rounding(self, *modules: nn.Module) -> Iterator[None]:
        """Open a context in which linear layers hold their rounded weights.

        Autocast would round them to the same numbers at every call of a compiled
        region; here it happens once, by one fused copy. Without gradients.

        Args:
            modules: their linear layers, and those of their parts, are rounded.

        Example:
            >>> import torch
            >>> layer, precision = nn.Linear(2, 2), Precision("cpu", enabled=True)
            >>> with torch.no_grad(), precision(), precision.rounding(layer):
            ...     layer.weight.dtype
            torch.bfloat16
            >>> layer.weight.dtype
            torch.float32
        """
        if not self.enabled:
            yield
            return
        places = _linear_parameters(modules)
        exact: list[Tensor] = [getattr(layer, name) for layer, name in places]
        rounded = [torch.empty_like(p, dtype=torch.bfloat16) for p in exact]
        with torch.no_grad():
            torch._foreach_copy_(rounded, exact)
        _put(places, rounded)
        try:
            yield
        finally:
            _put(places, exact)


def round_as_autocast(state: TensorDict) -> TensorDict:
    """Round a recurrent state to what autocast computes in; as it is without autocast.

    Its layers compute in float32 and give float32 back. Where each step reads and
    writes a state of many sequences, its bytes are the step's time; the rounding is a
    hundredth of what the rounded inputs of the layers cost.

    Args:
        state: of any layers, on one device.

    Returns:
        A state whose floating-point entries have autocast's dtype, but for those
        named in :data:`EXACT_ENTRIES`.

    Example:
        >>> import torch
        >>> state = TensorDict(ssm=torch.ones(2))
        >>> with torch.autocast("cpu", dtype=torch.bfloat16):
        ...     round_as_autocast(state)["ssm"].dtype
        torch.bfloat16
    """
    kind = next(iter(state.values(include_nested=True, leaves_only=True))).device.type
    if not torch.is_autocast_enabled(kind):
        return state
    dtype = torch.get_autocast_dtype(kind)

    def round_entry(name: str, x: Tensor) -> Tensor:
        exact = name in EXACT_ENTRIES or not x.is_floating_point()
        return x if exact else x.to(dtype)

    return state.named_apply(round_entry)


def _linear_parameters(modules: tuple[nn.Module, ...]) -> list[tuple[nn.Module, str]]:
    return [
        (layer, name)
        for module in modules
        for layer in module.modules()
        if isinstance(layer, nn.Linear)
        for name, parameter in layer._parameters.items()
        if parameter is not None
    ]


def _put(places: list[tuple[nn.Module, str]], values: list[Tensor]) -> None:
    for (layer, name), value in zip(places, values, strict=True):
        layer._parameters[name] = value  # type: ignore[assignment]
