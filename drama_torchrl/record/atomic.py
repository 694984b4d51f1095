"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["remove_leftovers", "replacing", "sync_directory", "write_json"]


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Write a file under a temporary name; rename it once it is whole and on disk.

    A reader, or a run that is killed at any moment, finds the old file or the new
    one, never a part of it. If the block raises, the old file stays.

    Args:
        path: the file to replace; its directory must exist.

    Yields:
        The temporary path to write to, in the same directory.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "answer.txt")
        >>> with replacing(path) as temporary:
        ...     _ = temporary.write_text("42")
        >>> path.read_text()
        '42'
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files of :func:`replacing` whose process was killed.

    Args:
        folder: where no other process writes; it need not exist.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / ".answer.txt.123.tmp").touch()
        >>> remove_leftovers(folder)
        >>> list(folder.iterdir())
        []
    """
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Bring the names in a directory to disk, where a system knows how to.

    Args:
        path: the directory.

    Example:
        >>> import tempfile
        >>> sync_directory(Path(tempfile.mkdtemp()))
    """
    if os.name != "posix":
        return
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Replace a JSON file, whole or not at all.

    Args:
        path: the file.
        content: values that JSON knows.

    Raises:
        TypeError: if JSON does not know a value; an older file stays.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "result.json")
        >>> write_json(path, {"steps": 5})
        >>> path.read_text().split()
        ['{', '"steps":', '5', '}']
    """
    text = json.dumps(content, indent=2)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n")
