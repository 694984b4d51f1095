"""Which runs a sweep consists of, read from its arguments and checked beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from drama_torchrl.config import (
    MAY_CHANGE_ON_RESUME,
    ConfigError,
    DramaConfig,
    flatten,
    load_config,
)
from drama_torchrl.envs.games import find_rom_id, list_games
from drama_torchrl.record.run_directory import RunDirectory
from drama_torchrl.record.scores import reference_scores

__all__ = ["Plan", "PlannedRun", "make_plan", "parse_games"]

_OWN = (
    *("games", "seeds", "out", "workers", "per_gpu"),
    *("cluster", "ray_address", "cpus"),
)
_PLACE_OF_KEY = {"workers": "local", "ray_address": "ray", "cpus": "ray"}
_SET_BY_THE_SWEEP = {
    "env.game": "games=Boxing,Pong",
    "seed": "seeds=1,2,3",
    "run_dir": "out=runs/sweep",
    "log.progress": "no progress bar: the sweep shows its own summary",
}


@dataclass(frozen=True)
class PlannedRun:
    """One game with one seed.

    Args:
        name: ``<game>-seed<seed>``, which names its directory and its log.
        game: as the ALE spells it.
        seed: of the run.
        path: the run directory.
        log: the file that takes what the run prints.
        overrides: arguments of the recipe that trains it.
        config: the options they amount to.
    """

    name: str
    game: str
    seed: int
    path: Path
    log: Path
    overrides: tuple[str, ...]
    config: DramaConfig

    @property
    def resuming(self) -> tuple[str, ...]:
        """Arguments of the recipe that go on with an interrupted attempt.

        The attempt may have been given other values of what may change, so each is
        said, a default too.
        """
        asked = flatten(asdict(self.config))
        free = [name for name in asked if name.startswith(MAY_CHANGE_ON_RESUME)]
        free.remove("run_dir")  # resume= names it
        return (f"resume={self.path}", *(f"{name}={asked[name]}" for name in free))

    @property
    def directory(self) -> RunDirectory:
        """Names the files of the run."""
        return RunDirectory(self.path)


@dataclass(frozen=True)
class Plan:
    """Everything that a sweep was asked for.

    Args:
        runs: in the order in which they start: all games with the first seed first.
        out: directory of all runs, logs and the summary.
        workers: processes at once on a CPU; ``None`` where it was not said.
        per_gpu: processes at once on each GPU; ``None`` where it was not said.
        cluster: ``"local"`` (this machine) or ``"ray"``.
        ray_address: of the Ray cluster; ``None`` where it was not said.
        cpus: CPUs of each run on a cluster; ``None`` where it was not said.
    """

    runs: tuple[PlannedRun, ...]
    out: Path
    workers: int | None
    per_gpu: int | None
    cluster: str
    ray_address: str | None
    cpus: int | None


def make_plan(arguments: Sequence[str]) -> Plan:
    """Read the arguments of a sweep; nothing is started or written.

    Args:
        arguments: ``key=value``. ``games`` and ``seeds`` (both expected), ``out``,
            ``workers``, ``per_gpu``, ``cluster``, ``ray_address`` and ``cpus`` are the
            sweep's; the others go to every run.

    Returns:
        The runs, each with its checked options.

    Raises:
        ConfigError: an unknown game or option, or a value that cannot work.

    Example:
        >>> plan = make_plan(["games=Boxing,Pong", "seeds=1,2", "preset=quick"])
        >>> [run.name for run in plan.runs]
        ['Boxing-seed1', 'Pong-seed1', 'Boxing-seed2', 'Pong-seed2']
        >>> plan.runs[0].path.as_posix(), plan.runs[0].config.preset
        ('runs/sweep/Boxing-seed1', 'quick')
    """
    own, passed_on = _split(arguments)
    for key, example in (("games", "games=Boxing,Pong"), ("seeds", "seeds=1,2,3")):
        if not own.get(key):
            raise ConfigError(f"{key}: expected for example {example}, got nothing")
    load_config(overrides=passed_on)  # before any game is at fault
    out = Path(own.get("out") or "runs/sweep")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"out={out}: expected a directory, got a file; name another")
    cluster = _parse_cluster(own)
    if cluster != "local":
        out = out.absolute()  # the other machines know no working directory
    games, seeds = parse_games(own["games"]), _parse_seeds(own["seeds"])
    return Plan(
        runs=tuple(
            _plan_run(game, seed, out, passed_on) for seed in seeds for game in games
        ),
        out=out,
        workers=_parse_count("workers", own.get("workers")),
        per_gpu=_parse_count("per_gpu", own.get("per_gpu")),
        cluster=cluster,
        ray_address=own.get("ray_address") or None,
        cpus=_parse_count("cpus", own.get("cpus")),
    )


def parse_games(text: str) -> list[str]:
    """Names of games as the ALE spells them, each once.

    Args:
        text: names in any spelling, separated by commas; ``"all"`` stands for the 26
            of Atari100k.

    Raises:
        ConfigError: for a name that is no game's; the nearest names are given.

    Example:
        >>> parse_games("ms_pacman,Pong,MsPacman")
        ['MsPacman', 'Pong']
        >>> len(parse_games("all"))
        26
    """
    games: dict[str, None] = {}
    for name in _words(text):
        if name == "all":
            games |= dict.fromkeys(g for g in list_games() if reference_scores(g))
            continue
        try:
            games[_spellings()[find_rom_id(name)]] = None
        except ValueError as error:
            raise ConfigError(f"games: {error}") from error
    return list(games)


def _split(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    own: dict[str, str] = {}
    passed_on = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        key = key.strip()
        if key in _OWN:
            own[key] = value.strip()
        elif key in _SET_BY_THE_SWEEP:
            raise ConfigError(
                f"{key}: expected to be left to the sweep, got {argument!r}; "
                f"use {_SET_BY_THE_SWEEP[key]}"
            )
        else:
            passed_on.append(argument)
    return own, passed_on


def _plan_run(game: str, seed: str, out: Path, passed_on: Sequence[str]) -> PlannedRun:
    # Through the configuration, so that what is a seed is decided in one place.
    value = load_config(overrides=[f"seed={seed}"]).seed
    name = f"{game}-seed{value}"
    overrides = (
        *passed_on,
        f"env.game={game}",
        f"seed={value}",
        f"run_dir={out / name}",
        "log.progress=false",
    )
    config = load_config(overrides=overrides)
    return PlannedRun(
        name, game, value, out / name, out / f"{name}.log", overrides, config
    )


def _parse_seeds(text: str) -> list[str]:
    return list(dict.fromkeys(_words(text)))


def _parse_cluster(own: Mapping[str, str]) -> str:
    cluster = own.get("cluster") or "local"
    if cluster not in ("local", "ray"):
        raise ConfigError(f"cluster: expected local or ray, got {cluster!r}")
    for key, place in _PLACE_OF_KEY.items():
        if key in own and cluster != place:
            raise ConfigError(
                f"{key}: expected with cluster={place} alone, got {key}={own[key]} "
                f"with cluster={cluster}; leave it out"
            )
    return cluster


def _words(text: str) -> Iterator[str]:
    return (word for part in text.split(",") if (word := part.strip()))


def _parse_count(key: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"{key}: expected a whole number, at least 1, got {text!r}")
    return int(text)


@cache
def _spellings() -> dict[str, str]:
    return {find_rom_id(name): name for name in list_games()}
