"""Watches over a program for somebody who may vanish; a script of its own.

    python guard.py LOG PATIENCE PROGRAM [ARGUMENT...]

It leaves whoever started it at once and outlives it. The program's output goes to the
end of ``LOG``, which is locked as long as anything of the program lives. When standard
input ends, for it was closed or because whoever held its other end is dead, the program
is interrupted, and killed if it is there ``PATIENCE`` seconds later. One line on
standard output says in the end how it went: ``exit CODE``, or ``error REASON``.

It imports no more than it needs: one waits beside every run.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence

__all__ = ["watch_over"]

_POLL_SECONDS = 0.2


def watch_over(log: str, patience: float, words: Sequence[str]) -> str:
    """Run a program until it ends or standard input does; say how it went.

    Args:
        log: the file that takes what it prints, behind what it holds already.
        patience: seconds between an interrupt and a kill.
        words: the program and its arguments.
    """
    # Ray starts its processes deaf to Ctrl-C, and what they start inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        with open(log, "ab") as file:
            # Inherited: the lock is held until the last who writes there has ended.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
    except OSError as error:
        return f"error {error}"
    while process.poll() is None:
        if select.select([sys.stdin], [], [], _POLL_SECONDS)[0]:
            _stop(process, patience)
    return f"exit {process.returncode}"


def _stop(process: subprocess.Popen[bytes], patience: float) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _leave() -> None:
    """Be nobody's child: Ray kills the children of its processes."""
    os.setsid()
    if os.fork():
        os._exit(0)


if __name__ == "__main__":
    _leave()
    sys.stdout.write(watch_over(sys.argv[1], float(sys.argv[2]), sys.argv[3:]))
