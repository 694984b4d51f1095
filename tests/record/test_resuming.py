"""Which run goes on, with which options."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from drama_torchrl.config import ConfigError, load_config, read_config
from drama_torchrl.record.checkpoint import CheckpointError
from drama_torchrl.record.lock import InUseError
from drama_torchrl.record.resuming import differences, open_run, read_arguments
from drama_torchrl.record.run_directory import RunDirectory

CONFIG = load_config("quick", ["seed=7", "env.game=Pong"])


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    # A name that would mean something else in YAML.
    return RunDirectory.create(tmp_path / "1: [a]", CONFIG)


def test_a_run_goes_on_with_its_own_options(run: RunDirectory) -> None:
    config, resumed = read_arguments([f"resume={run.path}"])
    assert resumed
    assert config.run_path == run.path
    assert (config.seed, config.env.game, config.preset) == (7, "Pong", "quick")
    with open_run(config, resumed=True) as opened:
        assert opened.path == run.path


def test_options_beside_it_change_them(run: RunDirectory) -> None:
    arguments = [f"resume={run.path}", "training.max_minutes=5"]
    assert read_arguments(arguments)[0].training.max_minutes == 5
    with pytest.raises(ConfigError, match="max_minutes"):
        read_arguments([f"resume={run.path}", "training.max_minute=5"])


def test_options_that_may_change_are_those_of_the_run_from_then_on(
    run: RunDirectory,
) -> None:
    options = ["log.every=9", "evaluation.episodes=3", "training.max_minutes=5"]
    config, _ = read_arguments([f"resume={run.path}", *options])
    with open_run(config, resumed=True):
        assert read_config(run.config) == config


@pytest.mark.parametrize("option", ["env.game=Krull", "execution.compile=true"])
def test_options_that_may_not_are_refused_before_anything_is_written(
    run: RunDirectory, option: str
) -> None:
    before = run.config.read_bytes()
    with pytest.raises(CheckpointError, match=option.partition("=")[0]):
        read_arguments([f"resume={run.path}", option])
    assert run.config.read_bytes() == before


def test_a_moved_run_goes_on_where_it_is(run: RunDirectory) -> None:
    moved = run.path.rename(run.path.with_name("moved"))
    assert read_arguments([f"resume={moved}"])[0].run_path == moved


def test_a_finished_run_does_not_go_on(run: RunDirectory) -> None:
    run.write_result({})
    with pytest.raises(CheckpointError, match="interrupted, got a finished run"):
        read_arguments([f"resume={run.path}"])
    run.snapshots.mkdir()  # out of time, or killed while it was scored
    assert read_arguments([f"resume={run.path}"])[1]


def test_a_run_that_was_finished_meanwhile_is_not_begun_again(
    run: RunDirectory,
) -> None:
    config, resumed = read_arguments([f"resume={run.path}"])
    run.write_result({})
    with (
        pytest.raises(CheckpointError, match="interrupted, got a finished run"),
        open_run(config, resumed=resumed),
    ):
        pass


def test_a_run_is_open_once_and_its_options_stay(run: RunDirectory) -> None:
    config, _ = read_arguments([f"resume={run.path}"])
    other, _ = read_arguments([f"resume={run.path}", "log.every=9"])
    with (
        open_run(config, resumed=True),
        pytest.raises(InUseError, match=f"{os.getpid()} on host"),
        open_run(other, resumed=True),
    ):
        pass
    assert read_config(run.config).log.every == CONFIG.log.every
    with open_run(other, resumed=True):
        assert read_config(run.config).log.every == 9


def test_a_new_run_is_its_process_alone(tmp_path: Path) -> None:
    config = load_config("quick", [f"run_dir={tmp_path / 'new'}"])
    with open_run(config, resumed=False) as new:
        again, resumed = read_arguments([f"resume={new.path}"])
        with pytest.raises(InUseError), open_run(again, resumed=resumed):
            pass


@pytest.mark.parametrize("name", ["", "none", "x" * 300])
def test_what_is_no_run_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(CheckpointError, match=f"resume={path}: .*got no run"):
        read_arguments([f"resume={path}"])


def test_differences_name_what_is_on_one_side_alone() -> None:
    then = {"a": {"b": 1, "c": [1]}, "d": None}
    now = {"a": {"b": 1, "c": [2]}, "e": 3}
    assert list(differences(then, now)) == [
        "a.c: [1] then, [2] now",
        "e: None then, 3 now",
    ]
