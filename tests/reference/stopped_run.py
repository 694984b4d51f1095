"""One run in peace, and one that is stopped and goes on in another process.

    python -m tests.reference.stopped_run STEPS OPTION...

is the recipe up to the scores; SIGTERM comes in the middle of the given step from now,
or never if that is 0. As a process: what makes kernels repeatable must come before
anything ran on a GPU, and a graph that was recorded is gone with its process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from drama_torchrl.record.resuming import read_arguments
from drama_torchrl.record.stopping import RunStopped
from drama_torchrl.seeding import prefer_repeatable_kernels
from tests.reference.stopping import SignalAfter, run_training

REPOSITORY = Path(__file__).parents[2]
_OPTIONS = (
    "preset=quick",
    "env.game=Alien",
    "env.max_frames=120",
    "replay.imagination_batch=32",
    "training.total_steps=80",
    "training.random_steps=40",
    "training.steps_per_update=2",
    "log.progress=false",
    "log.every=2",
    "log.film_every=1000",
    "log.checkpoint_every=30",
)
# Updates by then: enough that a GPU replays a graph, before it and after it.
STOP = 61


def stopped_and_whole(folder: Path, *options: str) -> tuple[Path, Path]:
    """Run the quick preset for 80 steps, 20 of them with updates, twice.

    Args:
        folder: an empty directory.
        options: beside the preset's.

    Returns:
        Directories of the run that stopped at step 61 and went on, and of the other.
    """
    stopped, whole = folder / "stopped", folder / "whole"
    start = [*_OPTIONS, *options]
    _run(RunStopped.exit_code, STOP, *start, f"run_dir={stopped}")
    _run(0, 0, f"resume={stopped}")
    _run(0, 0, *start, f"run_dir={whole}")
    return stopped, whole


def _run(expected: int, *arguments: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.reference.stopped_run", *map(str, arguments)],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == expected, done.stderr


def main(steps: int, arguments: Sequence[str]) -> int:
    """Run, with an exit code as the recipe's."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    config, _ = read_arguments(arguments)
    if config.execution.deterministic:
        prefer_repeatable_kernels()
    try:
        run_training(arguments, *([SignalAfter(steps)] if steps else []))
    except RunStopped as stopped:
        return stopped.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
