"""What cannot be written is named, with what is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from drama_torchrl.config import load_config
from drama_torchrl.record.run_directory import RunDirectory
from drama_torchrl.record.write_errors import (
    GoOn,
    Stop,
    WritingFailedError,
    make_write_errors,
)

FULL = OSError(28, "No space left on device")


@pytest.mark.parametrize(("word", "kind"), [("stop", Stop), ("continue", GoOn)])
def test_the_option_chooses(word: str, kind: type, tmp_path: Path) -> None:
    config = load_config("quick", [f"log.on_write_error={word}"])
    assert type(make_write_errors(config, RunDirectory(tmp_path))) is kind


def test_the_newest_whole_checkpoint_is_named(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for name in ("step-0000008", "step-0000016", "step-0000024.tmp", "replay"):
        (run.snapshots / name).mkdir(parents=True)
    message = r"cannot write it \(No space.*the checkpoint of step 16 is kept"
    with (
        pytest.raises(WritingFailedError, match=message) as caught,
        Stop(run).during("it"),
    ):
        raise FULL
    assert caught.value.exit_code == 74
    assert caught.value.__cause__ is FULL
    with pytest.warns(UserWarning, match=message), GoOn(run).during("it"):
        raise FULL


def test_other_errors_pass(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="other"),
        GoOn(RunDirectory(tmp_path)).during("it"),
    ):
        raise ValueError("other")
