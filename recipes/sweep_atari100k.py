"""Train Drama on any set of games and seeds, on a machine or a cluster.

    python recipes/sweep_atari100k.py games=Boxing,Pong seeds=1,2,3 out=runs/sweep

``games=all`` are the 26 of Atari100k. ``per_gpu=2`` packs two runs on each visible GPU;
without a GPU, ``workers=2`` runs two on the CPU. ``cluster=ray`` runs them on a Ray
cluster (``ray_address``, ``auto`` by default), each with 1 GPU (or ``1/per_gpu``) and
``cpus`` CPUs (1); ``out`` must then be on a file system that all nodes share. Every
other option goes to each run (``preset=s``, ``execution.compile=true``;
``drama_torchrl/options.py`` lists them).

A run's directory is ``out/<game>-seed<seed>``, and what it prints is in the ``.log``
beside it; ``out/sweep.json`` says how all runs stand. The same command again continues:
complete runs are skipped, and interrupted ones go on where they were, unless they have
used up ``training.max_minutes``. An attempt of other options is renamed to
``….partial-1`` before its run starts over.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from drama_torchrl.sweep import conduct, format_rows, make_backend, make_plan

RECIPE = Path(__file__).with_name("drama_atari100k.py")


def main(arguments: Sequence[str]) -> int:
    """Run the sweep and say how it went; return the exit code."""
    plan = make_plan(arguments)
    say = partial(print, flush=True)
    with make_backend(plan) as backend:
        say(f"{len(plan.runs)} runs, {backend.places}, in {plan.out}")
        rows = conduct(plan, backend.run_commands, RECIPE, say=say)
    say("\n".join(["", *format_rows(rows)]))
    again = f"python recipes/{Path(__file__).name} {shlex.join(arguments)}"
    if any(row.state in ("stopped", "waiting") for row in rows):
        say(f"stopped; to continue, skipping what is complete:\n  {again}")
        return 130
    failed = [row for row in rows if row.state == "failed"]
    for row in failed:
        say(f"{row.run} failed ({row.detail}); see {row.log}")
    if failed:
        say(f"{len(failed)} of {len(rows)} runs failed; to try them again:\n  {again}")
    return 1 if failed else 0


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)
        sys.exit()
    try:
        sys.exit(main(sys.argv[1:]))
    except ValueError as error:  # what this package says about bad input
        sys.exit(f"error: {error}")
