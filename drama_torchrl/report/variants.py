"""Runs that differ in more than game and seed are different experiments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from typing import Any

from drama_torchrl.config import DramaConfig, flatten, list_presets, load_config
from drama_torchrl.report.runs import Run

__all__ = ["PLAIN", "Variant", "group_variants"]

PLAIN = "ours"
"""Name of a variant that nothing sets apart."""
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
    """Group runs by their settings and name each group by what sets it apart.

    Where presets differ they are named; beside its preset a group is named by what it
    has else than that preset, of the settings in which the groups of a preset differ.

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
    relatives = [
        other
        for other in others
        if other.settings.get("preset") == run.settings.get("preset")
    ]
    names = ["preset"] if len(relatives) < len(others) else []
    plain = _preset_settings(str(run.settings.get("preset")))
    names += [
        name
        for name in _differing(relatives)
        if _value(run.settings, name) != _value(plain, name)
    ]
    parts = [f"{name}={run.settings.get(name, _ABSENT)}" for name in names]
    return ", ".join(parts) or PLAIN


def _differing(runs: Sequence[Run]) -> list[str]:
    names = sorted({name for run in runs for name in run.settings})
    return [
        name for name in names if len({_value(run.settings, name) for run in runs}) > 1
    ]


def _value(settings: Mapping[str, Any], name: str) -> str:
    return repr(settings.get(name, _ABSENT))


@cache
def _preset_settings(preset: str) -> dict[str, Any]:
    known = preset in list_presets()
    return flatten(asdict(load_config(preset) if known else DramaConfig()))
