"""Real runs: a failure stays alone, the same command continues, Ctrl-C is polite."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from drama_torchrl.config import ConfigError
from recipes.sweep_atari100k import main
from tests.reference.tiny_run import run_options

REPOSITORY = Path(__file__).parents[2]
STEPS = 28
TINY = [
    option
    for option in run_options(
        Path("unused"),
        *("env.max_frames=80", "training.random_steps=20"),
        *(f"training.total_steps={STEPS}", "log.film_every=1000"),
    )
    if option.partition("=")[0] not in ("env.game", "run_dir", "log.progress")
]


@pytest.fixture(autouse=True)
def found_by_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))


def read_rows(out: Path) -> dict[str, dict[str, Any]]:
    rows = json.loads((out / "sweep.json").read_text())["runs"]
    return {row["run"]: row for row in rows}


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def spoil(out: Path) -> None:
    """Put a file into Pong's directory as soon as that run has started."""
    while not (out / "Pong-seed1.log").exists():
        time.sleep(0.01)
    (out / "Pong-seed1").mkdir()
    (out / "Pong-seed1" / "somebody_elses.txt").write_text("keep me")


@pytest.mark.slow
def test_a_failed_run_stays_alone_and_the_same_command_finishes_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sweep"
    command = ["games=Pong,Alien", "seeds=1", f"out={out}", "workers=2", *TINY]
    thread = threading.Thread(target=spoil, args=(out,))
    thread.start()
    assert main(command) == 1
    thread.join()
    said = capsys.readouterr().out
    assert f"Pong-seed1 failed (exit code 1); see {out}/Pong-seed1.log" in said
    assert "1 of 2 runs failed" in said
    assert (
        "got one that holds somebody_elses.txt" in (out / "Pong-seed1.log").read_text()
    )
    rows = read_rows(out)
    assert (rows["Pong-seed1"]["state"], rows["Pong-seed1"]["steps"]) == ("failed", 0)
    alien = rows["Alien-seed1"]
    assert (alien["state"], alien["steps"]) == ("complete", STEPS)
    result = json.loads((out / "Alien-seed1" / "result.json").read_text())
    assert result["game"] == "Alien"
    assert result["seed"] == 1
    assert alien["score"] == result["training"]["mean"]
    assert alien["minutes"] == result["training_minutes"]

    kept = files_of(out / "Alien-seed1")
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "1 skipped" in said
    assert files_of(out / "Alien-seed1") == kept
    states = {name: row["state"] for name, row in read_rows(out).items()}
    assert states == {"Pong-seed1": "complete", "Alien-seed1": "skipped"}
    aside = files_of(out / "Pong-seed1.partial-1")
    assert aside == {"somebody_elses.txt": b"keep me"}
    assert "somebody_elses" in (out / "Pong-seed1.partial-1.log").read_text()

    kept = files_of(out)
    assert main(command) == 0
    assert {row["state"] for row in read_rows(out).values()} == {"skipped"}
    del kept["sweep.json"], kept[".lock"]
    assert files_of(out).items() >= kept.items()

    with pytest.raises(ConfigError, match=r"behaviour\.horizon=3, asked for 2"):
        main([*command, "behaviour.horizon=2"])


@pytest.mark.slow
def test_ctrl_c_stops_the_runs_and_the_same_command_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    arguments = ["games=Pong,Alien", "seeds=1", f"out={out}", "workers=1", *TINY]
    arguments += ["training.total_steps=200"]
    script = str(REPOSITORY / "recipes" / "sweep_atari100k.py")
    process = subprocess.Popen(
        [sys.executable, script, *arguments],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (out / "Pong-seed1" / "metrics.csv").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    # Nobody else may start there.
    with pytest.raises(ConfigError, match="expected no other sweep at work there"):
        main(arguments)
    os.kill(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped; to continue" in said
    assert (
        f"python recipes/sweep_atari100k.py games=Pong,Alien seeds=1 out={out}" in said
    )
    states = {name: row["state"] for name, row in read_rows(out).items()}
    assert states == {"Pong-seed1": "stopped", "Alien-seed1": "waiting"}
    assert "resume=" in (out / "Pong-seed1.log").read_text()
    assert not (out / "Alien-seed1").exists()
    (folder,) = (out / "Pong-seed1" / "resume").glob("step-*")
    assert 0 < int(folder.name[5:]) < 200

    assert main(arguments) == 0
    assert {row["state"] for row in read_rows(out).values()} == {"complete"}
    assert list(out.glob("*partial*")) == []
    assert "resume=" in (out / "Pong-seed1.log").read_text()
    rows = (out / "Pong-seed1" / "metrics.csv").read_text().splitlines()[1:]
    steps = [int(row.partition(",")[0]) for row in rows]
    assert steps == list(range(24, 201, 4))


@pytest.mark.slow
def test_a_run_out_of_its_time_is_finished_when_it_has_no_limit_any_more(
    tmp_path: Path,
) -> None:
    out = tmp_path / "sweep"
    command = ["games=Pong", "seeds=1", f"out={out}", "workers=1", *TINY]
    arguments = [*command, "training.max_minutes=1e-5", "evaluation.episodes=2"]
    assert main(arguments) == 0
    row = read_rows(out)["Pong-seed1"]
    assert (row["state"], row["steps"]) == ("partial", 1)

    assert main(command) == 0
    row = read_rows(out)["Pong-seed1"]
    assert (row["state"], row["steps"]) == ("complete", STEPS)
    assert list(out.glob("*partial*")) == []


def test_bad_input_is_one_line_and_starts_nothing(tmp_path: Path) -> None:
    arguments = ["games=Pong", "seeds=1", "behaviour.horizn=3"]
    script = str(REPOSITORY / "recipes" / "sweep_atari100k.py")
    done = subprocess.run(
        [sys.executable, script, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "'behaviour.horizon'" in line
    assert list(tmp_path.iterdir()) == []
