"""Runs commands on this machine, one for each slot at a time; none stops another."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from drama_torchrl.sweep.slots import Slot

__all__ = ["Command", "Watch", "describe_exit", "interruptible", "run_commands"]

_POLL_SECONDS = 0.1


class Command(NamedTuple):
    """A program to run.

    Args:
        name: different for each command.
        words: the program and its arguments.
        log: the file that takes what it prints, behind what it holds already.
    """

    name: str
    words: Sequence[str]
    log: Path


class _Running(NamedTuple):
    name: str
    slot: Slot
    process: subprocess.Popen[bytes]


Watch = Callable[[Mapping[str, Slot], Mapping[str, str]], None]


def run_commands(
    names: Sequence[str],
    slots: Sequence[Slot],
    *,
    prepare: Callable[[str], Command],
    watch: Watch,
    keep_open: Sequence[int] = (),
    every: float = 10.0,
    patience: float = 30.0,
) -> dict[str, str]:
    """Run all commands, in order, as slots become free.

    Whatever ends this function early (Ctrl-C above all), no command outlives it: each
    gets an interrupt and time to end by itself.

    Args:
        names: of the commands.
        slots: where; at most one command in each at a time.
        prepare: gives a command by its name, just before it starts; an ``OSError``
            that it raises makes that command fail.
        watch: called with the slots of the running commands and the outcomes of those
            that ended, by name: when a command ends, and in between.
        keep_open: file descriptors that the commands inherit, such as a lock's.
        every: seconds in between.
        patience: seconds between an interrupt and a kill.

    Returns:
        For each command how it failed, in words; empty if it did not.

    Example:
        >>> import sys, tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> def exit_with(code: str) -> Command:
        ...     words = [sys.executable, "-c", f"exit({code})"]
        ...     return Command(code, words, folder / f"{code}.log")
        >>> run_commands(
        ...     ["0", "3"], [Slot("CPU", {})],
        ...     prepare=exit_with, watch=lambda running, outcomes: None,
        ... )
        {'0': '', '3': 'exit code 3'}
    """
    waiting, free = deque(names), deque(slots)
    running: list[_Running] = []
    outcomes: dict[str, str] = {}
    due = 0.0
    try:
        while waiting or running:
            ended = [each for each in running if each.process.poll() is not None]
            for each in ended:
                running.remove(each)
                free.append(each.slot)
                outcomes[each.name] = describe_exit(each.process.returncode)
            while waiting and free:
                name = waiting.popleft()
                try:
                    process = _start(prepare(name), free[0], keep_open)
                except OSError as error:
                    outcomes[name] = f"could not start: {error}"
                    continue
                running.append(_Running(name, free.popleft(), process))
            if ended or time.monotonic() >= due:
                watch({each.name: each.slot for each in running}, outcomes)
                due = time.monotonic() + every
            if running:
                time.sleep(_POLL_SECONDS)
    finally:
        _stop([each.process for each in running], patience)
    return outcomes


@contextmanager
def interruptible() -> Iterator[None]:
    """Make a request to end (``SIGTERM``, a closed terminal) what Ctrl-C is.

    Inside, each raises `KeyboardInterrupt`, also where a shell that started the
    program in the background had switched Ctrl-C off, which programs started from here
    would inherit. A closed terminal that is to be ignored (``nohup``) still is.
    """
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    raise KeyboardInterrupt


def _start(
    command: Command, slot: Slot, keep_open: Sequence[int]
) -> subprocess.Popen[bytes]:
    with command.log.open("ab") as log:
        return subprocess.Popen(
            command.words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | slot.environment | {"PYTHONUNBUFFERED": "1"},
            pass_fds=keep_open,
            # Ctrl-C in a terminal reaches this process alone, which passes it on once.
            process_group=0,
        )


def _stop(processes: Sequence[subprocess.Popen[bytes]], patience: float) -> None:
    """Interrupt; wait; kill what is still there, with what it has started."""
    for process in processes:
        process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + patience
    try:
        for process in processes:
            process.wait(max(0.0, deadline - time.monotonic()))
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        pass  # out of patience: ours, or that of whoever pressed Ctrl-C again
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def describe_exit(code: int) -> str:
    """Say how a program failed; empty if it did not.

    Args:
        code: as `subprocess` gives it: negative for the signal that ended it.

    Example:
        >>> describe_exit(3), describe_exit(-9), describe_exit(0)
        ('exit code 3', 'killed by SIGKILL', '')
    """
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}" if code else ""
