"""How a sweep stands: a row for each run, as text and as JSON."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from drama_torchrl.config import ConfigError
from drama_torchrl.record.atomic import write_json
from drama_torchrl.sweep.plan import PlannedRun
from drama_torchrl.sweep.runs import is_complete, read_progress
from drama_torchrl.sweep.slots import Slot

__all__ = ["Row", "count_states", "format_rows", "make_row", "write_summary"]


@dataclass(frozen=True)
class Row:
    """How one run stands.

    Args:
        run: its name.
        game: as the ALE spells it.
        seed: of the run.
        state: ``"skipped"`` (was complete before), ``"waiting"``, ``"running"``,
            ``"complete"``, ``"partial"`` (out of ``training.max_minutes``),
            ``"failed"`` or ``"stopped"``.
        detail: where it runs, or why it failed.
        steps: environment steps when metrics were last written.
        total_steps: environment steps of the whole run.
        score: mean return of the last five training episodes; ``None`` without any.
        minutes: of training until then.
        run_dir: its directory.
        log: the file that takes what it prints.
    """

    run: str
    game: str
    seed: int
    state: str
    detail: str
    steps: int
    total_steps: int
    score: float | None
    minutes: float
    run_dir: str
    log: str


def make_row(
    run: PlannedRun,
    *,
    skipped: Mapping[str, str],
    running: Mapping[str, Slot],
    outcomes: Mapping[str, str],
) -> Row:
    """See how a run stands.

    Args:
        run: the run.
        skipped: states of those that are not started, by name: ``"skipped"``, or
            ``"partial"`` where the time was over before.
        running: slots of those that run, by name.
        outcomes: how those that ended failed, by name; empty where they did not.
    """
    state, detail = _find_state(run, skipped, running, outcomes)
    # What an earlier attempt left behind is not what this run has done.
    progress = read_progress(run.directory) if state != "waiting" else None
    return Row(
        run=run.name,
        game=run.game,
        seed=run.seed,
        state=state,
        detail=detail,
        steps=progress.steps if progress else 0,
        total_steps=run.config.training.total_steps,
        score=progress.score if progress else None,
        minutes=progress.minutes if progress else 0.0,
        run_dir=str(run.path),
        log=str(run.log),
    )


def format_rows(rows: Sequence[Row]) -> list[str]:
    """Lay rows out as the lines of a table, its heading first.

    Example:
        >>> row = Row("Pong-seed1", "Pong", 1, "running", "GPU 0", 500, 1000, -20.5,
        ...           0.25, "runs/sweep/Pong-seed1", "runs/sweep/Pong-seed1.log")
        >>> for line in format_rows([row]):
        ...     print(line)
        run         state             steps     last-5  minutes
        Pong-seed1  running        500/1000      -20.5      0.2  GPU 0
    """
    width = max([len("run"), *(len(row.run) for row in rows)])
    cells = [
        (row.run, row.state, f"{row.steps}/{row.total_steps}", _score(row), row.detail)
        for row in rows
    ]
    steps = max([len("steps"), 13, *(len(cell[2]) for cell in cells)])
    lines = [f"{'run':{width}}  {'state':8} {'steps':>{steps}}  {'last-5':>9}  minutes"]
    for row, (name, state, done, score, detail) in zip(rows, cells, strict=True):
        line = f"{name:{width}}  {state:8} {done:>{steps}}  {score:>9}"
        lines.append(f"{line}  {row.minutes:7.1f}  {detail}".rstrip())
    return lines


def count_states(rows: Sequence[Row]) -> str:
    """Count the runs in each state, in one line."""
    counts = Counter(row.state for row in rows)
    return ", ".join(f"{count} {state}" for state, count in counts.items())


def write_summary(rows: Sequence[Row], path: Path) -> None:
    """Replace ``sweep.json``, whole or not at all; warn if it cannot be written.

    Args:
        rows: one for each run.
        path: the file.
    """
    written = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        write_json(path, {"written": written, "runs": [asdict(row) for row in rows]})
    except OSError as error:
        # From here, whoever calls: Python shows a warning of one place once.
        warnings.warn(
            f"cannot write {path} ({error.strerror or error}); the sweep does without "
            "it and tries again at the next change",
            stacklevel=1,
        )


def _find_state(
    run: PlannedRun,
    skipped: Mapping[str, str],
    running: Mapping[str, Slot],
    outcomes: Mapping[str, str],
) -> tuple[str, str]:
    time = f"training.max_minutes={run.config.training.max_minutes:g}"
    if run.name in skipped:
        state = skipped[run.name]
        return state, time if state == "partial" else ""
    if run.name in running:
        return "running", running[run.name].name
    if run.name not in outcomes:
        return "waiting", ""
    if outcomes[run.name]:
        return "failed", outcomes[run.name]
    try:
        if is_complete(run):
            return "complete", ""
    except ConfigError as error:
        return "failed", str(error)
    if run.config.training.max_minutes:
        return "partial", time
    return "failed", "ended without a complete result.json"


def _score(row: Row) -> str:
    return "" if row.score is None else f"{row.score:.1f}"
