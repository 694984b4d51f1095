"""Keeps two sweeps out of one directory."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

from drama_torchrl.config import ConfigError
from drama_torchrl.record.lock import InUseError, locked

__all__ = ["claimed", "is_written", "read_claim"]


@contextmanager
def claimed(out: Path) -> Iterator[int]:
    """Claim the directory of a sweep; it is made if need be.

    Whoever inherits the file descriptor holds the claim too: runs that outlive a sweep
    that was killed keep the next one from moving away what they still write.

    Args:
        out: the directory.

    Yields:
        The file descriptor of ``out/.lock``.

    Raises:
        ConfigError: if the directory is claimed or cannot be made.

    Example:
        >>> import tempfile
        >>> out = Path(tempfile.mkdtemp(), "sweep")
        >>> with claimed(out):
        ...     try:
        ...         with claimed(out):
        ...             pass
        ...     except ConfigError as error:
        ...         print(str(error).partition(": ")[2])
        expected no other sweep at work there, got one, or a run that it left...
    """
    with ExitStack() as stack:
        try:
            out.mkdir(parents=True, exist_ok=True)
            claim = stack.enter_context(locked(out))
        except OSError as error:
            raise ConfigError(
                f"out={out}: expected a directory that can be written to, got "
                f"{error.strerror}; name another"
            ) from error
        except InUseError as error:
            raise ConfigError(
                f"out={out}: expected no other sweep at work there, got one, or a run "
                "that it left behind; wait for it or name another directory"
            ) from error
        # Other machines look for it, and no two claims are alike.
        os.pwrite(claim, f" {uuid4()}\n".encode(), os.fstat(claim).st_size)
        os.fsync(claim)
        yield claim


def read_claim(out: Path) -> str:
    """What the sweep that claimed a directory wrote there; never twice the same.

    Args:
        out: the directory.

    Example:
        >>> import tempfile
        >>> out = Path(tempfile.mkdtemp())
        >>> with claimed(out):
        ...     first = read_claim(out)
        >>> with claimed(out):
        ...     read_claim(out) == first
        False
    """
    return (out / ".lock").read_text()


def is_written(log: Path) -> bool:
    """Whether a run that locks its log still writes there, on any machine.

    Args:
        log: which need not exist.

    Example:
        >>> import tempfile
        >>> log = Path(tempfile.mkdtemp(), "Pong-seed1.log")
        >>> is_written(log)
        False
        >>> with log.open("ab") as file:
        ...     fcntl.flock(file, fcntl.LOCK_EX)
        ...     is_written(log)
        True
    """
    try:
        # To write: a network file system gives exclusive locks on nothing less.
        with log.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False
