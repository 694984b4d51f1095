"""Checkpoints: written whole or not at all, read without running foreign code."""

from __future__ import annotations

import io
import pickle
import zipfile
from os.path import isdir, isfile
from pathlib import Path
from typing import Any

import torch

from drama_torchrl.record.atomic import replacing

__all__ = [
    "CheckpointError",
    "load_checkpoint",
    "load_tensors",
    "save_checkpoint",
    "save_tensors",
]

_ENTRIES = ("step", "config", "num_actions", "world_model", "behaviour")


class CheckpointError(ValueError):
    """A checkpoint that is absent, damaged or no checkpoint of this agent."""


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Write an agent's state to a file, replacing an older one only when complete.

    Args:
        path: the file; its directory must exist.
        state: plain containers of tensors and numbers: ``"step"``, ``"config"``,
            ``"num_actions"``, and the ``state_dict`` of the learners
            ``"world_model"`` and ``"behaviour"``.

    Raises:
        CheckpointError: if an entry is missing.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "checkpoint.pt")
        >>> state = {"step": 3, "config": {}, "num_actions": 6}
        >>> state |= {"world_model": {"weight": torch.ones(2)}, "behaviour": {}}
        >>> save_checkpoint(path, state)
        >>> load_checkpoint(path, "cpu")["world_model"]["weight"]
        tensor([1., 1.])
    """
    missing = [entry for entry in _ENTRIES if entry not in state]
    if missing:
        raise CheckpointError(
            f"A checkpoint expects the entries {list(_ENTRIES)}, got {list(state)}; "
            f"add {missing}."
        )
    save_tensors(path, state)


def load_checkpoint(path: str | Path, device: torch.device | str) -> dict[str, Any]:
    """Read what :func:`save_checkpoint` wrote, checksums included.

    Only tensors and plain containers are read: a checkpoint cannot run code.

    Args:
        path: the file.
        device: where the tensors go.

    Returns:
        The saved state.

    Raises:
        CheckpointError: if the file is missing, damaged or holds something else.
    """
    path = Path(path)
    found = load_tensors(path, device)
    missing = [entry for entry in _ENTRIES if entry not in found]
    if missing:
        raise CheckpointError(
            f"{path}: expected a checkpoint of this agent, got a file without "
            f"{', '.join(missing)}; name a checkpoint that this package wrote."
        )
    return found


def save_tensors(path: str | Path, state: dict[str, Any]) -> None:
    """Write plain containers of tensors and numbers, whole or not at all.

    Args:
        path: the file; its directory must exist.
        state: what to write.

    Raises:
        OSError: if there is no room for it; an older file stays.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "loop.pt")
        >>> save_tensors(path, {"frames": 3})
        >>> load_tensors(path, "cpu")
        {'frames': 3}
    """
    # Through memory: torch reports a full disk as one of several RuntimeErrors.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_tensors(path: str | Path, device: torch.device | str) -> dict[str, Any]:
    """Read what :func:`save_tensors` wrote, checksums included.

    Only tensors and plain containers are read: a file cannot run code.

    Args:
        path: the file.
        device: where the tensors go.

    Returns:
        The saved state; empty if the file holds no dictionary.

    Raises:
        CheckpointError: if the file is missing, damaged or holds other objects.
    """
    path = Path(path)
    if not isfile(path):
        got = "a directory" if isdir(path) else "no such file"
        raise CheckpointError(
            f"{path}: expected a checkpoint, got {got}; name the checkpoint file "
            "in a run's directory."
        )
    _check_archive(path)
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: expected tensors and plain containers, got other objects, which "
            "could run code; name a checkpoint that this package wrote."
        ) from error
    # Whatever else the archive reader or the device happens to raise.
    except Exception as error:
        raise CheckpointError(
            f"{path}: expected a checkpoint that loads on {device}, got "
            f"{type(error).__name__}: {_first_line(error)}; name a checkpoint that "
            "this package wrote."
        ) from error
    return state if isinstance(state, dict) else {}


def _check_archive(path: Path) -> None:
    """Compare checksums, which ``torch.load`` does not, before anything is read."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
        damaged = _first_line(error)
    if damaged:
        raise CheckpointError(
            f"{path}: expected a whole checkpoint, got a damaged, truncated or foreign "
            f"file ({damaged}); use an earlier copy or start the run again."
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
