"""Complete runs are recognised, progress is read, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from drama_torchrl.config import ConfigError, load_config
from drama_torchrl.record.resuming import read_arguments
from drama_torchrl.record.run_directory import RunDirectory
from drama_torchrl.sweep.plan import PlannedRun, make_plan
from drama_torchrl.sweep.runs import (
    Progress,
    can_go_on,
    is_complete,
    is_out_of_time,
    move_aside,
    read_progress,
)
from tests.report.run_files import change_result, write_run


def plan_run(out: Path, *options: str) -> PlannedRun:
    """Of the options that `write_run` writes by default."""
    arguments = ["games=Boxing", "seeds=1", f"out={out}", "evaluation.episodes=2"]
    (run,) = make_plan([*arguments, "evaluation.greedy_episodes=1", *options]).runs
    return run


def write(run: PlannedRun, *options: str) -> Path:
    return write_run(run.path, options=["evaluation.greedy_episodes=1", *options])


class TestComplete:
    def test_a_run_with_all_steps_and_final_episodes_is(self, tmp_path: Path) -> None:
        run = plan_run(tmp_path)
        assert not is_complete(run)
        write(run)
        assert is_complete(run)

    @pytest.mark.parametrize(
        "change",
        [
            {"complete": False},
            {"sampled": None},
            {"sampled": {"mean": 8.0, "returns": [8.0]}},
            {"greedy": None},
        ],
        ids=["steps", "no final score", "half of it", "not greedy"],
    )
    def test_a_run_that_was_cut_short_is_not(
        self, tmp_path: Path, change: dict[str, object]
    ) -> None:
        run = plan_run(tmp_path)
        change_result(write(run), change)
        assert not is_complete(run)

    @pytest.mark.parametrize("content", ["", "{", "[1]", '{"complete": true}'])
    def test_a_damaged_result_is_not(self, tmp_path: Path, content: str) -> None:
        run = plan_run(tmp_path)
        (write(run) / "result.json").write_text(content)
        assert not is_complete(run)

    def test_options_that_change_no_result_do_not_matter(self, tmp_path: Path) -> None:
        run = plan_run(
            tmp_path, "execution.compile=true", "log.every=7", "training.max_minutes=9"
        )
        write(run)
        assert is_complete(run)

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ("behaviour.horizon=3", r"horizon=16, asked for 3\); choose another out"),
            ("evaluation.episodes=3", r"evaluation.episodes=2, asked for 3"),
        ],
    )
    def test_a_run_of_other_options_is_neither_counted_nor_replaced(
        self, tmp_path: Path, option: str, message: str
    ) -> None:
        run = plan_run(tmp_path, option)
        write(run)
        with pytest.raises(ConfigError, match=message):
            is_complete(run)


class TestOutOfTime:
    def begin(self, run: PlannedRun, **changes: object) -> None:
        """What `run` leaves when its time is over: 61.3 minutes of training."""
        change_result(
            write(run), {"complete": False, "training_minutes": 61.3} | changes
        )
        run.directory.snapshots.mkdir()

    def test_a_scored_run_that_used_up_its_minutes_is(self, tmp_path: Path) -> None:
        run = plan_run(tmp_path, "training.max_minutes=61")
        assert not is_out_of_time(run)
        self.begin(run)
        assert is_out_of_time(run)

    @pytest.mark.parametrize("minutes", ["0", "62"])
    def test_one_that_may_take_longer_now_is_not(
        self, tmp_path: Path, minutes: str
    ) -> None:
        run = plan_run(tmp_path, f"training.max_minutes={minutes}")
        self.begin(run)
        assert not is_out_of_time(run)

    @pytest.mark.parametrize(
        "changes", [{"complete": True}, {"sampled": None}, {"greedy": None}]
    )
    def test_nor_is_a_complete_or_unscored_one(
        self, tmp_path: Path, changes: dict[str, object]
    ) -> None:
        run = plan_run(tmp_path, "training.max_minutes=61")
        self.begin(run, **changes)
        assert not is_out_of_time(run)

    def test_nor_is_one_of_other_options(self, tmp_path: Path) -> None:
        self.begin(plan_run(tmp_path, "training.max_minutes=61"))
        options = ("training.max_minutes=61", "behaviour.horizon=3")
        assert not is_out_of_time(plan_run(tmp_path, *options))


class TestGoingOn:
    def begin(self, run: PlannedRun, *options: str) -> RunDirectory:
        """What `run` leaves when it is killed early."""
        arguments = [*run.overrides, *options]
        return RunDirectory.create(run.path, load_config(overrides=arguments))

    def test_an_interrupted_run_of_the_same_options_does(self, tmp_path: Path) -> None:
        run = plan_run(tmp_path, "log.every=7")
        assert not can_go_on(run)
        self.begin(run, "log.every=9", "training.max_minutes=3")
        assert can_go_on(run)

    @pytest.mark.parametrize(
        ("before", "now"),
        [
            ("evaluation.episodes=9", "evaluation.greedy_episodes=0"),
            ("training.max_minutes=3", "training.max_lost_updates=5"),
            ("training.max_lost_updates=5", "training.max_minutes=1e-5"),
            ("log.logger=tensorboard", "log.on_write_error=continue"),
            ("log.on_write_error=continue", "log.logger=tensorboard"),
        ],
    )
    def test_it_does_so_with_the_options_of_now_also_where_they_are_the_defaults(
        self, tmp_path: Path, before: str, now: str
    ) -> None:
        (run,) = make_plan(["games=Boxing", "seeds=1", f"out={tmp_path}", now]).runs
        self.begin(run, before)
        assert can_go_on(run)
        assert read_arguments(run.resuming) == (run.config, True)

    @pytest.mark.parametrize(
        "option", ["behaviour.horizon=3", "execution.compile=true"]
    )
    def test_one_of_other_options_does_not(self, tmp_path: Path, option: str) -> None:
        run = plan_run(tmp_path)
        self.begin(run, option)
        assert not can_go_on(run)

    def test_neither_does_a_finished_or_damaged_one(self, tmp_path: Path) -> None:
        run = plan_run(tmp_path)
        directory = self.begin(run)
        directory.write_result({})
        assert not can_go_on(run)
        directory.result.unlink()
        directory.config.write_text("{")
        assert not can_go_on(run)


class TestProgress:
    def test_a_running_run_is_read_from_its_last_whole_row(
        self, tmp_path: Path
    ) -> None:
        run = RunDirectory(tmp_path)
        assert read_progress(run) == Progress(0, None, 0.0)
        run.metrics.write_text("step,loss,minutes\n100,0.5,1.5\n200,0.25,3.25\n30")
        assert read_progress(run) == Progress(200, None, 3.25)
        for value in (100.0, 1.0, 2.0, 3.0, 4.0, 5.0):
            run.append_episode(step=9, return_=value, length=9, seed=1)
        assert read_progress(run) == Progress(200, 3.0, 3.25)

    def test_a_finished_run_is_read_from_its_result(self, tmp_path: Path) -> None:
        run = plan_run(tmp_path)
        write(run)
        assert read_progress(run.directory) == Progress(100_000, 6.0, 30.0)

    def test_a_directory_that_cannot_be_looked_at_has_none(self) -> None:
        assert read_progress(RunDirectory("x" * 300)) == Progress(0, None, 0.0)


class TestMovingAside:
    def test_each_attempt_keeps_its_files_and_its_log(self, tmp_path: Path) -> None:
        run = plan_run(tmp_path)
        for attempt in ("first", "second"):
            run.path.mkdir()
            (run.path / "metrics.csv").write_text(attempt)
            run.log.write_text(f"log of the {attempt}")
            move_aside(run)
            assert not run.path.exists()
            assert not run.log.exists()
        found = {
            str(path.relative_to(tmp_path)): path.read_text()
            for path in tmp_path.rglob("*")
            if path.is_file()
        }
        assert found == {
            "Boxing-seed1.partial-1/metrics.csv": "first",
            "Boxing-seed1.partial-1.log": "log of the first",
            "Boxing-seed1.partial-2/metrics.csv": "second",
            "Boxing-seed1.partial-2.log": "log of the second",
        }

    def test_without_an_attempt_nothing_happens(self, tmp_path: Path) -> None:
        move_aside(plan_run(tmp_path))
        assert list(tmp_path.iterdir()) == []

    def test_an_attempt_that_left_a_log_alone_takes_no_number_that_is_taken(
        self, tmp_path: Path
    ) -> None:
        run = plan_run(tmp_path)
        (tmp_path / "Boxing-seed1.partial-1").mkdir()
        run.log.write_text("died early")
        move_aside(run)
        moved = tmp_path / "Boxing-seed1.partial-2.log"
        assert moved.read_text() == "died early"
