"""The first signal is noticed, the second one ends the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from drama_torchrl.record.stopping import RunStopped, StopSignals

RUN = Path("runs/with space")


@pytest.mark.parametrize("number", StopSignals.signals)
def test_a_signal_is_noticed_and_the_handlers_come_back(
    number: signal.Signals,
) -> None:
    before = signal.getsignal(number)
    with StopSignals(RUN) as stop:
        stop.check()
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        with pytest.raises(RunStopped, match=r"'resume=runs/with space'$"):
            stop.check()
    assert signal.getsignal(number) is before


def test_a_second_signal_ends_the_process_at_once() -> None:
    program = (
        "import os, signal, time\n"
        "from pathlib import Path\n"
        "from drama_torchrl.record.stopping import StopSignals\n"
        "with StopSignals(Path('run')):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('first', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('second', flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == -signal.SIGTERM
    assert done.stdout == "first\n"


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    seen = []

    def run() -> None:
        with StopSignals(RUN) as stop:
            seen.append(stop.requested)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [False]
