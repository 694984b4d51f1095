"""What becomes of a run whose files cannot be written."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from drama_torchrl.config import DramaConfig
from drama_torchrl.record.run_directory import RunDirectory
from drama_torchrl.record.stopping import RunStopped

__all__ = [
    "GoOn",
    "Stop",
    "WriteErrors",
    "WritingFailedError",
    "make_write_errors",
]


class WritingFailedError(RunStopped):
    """A run stopped since a file could not be written; it says how it goes on."""

    exit_code: ClassVar[int] = 74
    """Of the process: ``EX_IOERR``."""


class WriteErrors(ABC):
    """Takes the errors of writing a run's files; what is on disk already stays.

    Args:
        run: the run.
    """

    def __init__(self, run: RunDirectory) -> None:
        self.run = run

    @contextmanager
    def during(self, what: str) -> Iterator[None]:
        """Take an ``OSError`` of the block: disk full, file too large, disk gone.

        Args:
            what: is being written, for the message.
        """
        try:
            yield
        except OSError as error:
            steps = self.run.checkpoint_steps()
            kept = f"the checkpoint of step {steps[-1]} is" if steps else "nothing is"
            problem = (
                f"cannot write {what} ({error.strerror or error}); {kept} kept in "
                f"{self.run.path}"
            )
            self.handle(problem, error)

    @abstractmethod
    def handle(self, problem: str, error: OSError) -> None:
        """Stop the run or let it go on.

        Args:
            problem: what could not be written, why, and what is kept.
            error: as it was raised.
        """


class Stop(WriteErrors):
    """Stop the run: it goes on from its last checkpoint when there is room again.

    Example:
        >>> try:
        ...     with Stop(RunDirectory("runs/Pong")).during("metrics.csv"):
        ...         raise OSError(28, "No space left on device")
        ... except WritingFailedError as error:
        ...     print(error)
        cannot write metrics.csv (No space left on device); nothing is kept in
        runs/Pong; make room; to go on:
        python recipes/drama_atari100k.py resume=runs/Pong
    """

    def handle(self, problem: str, error: OSError) -> None:
        """Raise a `WritingFailedError`."""
        raise WritingFailedError(self.run.path, f"{problem}; make room") from error


class GoOn(WriteErrors):
    """Warn and train on: rows are kept in memory, a checkpoint is tried again later.

    Example:
        >>> with warnings.catch_warnings(record=True, action="always") as caught:
        ...     with GoOn(RunDirectory("runs/Pong")).during("metrics.csv"):
        ...         raise OSError(28, "No space left on device")
        >>> print(caught[0].message)
        cannot write metrics.csv (No space left on device); nothing is kept in
        runs/Pong; the run goes on and tries again
    """

    def handle(self, problem: str, error: OSError) -> None:
        """Warn."""
        del error
        warnings.warn(f"{problem}; the run goes on and tries again", stacklevel=5)


def make_write_errors(config: DramaConfig, run: RunDirectory) -> WriteErrors:
    """What ``log.on_write_error`` asks for."""
    kinds: dict[str, type[WriteErrors]] = {"stop": Stop, "continue": GoOn}
    return kinds[config.log.on_write_error](run)
