"""Both studies from the command line to their files."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from drama_torchrl.config import ConfigError
from recipes import grid_world, grid_world_memory
from tests.reference.backbones import KINDS

TINY = [
    "preset=quick",
    "device=cpu",
    "batch=2",
    "evaluation=2",
    "d_model=16",
    "head_dim=8",
    "attention_heads=2",
    "updates=1",
]
STUDIES = {
    "grid_world": (grid_world.main, ["lengths=52,78"], "tokens", [52, 78]),
    "grid_world_memory": (
        grid_world_memory.main,
        ["steps=3,5", "first_updates=1"],
        "steps T",
        [3, 5],
    ),
}
Main = Callable[[Sequence[str]], list[Any]]


@pytest.mark.parametrize(
    ("main", "arguments", "column", "lengths"), STUDIES.values(), ids=STUDIES
)
def test_a_study_leaves_tables_a_plot_and_its_options(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    main: Main,
    arguments: list[str],
    column: str,
    lengths: list[int],
) -> None:
    out = tmp_path / "new" / "folder"
    rows = main([*TINY, *arguments, f"out={out}"])
    expected = {(kind, length) for kind in KINDS for length in lengths}
    assert {(row.model, row.length) for row in rows} == expected
    assert sorted(path.name for path in out.iterdir()) == [
        "plot.png",
        "result.json",
        "table.csv",
        "table.md",
    ]
    table = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    assert {(row["model"], int(row["length"])) for row in table} == expected
    markdown = (out / "table.md").read_text()
    assert column in markdown
    assert "Preset quick, 2 sequences" in markdown
    assert markdown.count("\n| ") == 2 + len(expected)
    assert (out / "plot.png").read_bytes()[:4] == b"\x89PNG"
    result = json.loads((out / "result.json").read_text())
    assert result["options"]["d_model"] == 16
    assert result["provenance"]["commit"]
    assert len(result["rows"]) == len(expected)
    assert all(row["cost"]["ms"] > 0 for row in result["rows"])
    said = capsys.readouterr().out.splitlines()
    assert len(said) == len(expected) + 1


@pytest.mark.parametrize("main", [grid_world.main, grid_world_memory.main])
def test_a_wrong_option_writes_nothing(tmp_path: Path, main: Main) -> None:
    with pytest.raises(ConfigError, match="batch"):
        main([*TINY, "batch=0", f"out={tmp_path / 'out'}"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("main", "arguments"),
    [(main, arguments) for main, arguments, *_ in STUDIES.values()],
    ids=STUDIES,
)
def test_a_study_that_is_there_is_kept(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    main: Main,
    arguments: list[str],
) -> None:
    out = tmp_path / "study"
    options = [*TINY, *arguments, "models=gru", f"out={out}"]
    main(options)
    before = {path: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()
    for again in (options, [*options, "batch=1"]):
        message = r"^out=.*study: expected a new .* plot\.png, .*choose another out or"
        with pytest.raises(ValueError, match=message):
            main(again)
    assert capsys.readouterr().out == ""  # no row: nothing was trained
    assert {path: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("main", [grid_world.main, grid_world_memory.main])
def test_a_study_that_cannot_be_written_is_not_started(main: Main) -> None:
    with pytest.raises(ConfigError, match=r"^out=/proc/study: .*choose another out"):
        main([*TINY, "out=/proc/study"])
