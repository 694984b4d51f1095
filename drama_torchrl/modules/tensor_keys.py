"""Names of a module's entries, renamed as in TorchRL's loss modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from tensordict.utils import NestedKey

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["rename"]


def rename(
    tensor_keys: DataclassInstance, keys: Mapping[str, NestedKey], *, owner: str
) -> None:
    """Give entries other keys, in place.

    Args:
        tensor_keys: the keys of all entries, by name.
        keys: the new ones.
        owner: whose entries they are, for the error.

    Raises:
        ValueError: if a name is not among ``tensor_keys``.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Keys:
        ...     reward: NestedKey = ("next", "reward")
        >>> keys = Keys()
        >>> rename(keys, {"reward": "r"}, owner="Example")
        >>> keys.reward
        'r'
    """
    known = list(asdict(tensor_keys))
    for name, key in keys.items():
        if name not in known:
            raise ValueError(
                f"{name!r} is not a key of {owner}; expected one of {known}."
            )
        setattr(tensor_keys, name, key)
