"""What a planned run has left behind so far, and how it makes room for another."""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from drama_torchrl.config import (
    CHANGES_NO_RESULT,
    MAY_CHANGE_ON_RESUME,
    ConfigError,
    DramaConfig,
    config_from_dict,
    flatten,
    read_config,
)
from drama_torchrl.record.reading import (
    UnusableRunError,
    count_episodes,
    read_episodes,
    read_result,
)
from drama_torchrl.record.run_directory import RunDirectory
from drama_torchrl.record.scores import training_score
from drama_torchrl.sweep.plan import PlannedRun

__all__ = [
    "Progress",
    "can_go_on",
    "is_complete",
    "is_out_of_time",
    "move_aside",
    "read_progress",
]


class Progress(NamedTuple):
    """How far a run is.

    Args:
        steps: environment steps when metrics were last written.
        score: mean return of the last five training episodes; ``None`` without any.
        minutes: of training until then.
    """

    steps: int
    score: float | None
    minutes: float


def is_complete(run: PlannedRun) -> bool:
    """Whether all steps were taken and all final episodes played.

    Args:
        run: a planned run, whose directory need not exist.

    Raises:
        ConfigError: if it is complete with options that give other results.
    """
    try:
        result = read_result(run.directory)
    except UnusableRunError:
        return False
    found = config_from_dict(result["config"])
    if not (result["complete"] and _is_scored(result, found)):
        return False
    ours, theirs = flatten(asdict(run.config)), flatten(asdict(found))
    counts = [name for name in ours if not name.startswith(CHANGES_NO_RESULT)]
    differing = [name for name in counts if ours[name] != theirs[name]]
    if differing:
        name = differing[0]
        raise ConfigError(
            f"out: expected {run.path} to be a run of the same options, got a complete "
            f"one with other {', '.join(differing)} ({name}={theirs[name]!r}, asked "
            f"for {ours[name]!r}); choose another out"
        )
    return True


def is_out_of_time(run: PlannedRun) -> bool:
    """Whether an interrupted attempt that could go on has no time left to do so.

    Args:
        run: a planned run, whose directory need not exist.
    """
    if not can_go_on(run):
        return False
    try:
        result = read_result(run.directory)
    except UnusableRunError:
        return False
    return (
        not result["complete"]
        and _is_scored(result, run.config)
        and result["training_minutes"] > run.config.training.max_minutes > 0
    )


def can_go_on(run: PlannedRun) -> bool:
    """Whether an earlier attempt was interrupted that had the same options.

    Args:
        run: a planned run, whose directory need not exist.
    """
    if not run.directory.unfinished:
        return False
    try:
        before = read_config(run.directory.config)
    except ConfigError:
        return False
    found, asked = flatten(asdict(before)), flatten(asdict(run.config))
    fixed = [name for name in asked if not name.startswith(MAY_CHANGE_ON_RESUME)]
    return all(found[name] == asked[name] for name in fixed)


def read_progress(run: RunDirectory) -> Progress:
    """See how far a run is, whether it still runs or not; never raises.

    Args:
        run: its directory, which need not exist.

    Example:
        >>> read_progress(RunDirectory("/nowhere/at_all"))
        Progress(steps=0, score=None, minutes=0.0)
    """
    try:
        result = read_result(run)
        training = result["training"].get("mean")
        return Progress(result["steps"], training, float(result["training_minutes"]))
    except UnusableRunError:
        steps, minutes = _read_last_metrics(run.metrics)
        return Progress(steps, _read_score(run), minutes)


def move_aside(run: PlannedRun) -> None:
    """Rename what an earlier attempt left: ``<name>.partial-<N>``, and its log.

    Args:
        run: not complete, and not running.

    Raises:
        OSError: if a name cannot be changed.
    """
    if not run.path.exists() and not run.log.exists():
        return
    number = 1
    while True:
        path = run.path.with_name(f"{run.name}.partial-{number}")
        log = run.log.with_name(f"{run.name}.partial-{number}.log")
        if not path.exists() and not log.exists():
            break
        number += 1
    for old, new in ((run.path, path), (run.log, log)):
        if old.exists():
            old.rename(new)


def _is_scored(result: dict[str, Any], config: DramaConfig) -> bool:
    """Whether all final episodes of an attempt were played."""
    return (
        count_episodes(result, "sampled") == config.evaluation.episodes
        and count_episodes(result, "greedy") == config.evaluation.greedy_episodes
    )


def _read_score(run: RunDirectory) -> float | None:
    try:
        return training_score([value for _, value in read_episodes(run)])
    except UnusableRunError:
        return None


def _read_last_metrics(path: Path) -> tuple[int, float]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error):
        return 0, 0.0
    for row in reversed(rows):
        try:
            return int(row["step"]), float(row["minutes"])
        except (KeyError, TypeError, ValueError):
            continue  # the row that is being written
    return 0, 0.0
