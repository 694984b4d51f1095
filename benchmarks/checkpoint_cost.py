"""What checkpoints cost a run: seconds of the training thread, bytes on disk.

    python -m benchmarks.checkpoint_cost env.game=Boxing --sizes 10000 50000 100000

One run of the recipe, in this process and in a temporary ``run_dir``, with the options
given. It acts at random on the real game until the replay buffer has the largest of
the sizes, and saves as a training run does, the optimisers' moments included. After
that it trains for ``--train`` steps, whose ``minutes`` give the run's own
``steps_per_second``; ``--steps-per-second`` takes a figure of a longer run instead.

- ``seconds`` of a row is what a checkpoint kept the training thread, queued work of the
  GPU not counted; ``replay_seconds`` is the part that compresses and writes frames. It
  is for what is new since the checkpoint before: it does not grow with the buffer.
- ``disk_mb`` is what the run's checkpoints then take on disk, all that are kept.
- ``share`` is the part of the training time that checkpoints take: the mean of
  ``seconds`` over the time of ``log.checkpoint_every`` steps.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import Any, NamedTuple
from unittest import mock

import torch

from benchmarks.bench_recipe import read_rows, steady_state
from benchmarks.bench_step import SMOKE
from benchmarks.harness import add_common_arguments, write_report
from drama_torchrl.config import DramaConfig, load_config
from drama_torchrl.estimate import random_batches
from drama_torchrl.factories import make_agent, make_device, make_env
from drama_torchrl.record.replay_chunks import Chunk, ReplayChunks
from drama_torchrl.record.resuming import open_run
from drama_torchrl.record.run_directory import RunDirectory
from drama_torchrl.record.run_state import Mark
from drama_torchrl.record.snapshot import Snapshots
from drama_torchrl.record.stopping import StopSignals
from drama_torchrl.seeding import seed_everything
from recipes.drama_atari100k import train

__all__ = ["Checkpoint", "disk_bytes", "main", "summarise"]

_SMOKE = (
    "preset=quick",
    "env.game=Alien",
    *SMOKE,
    "replay.capacity=300",
    "log.every=4",
    "log.checkpoint_every=100",
)


class Checkpoint(NamedTuple):
    """One checkpoint of the run.

    Args:
        step: that it was written at.
        new: transitions since the one before.
        seconds: of the training thread.
        replay_seconds: of these for the transitions.
        disk_mb: what all checkpoints that are kept take.
    """

    step: int
    new: int
    seconds: float
    replay_seconds: float
    disk_mb: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the recipe, time its checkpoints, write one JSON; return the exit code."""
    args = parse(arguments)
    filled = max(args.sizes)
    with tempfile.TemporaryDirectory() as folder:
        overrides = [
            *args.overrides,
            f"training.random_steps={filled}",
            f"training.total_steps={filled + args.train}",
            "log.progress=false",
            f"run_dir={folder}/run",
        ]
        config = load_config("xs", overrides)
        device = make_device(config.execution.device)
        checkpoints, rows = run(config, device)
    speed = args.steps_per_second
    if speed is None:
        # The first updates of the run are not like the others.
        steps = filled + args.train // 4, int(rows[-1]["step"])
        speed = steady_state(rows, *steps, config)["steps_per_second"]
    report = {
        "options": args.overrides,
        "game": config.env.game,
        "steps_per_second": speed,
        **summarise(checkpoints, args.sizes, config.log.checkpoint_every, speed),
    }
    print(json.dumps(report), flush=True)
    write_report("checkpoint_cost", args, report, device)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="options of the recipe")
    add_common_arguments(parser)
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=[10_000, 50_000, 100_000],
        help="transitions in the buffer, whole multiples of log.checkpoint_every",
    )
    parser.add_argument("--train", type=int, default=2_000, help="steps with updates")
    parser.add_argument("--steps-per-second", type=float, help="of a training run")
    args = parser.parse_intermixed_args(arguments)
    if args.smoke:
        args.sizes, args.train, args.device = [200, 300], 80, "cpu"
        args.overrides = [*_SMOKE, *args.overrides]
    args.overrides = [*args.overrides, f"execution.device={args.device}"]
    log = load_config("xs", args.overrides).log
    every = log.checkpoint_every
    if any(size < every or size % every for size in args.sizes):
        parser.error(
            f"expected --sizes in whole multiples of log.checkpoint_every={every}, "
            f"got {args.sizes}"
        )
    least = 4 * log.every if args.steps_per_second is None else 1
    if args.train < least:
        parser.error(
            f"expected --train of at least {least}, got {args.train}; with "
            "--steps-per-second 1 is enough"
        )
    return args


def run(
    config: DramaConfig, device: torch.device
) -> tuple[list[Checkpoint], list[dict[str, float]]]:
    """Run the recipe up to the scores.

    Args:
        config: its options, with a new directory.
        device: where it trains.

    Returns:
        The checkpoints at full intervals, and the rows of steps and minutes.
    """
    seed_everything(config.seed)
    env = make_env(config, seed=config.seed)
    num_actions = env.action_spec.shape[-1]
    agent = make_agent(config, num_actions, device)
    # Optimisers have no moments before their first step.
    agent.learn(*random_batches(config, num_actions, device))
    with (
        StopSignals(config.run_path) as stop,
        open_run(config, resumed=False) as directory,
        watched_checkpoints(directory, device) as found,
    ):
        train(config, agent, env, directory, stop)
    env.close()
    every = config.log.checkpoint_every
    full = [each for each in found if each.step % every == 0]
    return full, read_rows(directory.metrics)


@contextmanager
def watched_checkpoints(
    run: RunDirectory, device: torch.device
) -> Iterator[list[Checkpoint]]:
    """Time every checkpoint that is written in the block.

    Args:
        run: where they are.
        device: what it has to do before a checkpoint does not count.
    """
    found: list[Checkpoint] = []
    replay_seconds: list[float] = []
    save, write = Snapshots.save, ReplayChunks.write

    def timed_write(chunks: ReplayChunks) -> list[Chunk]:
        start = time.perf_counter()
        listed = write(chunks)
        replay_seconds.append(time.perf_counter() - start)
        return listed

    def timed_save(
        snapshots: Snapshots, step: int, past: Mapping[str, Mark] | None = None
    ) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        last = snapshots.saved or 0
        start = time.perf_counter()
        save(snapshots, step, past)
        seconds = time.perf_counter() - start
        if step > last:  # not again what is there
            disk = disk_bytes(run) / 1e6
            found.append(
                Checkpoint(step, step - last, seconds, replay_seconds[-1], disk)
            )

    with (
        mock.patch.object(Snapshots, "save", timed_save),
        mock.patch.object(ReplayChunks, "write", timed_write),
    ):
        yield found


def disk_bytes(run: RunDirectory) -> int:
    """Bytes of all files that a run goes on from; those with two names count once."""
    files = {}
    for path in run.snapshots.rglob("*"):
        if path.is_file():
            about = path.stat()
            files[about.st_ino] = about.st_size
    return sum(files.values())


def summarise(
    checkpoints: Sequence[Checkpoint],
    sizes: Sequence[int],
    every: int,
    steps_per_second: float,
) -> dict[str, Any]:
    """Rows at the sizes asked for, and the cost of all checkpoints.

    Args:
        checkpoints: at full intervals.
        sizes: of the buffer, so steps of some of them.
        every: environment steps of an interval.
        steps_per_second: of a training run.

    Example:
        >>> one = Checkpoint(10, 10, seconds=0.5, replay_seconds=0.2, disk_mb=3.0)
        >>> summarise([one], [10], every=10, steps_per_second=1.0)["share"]
        0.05
    """
    seconds = fmean(each.seconds for each in checkpoints)
    return {
        "rows": [each._asdict() for each in checkpoints if each.step in sizes],
        "checkpoint_every": every,
        "seconds": seconds,
        "share": seconds * steps_per_second / every,
    }


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    sys.exit(main())
