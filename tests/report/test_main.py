"""The command writes a report that stands alone, or says why it cannot."""

from __future__ import annotations

import io
import re
import runpy
import sys
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from drama_torchrl.report.__main__ import ReportError, main
from tests.report.run_files import change_result, write_film, write_run


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "runs <b>"
    return [
        write_run(folder / "a", "Boxing", 1),
        write_run(folder / "b", "Boxing", 2, film=True),
        write_run(folder / "c", "Boxing", 3, film=True),
        write_run(folder / "d", "Pong", 1, film=True),
        change_result(write_run(folder / "cut", "Pong", 2), {"complete": False}),
    ]


def report(runs: list[Path], out: Path) -> str:
    main([*map(str, runs), "--out", str(out)])
    return (out / "report.html").read_text(encoding="utf-8")


class Page(HTMLParser):
    """What a page would fetch, and how it is nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        fetched = ("src", "href", "srcset", "data", "action", "poster")
        self.sources += [value or "" for name, value in attrs if name in fetched]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


class TestPage:
    def test_needs_nothing_from_outside(self, runs: list[Path], tmp_path: Path) -> None:
        html = report(runs, tmp_path / "out")
        assert re.search(r"https?:|//[a-z]", re.sub("base64,[^']*", "", html)) is None
        page = Page(html)
        assert page.open == []
        assert all(source.startswith("data:image/") for source in page.sources)
        assert {"script", "link", "iframe", "object"}.isdisjoint(page.tags)
        assert "@import" not in html
        assert "url(" not in html
        assert "default-src 'none'" in html

    def test_holds_plots_and_one_film_per_game(
        self, runs: list[Path], tmp_path: Path
    ) -> None:
        page = Page(report(runs, tmp_path / "out"))
        images = [
            Image.open(io.BytesIO(b64decode(source.partition("base64,")[2])))
            for source in page.sources
        ]
        assert [image.format for image in images] == ["PNG", "PNG", "GIF", "GIF"]
        # The first seed of Boxing has no film; the second one's is shown.
        films = [source for source in page.sources if "image/gif" in source]
        files = [run / "films" / "step-0100000.gif" for run in (runs[1], runs[3])]
        assert [b64decode(film.partition("base64,")[2]) for film in films] == [
            file.read_bytes() for file in files
        ]

    def test_shows_a_strip_where_no_film_was_kept(
        self, runs: list[Path], tmp_path: Path
    ) -> None:
        films = runs[3] / "films"
        write_film(films / "step-0100000.png", 7)
        (films / "step-0100000.gif").unlink()
        page = Page(report(runs, tmp_path / "out"))
        shown = b64decode(page.sources[-1].removeprefix("data:image/png;base64,"))
        assert shown == (films / "step-0100000.png").read_bytes()

    def test_captions_name_the_film(self, runs: list[Path], tmp_path: Path) -> None:
        html = report(runs, tmp_path / "out")
        assert "<figcaption>Boxing, seed 2, ours, step 100000</figcaption>" in html

    def test_shows_text_as_text(self, runs: list[Path], tmp_path: Path) -> None:
        html = report(runs, tmp_path / "out")
        assert "runs &lt;b&gt;/a" in html
        assert "<b>" not in html

    def test_without_films_has_no_section_for_them(self, tmp_path: Path) -> None:
        html = report([write_run(tmp_path / "run")], tmp_path / "out")
        assert "Imagination" not in html


class TestMarkdown:
    def test_has_every_section_and_its_pictures(
        self, runs: list[Path], tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        report(runs, out)
        text = (out / "report.md").read_text(encoding="utf-8")
        assert re.findall("^## (.*)", text, re.MULTILINE) == [
            *("Training score", "Final score", "Human-normalised scores"),
            *("Performance profile", "Learning curves", "Cost", "Left out", "Runs"),
        ]
        for name in re.findall(r"!\[.*\]\((.*)\)", text):
            with Image.open(out / name) as image:
                image.verify()
        assert "| Boxing | 0 | 12 | 78 | 6.0 [6.0, 6.0] (3) |" in text
        assert f"| {runs[-1]} | incomplete: 100000 of 100000 steps |" in text

    def test_only_whole_files_are_left(self, runs: list[Path], tmp_path: Path) -> None:
        out = tmp_path / "out"
        report(runs, out)
        assert sorted(file.name for file in out.iterdir()) == [
            *("learning_curves.png", "performance_profile.png"),
            *("report.html", "report.md"),
        ]


def test_the_same_runs_give_the_same_report(runs: list[Path], tmp_path: Path) -> None:
    assert report(runs, tmp_path / "one") == report(runs, tmp_path / "two")


def test_what_is_left_out_is_said(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(runs, tmp_path / "out")
    said = capsys.readouterr().out
    assert f"left out {runs[-1]}: incomplete: 100000 of 100000 steps" in said
    assert "counted 4 runs" in said


class TestErrors:
    def test_no_run_directory_is_an_error(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as stop:
            main([])
        assert stop.value.code == 2
        assert "required: RUN_DIR" in capsys.readouterr().err

    def test_no_usable_run_is_an_error_that_names_the_reasons(
        self, runs: list[Path], tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        with pytest.raises(ReportError, match="at least one complete run") as error:
            report([runs[-1], tmp_path / "nowhere"], out)
        assert "cut: incomplete: 100000 of 100000 steps" in str(error.value)
        assert "nowhere: foreign: expected a run directory" in str(error.value)
        assert not out.exists()

    def test_a_file_in_the_place_of_the_report_is_an_error(
        self, runs: list[Path], tmp_path: Path
    ) -> None:
        (tmp_path / "out").write_text("")
        with pytest.raises(ReportError, match=r"--out .*out: .* File exists"):
            report(runs, tmp_path / "out")

    def test_the_command_ends_with_the_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "argv", ["report", str(tmp_path / "nowhere")])
        monkeypatch.delitem(sys.modules, "drama_torchrl.report.__main__")
        with pytest.raises(SystemExit) as stop:
            runpy.run_module("drama_torchrl.report", run_name="__main__")
        assert str(stop.value.code).startswith("error: expected at least one complete")
