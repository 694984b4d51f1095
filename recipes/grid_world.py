"""Compare the dynamics models in the paper's grid world (its Table 2).

    python recipes/grid_world.py               # full sizes, for a GPU
    python recipes/grid_world.py preset=quick  # small ones, minutes on a CPU

Each model learns the next token of walks of 208 and 1664 tokens, 8 and 64 steps of a
frame and a move. What an update costs and what the predicted frames get wrong stands
beside the paper's times in ``runs/grid-world``: ``table.md``, ``table.csv``,
``plot.png``, and ``result.json`` with all options. A directory with anything in it is
refused; ``out`` names another. Options are ``key=value``:

"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields
from functools import partial

from drama_torchrl.factories import make_device
from drama_torchrl.gridworld.options import GridWorldOptions, read_options
from drama_torchrl.gridworld.outcome import write_study
from drama_torchrl.gridworld.plots import draw_grid_world
from drama_torchrl.gridworld.study import Row, study_grid_world
from drama_torchrl.gridworld.tables import grid_world_table


def main(arguments: Sequence[str]) -> list[Row]:
    """Run the study, write its files, and return what they say."""
    options = read_options(GridWorldOptions, arguments)
    device = make_device(options.device, "device")
    return write_study(
        options,
        device,
        study_grid_world(options),
        grid_world_table,
        draw_grid_world,
        say=partial(print, flush=True),
    )


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__, *(spec.name for spec in fields(GridWorldOptions)), sep="\n")
        sys.exit()
    try:
        main(sys.argv[1:])
    except ValueError as error:  # what this package says about bad input
        sys.exit(f"error: {error}")
