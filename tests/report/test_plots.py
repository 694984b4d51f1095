"""Plots show the runs, their mean and the paper."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from drama_torchrl.report.plots import (
    average_curves,
    draw_learning_curves,
    draw_profiles,
    to_png,
)
from drama_torchrl.report.runs import collect_runs
from drama_torchrl.report.variants import Variant, group_variants
from tests.report.run_files import write_run

FIRST = [(1000 * i, float(i)) for i in range(1, 7)]
SECOND = [(1000 * i + 500, float(10 * i)) for i in range(1, 7)]


@pytest.fixture
def variants(tmp_path: Path) -> list[Variant]:
    paths = [
        write_run(tmp_path / "a", "Boxing", 1, episodes=FIRST),
        write_run(tmp_path / "b", "Boxing", 2, episodes=SECOND),
        write_run(tmp_path / "c", "PrivateEye", 1),
        write_run(tmp_path / "d", "Boxing", 1, options=["acting.latent=prior"]),
    ]
    return group_variants(collect_runs(paths).runs)


def lines(axes: Axes, label: str) -> list[list[tuple[float, float]]]:
    return [
        [(float(x), float(y)) for x, y in np.asarray(line.get_xydata())]
        for line in axes.lines
        if line.get_label() == label
    ]


def test_curves_hold_their_value_until_their_next_point() -> None:
    steps, means = average_curves(
        [[(10, 0.0), (30, 6.0)], [(20, 2.0), (40, 4.0)], [(5, 1.0)]]
    )
    assert steps.tolist() == [20.0, 30.0, 40.0]
    # Sums of held values: 0 + 2 + 1, then 6 + 2 + 1, then 6 + 4 + 1.
    assert means == pytest.approx([1.0, 3.0, 11 / 3])


def test_one_curve_is_its_own_average() -> None:
    steps, means = average_curves([FIRST])
    assert list(zip(steps, means, strict=True)) == FIRST


class TestLearningCurves:
    def test_seeds_and_their_mean_are_drawn(self, variants: list[Variant]) -> None:
        boxing = draw_learning_curves(variants).axes[0]
        assert boxing.get_title("left") == "Boxing"
        thin = np.asarray(boxing.lines[0].get_xydata()).tolist()
        # Means of up to five: the sixth is (2 + 3 + 4 + 5 + 6) / 5.
        assert thin == [
            [1000, 1.0], [2000, 1.5], [3000, 2.0],
            [4000, 2.5], [5000, 3.0], [6000, 4.0],
        ]  # fmt: skip
        (mean,) = lines(boxing, "ours")
        assert mean[0] == (1500.0, 5.5)
        assert mean[-1] == (6500.0, 22.0)

    def test_the_paper_is_a_line(self, variants: list[Variant]) -> None:
        boxing, private_eye = draw_learning_curves(variants).axes[:2]
        assert {y for _, y in lines(boxing, "Drama paper")[0]} == {78.0}
        assert {y for _, y in lines(private_eye, "Drama paper")[0]} == {90.0}

    def test_a_human_far_above_does_not_flatten_the_curve(
        self, variants: list[Variant]
    ) -> None:
        private_eye = draw_learning_curves(variants).axes[1]
        assert lines(private_eye, "human") == []
        assert private_eye.get_title("right") == "human 69571 ↑"
        assert private_eye.get_ylim()[1] < 100.0

    def test_a_variant_without_the_game_is_absent(
        self, variants: list[Variant]
    ) -> None:
        figure = draw_learning_curves(variants)
        assert len(lines(figure.axes[0], "acting.latent=prior")) == 1
        assert lines(figure.axes[1], "acting.latent=prior") == []

    def test_the_legend_names_everything_once(self, variants: list[Variant]) -> None:
        (legend,) = draw_learning_curves(variants).legends
        assert [text.get_text() for text in legend.get_texts()] == [
            *("ours", "acting.latent=prior"),
            *("Drama paper", "human", "random"),
        ]

    def test_a_legend_of_long_names_is_not_cut_off(
        self, variants: list[Variant]
    ) -> None:
        names = [f"world_model.{name}=" + 30 * "x" for name in ("dynamics", "filters")]
        long = [replace(v, name=n) for v, n in zip(variants, names, strict=True)]
        figure = draw_learning_curves(long)
        FigureCanvasAgg(figure).draw()
        (legend,) = figure.legends
        assert legend.get_window_extent().x1 <= figure.bbox.x1


class TestProfiles:
    def test_each_set_of_games_has_a_row(self, variants: list[Variant]) -> None:
        titles = [axes.get_title("left") for axes in draw_profiles(variants).axes]
        assert titles == [
            "Training score, Boxing, PrivateEye",
            "Final score, Boxing, PrivateEye",
            "Training score, Boxing",
            "Final score, Boxing",
        ]

    def test_curves_fall_from_one_to_zero(self, variants: list[Variant]) -> None:
        for axes in draw_profiles(variants).axes:
            for line in axes.lines[:-1]:  # the last one marks human play
                shares = np.asarray(line.get_ydata())
                assert (shares[0], shares[-1]) == (1.0, 0.0)
                assert (np.diff(shares) <= 0).all()

    def test_the_number_of_runs_is_named(self, variants: list[Variant]) -> None:
        boxing = draw_profiles(variants).axes[2]
        assert boxing.get_legend_handles_labels()[1] == [
            "ours (n = 2)",
            "acting.latent=prior (n = 1)",
            "Drama paper",
        ]


def test_pictures_are_png(variants: list[Variant]) -> None:
    with Image.open(io.BytesIO(to_png(draw_profiles(variants)))) as image:
        image.verify()
        assert image.format == "PNG"
