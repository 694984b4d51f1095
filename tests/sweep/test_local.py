"""Commands share the slots, fail alone, and do not outlive whoever started them."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from drama_torchrl.sweep.local import Command, interruptible, run_commands
from drama_torchrl.sweep.slots import Slot, cpu_slots, gpu_slots

SPAN = "import sys, time; print(time.time()); time.sleep(0.3); print(time.time())"
POLITE = """
import time
print("up")
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("bye")
    raise SystemExit(3)
"""
DEAF = (
    "import signal, time; signal.signal(2, signal.SIG_IGN); print('up'); time.sleep(60)"
)


def python(folder: Path, name: str, code: str) -> Command:
    return Command(name, [sys.executable, "-S", "-c", code], folder / f"{name}.log")


def names_of(commands: Sequence[Command]) -> list[str]:
    return [command.name for command in commands]


def one_of(commands: Sequence[Command]) -> Callable[[str], Command]:
    return {command.name: command for command in commands}.__getitem__


def unseen(running: Mapping[str, Slot], outcomes: Mapping[str, str]) -> None: ...


def text(command: Command) -> str:
    return command.log.read_text()


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_no_more_run_at_once_than_there_are_slots(tmp_path: Path, workers: int) -> None:
    commands = [python(tmp_path, f"{i}", SPAN) for i in range(4)]
    seen: list[int] = []
    outcomes = run_commands(
        names_of(commands),
        cpu_slots(workers),
        prepare=one_of(commands),
        watch=lambda running, _: seen.append(len(running)),
        every=0.0,
    )
    assert outcomes == dict.fromkeys("0123", "")
    starts_and_ends = [[float(word) for word in text(c).split()] for c in commands]
    most = max(
        sum(start <= moment < end for start, end in starts_and_ends)
        for moment, _ in starts_and_ends
    )
    assert 1 <= most <= workers
    assert max(seen) == min(workers, 4)


def test_a_freed_slot_is_used_again_and_none_is_shared(tmp_path: Path) -> None:
    code = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    commands = [python(tmp_path, f"{i}", code) for i in range(5)]

    def watch(running: Mapping[str, Slot], outcomes: Mapping[str, str]) -> None:
        names = [slot.name for slot in running.values()]
        assert len(set(names)) == len(names)

    run_commands(
        names_of(commands),
        gpu_slots(["7", "4"], 1),
        prepare=one_of(commands),
        watch=watch,
        every=0.0,
    )
    assert [text(command) for command in commands[:2]] == ["7\n", "4\n"]
    assert {text(command) for command in commands} == {"7\n", "4\n"}


def test_a_command_that_fails_stops_no_other(tmp_path: Path) -> None:
    (tmp_path / "no_log.log").mkdir()

    commands = [
        python(tmp_path, "code", "print('out'); raise SystemExit(4)"),
        Command("missing", [str(tmp_path / "none")], tmp_path / "missing.log"),
        python(tmp_path, "no_log", "print(1)"),
        python(tmp_path, "no_room", "print(1)"),
        python(tmp_path, "killed", "import os; os.kill(os.getpid(), 9)"),
        python(tmp_path, "good", "print(2)"),
    ]

    def prepare(name: str) -> Command:
        if name == "no_room":
            raise PermissionError("no room")
        return one_of(commands)(name)

    outcomes = run_commands(
        names_of(commands), cpu_slots(2), prepare=prepare, watch=unseen
    )
    assert outcomes.pop("missing").startswith("could not start: [Errno 2]")
    assert outcomes.pop("no_log").startswith("could not start: [Errno 21]")
    assert outcomes == {
        "code": "exit code 4",
        "no_room": "could not start: no room",
        "killed": "killed by SIGKILL",
        "good": "",
    }
    assert text(commands[0]) == "out\n"
    assert text(commands[-1]) == "2\n"


def interrupt_when_up(command: Command, number: int) -> None:
    while not (command.log.exists() and text(command) == "up\n"):
        time.sleep(0.02)
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_lets_commands_end_by_themselves_and_starts_no_more(
    tmp_path: Path, number: int
) -> None:
    commands = [python(tmp_path, name, POLITE) for name in ("now", "later")]
    thread = threading.Thread(target=interrupt_when_up, args=(commands[0], number))
    inherited = signal.signal(number, signal.default_int_handler)  # nohup ignores it
    thread.start()
    with pytest.raises(KeyboardInterrupt), interruptible():
        run_commands(
            names_of(commands), cpu_slots(1), prepare=one_of(commands), watch=unseen
        )
    thread.join()
    signal.signal(number, inherited)
    assert text(commands[0]) == "up\nbye\n"
    assert not commands[1].log.exists()


def test_a_command_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    command = python(tmp_path, "deaf", f"import os; print(os.getpid()); {DEAF}")
    pid = 0

    def watch(running: Mapping[str, Slot], outcomes: Mapping[str, str]) -> None:
        nonlocal pid
        lines = text(command).split()
        if len(lines) == 2:
            pid = int(lines[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_commands(
            [command.name],
            cpu_slots(1),
            prepare=one_of([command]),
            watch=watch,
            every=0.0,
            patience=0.2,
        )
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_ctrl_c_works_again_where_a_shell_had_switched_it_off(tmp_path: Path) -> None:
    """As in ``python sweep.py &`` in a script: children would ignore it too."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        command = python(tmp_path, "child", POLITE)
        thread = threading.Thread(
            target=interrupt_when_up, args=(command, signal.SIGINT)
        )
        thread.start()
        with pytest.raises(KeyboardInterrupt), interruptible():
            run_commands(
                [command.name],
                cpu_slots(1),
                prepare=one_of([command]),
                watch=unseen,
            )
        thread.join()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert text(command) == "up\nbye\n"


def test_a_closed_terminal_that_was_to_be_ignored_is_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
