"""Stop a run between two steps when it is asked to."""

from __future__ import annotations

import shlex
import signal
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, ClassVar, Self

__all__ = ["RunStopped", "StopSignals", "how_to_go_on"]


def how_to_go_on(path: Path) -> str:
    """The command that continues a run, in words.

    Args:
        path: directory of the run.

    Example:
        >>> how_to_go_on(Path("runs/Pong-xs-seed0"))
        'to go on: python recipes/drama_atari100k.py resume=runs/Pong-xs-seed0'
    """
    command = "python recipes/drama_atari100k.py"
    return f"to go on: {command} {shlex.quote(f'resume={path}')}"


class RunStopped(Exception):  # noqa: N818  asked to, most often
    """A run stopped before its end, kept its last checkpoint and says what to do.

    Args:
        path: directory of the run.
        reason: why it stopped.
        advice: what to do; how to go on, by default.

    Example:
        >>> print(RunStopped(Path("runs/Pong-xs-seed0")))
        stopped; to go on: python recipes/drama_atari100k.py resume=runs/Pong-xs-seed0
    """

    exit_code: ClassVar[int] = 75
    """Of the process: ``EX_TEMPFAIL``, try again later."""

    def __init__(self, path: Path, reason: str = "stopped", advice: str = "") -> None:
        super().__init__(f"{reason}; {advice or how_to_go_on(path)}")


class StopSignals:
    """Notice SIGTERM and Ctrl-C; a second one ends the process at once.

    Args:
        path: directory of the run, for the message.

    Example:
        >>> import os
        >>> with StopSignals(Path("run")) as stop:
        ...     os.kill(os.getpid(), signal.SIGTERM)
        ...     stop.requested
        True
    """

    signals: ClassVar[tuple[signal.Signals, ...]] = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, path: Path) -> None:
        self.path = path
        self.requested = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        """Take over the signals, which only a main thread can."""
        try:
            for each in self.signals:
                self._previous[each] = signal.signal(each, self._notice)
        except ValueError:
            pass
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the signals back."""
        for each, handler in self._previous.items():
            signal.signal(each, handler)

    def check(self) -> None:
        """Stop if asked to; call it where a checkpoint was just written.

        Raises:
            RunStopped: if a signal came.
        """
        if self.requested:
            raise RunStopped(self.path)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.requested = True
        for each in self.signals:
            signal.signal(each, signal.SIG_DFL)
