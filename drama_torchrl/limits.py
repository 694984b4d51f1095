"""What an option's value must satisfy, and the error that says so."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, NamedTuple

__all__ = [
    "ANYTHING",
    "BELOW_ONE",
    "NOT_NEGATIVE",
    "POSITIVE",
    "PROBABILITY",
    "SEED",
    "SEVERAL_SIZES",
    "SIZES",
    "WORD",
    "ConfigError",
    "Limit",
    "Options",
    "at_least",
    "expect",
    "one_of",
    "option",
    "show",
]


class ConfigError(ValueError):
    """An option that does not exist, cannot be read or cannot work."""


class Limit(NamedTuple):
    """What an option's value must satisfy.

    Args:
        expected: the limit in words, as an error message says it.
        holds: whether a value satisfies it.
    """

    expected: str
    holds: Callable[[Any], bool]


def at_least(low: int) -> Limit:
    """Whole numbers from `low` on."""
    return Limit(f"a whole number, at least {low}", lambda value: value >= low)


def one_of(*choices: str) -> Limit:
    """A closed list of words."""
    return Limit(f"one of {', '.join(choices)}", lambda value: value in choices)


POSITIVE = Limit("a finite number above 0", lambda value: 0 < value < math.inf)
NOT_NEGATIVE = Limit("a finite number, 0 or above", lambda value: 0 <= value < math.inf)
PROBABILITY = Limit("a number in [0, 1]", lambda value: 0 <= value <= 1)
BELOW_ONE = Limit("a number in [0, 1)", lambda value: 0 <= value < 1)
SEED = Limit("a whole number in [0, 2**32)", lambda value: 0 <= value < 2**32)
WORD = Limit("a name", lambda value: bool(value.strip()))
ANYTHING = Limit("any value", lambda _: True)
SIZES = Limit(
    "a list of one or more whole numbers, each at least 1",
    lambda values: len(values) > 0 and min(values) >= 1,
)
SEVERAL_SIZES = Limit(
    "a list of two or more whole numbers, each at least 1",
    lambda values: len(values) > 1 and min(values) >= 1,
)


def option(default: Any, limit: Limit = ANYTHING) -> Any:
    """A dataclass field with a default and a limit."""
    metadata = {"limit": limit}
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def expect(valid: bool, name: str, expected: str, got: object) -> None:
    """Raises a `ConfigError` naming the option unless `valid`."""
    if not valid:
        raise ConfigError(f"{name}: expected {expected}, got {show(got)}")


def show(value: object) -> str:
    """`repr(value)`, or words where that raises: an integer of 5 000 digits does."""
    try:
        return repr(value)
    # Foreign objects raise what they like.
    except Exception:
        return f"a value of type {type(value).__name__} that cannot be shown"


@dataclass
class Options:
    """Base of every group: checks each field against its limit."""

    section: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Checks each field; groups add the relations between their fields."""
        for spec in fields(self):
            limit: Limit = spec.metadata.get("limit", ANYTHING)
            value = getattr(self, spec.name)
            try:
                valid = limit.holds(value)
            except (TypeError, AttributeError):
                valid = False
            expect(valid, self.name_of(spec.name), limit.expected, value)

    def name_of(self, option_name: str) -> str:
        """The dotted name under which an option of this group is set."""
        return f"{self.section}.{option_name}" if self.section else option_name
