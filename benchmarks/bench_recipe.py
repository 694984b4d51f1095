"""Environment steps per second of the whole recipe on a real game.

    python -m benchmarks.bench_recipe env.game=Boxing --to-step 2700

Runs ``recipes/drama_atari100k.py`` as its own process, with the options given, in a
temporary ``run_dir``, and reads the ``minutes`` column of its ``metrics.csv``: acting,
environment, replay, updates, logging, checkpoints and films are all in it; evaluation
is not, because the run is asked to stop (SIGTERM) once the last step was logged.

- ``steps_per_second`` is that between ``--from-step`` and ``--to-step``, rounded to
  logged steps; ``checkpoints`` and ``films`` say how many of each fell in between.
  The defaults last a minute and contain none: for a claim, use at least
  ``--from-step 2000 --to-step 12000``.
- ``first_trained_s`` runs from the start of the process, imports included, to the first
  training step, random acting before it included. ``training.random_steps`` is raised
  by a few so that this step is a logged one. ``--cache`` names where the compilers keep
  their work: an empty folder for a cold start, the same one again for a warm start.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bench_step import SMOKE
from benchmarks.harness import add_common_arguments, write_report
from drama_torchrl.config import DramaConfig, load_config
from drama_torchrl.factories import make_device

__all__ = ["first_trained_step", "main", "steady_state"]

REPOSITORY = Path(__file__).parents[1]
# Often until the first trained step, whose time is a result, then seldom.
START_POLL_S, POLL_S = 0.02, 0.25
_CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
_SMOKE = (
    "preset=quick",
    "env.game=Alien",
    *SMOKE,
    "training.total_steps=400",
    "training.random_steps=60",
    "log.every=4",
)


class RecipeError(RuntimeError):
    """The recipe ended or hung before its numbers were there."""


@dataclass
class Run:
    """A finished run as seen from outside."""

    first_trained_s: float
    rows: list[dict[str, float]]
    exit_code: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the recipe, read its metrics, write one JSON; return the exit code."""
    args = parse(arguments)
    config = load_config("xs", args.overrides)
    device = make_device(config.execution.device)
    overrides = [*args.overrides, *added_overrides(config, args.to_step)]
    with tempfile.TemporaryDirectory() as folder:
        state = describe_cache(args.cache)
        run_dir = Path(folder, "run")
        run = run_recipe(
            [*overrides, f"run_dir={run_dir}"], args.to_step, args.timeout, args.cache
        )
    report = {
        "options": overrides,
        "compile_cache": state,
        "first_trained_s": run.first_trained_s,
        "first_trained_step": run.rows[0]["step"],
        "exit_code": run.exit_code,
        **steady_state(run.rows, args.from_step, args.to_step, config),
    }
    print(json.dumps(report), flush=True)
    write_report("bench_recipe", args, report, device)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="options of the recipe")
    add_common_arguments(parser)
    parser.add_argument("--from-step", type=int, default=1_200)
    parser.add_argument("--to-step", type=int, default=2_700)
    parser.add_argument(
        "--cache", type=Path, help="folder of the compilers' caches (default: theirs)"
    )
    parser.add_argument("--timeout", type=float, default=540.0, help="seconds")
    args = parser.parse_intermixed_args(arguments)
    if args.smoke:
        args.from_step, args.to_step, args.device = 80, 160, "cpu"
        args.overrides = [*_SMOKE, *args.overrides]
    args.overrides = [*args.overrides, f"execution.device={args.device}"]
    if not args.from_step < args.to_step:
        parser.error(
            f"expected --from-step below --to-step, got {args.from_step} and "
            f"{args.to_step}"
        )
    return args


def describe_cache(cache: Path | None) -> str:
    """Say what the compilers find: ``"empty"``, ``"filled"``, or what was there."""
    if cache is None:
        return "inherited"
    return "filled" if cache.exists() and any(cache.rglob("*")) else "empty"


def first_trained_step(config: DramaConfig) -> int:
    """Find the first step that can be both trained and logged.

    Example:
        >>> first_trained_step(load_config("xs"))
        1100
    """
    spacing = config.training.steps_per_update
    step = config.training.random_steps + 1
    while step % spacing or step % config.log.every >= spacing:
        step += 1
    return step


def added_overrides(config: DramaConfig, to_step: int) -> list[str]:
    """Options that let a run be measured and change nothing that it does."""
    total = max(config.training.total_steps, to_step + 2 * config.log.every)
    return [
        f"training.random_steps={first_trained_step(config) - 1}",
        f"training.total_steps={total}",
        "log.progress=false",
    ]


def run_recipe(
    options: Sequence[str], to_step: int, timeout: float, cache: Path | None
) -> Run:
    """Run the recipe until it has logged a step, then ask it to stop.

    Args:
        options: of the recipe; the last one is its ``run_dir``.
        to_step: environment step to wait for.
        timeout: seconds after which it is given up.
        cache: directory for the compilers' caches instead of theirs.

    Raises:
        RecipeError: if it ends or hangs before; what it printed last is quoted.
    """
    recipe = REPOSITORY / "recipes" / "drama_atari100k.py"
    metrics = Path(options[-1].partition("=")[2]) / "metrics.csv"
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path.rstrip(os.pathsep)}
    if cache is not None:
        environment |= {name: str(cache.resolve() / name) for name in _CACHES}
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, str(recipe), *options],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            first = _wait_for_step(process, metrics, 0, start, timeout)
            _wait_for_step(process, metrics, to_step, start, timeout)
        except RecipeError as error:
            output.seek(0)
            printed = output.read()[-2000:]
            raise RecipeError(f"{error} {shlex.join(options)}\n{printed}") from None
        finally:
            process.terminate()
            try:
                exit_code = process.wait(timeout=120)
            except subprocess.TimeoutExpired:
                process.kill()
                exit_code = process.wait()
    return Run(first, read_rows(metrics), exit_code)


def _wait_for_step(
    process: subprocess.Popen[bytes],
    metrics: Path,
    step: int,
    start: float,
    timeout: float,
) -> float:
    """Wait until a step is logged; return the seconds since ``start``."""
    while True:
        ended = process.poll()
        rows = read_rows(metrics)
        elapsed = time.perf_counter() - start
        if rows and rows[-1]["step"] >= step:
            return elapsed
        if ended is not None:
            raise RecipeError(f"The recipe ended ({ended}) before step {step}:")
        if elapsed > timeout:
            raise RecipeError(f"The recipe took {timeout} s without step {step}:")
        time.sleep(POLL_S if step else START_POLL_S)


def read_rows(metrics: Path) -> list[dict[str, float]]:
    """Read the whole rows of a ``metrics.csv`` that is being written."""
    if not metrics.exists():
        return []
    whole, _, _ = metrics.read_text().rpartition("\n")
    reader = csv.DictReader(whole.splitlines())
    return [
        {"step": float(row["step"]), "minutes": float(row["minutes"])} for row in reader
    ]


def steady_state(
    rows: Sequence[Mapping[str, float]], low: int, high: int, config: DramaConfig
) -> dict[str, Any]:
    """Compute the speed between the first logged steps at or after two steps.

    Args:
        rows: ``"step"`` and ``"minutes"``, ascending.
        low: first step.
        high: last step; some row is not before it.
        config: says how often checkpoints and films are made.
    """
    begin = next(row for row in rows if row["step"] >= low)
    end = next(row for row in rows if row["step"] >= high)
    steps = end["step"] - begin["step"]
    seconds = 60 * (end["minutes"] - begin["minutes"])

    def between(every: int) -> int:
        return int(end["step"] // every - begin["step"] // every)

    total = config.training.total_steps
    return {
        "from_step": begin["step"],
        "to_step": end["step"],
        "steps_per_second": steps / seconds,
        "ms_per_step": 1e3 * seconds / steps,
        "minutes_a_run": seconds * total / steps / 60,
        "checkpoints": between(config.log.checkpoint_every),
        "films": between(config.log.film_every),
    }


if __name__ == "__main__":
    sys.exit(main())
