"""One process at a time in a directory, by a lock that ends with its process."""

from __future__ import annotations

import os
import platform
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

__all__ = ["InUseError", "locked"]

_LONGEST = 300  # bytes of a host's name and a number


class InUseError(ValueError):
    """A directory that another process works in."""


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Keep other processes out of a directory for the length of a block.

    The kernel gives the lock back when the process ends, however it ends. It is one on
    the file ``.lock``, which stays and says who took it last. Whoever inherits the file
    descriptor holds the lock too. File systems without such locks get a warning.

    Args:
        folder: an existing directory.

    Yields:
        The file descriptor.

    Raises:
        InUseError: if another process holds the lock; nothing is changed.
        OSError: if the directory cannot be written to.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with locked(folder):
        ...     try:
        ...         with locked(folder):
        ...             pass
        ...     except InUseError as error:
        ...         print(str(error).partition(": ")[2])
        expected no other process at work there, got process ... on host ...; wait
        until it ends or stop it there (kill ... saves a run), then start again.
    """
    file = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _lock(file, folder)
        # Only informs: no room for it is no reason to stop.
        with suppress(OSError):
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()} {platform.node()}".encode(), 0)
        yield file
    finally:
        os.close(file)


def _lock(file: int, folder: Path) -> None:
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        pid, _, host = os.pread(file, _LONGEST, 0).decode().partition(" ")
        raise InUseError(
            f"{folder}: expected no other process at work there, got process "
            f"{pid or '?'} on host {host or '?'}; wait until it ends or stop it there "
            f"(kill {pid or 'PID'} saves a run), then start again."
        ) from error
    except OSError as error:
        warnings.warn(
            f"{folder}: expected a file system with locks, got one without "
            f"({error.strerror}). Going on; see to it that nobody else works there.",
            stacklevel=4,
        )
