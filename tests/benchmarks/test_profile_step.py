"""Kernels of a step, added up by hand and found in a small one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.profile_step import Span, main, summarise


def test_what_runs_beside_each_other_is_busy_once() -> None:
    spans = [
        Span("late", 20.0, 24.0),
        Span("long", 0.0, 10.0),
        Span("inside", 2.0, 5.0),
        Span("across", 8.0, 13.0),
        Span("late", 24.0, 27.0),
    ]
    found = summarise(spans, calls=2)
    assert found["kernels"] == 2.5
    assert found["sum_us"] == 12.5
    assert found["busy_us"] == 10.0
    assert found["by_name"] == [
        ("long", 0.5, 5.0),
        ("late", 1.0, 3.5),
        ("across", 0.5, 2.5),
        ("inside", 0.5, 1.5),
    ]


def test_nothing_takes_no_time() -> None:
    assert summarise([], calls=1)["busy_us"] == 0.0


def test_all_parts_of_a_small_step_are_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "profile.json"
    assert main(["--smoke", "--top", "3", "--out", str(out)]) == 0
    parts = json.loads(out.read_text())["parts"]
    assert list(parts) == ["step", "world_model", "behaviour"]
    learners = parts["world_model"]["kernels"] + parts["behaviour"]["kernels"]
    assert parts["step"]["kernels"] == pytest.approx(learners, rel=0.05)
    for part in parts.values():
        assert 0 < part["busy_us"] <= part["sum_us"]
    assert capsys.readouterr().out.count("µs") == 9
