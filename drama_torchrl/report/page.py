"""The report as one HTML file that needs nothing else."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from drama_torchrl.report.runs import Run
from drama_torchrl.report.sections import TITLE, Picture, Section
from drama_torchrl.report.table import to_html
from drama_torchrl.report.variants import Variant

__all__ = ["write_page"]

# Were anything external to slip in, a browser would not fetch it.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fff;
  max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; }
p, li { max-width: 50rem; }
img { max-width: 100%; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; }
th, td { padding: 0.25rem 0.75rem; border-bottom: 1px solid #ddd; text-align: left;
  vertical-align: top; }
th { border-bottom: 2px solid #888; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
td.number { white-space: nowrap; }
.films { display: grid; gap: 1.5rem;
  grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); }
.png { grid-column: 1 / -1; }
figure { margin: 0; } figcaption { font-size: 0.85rem; color: #444; }
"""


def write_page(
    paragraphs: Sequence[str],
    sections: Sequence[Section],
    variants: Sequence[Variant],
) -> str:
    """Write a report in HTML, pictures and films inside.

    Args:
        paragraphs: before the first section; those after the first become a list.
        sections: tables and pictures.
        variants: whose films are shown, one for each game.
    """
    first, *others = map(escape, paragraphs)
    listed = "".join(f"<li>{text}</li>" for text in others)
    return (
        "<!DOCTYPE html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{escape(TITLE)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(TITLE)}</h1>\n<p>{first}</p>\n<ul>{listed}</ul>\n"
        f"{''.join(map(_to_html, sections))}{_show_films(variants)}"
        "</body>\n</html>\n"
    )


def _to_html(section: Section) -> str:
    if not isinstance(section, Picture):
        return to_html(section)
    image = _embed(section.png, "png", section.title)
    return (
        f"<section><h2>{escape(section.title)}</h2>\n<p>{escape(section.note)}</p>\n"
        f"{image}</section>\n"
    )


def _show_films(variants: Sequence[Variant]) -> str:
    filmed = list(_choose_films(variants))
    if not filmed:
        return ""
    figures = "\n".join(_figure(caption, film) for caption, film in filmed)
    return (
        "<section><h2>Imagination beside reality</h2>\n<p>The real frame, the world "
        "model's and their difference. White or grey beside them: the model sees the "
        "real frames; orange: it imagines, along the real actions. The newest film of "
        "the first seed of each game that has one, or its strip.</p>\n"
        f"<div class='films'>\n{figures}\n</div></section>\n"
    )


def _figure(caption: str, film: Path) -> str:
    kind = film.suffix[1:]
    return (
        f"<figure class='{kind}'>{_embed(film.read_bytes(), kind, caption)}"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _choose_films(variants: Sequence[Variant]) -> Iterator[tuple[str, Path]]:
    """One film per game and variant: a film is megabytes, a benchmark 130 runs."""
    for variant in variants:
        for game, runs in variant.by_game.items():
            run = next((run for run in runs if run.film), None)
            if run and run.film:
                yield _describe_film(game, variant, run), run.film


def _describe_film(game: str, variant: Variant, run: Run) -> str:
    name = run.film.stem if run.film else ""
    step = int(name.removeprefix("step-")) if name[5:].isdigit() else name
    return f"{game}, seed {run.seed}, {variant.name}, step {step}"


def _embed(data: bytes, kind: str, description: str) -> str:
    text = b64encode(data).decode("ascii")
    alt = escape(description, quote=True)
    return f"<img alt='{alt}' src='data:image/{kind};base64,{text}'>"
