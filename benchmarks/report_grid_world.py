"""Tables and plot of a grid-world study that was run in parts.

    python -m benchmarks.report_grid_world benchmarks/results/grid_world_memory

Models and lengths have seeds of their own: a study may be run in parts, some models or
lengths on each GPU, and is the same. The ``*.json`` in the folder are the parts'
``result.json``; ``table.md``, ``table.csv`` and ``plot.png`` are written beside them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from drama_torchrl.gridworld.outcome import read_rows, write_tables
from drama_torchrl.gridworld.plots import draw_grid_world, draw_memory
from drama_torchrl.gridworld.study import Row
from drama_torchrl.gridworld.tables import grid_world_table, memory_table
from drama_torchrl.options import DYNAMICS
from drama_torchrl.report.table import Table

__all__ = ["main"]

Part = Mapping[str, Any]


class Study(NamedTuple):
    """How the rows of a study are set out."""

    order: Callable[[Row], tuple[int, int]]
    table: Callable[[Sequence[Row], str], Table]
    draw: Callable[[Sequence[Row]], Figure]


# By the option that names its lengths.
STUDIES = {
    "lengths": Study(
        lambda row: (row.length, DYNAMICS.index(row.model)),
        grid_world_table,
        draw_grid_world,
    ),
    "steps": Study(
        lambda row: (DYNAMICS.index(row.model), row.length), memory_table, draw_memory
    ),
}
_SPLIT_BY = {"models", "out", *STUDIES}


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the parts, write the tables and the plot; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the parts are")
    folder = parser.parse_args(arguments).folder
    paths = sorted(folder.glob("*.json"))
    parts = [json.loads(path.read_text()) for path in paths]
    if not parts:
        print(f"{folder}: expected result.json of a study, found none", file=sys.stderr)
        return 1
    for path, part in zip(paths, parts, strict=True):
        if _circumstances(part) != _circumstances(parts[0]):
            print(
                f"{path}: expected the commit, device and options of {paths[0].name}, "
                "got others; one study to a folder",
                file=sys.stderr,
            )
            return 1
    options = parts[0]["options"]
    study = next(each for name, each in STUDIES.items() if name in options)
    rows = sorted((row for part in parts for row in read_rows(part)), key=study.order)
    write_tables(folder, parts[0], rows, study.table, study.draw)
    return 0


def _circumstances(part: Part) -> tuple[object, ...]:
    source = part["provenance"]
    options = {k: v for k, v in part["options"].items() if k not in _SPLIT_BY}
    return source["commit"], source["device"], source["versions"], options


if __name__ == "__main__":
    sys.exit(main())
