"""A machine is refused that has other files at the same paths."""

from __future__ import annotations

from pathlib import Path

from drama_torchrl.sweep.lock import claimed, read_claim
from drama_torchrl.sweep.ray_worker import find_fault


def test_a_directory_of_this_sweep_is_told_from_any_other(tmp_path: Path) -> None:
    ours, other = tmp_path / "ours", tmp_path / "other"
    with claimed(ours), claimed(other):
        written = read_claim(ours)
        assert find_fault(str(ours / ".lock"), written, [__file__]) == ""
        assert find_fault(str(other / ".lock"), written, [__file__]) == (
            f"expected {other} to be on a file system that all machines share, got one "
            "that this sweep has not written to; choose an out that they share"
        )
        missing = find_fault(str(tmp_path / "no" / ".lock"), written, [__file__])
        assert f"got {tmp_path}/no/.lock: No such file or directory" in missing


def test_an_installation_elsewhere_is_explained(tmp_path: Path) -> None:
    path = str(tmp_path / "recipe.py")
    assert find_fault("unread", "", [__file__, path]) == (
        f"expected {path} as on the machine that started the sweep, got nothing; "
        "install the same at the same paths on every machine"
    )
