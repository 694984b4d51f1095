"""Kill one small run at random moments; does it end as an undisturbed one?

    OMP_NUM_THREADS=1 python -m benchmarks.kill_run --kills 50 --seed 0 --out kills.json

Each attempt is a process that runs the recipe until SIGKILL hits it: while it starts
and restores, while it trains, while a checkpoint is being written, while the finished
run is scored. It is forked from this process, which has imported everything and
computed nothing: importing anew would take most of the time. Prints a table and exits
with 1 if a checkpoint was lost, found damaged, or the ends differ.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from drama_torchrl.record.atomic import write_json
from drama_torchrl.record.checkpoint import load_tensors
from drama_torchrl.record.origin import provenance
from recipes import drama_atari100k
from tests.reference.stopping import different, flat
from tests.reference.tiny_run import run_options

INTERVAL = 6
_ROWS = 4  # most updates between two kills
_PATIENCE = 900.0


def options(run: Path, steps: int) -> list[str]:
    """A run with an update every two steps and a buffer that wraps."""
    return run_options(
        run,
        "env.max_frames=80",
        f"training.total_steps={steps}",
        "training.random_steps=20",
        "training.steps_per_update=2",
        "replay.capacity=30",
        "log.every=2",
        f"log.checkpoint_every={INTERVAL}",
        "log.film_every=1000",
        "evaluation.greedy_episodes=0",
    )


class Attempt:
    """A process that runs the recipe.

    Args:
        arguments: of the recipe.
        log: takes what it prints.
    """

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self.status: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _become_the_recipe(arguments, log)

    @property
    def alive(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = status if pid else None
        return self.status is None

    def wait_for(self, event: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE
        while self.alive and not event():
            if time.monotonic() > deadline:
                self.kill()
                raise TimeoutError(f"nothing happened in {_PATIENCE} s")
            time.sleep(0.001)

    def kill(self) -> bool:
        """Whether it was still alive."""
        if not self.alive:
            return False
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.status = -signal.SIGKILL
        return True


def _become_the_recipe(arguments: Sequence[str], log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    code = 1
    try:
        drama_atari100k.main(arguments)
        code = 0
    except BaseException as error:
        print(f"failed: {error!r}", flush=True)
    finally:
        os._exit(code)


class Moment(NamedTuple):
    """When to kill.

    Args:
        kind: what the attempt is doing then.
        rows: rows of metrics to wait for.
        seconds: to wait after that.
    """

    kind: str
    rows: int
    seconds: float


def choose_moments(kills: int, seed: int) -> list[Moment]:
    """A tenth while scoring, at the end; of the others two in five in a checkpoint."""
    draw = random.Random(seed)
    scoring = kills // 10
    kinds = draw.choices(
        ("start", "training", "checkpoint"), (1, 2, 2), k=kills - scoring
    )
    # Shorter than what is done on a fast machine, or the run would end unkilled.
    longest = {"start": 1.5, "training": 0.15, "checkpoint": 0.1, "scoring": 0.3}
    return [
        Moment(
            kind,
            0 if kind == "start" else draw.randint(1, _ROWS),
            draw.uniform(0.0, longest[kind]),
        )
        for kind in [*kinds, *["scoring"] * scoring]
    ]


def wait(attempt: Attempt, moment: Moment, run: Path, steps: int) -> None:
    """Until the moment has come."""
    if moment.kind == "scoring":
        attempt.wait_for(lambda: newest_checkpoint(run) == steps)
    seen = size = 0

    def rows_came() -> bool:
        nonlocal seen, size
        now = metrics_size(run)
        seen, size = seen + (now > size), now
        return seen > moment.rows  # the first growth is what was there before

    if moment.kind in ("training", "checkpoint"):
        attempt.wait_for(rows_came)
    if moment.kind == "checkpoint":
        attempt.wait_for(lambda: any((run / "resume").glob("step-*.tmp")))
    time.sleep(moment.seconds)


def newest_checkpoint(run: Path) -> int:
    names = [path.name for path in (run / "resume").glob("step-*")]
    return max((int(n[5:]) for n in names if n[5:].isdecimal()), default=0)


def metrics_size(run: Path) -> int:
    try:
        return (run / "metrics.csv").stat().st_size
    except FileNotFoundError:
        return 0


def last_row(run: Path) -> int:
    """Step of the last whole row of metrics."""
    try:
        text = (run / "metrics.csv").read_text()
    except FileNotFoundError:
        return 0
    steps = [line.partition(",")[0] for line in text.split("\n")[1:-1]]
    return max((int(step) for step in steps), default=0)


@dataclass
class Report:
    """What happened.

    Args:
        kills: by what the attempt was doing.
        unfinished: kills that left a part of a checkpoint under a temporary name.
        most_lost: most steps between the newest checkpoint and the last row of metrics.
        complaints: lines about damaged checkpoints and failed attempts.
        differences: what is not as in the undisturbed run.
        seconds: wall-clock time of all.
    """

    kills: Counter[str] = field(default_factory=Counter)
    unfinished: int = 0
    most_lost: int = 0
    complaints: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        return not self.differences and not self.complaints and self.lost_little

    @property
    def lost_little(self) -> bool:
        return self.most_lost <= INTERVAL


def kill_again_and_again(folder: Path, kills: int, seed: int) -> Report:
    """Run the recipe twice: killed `kills` times, and in peace.

    Args:
        folder: an empty directory.
        kills: how often.
        seed: of the moments.
    """
    report, started = Report(), time.monotonic()
    run, log = folder / "killed", folder / "killed.log"
    # Long enough that no draw of moments reaches the end before its time.
    steps = 20 + 2 * (_ROWS + 2) * kills
    for moment in choose_moments(kills, seed):
        arguments = options(run, steps)
        if (run / "config.yaml").exists():
            arguments = [f"resume={run}"]
        attempt = Attempt(arguments, log)
        wait(attempt, moment, run, steps)
        if not attempt.kill():
            break  # it ended, or failed, which its log tells
        report.kills[moment.kind] += 1
        report.unfinished += any(run.rglob("*.tmp"))
        lost = last_row(run) - newest_checkpoint(run)
        report.most_lost = max(report.most_lost, lost)
    if not (run / "result.json").exists() or (run / "resume").exists():
        Attempt([f"resume={run}"], log).wait_for(lambda: False)
    whole = folder / "whole"
    Attempt(options(whole, steps), folder / "whole.log").wait_for(lambda: False)
    marks = ("failed: ", ": expected ", "Going on from")
    report.complaints = [
        line
        for line in log.read_text().splitlines()
        if any(mark in line for mark in marks)
    ]
    report.differences = different(end_of(run), end_of(whole))
    report.seconds = time.monotonic() - started
    return report


def end_of(run: Path) -> dict[str, Any]:
    """What a finished run leaves, as flat names and plain values; no times."""
    agent = load_tensors(run / "checkpoint.pt", "cpu")
    del agent["config"]["run_dir"]
    with (run / "metrics.csv").open(newline="") as file:
        metrics = [row[:-1] for row in csv.reader(file)]
    names = sorted(str(p.relative_to(run)) for p in run.rglob("*"))
    films = {p.name: p.read_bytes() for p in (run / "films").glob("*.gif")}
    return flat(
        {
            "agent": agent,
            "metrics": metrics,
            "episodes": (run / "episodes.csv").read_text(),
            "names": names,
            "films": films,
        }
    )


def main() -> int:
    """Kill, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    report = kill_again_and_again(folder, args.kills, args.seed)
    print(f"kills: {report.kills.total()} of {args.kills}")
    for kind, count in report.kills.items():
        print(f"  while in {kind}: {count}")
    print(f"left a part of a checkpoint behind: {report.unfinished}")
    print(f"most steps lost: {report.most_lost} (checkpoints every {INTERVAL})")
    print(f"complaints: {report.complaints}")
    print(f"differences to the undisturbed run: {report.differences}")
    print(f"seconds: {report.seconds:.0f}")
    if args.out:
        given = {"asked": args.kills, "seed": args.seed, "every": INTERVAL}
        origin = {"provenance": provenance(torch.device("cpu"))}
        write_json(args.out, given | vars(report) | origin)
    return 0 if report.good and report.kills.total() == args.kills else 1


if __name__ == "__main__":
    sys.exit(main())
