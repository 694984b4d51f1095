"""A directory for new files is made, or refused as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from drama_torchrl.record.new_directory import (
    RunExistsError,
    explaining,
    make_new_directory,
)


def test_parents_are_made_and_an_empty_directory_will_do(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder"
    make_new_directory(path, "out")
    make_new_directory(path, "out")
    assert list(path.iterdir()) == []


def test_a_refusal_names_the_option_and_hidden_files_last(tmp_path: Path) -> None:
    for name in (".hidden", "b", "a"):
        (tmp_path / name).touch()
    message = (
        r"^out=.*got one that holds a, b, \.hidden; wait, choose another out or del"
    )
    with pytest.raises(RunExistsError, match=message):
        make_new_directory(tmp_path, "out", remedy="wait, ")


def test_what_the_system_does_not_say_is_not_explained() -> None:
    with pytest.raises(KeyError), explaining(Path("run"), "out"):
        raise KeyError
