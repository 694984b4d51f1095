"""Where a run came from: code, packages, hardware."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from drama_torchrl import __version__

__all__ = ["find_commit", "find_versions", "provenance"]

_PACKAGES = ("torch", "torchrl", "tensordict", "ale-py")


def provenance(device: torch.device | None = None) -> dict[str, Any]:
    """Say which code, on which packages and hardware, and when this was written.

    Never raises: what cannot be found out is ``None``.

    Args:
        device: the device that trains; by default CUDA where there is one.

    Returns:
        ``"written"`` (UTC, ISO 8601), ``"commit"`` of the code when it was imported
        (ending in ``-dirty`` if tracked files were changed), ``"versions"`` by
        package, ``"device"`` (name of the GPU or CPU) and ``"cpus"`` (their number).
        No host or user name.

    Example:
        >>> sorted(provenance())
        ['commit', 'cpus', 'device', 'versions', 'written']
    """
    if device is None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _COMMIT,
        "versions": find_versions(),
        "device": _find_device_name(device),
        "cpus": os.cpu_count(),
    }


def find_versions() -> dict[str, str | None]:
    """Versions of this package, of those whose numbers it computes, and of Python.

    Example:
        >>> sorted(find_versions())
        ['ale-py', 'drama_torchrl', 'python', 'tensordict', 'torch', 'torchrl']
    """
    return {
        "drama_torchrl": __version__,
        **{package: _find_version(package) for package in _PACKAGES},
        "python": platform.python_version(),
    }


@cache
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


# Now: the checkout may move on while a run lasts.
_COMMIT = find_commit(Path(__file__))


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
