"""Many finished runs beside the paper: tables, intervals, plots and one HTML page."""

from drama_torchrl.report.runs import Collection, Refusal, Run, collect_runs
from drama_torchrl.report.statistics import (
    Estimate,
    Interval,
    bootstrap_interval,
    estimate,
    iqm_of_runs,
    mean_of_games,
    median_of_games,
    optimality_gap,
    performance_profile,
)
from drama_torchrl.report.variants import Variant, group_variants

__all__ = [
    "Collection",
    "Estimate",
    "Interval",
    "Refusal",
    "Run",
    "Variant",
    "bootstrap_interval",
    "collect_runs",
    "estimate",
    "group_variants",
    "iqm_of_runs",
    "mean_of_games",
    "median_of_games",
    "optimality_gap",
    "performance_profile",
]
