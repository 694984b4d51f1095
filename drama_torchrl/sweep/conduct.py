"""A sweep from its first run to its last: skip, go on, make room, start, watch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from drama_torchrl.sweep.local import Command, interruptible, run_commands
from drama_torchrl.sweep.lock import claimed
from drama_torchrl.sweep.plan import Plan
from drama_torchrl.sweep.runs import can_go_on, is_complete, move_aside
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
    slots: Sequence[Slot],
    recipe: Path,
    *,
    say: Callable[[str], None],
    every: float = 10.0,
) -> list[Row]:
    """Run what is not complete yet, and keep ``out/sweep.json`` up to date.

    Args:
        plan: the runs.
        slots: where they may run.
        recipe: the script that trains one agent.
        say: takes lines about how the sweep stands.
        every: seconds between them.

    Returns:
        How each run stands in the end; ``"running"`` has become ``"stopped"`` if the
        sweep was interrupted.

    Raises:
        ConfigError: if another sweep works in the same directory, or if a run is
            complete there with other options; nothing is started.
    """
    with claimed(plan.out) as lock, interruptible():
        skipped = {run.name for run in plan.runs if is_complete(run)}
        pending = {run.name: run for run in plan.runs if run.name not in skipped}

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

        resumed = {name for name, run in pending.items() if can_go_on(run)}
        commands = []
        for name, run in pending.items():
            arguments = run.resuming if name in resumed else run.overrides
            words = [sys.executable, str(recipe), *arguments]
            commands.append(Command(name, words, run.log))

        def make_room(name: str) -> None:
            if name not in resumed:
                move_aside(pending[name])

        try:
            outcomes = run_commands(
                commands,
                slots,
                prepare=make_room,
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
