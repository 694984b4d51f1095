"""Everything that a report says, in its order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from drama_torchrl.report.caveats import find_caveats
from drama_torchrl.report.measures import MEASURES
from drama_torchrl.report.plots import draw_learning_curves, draw_profiles, to_png
from drama_torchrl.report.runs import Collection
from drama_torchrl.report.table import Table, to_markdown
from drama_torchrl.report.tables import (
    aggregate_table,
    cost_table,
    game_table,
    refusal_table,
    run_table,
)
from drama_torchrl.report.variants import Variant

__all__ = ["TITLE", "Picture", "Section", "make_sections", "summarize", "write_text"]

TITLE = "Drama on Atari100k, beside the paper"


@dataclass(frozen=True)
class Picture:
    """A plot.

    Args:
        title: a few words.
        note: what is drawn; one paragraph.
        name: of the file in Markdown's directory.
        png: the image.
    """

    title: str
    note: str
    name: str
    png: bytes


Section: TypeAlias = Table | Picture


def make_sections(collection: Collection, variants: Sequence[Variant]) -> list[Section]:
    """Tables and plots of the runs that count, and the list of the others.

    Args:
        collection: from ``collect_runs``, with at least one run.
        variants: its runs, grouped.
    """
    return [
        *(game_table(variants, measure) for measure in MEASURES),
        aggregate_table(variants),
        Picture(
            "Performance profile",
            "The share of runs above each human-normalised score, averaged over games. "
            "Shades are 95 % stratified-bootstrap intervals. The dashed line has one "
            "point per game, the paper's mean of 5 seeds; the grey line is a human "
            "tester.",
            "performance_profile.png",
            to_png(draw_profiles(variants)),
        ),
        Picture(
            "Learning curves",
            "Mean of the last five training episodes: seeds thin, their mean thick; "
            "the dashed line is the paper's score after 100 000 steps.",
            "learning_curves.png",
            to_png(draw_learning_curves(variants)),
        ),
        cost_table(variants),
        refusal_table(collection.refused),
        run_table(variants),
    ]


def summarize(collection: Collection, variants: Sequence[Variant]) -> list[str]:
    """The paragraphs before the first section: what is counted, and its caveats."""
    games = {run.game for run in collection.runs}
    counted = (
        f"Complete runs: {len(collection.runs)}. Variants: {len(variants)}. "
        f"Games: {len(games)}. Directories left out: {len(collection.refused)}."
    )
    if len(variants) > 1:
        counted += " A variant is named by what it has else than its preset."
    return [counted, *find_caveats(variants)]


def write_text(paragraphs: Sequence[str], sections: Sequence[Section]) -> str:
    """Write a report in Markdown.

    Args:
        paragraphs: before the first section; those after the first become a list.
        sections: tables, and pictures that lie beside the file.
    """
    first, *others = paragraphs
    listed = [*(f"- {text}" for text in others), ""] if others else []
    head = "\n".join([f"# {TITLE}", "", first, "", *listed])
    return "\n".join([head, *map(_to_markdown, sections)])


def _to_markdown(section: Section) -> str:
    if isinstance(section, Table):
        return to_markdown(section)
    image = f"![{section.title}]({section.name})"
    return "\n".join([f"## {section.title}", "", section.note, "", image, ""])
