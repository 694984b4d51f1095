"""The learning curve shows the episodes, their running mean and the references."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from drama_torchrl.record.curve import plot_learning_curve, running_means

EPISODES = [(10 * i, float(i * i)) for i in range(1, 9)]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Axes]:
    """The axes of every figure that is saved."""
    saved: list[Axes] = []
    save = Figure.savefig

    def remember(figure: Figure, *args: object, **kwargs: object) -> None:
        saved.extend(figure.axes)
        save(figure, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Figure, "savefig", remember)
    return saved


def test_running_means_average_up_to_five_episodes() -> None:
    returns = [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0]
    assert running_means(returns) == [0.0, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0]


def test_dots_are_episodes_and_the_line_their_running_mean(
    tmp_path: Path, drawn: list[Axes]
) -> None:
    plot_learning_curve(EPISODES, tmp_path / "curve.png", game="Pong")
    dots, mean = drawn[0].lines
    assert np.column_stack(dots.get_data()).tolist() == [list(e) for e in EPISODES]
    assert np.asarray(mean.get_ydata())[-1] == pytest.approx(
        (16 + 25 + 36 + 49 + 64) / 5
    )
    assert drawn[0].get_title("left") == "Pong"
    with Image.open(tmp_path / "curve.png") as image:
        assert image.size == (960, 540)


def test_references_are_lines_with_labels(tmp_path: Path, drawn: list[Axes]) -> None:
    references = {"paper_score": 50.0, "human_score": 80.0, "random_score": -3.0}
    plot_learning_curve(EPISODES, tmp_path / "c.png", game="Pong", **references)
    heights = [float(np.asarray(line.get_ydata())[0]) for line in drawn[0].lines[2:]]
    assert heights == [-3.0, 50.0, 80.0]
    labels = [text.get_text() for text in drawn[0].texts]
    assert labels == ["random -3", "Drama paper 50", "human 80"]
    low, high = drawn[0].get_ylim()
    assert low < -3.0
    assert high > 80.0


def test_a_human_far_above_does_not_flatten_the_curve(
    tmp_path: Path, drawn: list[Axes]
) -> None:
    references = {"paper_score": 90.0, "human_score": 69571.0, "random_score": 25.0}
    plot_learning_curve(EPISODES, tmp_path / "c.png", game="PrivateEye", **references)
    assert drawn[0].get_ylim()[1] < 100.0
    assert len(drawn[0].lines) == 4
    assert drawn[0].texts[-1].get_text() == "human 69571 ↑"


def test_labels_of_close_scores_stay_apart(tmp_path: Path, drawn: list[Axes]) -> None:
    references = {"paper_score": 15.0, "human_score": 15.0, "random_score": 14.9}
    plot_learning_curve(EPISODES, tmp_path / "c.png", game="Pong", **references)
    heights = [text.xy[1] for text in drawn[0].texts]  # type: ignore[attr-defined]
    gaps = [b - a for a, b in pairwise(heights)]
    assert min(gaps) >= 0.06 - 1e-9


@pytest.mark.parametrize("human_score", [None, 12.0])
def test_a_run_without_episodes_still_has_a_curve(
    tmp_path: Path, drawn: list[Axes], human_score: float | None
) -> None:
    path = tmp_path / "curve.png"
    plot_learning_curve([], path, game="Boxing", human_score=human_score)
    assert "no episode has ended" in [text.get_text() for text in drawn[0].texts]
    assert path.is_file()


def test_equal_returns_can_be_drawn(tmp_path: Path, drawn: list[Axes]) -> None:
    plot_learning_curve([(1, -21.0), (2, -21.0)], tmp_path / "c.png", game="Pong")
    assert drawn[0].get_ylim() == (-22.0, -20.0)
