"""The files of one run directory, read with suspicion."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from os.path import isdir, isfile
from pathlib import Path
from statistics import fmean
from typing import Any

from omegaconf import OmegaConf

from drama_torchrl.config import flatten
from drama_torchrl.record.run_directory import RunDirectory

__all__ = [
    "UnusableRunError",
    "count_episodes",
    "find_film",
    "read_episodes",
    "read_evaluation",
    "read_options",
    "read_result",
    "read_score",
]

_RESULT: dict[str, tuple[type, ...]] = {
    "game": (str,),
    "preset": (str,),
    "seed": (int,),
    "steps": (int,),
    "complete": (bool,),
    "training": (dict,),
    "training_minutes": (float, int),
    "steps_per_second": (float, int),
    "devices": (int,),
    "config": (dict,),
}
_EVALUATION = {
    name: _RESULT[name] for name in ("game", "preset", "seed", "steps", "config")
}
# What a result had before it was written down.
_ONCE_LEFT_OUT = {"devices": 1}


class UnusableRunError(ValueError):
    """A directory whose scores must not be counted; the message is the reason."""


def read_options(run: RunDirectory) -> dict[str, Any]:
    """Read ``config.yaml``.

    Returns:
        Values by dotted name.

    Raises:
        UnusableRunError: if the directory is none of a run.
    """
    if not isdir(run.path):
        got = "a file" if isfile(run.path) else "no such directory"
        raise UnusableRunError(f"foreign: expected a run directory, got {got}")
    if not isfile(run.config):
        raise UnusableRunError("foreign: no config.yaml, so not a run directory")
    try:
        data = OmegaConf.to_container(OmegaConf.load(run.config))
    # YAML and OmegaConf raise a dozen unrelated types on text they cannot read.
    except Exception as error:
        raise UnusableRunError(
            f"damaged: config.yaml cannot be read ({type(error).__name__})"
        ) from error
    if not isinstance(data, dict):
        raise UnusableRunError("foreign: config.yaml holds no options")
    return flatten(data)


def read_result(run: RunDirectory) -> dict[str, Any]:
    """Read ``result.json`` and check the types of what is read from it later.

    Raises:
        UnusableRunError: if it is absent, damaged or that of something else.
    """
    if not isfile(run.result):
        raise UnusableRunError("incomplete: no result.json; the run has not ended")
    result = _read_json(run.result)
    if not isinstance(result, dict):
        raise UnusableRunError("foreign: result.json holds no result of a run")
    result = _ONCE_LEFT_OUT | result
    wrong = _mistyped(result, _RESULT)
    if wrong:
        raise UnusableRunError(
            f"foreign: result.json expects {', '.join(wrong)}, got "
            f"{', '.join(repr(result.get(name)) for name in wrong)}"
        )
    return result


def read_evaluation(run: RunDirectory) -> dict[str, Any] | None:
    """Read ``evaluation.json``: a checkpoint scored once more.

    Returns:
        Its entries; ``None`` if there is no such file, or one that does not say of
        which run it is.

    Raises:
        UnusableRunError: if it is damaged.
    """
    if not isfile(run.evaluation):
        return None
    scores = _read_json(run.evaluation)
    if not isinstance(scores, dict) or _mistyped(scores, _EVALUATION):
        return None
    return scores


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UnusableRunError(
            f"damaged: {path.name} cannot be read ({type(error).__name__})"
        ) from error


def _mistyped(
    entries: Mapping[str, Any], types: Mapping[str, tuple[type, ...]]
) -> list[str]:
    return [name for name in types if type(entries.get(name)) not in types[name]]


def count_episodes(scores: Mapping[str, Any], section: str) -> int | None:
    """Number of episodes in a section of scores; ``None`` if they were not played.

    Args:
        scores: from :func:`read_result` or :func:`read_evaluation`.
        section: ``"training"``, ``"sampled"`` or ``"greedy"``.

    Example:
        >>> count_episodes({"sampled": {"mean": 2.0, "returns": [1.0, 3.0]}}, "sampled")
        2
    """
    found = scores.get(section)
    returns = found.get("returns") if isinstance(found, dict) else None
    return len(returns) if isinstance(returns, list) else None


def read_score(
    scores: Mapping[str, Any], section: str, file: str = "result.json"
) -> tuple[float, int]:
    """Mean return of a section of scores, checked against its single returns.

    Args:
        scores: from :func:`read_result` or :func:`read_evaluation`.
        section: ``"training"`` or ``"sampled"``.
        file: where they are from, for the message.

    Returns:
        The mean and the number of episodes.

    Raises:
        UnusableRunError: without episodes, or if the mean is not theirs.

    Example:
        >>> read_score({"sampled": {"mean": 2.0, "returns": [1.0, 3.0]}}, "sampled")
        (2.0, 2)
    """
    found = scores.get(section)
    found = found if isinstance(found, dict) else {}
    mean, returns = found.get("mean"), found.get("returns")
    if not returns or mean is None:
        raise UnusableRunError(f"incomplete: no {section!r} episodes in {file}")
    try:
        agrees = math.isfinite(mean) and math.isclose(
            fmean(returns), mean, rel_tol=1e-6, abs_tol=1e-6
        )
    except (TypeError, ValueError, OverflowError):
        agrees = False
    if not agrees:
        raise UnusableRunError(
            f"damaged: the mean of {section!r} in {file}, {mean!r}, is not that of "
            "its returns"
        )
    return float(mean), len(returns)


def read_episodes(run: RunDirectory) -> list[tuple[int, float]]:
    """Read ``episodes.csv``.

    Returns:
        Environment step at the end of each training episode, and its return.

    Raises:
        UnusableRunError: if it is absent or damaged.
    """
    try:
        with run.episodes.open(newline="", encoding="utf-8") as file:
            return [
                (int(row["step"]), float(row["return"])) for row in csv.DictReader(file)
            ]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UnusableRunError(
            "incomplete: no episodes.csv, so no learning curve"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UnusableRunError(
            f"damaged: episodes.csv cannot be read ({type(error).__name__})"
        ) from error


def find_film(run: RunDirectory) -> Path | None:
    """Find the newest film of imagination; kept results have it beside the scores.

    Returns:
        A GIF in ``films/`` or else in the directory itself; a film strip, a PNG, where
        no film was kept; ``None`` without either.
    """
    for kind in ("gif", "png"):
        for folder in (run.films, run.path):
            films = sorted(folder.glob(f"step-*.{kind}"))
            if films:
                return films[-1]
    return None
