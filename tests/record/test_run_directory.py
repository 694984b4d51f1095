"""A run's directory belongs to one run and says where it came from."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from drama_torchrl.config import load_config, read_config
from drama_torchrl.record.run_directory import (
    RunDirectory,
    RunExistsError,
    find_commit,
    provenance,
)

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


def test_provenance_goes_into_a_result_and_names_no_host(tmp_path: Path) -> None:
    found = provenance(torch.device("cpu"))
    RunDirectory.create(tmp_path, CONFIG).write_result(found)
    assert found["versions"]["torch"] == str(torch.__version__)
    assert None not in found["versions"].values()
    assert found["device"]
    assert found["written"].endswith("+00:00")
    assert set(found) == {"written", "commit", "versions", "device", "cpus"}


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file committed to a repository of its own."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "module.py"
    path.write_text("x = 1\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "module.py")
    return path


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"]
    command = ["git", "-C", str(folder), *who, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_a_commit_is_named_and_changes_to_it_are_told(source: Path) -> None:
    assert find_commit(source) is None
    git(source.parent, "commit", "--quiet", "--message", "first")
    head = git(source.parent, "rev-parse", "HEAD")
    assert find_commit(source) == head
    source.write_text("x = 2\n")
    assert find_commit(source) == f"{head}-dirty"


def test_the_commit_of_a_checkout_around_the_package_does_not_count(
    source: Path,
) -> None:
    git(source.parent, "commit", "--quiet", "--message", "first")
    installed = source.parent / "venv" / "package.py"
    installed.parent.mkdir()
    installed.write_text("")
    assert find_commit(installed) is None


def test_without_git_there_is_no_commit(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(source.parent, "commit", "--quiet", "--message", "first")
    monkeypatch.setenv("PATH", "")
    assert find_commit(source) is None
    assert provenance()["commit"] is None
