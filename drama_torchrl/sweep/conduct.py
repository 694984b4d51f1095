"""A sweep from its first run to its last: skip, go on, make room, start, watch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from drama_torchrl.config import ConfigError
from drama_torchrl.sweep.backend import RunCommands
from drama_torchrl.sweep.local import Command, interruptible
from drama_torchrl.sweep.lock import claimed, is_written
from drama_torchrl.sweep.plan import Plan, PlannedRun
from drama_torchrl.sweep.runs import (
    can_go_on,
    is_complete,
    is_out_of_time,
    move_aside,
)
from drama_torchrl.sweep.slots import Slot
from drama_torchrl.sweep.summary import (
    Row,
    count_states,
    format_rows,
    make_row,
    write_summary,
)

__all__ = ["conduct"]


def conduct(
    plan: Plan,
    run_commands: RunCommands,
    recipe: Path,
    *,
    say: Callable[[str], None],
    every: float = 10.0,
) -> list[Row]:
    """Run what is not complete yet and has time left; keep ``out/sweep.json`` true.

    Where that file cannot be written there is a warning, and the runs go on.

    Args:
        plan: the runs.
        run_commands: runs them somewhere, from :func:`make_backend`.
        recipe: the script that trains one agent.
        say: takes lines about how the sweep stands.
        every: seconds between them.

    Returns:
        How each run stands in the end; ``"running"`` has become ``"stopped"`` if the
        sweep was interrupted.

    Raises:
        ConfigError: if another sweep works in the same directory, if a run that it
            left behind still ends there, or if a run is complete there with other
            options; nothing is started.
    """
    with claimed(plan.out) as lock, interruptible():
        skipped = {run.name: "skipped" for run in plan.runs if is_complete(run)}
        skipped |= {run.name: "partial" for run in plan.runs if is_out_of_time(run)}
        pending = {run.name: run for run in plan.runs if run.name not in skipped}
        _refuse_left_behind(pending.values())

        def look(running: Mapping[str, Slot], outcomes: Mapping[str, str]) -> list[Row]:
            return [
                make_row(run, skipped=skipped, running=running, outcomes=outcomes)
                for run in plan.runs
            ]

        rows = look({}, {})

        def watch(running: Mapping[str, Slot], outcomes: Mapping[str, str]) -> None:
            before = {*rows}
            rows[:] = look(running, outcomes)
            write_summary(rows, plan.out / "sweep.json")
            news = [row for row in rows if row not in before and row.state != "waiting"]
            if news:
                say("\n".join(["", *format_rows(news), count_states(rows)]))

        def prepare(name: str) -> Command:
            run = pending[name]
            if can_go_on(run):
                arguments = run.resuming
            else:
                move_aside(run)
                arguments = run.overrides
            return Command(name, [sys.executable, str(recipe), *arguments], run.log)

        try:
            outcomes = run_commands(
                [*pending],
                prepare=prepare,
                watch=watch,
                keep_open=[lock],
                every=every,
            )
            watch({}, outcomes)
        except KeyboardInterrupt:
            rows = [
                replace(row, state="stopped") if row.state == "running" else row
                for row in rows
            ]
            write_summary(rows, plan.out / "sweep.json")
        return rows


def _refuse_left_behind(runs: Iterable[PlannedRun]) -> None:
    """Of a sweep on a cluster that was killed; it takes its runs a while to stop."""
    for run in runs:
        if is_written(run.log):
            raise ConfigError(
                f"out={run.path.parent}: expected {run.name} to have ended, got one "
                "that an earlier sweep left behind; it has been told to stop, so try "
                "again in a minute"
            )
