"""Tables and plots of all speed measurements at hand.

    python -m benchmarks.report_speed

Reads every ``*.json`` that a benchmark wrote to ``benchmarks/results/speed``, whatever
its name, and writes ``speed.md`` and the plots beside them. Benchmarks without a JSON
have no section: what was not measured is not claimed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from benchmarks import speed_plots, speed_tables
from benchmarks.harness import RESULTS
from benchmarks.speed_tables import Report
from drama_torchrl.record import replacing
from drama_torchrl.report.plots import to_png
from drama_torchrl.report.table import Table, to_markdown

__all__ = ["main", "read_reports", "write_page"]


class Section(NamedTuple):
    """What is made of the JSON of one benchmark."""

    tables: Callable[[Report], list[Table]]
    draw: Callable[[Report], Figure] | None = None


# In the order of the page.
SECTIONS = {
    "bench_step": Section(speed_tables.step_tables, speed_plots.draw_step),
    "bench_recipe": Section(speed_tables.recipe_tables),
    "bench_parallel": Section(speed_tables.parallel_tables),
    "bench_imagination": Section(
        speed_tables.imagination_tables, speed_plots.draw_imagination
    ),
    "bench_dynamics": Section(speed_tables.dynamics_tables, speed_plots.draw_dynamics),
    "bench_ssd": Section(speed_tables.ssd_tables, speed_plots.draw_ssd),
    "bench_sampler": Section(speed_tables.sampler_tables, speed_plots.draw_samplers),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the measurements, write the page and the plots; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="where JSONs are")
    parser.add_argument("--out", type=Path, help="where to write (default: there)")
    args = parser.parse_args(arguments)
    reports = read_reports(args.results)
    if not reports:
        print(f"{args.results}: no measurements; run a benchmark", file=sys.stderr)
        return 1
    page = write_page(reports, args.out or args.results)
    print(page.read_text(), end="")
    return 0


def read_reports(folder: Path) -> list[tuple[str, Report]]:
    """Read the measurements in a folder.

    Returns:
        Names of the files, without ``.json``, and contents, by :data:`SECTIONS` and
        name; JSONs that no benchmark wrote are passed over.
    """
    contents = (
        (p.stem, json.loads(p.read_text())) for p in sorted(folder.glob("*.json"))
    )
    found = [
        (name, report)
        for name, report in contents
        if isinstance(report, dict) and report.get("bench") in SECTIONS
    ]
    order = list(SECTIONS)
    return sorted(found, key=lambda named: order.index(named[1]["bench"]))


def write_page(reports: Iterable[tuple[str, Report]], out: Path) -> Path:
    """Write ``speed.md``, and a PNG for each measurement that has times to plot.

    Returns:
        The path of the page.
    """
    out.mkdir(parents=True, exist_ok=True)
    parts = ["# Speed", ""]
    for name, report in reports:
        section = SECTIONS[report["bench"]]
        parts += [to_markdown(table) for table in section.tables(report)]
        if section.draw is not None and speed_tables.has_times(report):
            image = to_png(section.draw(report))
            with replacing(out / f"{name}.png") as temporary:
                temporary.write_bytes(image)
            parts += [f"![{name}]({name}.png)", ""]
    page = out / "speed.md"
    with replacing(page) as temporary:
        temporary.write_text("\n".join(parts))
    return page


if __name__ == "__main__":
    sys.exit(main())
