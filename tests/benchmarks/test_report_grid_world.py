"""One table of a study that was run in parts."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from benchmarks.report_grid_world import main
from drama_torchrl.gridworld.options import GridWorldOptions, MemoryOptions
from drama_torchrl.gridworld.outcome import write_study
from drama_torchrl.gridworld.plots import draw_grid_world, draw_memory
from drama_torchrl.gridworld.study import Row
from drama_torchrl.gridworld.tables import grid_world_table, memory_table
from drama_torchrl.gridworld.training import Cost

CPU = torch.device("cpu")


def row(model: str, length: int, ms: float, **errors: float) -> Row:
    return Row(model, length, 3_000_000, Cost(ms, 1.0, 0.1), errors)


def part(folder: Path, rows: Sequence[Row], options: MemoryOptions) -> None:
    write_study(options, CPU, rows, memory_table, draw_memory, say=lambda _: None)
    name = "-".join(options.models)
    (Path(options.out) / "result.json").rename(folder / f"{name}.json")


@pytest.fixture
def out(tmp_path: Path) -> str:
    return str(tmp_path / "out")


def test_parts_make_the_table_of_the_whole_study(tmp_path: Path, out: str) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    part(
        folder,
        [row("gru", 64, 3.0, goal=2.0), row("gru", 256, 4.0, goal=3.0)],
        MemoryOptions(models=["gru"], out=f"{out}-1"),
    )
    failed = Row("transformer", 64, 3_000_000, None, {}, "out of memory")
    part(
        folder,
        [failed, row("mamba2", 64, 1.0, goal=0.0)],
        MemoryOptions(models=["transformer", "mamba2"], out=f"{out}-2"),
    )
    assert main([str(folder)]) == 0
    with (folder / "table.csv").open(newline="") as file:
        found = [(r["model"], r["length"], r["ms"]) for r in csv.DictReader(file)]
    assert found == [
        ("mamba2", "64", "1.0"),
        ("gru", "64", "3.0"),
        ("gru", "256", "4.0"),
        ("transformer", "64", ""),
    ]
    table = (folder / "table.md").read_text()
    assert "| GRU | 256 | 3 | 4 | 1 | 3 |" in table
    assert (folder / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_lengths_come_first_in_the_papers_table(tmp_path: Path, out: str) -> None:
    rows = [row("gru", 208, 3.0), row("gru", 1664, 4.0), row("mamba2", 208, 1.0)]
    write_study(
        GridWorldOptions(out=out),
        CPU,
        rows,
        grid_world_table,
        draw_grid_world,
        say=lambda _: None,
    )
    assert main([out]) == 0
    with (tmp_path / "out" / "table.csv").open(newline="") as file:
        found = [(r["model"], r["length"]) for r in csv.DictReader(file)]
    assert found == [("mamba2", "208"), ("gru", "208"), ("gru", "1664")]


def test_a_part_of_another_study_is_refused(
    tmp_path: Path,
    out: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    part(folder, [row("gru", 64, 3.0)], MemoryOptions(models=["gru"], out=f"{out}-1"))
    other = MemoryOptions(models=["mamba"], learning_rate=1e-3, out=f"{out}-2")
    part(folder, [row("mamba", 64, 1.0)], other)
    assert main([str(folder)]) == 1
    assert "mamba.json: expected the commit, device and options of gru.json" in (
        capsys.readouterr().err
    )
    assert not (folder / "table.md").exists()


def test_a_folder_without_parts_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().err
