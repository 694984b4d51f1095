"""A journal writes what happened as it happens, and keeps what films need."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from torchrl.record.loggers import CSVLogger

from drama_torchrl.config import load_config
from drama_torchrl.record.journal import Journal
from drama_torchrl.record.run_directory import RunDirectory


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", load_config("quick"))


def transition(
    number: int, *, episode_return: float = 0.0, length: int = 1, done: bool = False
) -> TensorDict:
    """One step ``[1]`` as the collector gives it; ``number`` is in every frame."""
    flag = torch.tensor([[done]])
    return TensorDict(
        {
            "pixels": torch.full((1, 3, 2, 2), number, dtype=torch.uint8),
            "action": torch.tensor([[True, False]]),
            "is_init": torch.tensor([[False]]),
            "episode_seed": torch.tensor([[1000 + number]]),
            ("next", "pixels"): torch.full((1, 3, 2, 2), number + 1, dtype=torch.uint8),
            ("next", "reward"): torch.tensor([[0.5]]),
            ("next", "end-of-life"): flag.clone(),
            ("next", "done"): flag,
            ("next", "episode_reward"): torch.tensor([[episode_return]]),
            ("next", "step_count"): torch.tensor([[length]]),
        },
        batch_size=[1],
    )


def quiet(run: RunDirectory, recent: int = 64) -> Journal:
    return Journal(run, total_steps=10, progress=False, recent=recent)


def numbers(loss: float, gradient: float) -> dict[str, TensorDict]:
    return {
        "model": TensorDict(loss=torch.tensor(loss)),
        "behaviour": TensorDict(grad_norm=torch.tensor(gradient, dtype=torch.float64)),
    }


def read(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


class TestEpisodes:
    def test_only_what_ends_one_is_written(self, run: RunDirectory) -> None:
        with quiet(run) as journal:
            journal.step(1, transition(1, episode_return=9.0, length=1))
            assert not run.episodes.exists()
            journal.step(2, transition(2, episode_return=-3.5, length=2, done=True))
            journal.step(3, transition(3))
            journal.step(4, transition(4, episode_return=7.0, length=2, done=True))
        assert read(run.episodes) == [
            ["step", "return", "length", "seed"],
            ["2", "-3.5", "2", "1002"],
            ["4", "7.0", "2", "1004"],
        ]
        assert journal.episodes == [(2, -3.5), (4, 7.0)]
        assert journal.steps == 4

    def test_environments_without_seeds_have_minus_one(self, run: RunDirectory) -> None:
        with quiet(run) as journal:
            step = transition(1, episode_return=2.0, length=5, done=True)
            journal.step(1, step.exclude("episode_seed"))
        assert read(run.episodes)[1] == ["1", "2.0", "5", "-1"]


class TestMetrics:
    def test_groups_become_columns_and_calls_rows(self, run: RunDirectory) -> None:
        with quiet(run) as journal:
            journal.metrics(5, numbers(0.5, 1234567.0))
            journal.metrics(7, numbers(-1e-9, 2.0))
        header, *rows = read(run.metrics)
        assert header == ["step", "model/loss", "behaviour/grad_norm", "minutes"]
        assert [row[:3] for row in rows] == [
            ["5", "0.5", "1.23457e+06"],
            ["7", "-1e-09", "2"],
        ]
        minutes = [float(row[3]) for row in rows]
        assert 0 <= minutes[0] <= minutes[1] <= journal.minutes < 1

    def test_a_row_is_in_the_file_at_once(self, run: RunDirectory) -> None:
        journal = quiet(run)
        journal.metrics(5, numbers(0.5, 1.0))
        assert len(read(run.metrics)) == 2

    def test_lines_end_as_those_of_the_episodes(self, run: RunDirectory) -> None:
        with quiet(run) as journal:
            journal.metrics(5, numbers(0.5, 1.0))
            journal.step(5, transition(5, done=True))
        for path in (run.metrics, run.episodes):
            assert b"\r" not in path.read_bytes()

    def test_a_logger_receives_the_same(
        self, run: RunDirectory, tmp_path: Path
    ) -> None:
        logger = CSVLogger("extra", str(tmp_path))
        with Journal(run, total_steps=10, progress=False, logger=logger) as journal:
            journal.metrics(5, numbers(0.5, 1.0))
            journal.step(6, transition(6, episode_return=4.0, done=True))
            journal.metrics(9, numbers(0.25, 1.0))
        scalars = tmp_path / "extra" / "scalars"
        assert read(scalars / "model" / "loss.csv") == [["5", "0.5"], ["9", "0.25"]]
        assert read(scalars / "episode_return.csv") == [["6", "4.0"]]


class TestRecent:
    def frames(self, journal: Journal) -> Sequence[int]:
        return journal.recent_sequence()["pixels"][0, :, 0, 0, 0].tolist()

    def test_the_newest_are_kept_in_order(self, run: RunDirectory) -> None:
        with quiet(run, recent=3) as journal:
            for number in range(1, 6):
                journal.step(number, transition(number, done=number == 3))
        sequence = journal.recent_sequence()
        assert sequence.shape == (1, 3)
        assert self.frames(journal) == [3, 4, 5]
        assert sequence["next", "pixels"][0, :, 0, 0, 0].tolist() == [4, 5, 6]
        assert sequence["next", "end-of-life"].flatten().tolist() == [1, 0, 0]

    def test_a_reused_transition_does_not_change_them(self, run: RunDirectory) -> None:
        step = transition(1)
        with quiet(run) as journal:
            journal.step(1, step)
            step["pixels"].fill_(77)
            journal.step(2, step)
        assert self.frames(journal) == [1, 77]


class TestProgress:
    def test_score_and_episodes_are_shown(
        self, run: RunDirectory, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with Journal(run, total_steps=8) as journal:
            for step, value in enumerate([50.0, 1.0, 2.0, 3.0, 4.0, 5.5], start=1):
                journal.step(step, transition(step, episode_return=value, done=True))
        shown = capsys.readouterr().err
        assert "episodes=6, score=3.1" in shown  # of the last five
        assert "6/8" in shown

    def test_nothing_is_shown_if_not_wanted(
        self, run: RunDirectory, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with quiet(run) as journal:
            journal.step(1, transition(1, done=True))
        assert capsys.readouterr().err == ""

    def test_a_failing_run_ends_the_line_of_the_bar(
        self, run: RunDirectory, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(ValueError, match="broken"), Journal(run, total_steps=8):
            raise ValueError("broken")
        assert capsys.readouterr().err.endswith("\n")
