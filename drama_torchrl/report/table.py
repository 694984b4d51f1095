"""A table of text, and how it is written in Markdown and HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Table", "to_html", "to_markdown"]


@dataclass(frozen=True)
class Table:
    """A table of text.

    Args:
        title: a few words.
        note: what the numbers are; one paragraph.
        header: names of the columns; the first ones that are words, `words` of them,
            are set left.
        rows: cells.
        words: leading columns that hold words.
    """

    title: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1


def to_markdown(table: Table) -> str:
    r"""Write a table as a section of Markdown.

    Args:
        table: the table.

    Returns:
        Title, note and table, each followed by an empty line.

    Example:
        >>> print(to_markdown(Table("Runs", "Two.", ["game", "score"], [["a|b", "1"]])))
        ## Runs
        <BLANKLINE>
        Two.
        <BLANKLINE>
        | game | score |
        | :-- | --: |
        | a\|b | 1 |
        <BLANKLINE>
    """
    rule = [":--" if i < table.words else "--:" for i in range(len(table.header))]
    lines = [_line(table.header), _line(rule), *map(_line, table.rows)]
    grid = [*lines, ""] if table.rows else []
    return "\n".join([f"## {table.title}", "", table.note, "", *grid])


def to_html(table: Table) -> str:
    """Write a table as a section of HTML, all text escaped.

    Args:
        table: the table.

    Returns:
        A ``<section>`` with title, note and table.

    Example:
        >>> html = to_html(Table("Runs", "One.", ["game"], [["<b>"]]))
        >>> "<b>" in html, "&lt;b&gt;" in html
        (False, True)
    """
    head = _row("th", table.header, table.words)
    body = "\n".join(_row("td", row, table.words) for row in table.rows)
    grid = (
        f"<div class='wide'><table><thead>{head}</thead>"
        f"<tbody>\n{body}\n</tbody></table></div>\n"
    )
    return (
        f"<section><h2>{escape(table.title)}</h2>\n<p>{escape(table.note)}</p>\n"
        f"{grid if table.rows else ''}</section>\n"
    )


def _row(tag: str, cells: Sequence[str], words: int) -> str:
    kinds = ["" if i < words else " class='number'" for i in range(len(cells))]
    marked = (
        f"<{tag}{kind}>{escape(cell)}</{tag}>"
        for kind, cell in zip(kinds, cells, strict=True)
    )
    return f"<tr>{''.join(marked)}</tr>"


def _line(cells: Iterable[str]) -> str:
    plain = (" ".join(cell.split()).replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(plain)} |"
