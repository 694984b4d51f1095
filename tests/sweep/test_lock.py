"""A directory belongs to one sweep, and to the runs that outlive it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from drama_torchrl.config import ConfigError
from drama_torchrl.sweep.local import Command, run_commands
from drama_torchrl.sweep.lock import claimed
from drama_torchrl.sweep.slots import cpu_slots


def test_a_directory_is_free_again_after_the_sweep(tmp_path: Path) -> None:
    for _ in range(2):
        with claimed(tmp_path / "a" / "b"):
            assert (tmp_path / "a" / "b").is_dir()


def test_a_run_that_outlives_its_sweep_holds_the_claim(tmp_path: Path) -> None:
    with claimed(tmp_path) as lock:
        orphan = subprocess.Popen(
            [sys.executable, "-S", "-c", "import time; time.sleep(60)"],
            pass_fds=[lock],
        )
    with pytest.raises(ConfigError, match="or a run that it left"), claimed(tmp_path):
        pass
    orphan.kill()
    orphan.wait()
    with claimed(tmp_path):
        pass


def test_the_runs_of_a_sweep_inherit_the_claim(tmp_path: Path) -> None:
    with claimed(tmp_path) as lock:
        words = [sys.executable, "-S", "-c", f"import os; os.fstat({lock})"]
        outcomes = run_commands(
            ["run"],
            cpu_slots(1),
            prepare=lambda name: Command(name, words, tmp_path / "run.log"),
            watch=lambda running, outcomes: None,
            keep_open=[lock],
        )
    assert outcomes == {"run": ""}


def test_a_directory_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ConfigError, match=r"can be written to, got .*name another"),
        claimed(tmp_path / "file" / "sweep"),
    ):
        pass
