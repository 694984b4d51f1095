"""A program is interrupted when whoever asked for it is gone, and its log is locked."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from drama_torchrl.sweep import guard
from drama_torchrl.sweep.lock import is_written

DEAF = "import signal, time; signal.signal(2, 1); print('up', flush=True); time.sleep("
POLITE = "print('up', flush=True)\ntry: input()\nexcept EOFError: print('no input')"


def start(log: Path, code: str) -> subprocess.Popen[str]:
    words = [str(log), "0.3", sys.executable, "-S", "-c", code]
    return subprocess.Popen(
        [sys.executable, "-S", guard.__file__, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_until_up(log: Path) -> None:
    deadline = time.monotonic() + 30
    while not (log.exists() and "up" in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_it_says_how_a_program_ended_that_nobody_stopped(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    log.write_text("before\n")
    with start(log, f"{POLITE}\nraise SystemExit(5)") as process:
        assert process.stdout
        assert process.stdout.read() == "exit 5"
    assert log.read_text() == "before\nup\nno input\n"
    assert not is_written(log)


def test_a_program_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    with start(log, f"{DEAF}60)") as process:
        wait_until_up(log)
        assert is_written(log)
        assert process.communicate()[0] == "exit -9"
    assert not is_written(log)


def test_the_log_is_locked_as_long_as_the_program_lives(tmp_path: Path) -> None:
    """Even where its guard was killed."""
    log = tmp_path / "run.log"
    code = f"import os; print(os.getppid(), os.getpid()); {DEAF}60)"
    with start(log, code) as process:
        wait_until_up(log)
        above, own = (int(word) for word in log.read_text().split()[:2])
        os.kill(above, 9)
        assert process.communicate()[0] == ""
        assert is_written(log)
        with start(log, "print('second')") as second:
            assert second.communicate()[0].startswith("error [Errno 11]")
        os.kill(own, 9)
    deadline = time.monotonic() + 30
    while is_written(log):
        assert time.monotonic() < deadline
    assert "second" not in log.read_text()


def test_a_program_that_does_not_exist_is_named(tmp_path: Path) -> None:
    words = [sys.executable, "-S", guard.__file__, str(tmp_path / "log"), "1", "none"]
    said = subprocess.run(
        words, stdin=subprocess.PIPE, capture_output=True, text=True
    ).stdout
    assert said == "error [Errno 2] No such file or directory: 'none'"
