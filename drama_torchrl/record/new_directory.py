"""A directory for new files: what is there already is neither shared nor lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from drama_torchrl.limits import ConfigError

__all__ = ["RunExistsError", "explaining", "make_new_directory", "occupied"]


class RunExistsError(ValueError):
    """A directory that a new run or study would have to share or overwrite."""


def make_new_directory(path: Path, option: str, *, remedy: str = "") -> None:
    """Make a directory and its parents; one that is there must be empty.

    Args:
        path: the directory.
        option: that names it, for the message.
        remedy: what else to do if something is there: ``"do this, "``.

    Raises:
        RunExistsError: if anything is there already; nothing is changed.
        OSError: if it cannot be made.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> make_new_directory(folder / "run", "out")
        >>> try:
        ...     make_new_directory(folder, "out")
        ... except RunExistsError as error:
        ...     print(str(error).partition(": ")[2])
        expected a new or empty directory, got one that holds run; choose another out
        or delete it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise occupied(path, option, "a file", f"choose another {option}") from error
    found = [entry.name for entry in path.iterdir()]
    if found:
        found.sort(key=lambda name: (name.startswith("."), name))
        names = ", ".join(found[:4]) + (", …" if len(found) > 4 else "")
        remedy = f"{remedy}choose another {option} or delete it"
        raise occupied(path, option, f"one that holds {names}", remedy)


@contextmanager
def explaining(path: Path, option: str) -> Iterator[None]:
    """Turn an ``OSError`` of a block that starts a directory into what to do.

    Args:
        path: the directory.
        option: that names it.

    Raises:
        ConfigError: no such place, no permission, no room, too long a name.

    Example:
        >>> try:
        ...     with explaining(Path("run"), "run_dir"):
        ...         raise OSError(28, "No space left on device")
        ... except ConfigError as error:
        ...     print(error)
        run_dir=run: expected a directory that can be made and written to, got No space
        left on device; choose another run_dir.
    """
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{option}={path}: expected a directory that can be made and written to, "
            f"got {error.strerror or error}; choose another {option}."
        ) from error


def occupied(path: Path, option: str, got: str, remedy: str) -> RunExistsError:
    """The error that says what is in a directory that should be new.

    Example:
        >>> occupied(Path("run"), "run_dir", "a file", "choose another run_dir")
        RunExistsError('run_dir=run: expected a new or empty directory, got a file;
        choose another run_dir.')
    """
    return RunExistsError(
        f"{option}={path}: expected a new or empty directory, got {got}; {remedy}."
    )
