"""Which run goes on, with which options, and whether it is still the same one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from os.path import isfile
from pathlib import Path
from typing import Any

from drama_torchrl.config import (
    MAY_CHANGE_ON_RESUME,
    DramaConfig,
    config_from_dict,
    flatten,
    load_config,
    read_config,
)
from drama_torchrl.parallel import rank
from drama_torchrl.record.checkpoint import CheckpointError
from drama_torchrl.record.lock import locked
from drama_torchrl.record.manifest import Manifest
from drama_torchrl.record.run_directory import RunDirectory

__all__ = ["check_circumstances", "differences", "open_run", "read_arguments"]

_OPTION = "resume="


def read_arguments(arguments: Sequence[str]) -> tuple[DramaConfig, bool]:
    """Options of a new run, or of the one that ``resume=RUN_DIR`` names.

    Args:
        arguments: ``key=value`` as for ``load_config``, and ``resume=RUN_DIR``.

    Returns:
        The options, and whether the run goes on.

    Raises:
        CheckpointError: if there is no run that could go on, or not with these options.

    Example:
        >>> config, resumed = read_arguments(["preset=quick", "seed=3"])
        >>> config.seed, resumed
        (3, False)
    """
    paths = [each.removeprefix(_OPTION) for each in arguments if _resumes(each)]
    if not paths:
        return load_config(overrides=arguments), False
    run = RunDirectory(paths[-1])
    _check_unfinished(run)
    overrides = [each for each in arguments if not _resumes(each)]
    before = asdict(read_config(run.config))
    config = config_from_dict(before, overrides)
    _check_options(before, config, run.config)
    return replace(config, run_dir=str(run.path)), True


@contextmanager
def open_run(config: DramaConfig, *, resumed: bool) -> Iterator[RunDirectory]:
    """The directory of a run with its options, for this process and those with it.

    The first process makes it if the run is new, and locks it.

    Args:
        config: the options.
        resumed: whether the run goes on.

    Yields:
        The directory; until the block ends no other process can open it.

    Raises:
        RunExistsError: if the run is new and its directory is not.
        InUseError: if another process works on the run; nothing is changed.
        CheckpointError: if the run goes on and has meanwhile been finished.

    Example:
        >>> import tempfile
        >>> config = DramaConfig(run_dir=f"{tempfile.mkdtemp()}/run")
        >>> with open_run(config, resumed=False) as run:
        ...     run.config.name
        'config.yaml'
    """
    if rank() > 0:
        yield RunDirectory(config.run_path)
        return
    if not resumed:
        RunDirectory.create(config.run_path, config)
    run = RunDirectory(config.run_path)
    with locked(run.path):
        if resumed:
            # Again: whoever had the lock may have come to the end.
            _check_unfinished(run)
            if config != read_config(run.config):
                run.write_config(config)
        yield run


def check_circumstances(
    manifest: Manifest, config: DramaConfig, versions: Mapping[str, Any], folder: Path
) -> None:
    """Refuse a checkpoint of other options; warn of other versions.

    Options of logging and evaluation, the time limit and the directory may differ.

    Args:
        manifest: of the checkpoint.
        config: options of the run that would go on from it.
        versions: of the packages here, the type of the device and the number of
            processes.
        folder: where the checkpoint is, for the message.

    Raises:
        CheckpointError: listing the options that differ.
    """
    _check_options(manifest.config, config, folder)
    skew = differences(manifest.versions, versions)
    if skew:
        warnings.warn(
            f"{folder} was written under other circumstances: {'; '.join(skew)}. The "
            "run goes on, but not exactly as it would have.",
            stacklevel=2,
        )


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Tell where two trees of options differ.

    Example:
        >>> differences({"env": {"game": "Pong"}}, {"env": {"game": "Krull"}})
        ["env.game: 'Pong' then, 'Krull' now"]
    """
    old, new = flatten(before), flatten(now)
    return [
        f"{name}: {old.get(name)!r} then, {new.get(name)!r} now"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def _check_unfinished(run: RunDirectory) -> None:
    if not run.unfinished:
        got = "a finished run" if isfile(run.result) else "no run"
        raise CheckpointError(
            f"{_OPTION}{run.path}: expected the directory of a run that was "
            f"interrupted, got {got}; name another one or start a new run."
        )


def _check_options(before: Mapping[str, Any], now: DramaConfig, where: Path) -> None:
    changed = [
        line
        for line in differences(before, asdict(now))
        if not line.startswith(MAY_CHANGE_ON_RESUME)
    ]
    if changed:
        raise CheckpointError(
            f"{where}: expected the options that the run was started with, got "
            f"{'; '.join(changed)}; drop these or start a new run."
        )


def _resumes(argument: str) -> bool:
    return argument.startswith(_OPTION)
