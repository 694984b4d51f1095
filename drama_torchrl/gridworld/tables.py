"""What the two studies found, as tables and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from drama_torchrl.gridworld.study import OUT_OF_MEMORY, Row
from drama_torchrl.report.table import Table

__all__ = [
    "NAMES",
    "PAPER",
    "describe",
    "grid_world_table",
    "memory_table",
    "origin",
    "peak_gb_of",
    "to_csv",
]

NAMES = {
    "mamba2": "Mamba-2",
    "mamba3": "Mamba-3",
    "mamba": "Mamba",
    "gru": "GRU",
    "transformer": "Transformer",
}
# Table 2: milliseconds of training and memory usage in percent, of an unnamed device.
PAPER: Mapping[tuple[str, int], tuple[int, int] | None] = {
    ("mamba2", 208): (25, 13),
    ("mamba2", 1664): (214, 55),
    ("mamba", 208): (34, 14),
    ("mamba", 1664): (299, 52),
    ("gru", 208): (75, 66),
    ("gru", 1664): (628, 68),
    ("transformer", 208): (45, 17),
    ("transformer", 1664): None,  # out of memory
}
"""Milliseconds and memory of the paper's Table 2; None where memory was exceeded."""
_ABSENT = "–"
_SOURCE = (
    "The paper's own errors are not shown: the copy of its text that this table was "
    "made from has that column empty. Its times and its memory, in percent of the "
    "GPU's, are of a GPU, batch size and number of updates that it does not name."
)


def origin(provenance: Mapping[str, Any]) -> str:
    """Say on what and by what rows were measured, in a sentence.

    Args:
        provenance: as :func:`drama_torchrl.record.provenance` gives it.

    Example:
        >>> origin({"device": "a CPU", "versions": {"torch": "2.11.0"}, "commit": None})
        'Ours: a CPU, torch 2.11.0, commit unknown.'
    """
    commit = provenance["commit"] or "unknown"
    changed = " with changes" if commit.endswith("-dirty") else ""
    return (
        f"Ours: {provenance['device']}, torch {provenance['versions'].get('torch')}, "
        f"commit {commit[:7]}{changed}."
    )


def grid_world_table(rows: Iterable[Row], note: str) -> Table:
    """Set out Table 2, the paper's times and memory beside ours.

    Args:
        rows: what was measured.
        note: what to say of it.
    """
    cells = []
    for row in rows:
        known = PAPER.get((row.model, row.length), (None, None))
        paper = (OUT_OF_MEMORY, _ABSENT) if known is None else map(_number, known)
        errors = [row.errors.get(name) for name in ("geometric", "logic", "error")]
        cells.append(
            [
                NAMES[row.model],
                str(row.length),
                _number(row.parameters / 1e6),
                *_costs(row),
                *paper,
                *map(_number, errors),
            ]
        )
    header = ["model", "tokens", "M parameters", "ms", "peak GB", "paper ms"]
    header += ["paper memory %", "geometric error %", "logic error %", "error %"]
    about = (
        f"{note} Training time is the median of an update's; the errors are of frames "
        "predicted on fresh walks: cells that break a frame's geometry, frames that "
        f"fail to follow the move, and the average of both (A.6). {_SOURCE}"
    )
    return Table("Grid world (the paper's Table 2)", about, header, cells)


def memory_table(rows: Iterable[Row], note: str) -> Table:
    """Set out the error of the goal against the steps since it was seen.

    Args:
        rows: what was measured.
        note: what to say of it.
    """
    cells = [
        [
            NAMES[row.model],
            str(row.length),
            _number(row.parameters / 1e6),
            *_costs(row),
            _number(row.errors.get("goal")),
        ]
        for row in rows
    ]
    about = (
        f"{note} A goal is seen in the first frame alone; after T moves without a "
        "frame the whole frame is asked for. The error is the share of answers without "
        "one goal in its place; guesses are wrong in seven of eight at best. Each "
        "model learns at the fewest steps first and goes on from there."
    )
    header = ["model", "steps T", "M parameters", "ms", "peak GB", "goal error %"]
    return Table("Grid world: memory", about, header, cells)


def describe(row: Row) -> str:
    """Say in a line what was found.

    Args:
        row: one model at one length.

    Example:
        >>> describe(Row("gru", 208, 10, None, {}, "out of memory"))
        'GRU, 208: out of memory'
    """
    found = [row.failure] if row.failure else []
    if row.cost is not None:
        found.append(f"{_number(row.cost.ms)} ms")
    found += [f"{name} {_number(error)} %" for name, error in row.errors.items()]
    return f"{NAMES[row.model]}, {row.length}: {', '.join(found)}"


def to_csv(rows: Sequence[Row]) -> str:
    """Write rows as CSV, full precision, empty where nothing was measured.

    Args:
        rows: of one study.
    """
    names = list(dict.fromkeys(name for row in rows for name in row.errors))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    errors = [f"{name}_percent" for name in names]
    header = ["model", "length", "parameters", "ms", "peak_gb", "loss"]
    writer.writerow([*header, *errors, "failure"])
    for row in rows:
        cost = row.cost or (None, None, None)
        found = [row.errors.get(name) for name in names]
        start = [row.model, row.length, row.parameters]
        writer.writerow([*start, *cost, *found, row.failure])
    return text.getvalue()


def _costs(row: Row) -> list[str]:
    ms = row.failure if row.cost is None else _number(row.cost.ms)
    return [ms, _number(peak_gb_of(row))]


def peak_gb_of(row: Row) -> float | None:
    """Give the peak memory of a row's training, where it was measured."""
    return None if row.cost is None else row.cost.peak_gb


def _number(value: float | None) -> str:
    if value is None:
        return _ABSENT
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
