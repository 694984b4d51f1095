"""The recipes need no network: they run where no socket can be made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reference.tiny_run import run_options

REPOSITORY = Path(__file__).parents[2]
# An audit hook cannot be removed, and sees sockets that C code makes through Python.
WITHOUT_SOCKETS = """
import runpy, sys

def forbid(event, arguments):
    if event.startswith("socket.") and event != "socket.gethostname":
        raise PermissionError(f"{event}{arguments}")

sys.addaudithook(forbid)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_without_sockets(script: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_SOCKETS, str(script), *arguments],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    "call", ["socket.socket()", "socket.create_connection(('127.0.0.1', 9))"]
)
def test_no_socket_can_be_made(call: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"import socket\n{call}\n")
    assert "PermissionError: socket." in run_without_sockets(script).stderr


@pytest.mark.slow
def test_a_run_is_trained_scored_and_scored_again(tmp_path: Path) -> None:
    recipes, run = REPOSITORY / "recipes", tmp_path / "run"
    short = ("env.max_frames=80", "training.total_steps=28", "training.random_steps=20")
    done = run_without_sockets(
        recipes / "drama_atari100k.py", *run_options(run, *short)
    )
    assert done.returncode == 0, done.stderr
    assert (run / "result.json").is_file()
    done = run_without_sockets(recipes / "evaluate.py", str(run))
    assert done.returncode == 0, done.stderr
    assert (run / "evaluation.json").is_file()
