"""Rows are whole or not there, and none is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from drama_torchrl.record.rows import Rows


def test_the_names_stand_above_the_first_row_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    Rows(path, ["a", "b"]).append([1, 2])
    Rows(path, ["a", "b"]).append([3, "x,y"])
    assert path.read_text() == 'a,b\n1,2\n3,"x,y"\n'


def test_rows_that_cannot_be_written_wait_for_the_next(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "absent" / "rows.csv", ["a"])
    for number in (1, 2):
        with pytest.raises(FileNotFoundError):
            rows.append([number])
    rows.path.parent.mkdir()
    rows.append([3])
    assert rows.path.read_text() == "a\n1\n2\n3\n"
    rows.flush()
    assert rows.path.read_text() == "a\n1\n2\n3\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left|Invalid argument"):
        Rows(path, ["a"]).append([1])
