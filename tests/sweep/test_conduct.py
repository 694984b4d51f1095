"""A sweep goes on whatever becomes of its summary."""

from __future__ import annotations

import json
import warnings
from functools import partial
from pathlib import Path

from drama_torchrl.sweep.conduct import conduct
from drama_torchrl.sweep.local import run_commands
from drama_torchrl.sweep.plan import make_plan
from drama_torchrl.sweep.slots import cpu_slots
from tests.report.run_files import change_result, write_run


def test_a_summary_that_cannot_be_written_is_warned_of_once_and_tried_again(
    tmp_path: Path,
) -> None:
    plan = make_plan(["games=Pong,Alien,Krull", "seeds=1", f"out={tmp_path / 'out'}"])
    summary = plan.out / "sweep.json"
    summary.mkdir(parents=True)
    recipe = tmp_path / "recipe.py"
    # The last run makes room.
    recipe.write_text(f"""
import pathlib, sys
if "env.game=Krull" in sys.argv:
    pathlib.Path({str(summary)!r}).rmdir()
""")
    run = partial(run_commands, slots=cpu_slots(1))
    with warnings.catch_warnings(record=True, action="default") as caught:
        rows = conduct(plan, run, recipe, say=lambda _: None, every=0.0)
    assert [row.detail for row in rows] == ["ended without a complete result.json"] * 3
    assert [str(warning.message) for warning in caught] == [
        f"cannot write {summary} (Is a directory); the sweep does without it and "
        "tries again at the next change"
    ]
    written = json.loads(summary.read_text())["runs"]
    assert [row["run"] for row in written] == [row.run for row in rows]


def test_a_run_out_of_its_time_starts_only_for_more(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.py"
    recipe.write_text("raise SystemExit(3)")

    def sweep(minutes: int) -> tuple[str, str]:
        time = f"training.max_minutes={minutes}"
        final = ("evaluation.episodes=2", "evaluation.greedy_episodes=1")
        plan = make_plan(["games=Boxing", "seeds=1", f"out={tmp_path}", time, *final])
        run = partial(run_commands, slots=cpu_slots(1))
        (row,) = conduct(plan, run, recipe, say=lambda _: None, every=0.0)
        return row.state, row.detail

    path = tmp_path / "Boxing-seed1"
    write_run(path, options=["evaluation.greedy_episodes=1"])
    change_result(path, {"complete": False, "training_minutes": 61.3})
    (path / "resume").mkdir()
    assert sweep(61) == ("partial", "training.max_minutes=61")
    assert sweep(62) == ("failed", "exit code 3")
