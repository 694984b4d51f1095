"""The recipe as a process: killed at random moments, asked to stop, started again."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drama_torchrl.record.resuming import read_arguments
from tests.reference.stopping import newest
from tests.reference.tiny_run import run_options

REPOSITORY = Path(__file__).parents[2]
OPTIONS = (
    "env.max_frames=80",
    "training.total_steps=320",
    "training.random_steps=20",
    "training.steps_per_update=8",
    "replay.capacity=30",
    "log.checkpoint_every=4",
    "log.film_every=1000",
    "evaluation.greedy_episodes=0",
)
# Not ended before a signal comes, nor so long that a busy machine warns of hours.
LONG = "training.total_steps=20000"
KILLS = 10  # benchmarks/kill_run.py kills 50 times by default


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts the recipe; no process outlives its test."""
    started: list[subprocess.Popen[str]] = []

    def start_one(*arguments: str) -> subprocess.Popen[str]:
        recipe = REPOSITORY / "recipes" / "drama_atari100k.py"
        process = subprocess.Popen(
            [sys.executable, str(recipe), *arguments],
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start_one
    for process in started:
        process.kill()
        with process:  # closes its pipes
            process.wait()


def wait_for_snapshot(process: subprocess.Popen[str], run: Path) -> None:
    """Until the training of this process has written something."""
    before = sorted((run / "resume").glob("*"))
    while process.poll() is None and before == sorted((run / "resume").glob("*")):
        time.sleep(0.01)


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_as_an_undisturbed_one(
    tmp_path: Path,
) -> None:
    out = tmp_path / "kills.json"
    arguments = ["--kills", f"{KILLS}", "--seed", "0", "--out", f"{out}"]
    arguments += ["--folder", f"{tmp_path / 'runs'}"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.kill_run", *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"kills: {KILLS} of {KILLS}" in done.stdout
    report = json.loads(out.read_text())
    assert report["kills"]["checkpoint"] > 0
    assert sum(report["kills"].values()) == KILLS
    assert report["differences"] == report["complaints"] == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_step_and_says_how_to_go_on(
    start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    process = start(*run_options(run, *OPTIONS, LONG))
    wait_for_snapshot(process, run)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75
    assert errors.splitlines()[-1] == (
        f"stopped; to go on: python recipes/drama_atari100k.py resume={run}"
    )
    assert newest(run).is_dir()
    assert not (run / "result.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("moment", "options"),
    [
        ("config.yaml", (LONG,)),
        ("result.json", ("training.total_steps=24", "evaluation.episodes=100000")),
    ],
    ids=["starting", "scoring"],
)
def test_a_signal_before_or_after_training_says_how_to_go_on(
    start: Start,
    tmp_path: Path,
    moment: str,
    options: tuple[str, ...],
    number: signal.Signals,
) -> None:
    run = tmp_path / "run"
    process = start(*run_options(run, *OPTIONS, *options))
    while process.poll() is None and not (run / moment).exists():
        time.sleep(0.001)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert errors.splitlines()[-1] == (
        f"stopped; to go on: python recipes/drama_atari100k.py resume={run}"
    )
    _, resumed = read_arguments([f"resume={run}"])
    assert resumed


@pytest.mark.slow
def test_a_run_at_work_is_refused_to_others_and_goes_on_untouched(
    start: Start, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = start(*run_options(run, *OPTIONS, LONG))
    wait_for_snapshot(process, run)
    other = start(f"resume={run}", "log.every=9")
    _, errors = other.communicate(timeout=60)
    assert other.returncode == 1
    (line,) = errors.splitlines()
    assert line.startswith(f"error: {run}: expected no other process at work there")
    assert f"got process {process.pid} on host {platform.node()};" in line
    assert "every: 4" in (run / "config.yaml").read_text()
    process.kill()
    process.communicate()
    last = start(f"resume={run}")
    wait_for_snapshot(last, run)
    last.send_signal(signal.SIGTERM)
    _, errors = last.communicate(timeout=60)
    assert last.returncode == 75, errors


def test_a_finished_run_says_so(start: Start, finished_run: Path) -> None:
    process = start(f"resume={finished_run}")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.startswith(f"error: resume={finished_run}: expected ")
    assert "got a finished run" in errors
