"""The files of a study, written anew after each row, so that none is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from drama_torchrl.gridworld.options import StudyOptions
from drama_torchrl.gridworld.study import Row
from drama_torchrl.gridworld.tables import describe, origin, to_csv
from drama_torchrl.gridworld.training import Cost
from drama_torchrl.record import provenance
from drama_torchrl.record.atomic import replacing, write_json
from drama_torchrl.record.new_directory import explaining, make_new_directory
from drama_torchrl.report.plots import to_png
from drama_torchrl.report.table import Table, to_markdown

__all__ = ["read_rows", "write_study", "write_tables"]


def write_study(
    options: StudyOptions,
    device: torch.device,
    rows: Iterable[Row],
    table: Callable[[Sequence[Row], str], Table],
    draw: Callable[[Sequence[Row]], Figure],
    say: Callable[[str], object],
) -> list[Row]:
    """Run a study and write ``table.md``, ``table.csv``, ``plot.png``, ``result.json``.

    Args:
        options: of the study; they go into the JSON, and ``out`` names the directory,
            which must not exist or be empty.
        device: where it runs.
        rows: makes them, one after the other.
        table: makes a table of rows and a note.
        draw: makes a plot of them.
        say: is told each row in a line, then where the files are.

    Returns:
        All rows.

    Raises:
        RunExistsError: if anything is in the directory; no row is made.
        ConfigError: if it cannot be made.
    """
    out = Path(options.out)
    with explaining(out, "out"):
        make_new_directory(out, "out")
    result = {"provenance": provenance(device), "options": asdict(options)}
    done: list[Row] = []
    for row in rows:
        done.append(row)
        say(describe(row))
        write_tables(out, result, done, table, draw)
        plain = [_plain(each) for each in done]
        write_json(out / "result.json", result | {"rows": plain})
    say(f"wrote {out}")
    return done


def write_tables(
    out: Path,
    result: Mapping[str, Any],
    rows: Sequence[Row],
    table: Callable[[Sequence[Row], str], Table],
    draw: Callable[[Sequence[Row]], Figure],
) -> None:
    """Write ``table.md``, ``table.csv`` and ``plot.png`` of rows.

    Args:
        out: a directory.
        result: ``"provenance"`` and ``"options"``, as in ``result.json``.
        rows: what was measured.
        table: makes a table of rows and a note.
        draw: makes a plot of them.
    """
    options = result["options"]
    note = (
        f"{origin(result['provenance'])} Preset {options['preset']}, "
        f"{options['batch']} sequences."
    )
    written = {
        "table.md": to_markdown(table(rows, note)).encode(),
        "table.csv": to_csv(rows).encode(),
        "plot.png": to_png(draw(rows)),
    }
    for name, content in written.items():
        with replacing(out / name) as temporary:
            temporary.write_bytes(content)


def read_rows(result: Mapping[str, Any]) -> list[Row]:
    """Give the rows of a ``result.json``."""
    return [
        Row(**row | {"cost": None if row["cost"] is None else Cost(**row["cost"])})
        for row in result["rows"]
    ]


def _plain(row: Row) -> dict[str, object]:
    cost = None if row.cost is None else row.cost._asdict()
    return asdict(row) | {"cost": cost}
