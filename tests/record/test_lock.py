"""A directory belongs to one living process."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from drama_torchrl.record.lock import InUseError, locked

HOLD = """
import sys, time
from pathlib import Path
from drama_torchrl.record.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    """A process that holds the lock when this returns."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_another_process_is_named_and_a_killed_one_holds_nothing(
    tmp_path: Path,
) -> None:
    process = hold(tmp_path)
    message = (
        f"{tmp_path}: expected no other process at work there, got process "
        f"{process.pid} on host {platform.node()}; wait until it ends or stop it there "
        f"(kill {process.pid} saves a run), then start again."
    )
    for _ in range(2):  # whoever is refused changes nothing
        with pytest.raises(InUseError, match=re.escape(message)), locked(tmp_path):
            pass
    process.kill()
    process.communicate()
    with locked(tmp_path):
        text = (tmp_path / ".lock").read_text()
    assert text == f"{os.getpid()} {platform.node()}"


def test_a_block_that_raises_gives_the_lock_back(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), locked(tmp_path):
        raise KeyboardInterrupt
    with locked(tmp_path):
        pass


def test_a_holder_that_could_not_sign_is_one_all_the_same(tmp_path: Path) -> None:
    with locked(tmp_path):
        (tmp_path / ".lock").write_text("")
        message = r"process \? on host \?; .*kill PID"
        with pytest.raises(InUseError, match=message), locked(tmp_path):
            pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(file: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    reason = re.escape(os.strerror(number))
    with (
        pytest.warns(UserWarning, match=rf"got one without \({reason}\)"),
        locked(tmp_path),
    ):
        assert (tmp_path / ".lock").exists()


def test_no_room_for_the_name_of_the_holder_is_no_error(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from pathlib import Path; "
        "from drama_torchrl.record.lock import locked; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); "
        "locked(Path(sys.argv[1])).__enter__()"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        check=True,
    )
    assert (tmp_path / ".lock").read_bytes() == b""
