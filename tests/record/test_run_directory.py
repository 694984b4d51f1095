"""A run's directory belongs to one run."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from drama_torchrl.config import ConfigError, load_config, read_config
from drama_torchrl.record.new_directory import RunExistsError
from drama_torchrl.record.run_directory import RunDirectory
from tests.reference.file_size import no_file_beyond

CONFIG = load_config("quick", ["seed=7"])


def test_a_new_run_starts_with_its_configuration(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "runs" / "first", CONFIG)
    assert read_config(run.config) == CONFIG
    assert run.films.is_dir()


def test_an_empty_directory_may_become_a_run(tmp_path: Path) -> None:
    assert RunDirectory.create(tmp_path, CONFIG).config.is_file()


def make_run(path: Path) -> None:
    RunDirectory.create(path, load_config("xs"))


def make_leftovers(path: Path) -> None:
    path.mkdir()
    (path / "result.json").write_text("{}")


def make_file(path: Path) -> None:
    path.write_text("here")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            make_run,
            "got one that holds config.yaml, films; go on with resume=.*run",
        ),
        (make_leftovers, "got one that holds result.json; choose another run_dir or"),
        (make_file, "got a file; choose another run_dir"),
    ],
    ids=["run", "leftovers", "file"],
)
def test_an_occupied_directory_is_refused_and_kept(
    tmp_path: Path, make: Callable[[Path], None], message: str
) -> None:
    path = tmp_path / "run"
    make(path)
    before = {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")}
    with pytest.raises(RunExistsError, match=f"expected a new or empty dir.*{message}"):
        RunDirectory.create(path, CONFIG)
    assert {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")} == before


def test_a_run_below_a_file_is_refused(tmp_path: Path) -> None:
    make_file(tmp_path / "runs")
    with pytest.raises(RunExistsError, match="got a file"):
        RunDirectory.create(tmp_path / "runs" / "first", CONFIG)


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/proc/run", "No such file"), ("x" * 300, "File name too long")],
    ids=["nowhere", "long name"],
)
def test_a_run_that_cannot_be_anywhere_is_refused(
    tmp_path: Path, path: str, reason: str
) -> None:
    message = f"^run_dir=.*{path}: expected .*, got {reason}.*; choose another run_dir"
    with pytest.raises(ConfigError, match=message):
        RunDirectory.create(tmp_path / path, CONFIG)


def test_a_run_on_a_full_disk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"got File too large; "), no_file_beyond(100):
        RunDirectory.create(tmp_path / "run", CONFIG)


def test_episodes_are_in_the_file_as_soon_as_they_are_appended(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, CONFIG)
    for count in (1, 2, 3):
        run.append_episode(100 * count, -1.5 * count, 90, seed=count)
        with run.episodes.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == count
    assert rows[1] == {"step": "200", "return": "-3.0", "length": "90", "seed": "2"}


def test_a_result_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, CONFIG)
    run.write_result({"score": 1.0})
    run.write_result({"score": 2.0, "human_normalized": None})
    with pytest.raises(TypeError, match="Tensor"):
        run.write_result({"score": torch.ones(1)})
    expected = {"score": 2.0, "human_normalized": None}
    assert json.loads(run.result.read_text()) == expected
