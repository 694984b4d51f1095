"""The directory that a run writes to, and where the run came from."""

from __future__ import annotations

import csv
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from drama_torchrl import __version__
from drama_torchrl.config import DramaConfig, save_config
from drama_torchrl.record.atomic import replacing, write_json

__all__ = ["RunDirectory", "RunExistsError", "find_commit", "provenance"]

_COLUMNS = ("step", "return", "length", "seed")
_PACKAGES = ("torch", "torchrl", "tensordict", "ale-py")


class RunExistsError(ValueError):
    """A directory that a new run would have to share or overwrite."""


class RunDirectory:
    """Names the files of a run and writes the small ones.

    Args:
        path: the directory of an existing run; :meth:`create` makes a new one.

    Example:
        >>> import tempfile
        >>> from drama_torchrl.config import load_config
        >>> path = Path(tempfile.mkdtemp(), "run")
        >>> run = RunDirectory.create(path, load_config("quick"))
        >>> run.append_episode(step=900, return_=-21.0, length=890, seed=7)
        >>> run.episodes.read_text().splitlines()
        ['step,return,length,seed', '900,-21.0,890,7']
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: str | Path, config: DramaConfig) -> RunDirectory:
        """Make the directory of a new run and write its configuration.

        Args:
            path: a directory that does not exist or is empty; parents are made.
            config: the options of the run.

        Raises:
            RunExistsError: if anything is there already; nothing is changed.
        """
        run = cls(path)
        try:
            run.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise _occupied(run.path, "a file", "choose another run_dir") from error
        found = sorted(entry.name for entry in run.path.iterdir())
        if found:
            names = ", ".join(found[:4]) + (", …" if len(found) > 4 else "")
            remedy = "choose another run_dir or delete it"
            if run.unfinished:
                remedy = f"go on with resume={run.path}, {remedy}"
            raise _occupied(run.path, f"one that holds {names}", remedy)
        try:
            run.films.mkdir()
        # Two runs may have found the directory empty; the second one loses.
        except FileExistsError as error:
            raise _occupied(run.path, "another run") from error
        # Whoever finds the options finds all of them.
        with replacing(run.config) as temporary:
            save_config(config, temporary)
        return run

    @property
    def unfinished(self) -> bool:
        """Whether a run was started here and can go on."""
        started = self.config.is_file()
        return started and (self.snapshots.is_dir() or not self.result.is_file())

    @property
    def config(self) -> Path:
        """All options, in YAML."""
        return self.path / "config.yaml"

    @property
    def checkpoint(self) -> Path:
        """The newest state of the agent."""
        return self.path / "checkpoint.pt"

    @property
    def snapshots(self) -> Path:
        """Directory of what a run needs to go on; a finished run has none."""
        return self.path / "resume"

    @property
    def episodes(self) -> Path:
        """One row for each finished training episode."""
        return self.path / "episodes.csv"

    @property
    def metrics(self) -> Path:
        """One row of metrics every few steps."""
        return self.path / "metrics.csv"

    @property
    def films(self) -> Path:
        """Directory of films, film strips and videos."""
        return self.path / "films"

    @property
    def result(self) -> Path:
        """Scores and provenance, in JSON."""
        return self.path / "result.json"

    @property
    def learning_curve(self) -> Path:
        """Returns over environment steps, in PNG."""
        return self.path / "learning_curve.png"

    def append_episode(self, step: int, return_: float, length: int, seed: int) -> None:
        """Add a finished training episode; it is in the file when this returns.

        Args:
            step: environment steps of the run when the episode ended.
            return_: its undiscounted return.
            length: its environment steps.
            seed: the seed that started it.
        """
        with self.episodes.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if file.tell() == 0:
                writer.writerow(_COLUMNS)
            writer.writerow([step, return_, length, seed])

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Replace ``result.json``, whole or not at all.

        Args:
            result: values that JSON knows.

        Raises:
            TypeError: if JSON does not know a value; an older file stays.
        """
        write_json(self.result, result)


def _occupied(
    path: Path, got: str, remedy: str = "choose another run_dir or delete it"
) -> RunExistsError:
    return RunExistsError(
        f"run_dir={path}: expected a new or empty directory, got {got}; {remedy}."
    )


def provenance(device: torch.device | None = None) -> dict[str, Any]:
    """Say which code, on which packages and hardware, and when this was written.

    Never raises: what cannot be found out is ``None``.

    Args:
        device: the device that trains; by default CUDA where there is one.

    Returns:
        ``"written"`` (UTC, ISO 8601), ``"commit"`` (ending in ``-dirty`` if tracked
        files were changed), ``"versions"`` by package, ``"device"`` (name of the GPU
        or CPU) and ``"cpus"`` (their number). No host or user name.

    Example:
        >>> sorted(provenance())
        ['commit', 'cpus', 'device', 'versions', 'written']
    """
    if device is None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    versions = {package: _find_version(package) for package in _PACKAGES}
    return {
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": find_commit(Path(__file__)),
        "versions": {
            "drama_torchrl": __version__,
            **versions,
            "python": platform.python_version(),
        },
        "device": _find_device_name(device),
        "cpus": os.cpu_count(),
    }


def _find_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def find_commit(source: Path) -> str | None:
    """Name the commit of the checkout that tracks a source file.

    No other checkout counts: an installed package may lie inside somebody else's.

    Args:
        source: an existing file.

    Returns:
        40 hexadecimal digits, ``-dirty`` behind them if a tracked file was changed;
        ``None`` without git, without a commit or if the file is not tracked.

    Example:
        >>> find_commit(Path("/nowhere/at_all.py")) is None
        True
    """
    tracked = _run_git(source.parent, "ls-files", "--error-unmatch", source.name)
    if tracked is None:
        return None
    return _run_git(
        source.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"
    )


def _run_git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip() or None


def _find_device_name(device: torch.device) -> str | None:
    if device.type == "cuda":
        try:
            return torch.cuda.get_device_name(device)
        except (RuntimeError, AssertionError, ValueError):
            return None
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2] for line in lines if line.startswith("model name")]
    return next(iter(models), "").strip() or platform.processor() or platform.machine()
