"""Tables and plots say what was measured and what the paper says, and no more."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from matplotlib.figure import Figure

from drama_torchrl.gridworld.plots import draw_grid_world, draw_memory
from drama_torchrl.gridworld.study import Row
from drama_torchrl.gridworld.tables import (
    PAPER,
    grid_world_table,
    memory_table,
    origin,
    to_csv,
)
from drama_torchrl.gridworld.training import Cost
from drama_torchrl.report.plots import to_png

ERRORS = {"geometric": 1.0, "logic": 3.0, "error": 2.0}
ROWS = [
    Row("mamba2", 208, 3_200_000, Cost(12.34, 5.6, 0.1), ERRORS),
    Row("mamba2", 1664, 3_200_000, Cost(99.9, 7.8, 0.1), ERRORS),
    Row("transformer", 1664, 3_100_000, None, {}, "out of memory"),
    Row("gru", 52, 50_000, Cost(150.0, None, 0.25), ERRORS),
]
MEMORY = [
    Row("gru", 64, 50_000, Cost(3.0, 0.5, 0.25), {"goal": 12.5}),
    Row("gru", 16384, 50_000, None, {}, "out of memory"),
]


def test_the_papers_numbers_stand_beside_ours() -> None:
    table = grid_world_table(ROWS, "Note.")
    assert table.rows == [
        ["Mamba-2", "208", "3.2", "12.3", "5.6", "25", "13", "1", "3", "2"],
        ["Mamba-2", "1664", "3.2", "99.9", "7.8", "214", "55", "1", "3", "2"],
        ["Transformer", "1664", "3.1", "out of memory", "–", "out of memory", "–"]
        + ["–"] * 3,
        ["GRU", "52", "0.05", "150", "–", "–", "–", "1", "3", "2"],
    ]
    assert len(table.header) == len(table.rows[0])


def test_the_papers_numbers_are_those_of_its_table() -> None:
    lines = """
        mamba2 208 25 13, mamba2 1664 214 55, mamba 208 34 14, mamba 1664 299 52,
        gru 208 75 66, gru 1664 628 68, transformer 208 45 17
    """
    expected = {
        (model, int(length)): (int(ms), int(memory))
        for model, length, ms, memory in (line.split() for line in lines.split(","))
    }
    assert expected | {("transformer", 1664): None} == PAPER


def test_the_missing_error_column_is_said_to_be_missing() -> None:
    table = grid_world_table(ROWS, "Note.")
    assert "column empty" in table.note
    assert not any("paper error" in name for name in table.header)


def test_the_memory_table_has_a_row_for_each_number_of_steps() -> None:
    assert memory_table(MEMORY, "Note.").rows == [
        ["GRU", "64", "0.05", "3", "0.5", "12.5"],
        ["GRU", "16384", "0.05", "out of memory", "–", "–"],
    ]


def test_csv_has_everything_and_leaves_out_what_is_unknown() -> None:
    rows = list(csv.DictReader(to_csv(ROWS).splitlines()))
    assert rows[0]["ms"] == "12.34"
    assert rows[0]["geometric_percent"] == "1.0"
    assert rows[2]["ms"] == rows[2]["error_percent"] == ""
    assert rows[2]["failure"] == "out of memory"
    assert rows[3]["peak_gb"] == ""


def lines_of(figure: Figure) -> list[dict[str, list[list[float]]]]:
    return [
        {
            str(line.get_label()): np.asarray(line.get_xydata()).tolist()
            for line in axes.get_lines()
        }
        for axes in figure.axes
    ]


def test_the_plot_shows_ours_and_the_papers_times() -> None:
    times, memory, errors = lines_of(draw_grid_world(ROWS))
    assert times["Mamba-2"] == [[208, 12.34], [1664, 99.9]]
    assert [[208, 25], [1664, 214]] in times.values()
    assert memory == {"Mamba-2": [[208, 5.6], [1664, 7.8]]}
    assert errors["GRU"] == [[52, 2.0]]
    assert "Transformer" not in times


def test_the_memory_plot_has_a_point_for_each_row_that_has_one() -> None:
    _, memory, errors = lines_of(draw_memory(MEMORY))
    assert memory == {"GRU": [[64, 0.5]]}
    assert errors == {"GRU": [[64, 12.5]]}


@pytest.mark.parametrize("draw", [draw_grid_world, draw_memory])
@pytest.mark.parametrize("count", [1, 2])
def test_a_plot_can_be_drawn_of_failures_alone(draw: object, count: int) -> None:
    assert callable(draw)
    failed = [Row("gru", 2**i, 1, None, {}, "out of memory") for i in range(count)]
    assert to_png(draw(failed))[:4] == b"\x89PNG"


def test_the_text_says_on_what_it_was_measured() -> None:
    found = {"device": "X1", "versions": {"torch": "2.11"}, "commit": "0123456-dirty"}
    assert origin(found) == "Ours: X1, torch 2.11, commit 0123456 with changes."
