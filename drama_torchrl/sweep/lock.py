"""Keeps two sweeps out of one directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from drama_torchrl.config import ConfigError
from drama_torchrl.record.lock import InUseError, locked

__all__ = ["claimed"]


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
        ConfigError: if the directory is claimed, or cannot be made.

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
        yield claim
