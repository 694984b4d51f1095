"""Compare finished runs with the paper: tables, plots and one HTML page.

    python -m drama_torchrl.report runs/* --out report

Runs that are incomplete, given twice or of something else are named and left out. Runs
whose options differ in more than game and seed (apart from ``run_dir``, ``execution.*``
and ``log.*``) become columns of their own.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from drama_torchrl.record.atomic import replacing
from drama_torchrl.report.page import write_page
from drama_torchrl.report.runs import Collection, collect_runs
from drama_torchrl.report.sections import (
    Picture,
    make_sections,
    summarize,
    write_text,
)
from drama_torchrl.report.variants import group_variants

__all__ = ["ReportError", "main", "write_report"]


class ReportError(ValueError):
    """Nothing to report, or nowhere to."""


def write_report(collection: Collection, out: Path) -> list[Path]:
    """Write everything about the runs that count.

    Args:
        collection: the runs, at least one, and those left out.
        out: the directory; it is made, and an older report in it is replaced.

    Returns:
        The files: ``report.html``, ``report.md`` and its pictures.

    Raises:
        ReportError: without a run, or if the directory cannot be made.
    """
    if not collection.runs:
        reasons = "".join(f"\n  {r.path}: {r.reason}" for r in collection.refused)
        raise ReportError(
            "expected at least one complete run, got none; finish a run and name its "
            f"directory.{reasons}"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReportError(
            f"--out {out}: expected a directory that can be made, got "
            f"{error.strerror}; choose another"
        ) from error
    variants = group_variants(collection.runs)
    paragraphs = summarize(collection, variants)
    sections = make_sections(collection, variants)
    page = write_page(paragraphs, sections, variants)
    contents = {"report.html": page.encode()}
    contents["report.md"] = write_text(paragraphs, sections).encode()
    contents |= {s.name: s.png for s in sections if isinstance(s, Picture)}
    for name, content in contents.items():
        with replacing(out / name) as temporary:
            temporary.write_bytes(content)
    return [out / name for name in contents]


def main(arguments: Sequence[str]) -> None:
    """Read the runs, write the report and say what was left out.

    Args:
        arguments: run directories and ``--out``.

    Raises:
        ReportError: as :func:`write_report`.
    """
    parser = ArgumentParser(
        prog="python -m drama_torchrl.report",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("report"),
        metavar="DIR",
        help="default: report",
    )
    given = parser.parse_args(arguments)
    collection = collect_runs(given.runs)
    files = write_report(collection, given.out)
    lines = [f"left out {r.path}: {r.reason}" for r in collection.refused]
    lines += [f"counted {len(collection.runs)} runs", *(f"wrote {f}" for f in files)]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ReportError as error:
        sys.exit(f"error: {error}")
