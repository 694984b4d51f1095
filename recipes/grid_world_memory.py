"""Ask the dynamics models for what they saw thousands of steps ago.

    python recipes/grid_world_memory.py               # full sizes, for a GPU
    python recipes/grid_world_memory.py preset=quick  # small ones, minutes on a CPU

The grid world, with the goal in the first frame alone: T moves follow without a frame,
one token each, and then the whole frame is asked for, T up to 16 384. How often the
goal is wrong, by model and by T, stands in ``runs/grid-world-memory`` beside what an
update costs: ``table.md``, ``table.csv``, ``plot.png``, and ``result.json`` with all
options. A directory with anything in it is refused; ``out`` names another. Options are
``key=value``:

"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields
from functools import partial

from drama_torchrl.factories import make_device
from drama_torchrl.gridworld.options import MemoryOptions, read_options
from drama_torchrl.gridworld.outcome import write_study
from drama_torchrl.gridworld.plots import draw_memory
from drama_torchrl.gridworld.study import Row, study_memory
from drama_torchrl.gridworld.tables import memory_table


def main(arguments: Sequence[str]) -> list[Row]:
    """Run the study, write its files, and return what they say."""
    options = read_options(MemoryOptions, arguments)
    device = make_device(options.device, "device")
    return write_study(
        options,
        device,
        study_memory(options),
        memory_table,
        draw_memory,
        say=partial(print, flush=True),
    )


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__, *(spec.name for spec in fields(MemoryOptions)), sep="\n")
        sys.exit()
    try:
        main(sys.argv[1:])
    except ValueError as error:  # what this package says about bad input
        sys.exit(f"error: {error}")
