"""Runs that differ in more than game and seed are different experiments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from drama_torchrl.report.runs import Run

__all__ = ["ALONE", "Variant", "group_variants"]

ALONE = "ours"
"""Name of the variant where there is only one."""
_ABSENT = "(absent)"


@dataclass(frozen=True)
class Variant:
    """Runs with the same settings, which may be averaged.

    Args:
        name: what sets it apart from the other variants of a report.
        runs: its runs.
    """

    name: str
    runs: tuple[Run, ...]

    @cached_property
    def by_game(self) -> dict[str, list[Run]]:
        """The runs of each game, games by name and runs by seed."""
        ordered = sorted(self.runs, key=lambda run: (run.game, run.seed))
        games: dict[str, list[Run]] = {}
        for run in ordered:
            games.setdefault(run.game, []).append(run)
        return games


def group_variants(runs: Sequence[Run]) -> list[Variant]:
    """Group runs by their settings and name each group by what differs.

    Where presets differ they are named, and of other settings only those that differ
    within a preset: two presets differ in dozens.

    Args:
        runs: complete runs, no two of the same game, seed and settings.

    Returns:
        The variants in the order of their first run.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.fingerprint, []).append(run)
    firsts = [group[0] for group in groups.values()]
    return [
        Variant(_name(first, firsts), tuple(group))
        for first, group in zip(firsts, groups.values(), strict=True)
    ]


def _name(run: Run, others: Sequence[Run]) -> str:
    if len(others) == 1:
        return ALONE
    relatives = [
        other
        for other in others
        if other.settings.get("preset") == run.settings.get("preset")
    ]
    names = ["preset"] if len(relatives) < len(others) else []
    names += _differing(relatives)
    return ", ".join(f"{name}={run.settings.get(name, _ABSENT)}" for name in names)


def _differing(runs: Sequence[Run]) -> list[str]:
    names = sorted({name for run in runs for name in run.settings})
    return [
        name
        for name in names
        if len({repr(run.settings.get(name, _ABSENT)) for run in runs}) > 1
    ]
