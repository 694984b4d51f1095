"""Each run is in the state that its files and its process say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from drama_torchrl.sweep.plan import PlannedRun
from drama_torchrl.sweep.slots import Slot
from drama_torchrl.sweep.summary import (
    Row,
    count_states,
    format_rows,
    make_row,
    write_summary,
)
from tests.sweep.test_runs import plan_run, write


def look(
    run: PlannedRun,
    running: Mapping[str, Slot] | None = None,
    outcomes: Mapping[str, str] | None = None,
) -> Row:
    return make_row(run, skipped={}, running=running or {}, outcomes=outcomes or {})


def test_a_waiting_run_does_not_take_credit_for_an_earlier_attempt(
    tmp_path: Path,
) -> None:
    run = plan_run(tmp_path)
    run.path.mkdir()
    run.directory.metrics.write_text("step,minutes\n500,2.5\n")
    row = look(run)
    assert (row.state, row.steps, row.minutes) == ("waiting", 0, 0.0)
    row = look(run, running={run.name: Slot("GPU 3", {})})
    assert (row.state, row.detail, row.steps) == ("running", "GPU 3", 500)
    row = look(run, outcomes={run.name: "exit code 1"})
    assert (row.state, row.detail, row.minutes) == ("failed", "exit code 1", 2.5)


def test_a_run_that_ended_well_has_to_be_complete(tmp_path: Path) -> None:
    run = plan_run(tmp_path)
    row = look(run, outcomes={run.name: ""})
    assert (row.state, row.detail) == ("failed", "ended without a complete result.json")
    write(run)
    row = look(run, outcomes={run.name: ""})
    assert (row.state, row.steps, row.score) == ("complete", 100_000, 6.0)


def test_a_run_that_ended_with_other_options_failed_and_raises_nothing(
    tmp_path: Path,
) -> None:
    run = plan_run(tmp_path)
    write(run, "behaviour.horizon=3")
    row = look(run, outcomes={run.name: ""})
    assert row.state == "failed"
    assert "behaviour.horizon=3, asked for 16" in row.detail


def test_a_run_out_of_its_time_is_partial(tmp_path: Path) -> None:
    run = plan_run(tmp_path, "training.max_minutes=5")
    row = look(run, outcomes={run.name: ""})
    assert (row.state, row.detail) == ("partial", "training.max_minutes=5")


@pytest.mark.parametrize("score", [None, -20.26, 123456.0])
def test_rows_of_a_table_line_up(tmp_path: Path, score: float | None) -> None:
    options = ("Pong", 1, "failed", "exit code 1", 99_900, 100_000, score, 61.27)
    rows = [Row(name, *options, "dir", "log") for name in ("Pong-seed1", "Q")]
    heading, *lines = format_rows(rows)
    assert len({line.index("99900/100000") for line in lines}) == 1
    for line in lines:
        assert line[: len(heading)].endswith(" 61.3")
        assert line[len(heading) :] == "  exit code 1"
    assert count_states(rows) == "2 failed"


def test_the_summary_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "sweep.json"
    path.write_text("old")
    write_summary([look(plan_run(tmp_path))], path)
    summary = json.loads(path.read_text())
    assert [row["run"] for row in summary["runs"]] == ["Boxing-seed1"]
    assert summary["runs"][0]["total_steps"] == 100_000
