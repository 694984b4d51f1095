"""A disk that fills up costs no checkpoint and no row; the run stops or goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from drama_torchrl.record.manifest import Manifest
from tests.reference.stopping import different, newest, remains, run_training
from tests.reference.tiny_run import run_options

REPOSITORY = Path(__file__).parents[2]
OPTIONS = (
    "env.max_frames=80",
    "training.total_steps=40",
    "training.random_steps=20",
    "training.steps_per_update=2",
    "log.every=2",
    "log.checkpoint_every=8",
    "log.film_every=30",
)
ENVIRONMENT = os.environ | {"PYTHONPATH": str(REPOSITORY)}
# Full from step 23 to 36: two checkpoints, one film, one episode and six rows.
FIRST, LAST = 23, 36


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "run"
    run_training(run_options(path, *OPTIONS))
    return path


def run_on_full_disk(
    run: Path, limit: int, *options: str
) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "tests.reference.full_disk"]
    when = [str(number) for number in (FIRST, LAST, limit)]
    return subprocess.run(
        [*program, *when, *run_options(run, *OPTIONS, *options)],
        cwd=REPOSITORY,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "what"),
    [(20_000, "the checkpoint of step 24"), (100, "metrics.csv")],
    ids=["checkpoints", "rows"],
)
def test_a_run_stops_and_goes_on_when_there_is_room(
    whole: Path, tmp_path: Path, limit: int, what: str
) -> None:
    run = tmp_path / "run"
    done = run_on_full_disk(run, limit)
    assert done.returncode == 74, done.stderr
    assert done.stderr.splitlines()[-1] == (
        f"cannot write {what} (File too large); the checkpoint of step 16 is kept in "
        f"{run}; make room; to go on: python recipes/drama_atari100k.py resume={run}"
    )
    assert newest(run).name == "step-0000016"
    Manifest.load(newest(run)).verify(newest(run), run / "resume" / "replay")
    assert list(run.rglob("*.tmp")) == []
    run_training([f"resume={run}"])
    assert different(remains(run), remains(whole)) == []


@pytest.mark.slow
@pytest.mark.parametrize("limit", [20_000, 100], ids=["checkpoints", "rows"])
def test_a_run_goes_on_and_misses_nothing(
    whole: Path, tmp_path: Path, limit: int
) -> None:
    run = tmp_path / "run"
    done = run_on_full_disk(run, limit, "log.on_write_error=continue")
    assert done.returncode == 0, done.stderr
    for step in (24, 32):
        problem = f"cannot write the checkpoint of step {step} (File too large); the c"
        assert problem in done.stderr
    assert ("cannot write metrics.csv" in done.stderr) == (limit == 100)
    assert "the run goes on and tries again" in done.stderr
    assert list(run.rglob("*.tmp")) == []
    names = [path.name for path in (run / "resume").glob("step-*")]
    assert names == ["step-0000040"] or sorted(names)[-1] == "step-0000040"
    # Only what was asked for differs.
    assert different(remains(run), remains(whole)) == [
        "/agent/config/log/on_write_error"
    ]


def may_mount() -> bool:
    if not shutil.which("unshare"):
        return False
    command = ["unshare", "-Urm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not may_mount(), reason="needs leave to mount a small disk")
def test_a_small_disk_that_is_made_larger(whole: Path, tmp_path: Path) -> None:
    run, disk = tmp_path / "disk" / "run", tmp_path / "disk"
    disk.mkdir()
    recipe = f"{sys.executable} {REPOSITORY}/recipes/drama_atari100k.py"
    script = (
        f"mount -t tmpfs -o size=1m tmpfs {disk}\n"
        f"{recipe} {' '.join(run_options(run, *OPTIONS))}\n"
        "echo stopped with $?\n"
        f"mount -o remount,size=50m {disk}\n"
        f"{recipe} resume={run} || exit 1\n"
        f"cp -r {run} {tmp_path / 'finished'}\n"
    )
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "stopped with 74" in done.stdout
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "finished" / "result.json").is_file()
    episodes = (tmp_path / "finished" / "episodes.csv").read_bytes()
    assert episodes == (whole / "episodes.csv").read_bytes()
