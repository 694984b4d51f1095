"""Run a tiny agent for a long time; do memory, file descriptors and threads stay?

    OMP_NUM_THREADS=1 python -m benchmarks.soak --steps 300000 --out soak.json

Everything that a run does is done: acting, training, episodes, checkpoints, films,
metrics. What the process holds is looked at again and again. The first fifth does not
count: the buffer fills, and allocators and caches reach their size. Exits with 1 if
the resident memory of the rest is not flat within 2 %, or descriptors or threads grow.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from tensordict import TensorDictBase
from torchrl.envs import Transform

from drama_torchrl.record.atomic import write_json
from drama_torchrl.record.origin import provenance
from tests.reference.stopping import run_training
from tests.reference.tiny_run import run_options

SAMPLES = 200
FLAT = 0.02


class Sample(NamedTuple):
    """What the process holds at a step.

    Args:
        step: environment steps so far.
        resident: bytes of memory.
        descriptors: open files.
        threads: of the process.
    """

    step: int
    resident: int
    descriptors: int
    threads: int


def look(step: int) -> Sample:
    """See what the process holds; Linux only."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Sample(
        step,
        pages * os.sysconf("SC_PAGE_SIZE"),
        len(os.listdir("/proc/self/fd")),
        len(os.listdir("/proc/self/task")),
    )


class Probe(Transform):
    """Looks every few steps."""

    def __init__(self, every: int, say: Callable[[Sample], None]) -> None:
        super().__init__(in_keys=[], out_keys=[])
        self.every = every
        self.say = say
        self.steps = 0
        self.samples: list[Sample] = []

    def _step(
        self,
        tensordict: TensorDictBase,  # noqa: ARG002  TorchRL's signature
        next_tensordict: TensorDictBase,
    ) -> TensorDictBase:
        self.steps += 1
        if self.steps % self.every == 0:
            self.samples.append(look(self.steps))
            self.say(self.samples[-1])
        return next_tensordict


def options(run: Path, steps: int) -> list[str]:
    """The tiny run, an update every 50 steps, a checkpoint and a film every 10 000."""
    return run_options(
        run,
        "env.max_frames=4000",
        "env.frame_size=16",
        "world_model.filters=[4,8,8]",
        f"training.total_steps={steps}",
        "training.random_steps=100",
        "training.steps_per_update=50",
        "replay.capacity=500",
        "log.every=500",
        "log.checkpoint_every=10000",
        "log.film_every=10000",
    )


def judge(samples: list[Sample]) -> dict[str, float | bool]:
    """Compare the second fifth of the samples with the last one.

    Memory is flat if the medians of all fifths but the first lie within 2 %.
    """
    fifth = len(samples) // 5
    settled = samples[fifth:]
    parts = [settled[at : at + fifth] for at in range(0, len(settled), fifth)]
    medians = [statistics.median(s.resident for s in part) for part in parts if part]
    first, last = parts[0], settled[-fifth:]
    drift = max(medians) / min(medians) - 1
    result: dict[str, float | bool] = {
        "resident_mb": round(medians[-1] / 1e6, 1),
        "drift": round(drift, 5),
        "descriptors_first": max(s.descriptors for s in first),
        "descriptors_last": max(s.descriptors for s in last),
        "threads_first": max(s.threads for s in first),
        "threads_last": max(s.threads for s in last),
    }
    result["good"] = (
        drift <= FLAT
        and result["descriptors_last"] <= result["descriptors_first"]
        and result["threads_last"] <= result["threads_first"]
    )
    return result


def main() -> int:
    """Run, look, judge."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300_000)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    probe = Probe(
        max(1, args.steps // SAMPLES), lambda sample: print(*sample, flush=True)
    )
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        run_training(options(Path(folder, "run"), args.steps), probe)
    report = {
        "steps": args.steps,
        "minutes": round((time.monotonic() - started) / 60, 1),
        **judge(probe.samples),
        "provenance": provenance(torch.device("cpu")),
        "samples": probe.samples,
    }
    print(json.dumps({k: v for k, v in report.items() if k != "samples"}, indent=2))
    if args.out:
        write_json(args.out, report)
    return 0 if report["good"] else 1


if __name__ == "__main__":
    sys.exit(main())
