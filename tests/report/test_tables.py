"""Tables say exactly this."""

from __future__ import annotations

from pathlib import Path

import pytest

from drama_torchrl.report.caveats import find_caveats
from drama_torchrl.report.measures import MEASURES
from drama_torchrl.report.runs import Refusal, collect_runs
from drama_torchrl.report.table import Table, to_html, to_markdown
from drama_torchrl.report.tables import (
    aggregate_table,
    cost_table,
    game_table,
    refusal_table,
    run_table,
)
from drama_torchrl.report.variants import Variant, group_variants
from tests.report.run_files import write_evaluation, write_run

PRIOR = ["acting.latent=prior"]


@pytest.fixture
def variants(tmp_path: Path) -> list[Variant]:
    """Boxing with 2 seeds and Krull with 1; Boxing once more with the prior."""
    paths = [
        write_run(tmp_path / "a", "Boxing", 1, training=6.0, final=3.0, minutes=30),
        write_run(tmp_path / "b", "Boxing", 2, training=12.0, final=9.0, minutes=60),
        write_run(tmp_path / "c", "Krull", 1, training=2132.0, final=2666.0),
        write_run(
            *(tmp_path / "d", "Boxing", 1),
            options=PRIOR,
            device="Intel(R) Xeon(R)",
        ),
    ]
    return group_variants(collect_runs(paths).runs)


def cells(table: Table) -> str:
    """The rows alone, as Markdown."""
    return to_markdown(table).split("\n\n", 2)[2].strip()


def test_scores_by_game(variants: list[Variant]) -> None:
    assert cells(game_table(variants, MEASURES[0])) == (
        "| Game | Random | Human | Paper "
        "| ours | acting.latent=prior |\n"
        "| :-- | --: | --: | --: | --: | --: |\n"
        "| Boxing | 0 | 12 | 78 | 9.0 [6.0, 12.0] (2) | 6.0 (1) |\n"
        "| Krull | 1598 | 2666 | 9693 | 2132 (1) | – |"
    )
    final = cells(game_table(variants, MEASURES[1]))
    assert "| 6.0 [3.0, 9.0] (2) | 9.0 (1) |" in final


def test_aggregates(variants: list[Variant]) -> None:
    # Boxing 0.5 and 1, Krull 0.5: the mean of 0.75 and 0.5; 2/3 over the three runs.
    # Krull by the paper: (9693 - 1598) / (2666 - 1598) = 7.580.
    assert cells(aggregate_table(variants)) == (
        "| Agent | Measure | Games | Runs "
        "| Mean | Median | IQM of runs | Optimality gap |\n"
        "| :-- | :-- | :-- | --: | --: | --: | --: | --: |\n"
        "| Drama paper | Training score | Boxing, Krull | – "
        "| 7.040 | 7.040 | – | – |\n"
        "| ours | Training score | Boxing, Krull | 3 "
        "| 0.625 [0.500, 0.750] | 0.625 [0.500, 0.750] "
        "| 0.667 [0.500, 0.833] | 0.375 [0.250, 0.500] |\n"
        "| ours | Final score | Boxing, Krull | 3 "
        "| 0.750 [0.625, 0.875] | 0.750 [0.625, 0.875] "
        "| 0.667 [0.500, 0.833] | 0.250 [0.125, 0.375] |\n"
        "| Drama paper | Training score | Boxing | – | 6.500 | 6.500 | – | – |\n"
        "| ours | Training score | Boxing | 2 "
        "| 0.750 [0.500, 1.000] | 0.750 [0.500, 1.000] "
        "| 0.750 [0.500, 1.000] | 0.250 [0.000, 0.500] |\n"
        "| acting.latent=prior | Training score | Boxing | 1 "
        "| 0.500 | 0.500 | 0.500 | 0.500 |\n"
        "| ours | Final score | Boxing | 2 "
        "| 0.500 [0.250, 0.750] | 0.500 [0.250, 0.750] "
        "| 0.500 [0.250, 0.750] | 0.500 [0.250, 0.750] |\n"
        "| acting.latent=prior | Final score | Boxing | 1 "
        "| 0.750 | 0.750 | 0.750 | 0.250 |"
    )


def test_cost(variants: list[Variant]) -> None:
    # Rates of 55.6, 27.8 and 55.6 steps per second for 30, 60 and 30 minutes.
    assert cells(cost_table(variants)) == (
        "| Agent | Device | Runs | Hours per run | Hours | GPU-hours "
        "| Steps per second | Commits |\n"
        "| :-- | :-- | --: | --: | --: | --: | --: | --: |\n"
        "| ours | NVIDIA H200 | 3 "
        "| 0.67 (0.50 to 1.00) | 2.00 | 2.00 | 46.3 | 0123456 |\n"
        "| acting.latent=prior | Intel(R) Xeon(R) | 1 "
        "| 0.50 (0.50 to 0.50) | 0.50 | – | 55.6 | 0123456 |\n"
        "| all |  | 4 | 0.62 (0.50 to 1.00) | 2.50 | 2.00 | 48.6 | 0123456 |"
    )


def test_gpu_hours_count_each_gpu(tmp_path: Path) -> None:
    paths = [
        write_run(tmp_path / "a", seed=1, minutes=60),
        write_run(tmp_path / "b", seed=2, minutes=30, devices=2),
        write_run(tmp_path / "c", seed=3, minutes=15, devices=4),
    ]
    rows = cells(cost_table(group_variants(collect_runs(paths).runs))).splitlines()[2:]
    devices = [[cell.strip() for cell in row.split("|")][2:7] for row in rows]
    assert devices == [
        ["2 × NVIDIA H200", "1", "0.50 (0.50 to 0.50)", "0.50", "1.00"],
        ["4 × NVIDIA H200", "1", "0.25 (0.25 to 0.25)", "0.25", "1.00"],
        ["NVIDIA H200", "1", "1.00 (1.00 to 1.00)", "1.00", "1.00"],
        ["", "3", "0.58 (0.25 to 1.00)", "1.75", "3.00"],
    ]


def test_every_counted_run_is_listed(variants: list[Variant], tmp_path: Path) -> None:
    rows = cells(run_table(variants)).splitlines()[2:]
    assert len(rows) == 4
    assert rows[1] == (f"| ours | Boxing | {tmp_path}/b | 2 | 12.0 | 9.0 | 1.00 |")


def test_what_is_left_out_is_listed() -> None:
    table = refusal_table([Refusal(Path("runs/x|y"), "damaged:\nhalf a file")])
    assert cells(table).endswith("| runs/x\\|y | damaged: half a file |")


def test_nothing_left_out_has_no_empty_table() -> None:
    table = refusal_table([])
    assert to_markdown(table) == "## Left out\n\nNothing was left out.\n"
    assert "<table>" not in to_html(table)


def test_numbers_are_set_right_in_html_and_words_left() -> None:
    html = to_html(Table("T", "n", ["a", "b"], [["x", "1"]]))
    assert "<td>x</td><td class='number'>1</td>" in html


class TestCaveats:
    def test_name_what_falls_short_and_of_what(self, variants: list[Variant]) -> None:
        assert find_caveats(variants) == [
            "final scores of 2 episodes instead of 100.",
            "ours: 2 of the 26 games of Atari100k; aggregates of "
            "fewer games are not those of the benchmark.",
            "ours: 1 to 2 seeds per game; the IQM of runs weighs games by their seeds.",
            "ours: intervals of aggregates take games with one seed for exact.",
            "acting.latent=prior: 1 of the 26 games of Atari100k; aggregates of fewer "
            "games are not those of the benchmark.",
            "acting.latent=prior: one seed per game, so nothing is known about the "
            "spread over seeds.",
        ]

    @pytest.mark.parametrize(
        ("counts", "expected"),
        [
            ([16, 100, 30], ["final scores of 16 to 100 episodes instead of 100."]),
            ([100, 100], []),
            ([300], ["final scores of 300 episodes instead of 100."]),
        ],
    )
    def test_final_episodes_are_those_that_count(
        self, tmp_path: Path, counts: list[int], expected: list[str]
    ) -> None:
        paths = [
            write_evaluation(write_run(tmp_path / str(n), seed=n), [1.0] * counts[n])
            for n in range(len(counts))
        ]
        found = find_caveats(group_variants(collect_runs(paths).runs))
        assert [text for text in found if "final scores" in text] == expected

    def test_a_shorter_run_than_the_papers_is_named(self, tmp_path: Path) -> None:
        options = ["training.total_steps=20000", "evaluation.episodes=2"]
        paths = [
            write_run(tmp_path / str(seed), seed=seed, options=options)
            for seed in range(3)
        ]
        found = find_caveats(group_variants(collect_runs(paths).runs))
        assert found[0] == "runs of 20000 steps; the paper's scores are after 100000."
        assert found[-1].startswith("fewer than 5 seeds in some games")
