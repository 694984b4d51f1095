"""Which run directories count, and why the others do not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from drama_torchrl.config import CHANGES_NO_RESULT, DramaConfig, flatten
from drama_torchrl.envs.games import find_rom_id, list_games
from drama_torchrl.record.reading import (
    UnusableRunError,
    count_episodes,
    find_film,
    read_episodes,
    read_evaluation,
    read_options,
    read_result,
    read_score,
)
from drama_torchrl.record.run_directory import RunDirectory
from drama_torchrl.record.scores import reference_scores

__all__ = ["Collection", "Refusal", "Run", "collect_runs", "read_run"]

_NAMES_THE_RUN = ("env.game", "seed")
_MAY_DIFFER = (*CHANGES_NO_RESULT, "evaluation.")  # of what was trained the same way
_GPUS = ("NVIDIA", "Tesla", "GeForce", "Quadro", "TITAN", "AMD Instinct", "AMD Radeon")


@dataclass(frozen=True)
class Run:
    """A complete run.

    Args:
        path: its directory.
        game: as the ALE spells it.
        seed: of the run.
        settings: options of the training by dotted name, without game and seed and
            those that change no result; one that came after the run has its default.
        training: mean return of the last five training episodes, the paper's measure.
        final: mean return of the last checkpoint's episodes with drawn actions.
        final_episodes: number of these episodes.
        episodes: environment step at the end of each training episode, and its return.
        hours: wall-clock time of training.
        devices: that the run used at once.
        steps_per_second: environment steps, start-up included.
        device: name of the GPU or CPU; empty where it is not known.
        on_gpu: whether the device is a GPU.
        commit: of the code; empty where it is not known.
        film: newest film of imagination.
    """

    path: Path
    game: str
    seed: int
    settings: Mapping[str, Any]
    training: float
    final: float
    final_episodes: int
    episodes: list[tuple[int, float]]
    hours: float
    devices: int
    steps_per_second: float
    device: str
    on_gpu: bool
    commit: str
    film: Path | None

    @property
    def hardware(self) -> str:
        """The device, with the number of them if it was not one."""
        name = self.device or "unknown"
        return name if self.devices == 1 else f"{self.devices} × {name}"

    @property
    def fingerprint(self) -> str:
        """The settings as one text: equal for runs of the same experiment."""
        return json.dumps(self.settings, sort_keys=True, default=str)


@dataclass(frozen=True)
class Refusal:
    """A directory that is left out.

    Args:
        path: as it was given.
        reason: one line.
    """

    path: Path
    reason: str


@dataclass(frozen=True)
class Collection:
    """What was found in some directories.

    Args:
        runs: those that count, in the order given.
        refused: the others.
    """

    runs: list[Run]
    refused: list[Refusal]


def collect_runs(paths: Iterable[str | Path]) -> Collection:
    """Read run directories; name those that must not be counted.

    Args:
        paths: run directories. Of several runs of the same game, seed and settings
            the first counts.

    Returns:
        The runs and the refusals.
    """
    collection = Collection([], [])
    counted: dict[tuple[str, int, str], Run] = {}
    for path in map(Path, paths):
        try:
            run = read_run(path)
        except UnusableRunError as error:
            collection.refused.append(Refusal(path, str(error)))
            continue
        same = counted.setdefault((run.game, run.seed, run.fingerprint), run)
        if same is run:
            collection.runs.append(run)
            continue
        collection.refused.append(Refusal(path, _describe_duplicate(run, same)))
    return collection


def read_run(path: str | Path) -> Run:
    """Read a run directory.

    Final episodes are those of ``evaluation.json`` if the last checkpoint played them,
    acting as it was trained, and those of ``result.json`` are not more.

    Args:
        path: the directory.

    Raises:
        UnusableRunError: if it must not be counted; the message is the reason.
    """
    run = RunDirectory(path)
    options = read_options(run)
    result = read_result(run)
    _check_one_source(options, result)
    _check_complete(options, result)
    episodes = read_episodes(run)
    training, _ = read_score(result, "training")
    final, final_episodes = _read_final(run, options, result)
    if [value for _, value in episodes[-5:]] != result["training"]["returns"]:
        raise UnusableRunError(
            "foreign: episodes.csv does not end with the training returns of "
            "result.json, so they are of different runs"
        )
    origin = result.get("provenance")
    origin = origin if isinstance(origin, dict) else {}
    device = str(origin.get("device") or "")
    return Run(
        path=run.path,
        game=_find_game(result["game"]),
        seed=result["seed"],
        settings=_settings_of(options),
        training=training,
        final=final,
        final_episodes=final_episodes,
        episodes=episodes,
        hours=result["training_minutes"] / 60,
        devices=result["devices"],
        steps_per_second=result["steps_per_second"],
        device=device,
        on_gpu=device.startswith(_GPUS) and options.get("execution.device") != "cpu",
        commit=str(origin.get("commit") or ""),
        film=find_film(run),
    )


def _read_final(
    run: RunDirectory, options: Mapping[str, Any], result: Mapping[str, Any]
) -> tuple[float, int]:
    """The final score and the number of its episodes."""

    def counts(name: str) -> bool:
        # A later version that scores an earlier run knows more options.
        return name in options and not name.startswith(_MAY_DIFFER)

    wanted = options.get("evaluation.episodes")
    played = count_episodes(result, "sampled") or 0
    again = read_evaluation(run)
    if (
        again is not None
        and again["steps"] == result["steps"]
        and (count_episodes(again, "sampled") or 0) >= played
        and not _differences(options, again, counts)
    ):
        return read_score(again, "sampled", run.evaluation.name)
    if played != wanted:
        raise UnusableRunError(f"incomplete: {played} of {wanted} final episodes")
    return read_score(result, "sampled")


def _check_one_source(options: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Both files are of one run: they agree on every option."""
    differing = _differences(options, result)
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise UnusableRunError(
            "foreign: config.yaml and result.json are of different runs; they differ "
            f"in {', '.join(differing[:3])}{more}"
        )


def _differences(
    options: Mapping[str, Any],
    scores: Mapping[str, Any],
    counts: Callable[[str], bool] = lambda _: True,
) -> list[str]:
    """Options that count and that a run's scores were not made with."""
    named = {name: scores[name] for name in ("preset", "seed")}
    claims = [
        flatten(scores["config"]),
        {**options, "env.game": scores["game"], **named},
    ]
    return list(
        dict.fromkeys(
            f"{name} ({options.get(name)!r}, {claim.get(name)!r})"
            for claim in claims
            for name in sorted({*options, *claim})
            if options.get(name) != claim.get(name) and counts(name)
        )
    )


def _check_complete(options: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """All steps were taken."""
    total = options.get("training.total_steps")
    if not result["complete"] or result["steps"] != total:
        raise UnusableRunError(f"incomplete: {result['steps']} of {total} steps")


def _settings_of(options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in {**_defaults(), **options}.items()
        if name not in _NAMES_THE_RUN and not name.startswith(_MAY_DIFFER)
    }


@cache
def _defaults() -> dict[str, Any]:
    return flatten(asdict(DramaConfig()))


def _find_game(name: str) -> str:
    if reference_scores(name) is None:
        raise UnusableRunError(
            f"foreign: {name!r} is none of the 26 games of Atari100k, so there is "
            "nothing to compare it with"
        )
    return _names()[find_rom_id(name)]


@cache
def _names() -> dict[str, str]:
    return {find_rom_id(name): name for name in list_games()}


def _describe_duplicate(run: Run, counted: Run) -> str:
    if os.path.samefile(run.path, counted.path):
        return "duplicate: the same directory was given before"
    return (
        f"duplicate: {counted.path} has the same game, preset, seed and settings "
        "and is counted"
    )
