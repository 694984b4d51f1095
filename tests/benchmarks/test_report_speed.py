"""The page of all measurements."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.floor import PARTS
from benchmarks.report_speed import main, read_reports
from benchmarks.speed_plots import draw_dynamics
from benchmarks.speed_tables import (
    dynamics_tables,
    imagination_tables,
    parallel_tables,
    recipe_tables,
    sampler_tables,
    ssd_tables,
    step_tables,
)

PNG = b"\x89PNG"


def timing(ms: float) -> dict[str, float]:
    return {"median_ms": ms, "low_ms": ms, "high_ms": ms, "repeats": 3}


def header(bench: str, **arguments: Any) -> dict[str, Any]:
    provenance = {
        "commit": "0123456789abcdef-dirty",
        "device": "NVIDIA H200",
        "versions": {"torch": "2.11.0"},
    }
    return {"bench": bench, "provenance": provenance, "arguments": arguments}


def mode(*times: float) -> dict[str, Any]:
    errors = {
        "metric": 2e-4,
        "statistic": 0.0,
        "parameter": 0.1,
        "median_parameter": 1.2e-3,
    }
    return {
        "agreement": {"agrees": True, "errors": errors},
        "startup_s": 12.34,
        "startup_memory": {"peak_allocated_gb": 8.0, "peak_reserved_gb": 9.01},
        "memory": {"peak_allocated_gb": 2.0, "peak_reserved_gb": 3.456},
        "parts": {p: timing(ms) for p, ms in zip(PARTS, times, strict=True)},
    }


STEP = header("bench_step", preset="xs", overrides=["world_model.d_model=256"]) | {
    "peaks": {"flop_per_s": 7.5e14, "bytes_per_s": 4.0e12},
    "floor": {
        part: {"flop": 1e12 * i, "bytes": 8e9 * i, "ms": 2.0 * i}
        for i, part in enumerate(PARTS, start=1)
    },
    "modes": {
        "eager": mode(40.0, 30.0, 10.0, 40.0, 80.0),
        "graphs": mode(10.0, 8.0, 2.0, 10.0, 20.0),
    },
}
RECIPE = header("bench_recipe") | {
    "options": ["env.game=Boxing"],
    "compile_cache": "empty",
    "first_trained_s": 31.4,
    "from_step": 2000.0,
    "to_step": 12000.0,
    "steps_per_second": 64.25,
    "ms_per_step": 15.564,
    "minutes_a_run": 25.94,
    "checkpoints": 1,
    "films": 1,
}
IMAGINATION = header("bench_imagination") | {
    "rows": [
        {
            "axis": "batch",
            "batch": 64,
            "context": 8,
            "horizon": 16,
            "mode": name,
            "times": {"rollout": timing(ms)},
        }
        for name, ms in (("eager", 12.5), ("graphs", 1.43))
    ]
    + [
        {
            "axis": "dynamics",
            "batch": 1,
            "context": 65536,
            "mode": "eager",
            "times": {"context": timing(9.0), "step": timing(0.3)},
        },
        {
            "axis": "dynamics",
            "batch": 1,
            "context": 65536,
            "mode": "graphs",
            "failure": "OutOfMemoryError: no room",
        },
    ]
}
DYNAMICS = header("bench_dynamics", batch=16, rollouts=256, horizon=16) | {
    "rows": [
        {
            "phase": phase,
            "length": length,
            "dynamics": kind,
            "mode": "graphs",
            "parameters": count,
            "times": {"call": timing(ms * length)},
        }
        for phase in ("training", "imagination")
        for length in (16, 64)
        for kind, count, ms in (("mamba2", 3_000_000, 0.5), ("gru", 3_100_000, 0.25))
    ]
    + [
        {
            "phase": "training",
            "length": 64,
            "dynamics": "transformer",
            "mode": "graphs",
            "failure": "OutOfMemoryError: no room",
        }
    ]
}
SSD = header("bench_ssd") | {
    "dtype": "bfloat16",
    "rows": [
        {
            "form": "chunked",
            "batch": 16,
            "length": 128,
            "mode": "eager",
            "times": {"forward": timing(0.5), "backward": timing(1.59)},
        },
        {"form": "mamba-ssm", "batch": 16, "length": 128, "skipped": "needs a GPU"},
    ],
}
SAMPLER = header("bench_sampler") | {
    "rows": [
        {
            "device": "cuda",
            "transitions": size,
            "sampler": "DFSSampler",
            "windows": 16,
            "length": 128,
            "draw": timing(ms),
            "sample": timing(2 * ms),
        }
        for size, ms in ((10_000, 0.25), (10_000_000, 0.42))
    ]
    + [
        {
            "device": "cuda",
            "transitions": 10_000,
            "sampler": "PrioritizedSampler",
            "windows": 2048,
            "length": 1,
            "failure": "RuntimeError: no trees.",
        }
    ]
}


def parallel_row(count: int, ms: float, gb: float) -> dict[str, Any]:
    return {
        "gpus": count,
        "processes": count,
        "mode": "graphs",
        "updates": "in_turn",
        "memory": {"peak_reserved_gb": gb},
        "times": {"step": timing(ms)},
        "speedup": 9.0 / ms,
    }


LOST = {
    "gpus": 4,
    "processes": 2,
    "mode": "graphs",
    "updates": "apart",
    "failure": "no end",
}
PARALLEL = header("bench_parallel", preset="xs") | {
    "rows": [parallel_row(1, 9.0, 3.0), parallel_row(2, 5.0, 2.5), LOST]
}
ALL = {
    "step": STEP,
    "recipe": RECIPE,
    "parallel": PARALLEL,
    "imagination": IMAGINATION,
    "dynamics": DYNAMICS,
    "ssd": SSD,
    "sampler": SAMPLER,
}


def write(folder: Path, **reports: Any) -> Path:
    for name, report in reports.items():
        (folder / f"{name}.json").write_text(json.dumps(report))
    return folder


def test_each_part_has_floor_measured_ratio_and_rest() -> None:
    table = step_tables(STEP)[0]
    assert table.header == [
        "part",
        "GFLOP",
        "GB",
        "floor ms",
        "eager ms",
        "graphs ms",
        "ratio",
        "left ms",
    ]
    first = ["world-model update", "1000", "8", "2", "40", "10", "5.0", "8"]
    last = ["whole step", "5000", "40", "10", "80", "20", "2.0", "10"]
    assert (table.rows[0], table.rows[-1]) == (first, last)
    for part in ("xs", "d_model=256", "H200", "2.11.0", "0123456 with changes", "750"):
        assert part in table.note


def test_each_mode_says_how_it_agrees_and_what_it_costs() -> None:
    table = step_tables(STEP)[1]
    # 20 ms a step: 50 steps per second, 33 minutes for 100 000.
    assert table.rows[1] == [
        "graphs",
        "yes",
        "2e-04",
        "0e+00",
        "1e-03",
        "12.3",
        "9.01",
        "3.46",
        "50",
        "33.3",
    ]


def test_a_mode_that_was_not_timed_is_listed_without_times() -> None:
    report = copy.deepcopy(STEP)
    disagreeing = report["modes"]["graphs"]
    del disagreeing["parts"]
    disagreeing["agreement"]["agrees"] = False
    report["modes"]["compile"] = {"failure": "RuntimeError: no compiler"}
    steps, modes = step_tables(report)
    assert "graphs ms" not in steps.header
    assert steps.rows[0][-2:] == ["20.0", "38"]
    assert modes.rows[1][:2] == ["graphs", "no"]
    assert modes.rows[1][-5:] == ["–"] * 5
    assert modes.rows[2] == ["compile", *["–"] * 9]
    assert "Not timed: compile: RuntimeError: no compiler." in modes.note


def test_floors_stand_even_if_no_mode_was_timed(tmp_path: Path) -> None:
    report = STEP | {"modes": {"compile": {"failure": "RuntimeError: no compiler"}}}
    assert step_tables(report)[0].rows[0] == [
        "world-model update",
        "1000",
        "8",
        "2",
        "–",
        "–",
    ]
    write(tmp_path, step=report)
    assert main(["--results", str(tmp_path)]) == 0
    assert not (tmp_path / "step.png").exists()


def test_the_recipe_is_one_row() -> None:
    (table,) = recipe_tables(RECIPE)
    assert table.rows == [
        ["2000 to 12000", "64.2", "15.6", "25.9", "1", "1", "31.4"],
    ]
    assert "caches were empty" in table.note


def test_imagination_has_a_column_a_mode() -> None:
    (table,) = imagination_tables(IMAGINATION)
    assert table.header[-2:] == ["eager", "graphs"]
    assert table.rows == [
        ["batch", "rollout", "64", "8", "16", "12.5", "1.43"],
        ["dynamics", "pass", "1", "65536", "–", "9", "–"],
        ["dynamics", "step", "1", "65536", "–", "0.3", "–"],
    ]
    assert "Not timed: dynamics: OutOfMemoryError: no room." in table.note


def test_dynamics_have_a_column_a_model_and_name_the_fastest() -> None:
    training, imagination = dynamics_tables(DYNAMICS)
    assert training.header == ["length", "Mamba-2", "GRU", "Transformer", "fastest"]
    assert training.rows == [
        ["16", "8", "4", "–", "GRU"],
        ["64", "32", "16", "–", "GRU"],
    ]
    assert "Transformer at 64: OutOfMemoryError: no room." in training.note
    assert "Mamba-2 3000000, GRU 3100000" in training.note
    assert "256 contexts" in imagination.note
    assert "Not timed" not in imagination.note


def test_dynamics_are_drawn_as_a_line_a_model_and_a_panel_a_phase() -> None:
    panels = draw_dynamics(DYNAMICS).axes
    titles = ["training, graphs", "imagination, graphs"]
    assert [axes.get_title(loc="left") for axes in panels] == titles
    for axes in panels:
        lines = {str(line.get_label()): line for line in axes.get_lines()}
        assert set(lines) == {"Mamba-2", "GRU"}
        assert list(lines["GRU"].get_ydata()) == [4.0, 16.0]  # type: ignore[arg-type]


def test_the_recurrence_is_timed_both_ways() -> None:
    (table,) = ssd_tables(SSD)
    assert table.header == ["form", "16 × 128"]
    assert table.rows == [["chunked", "0.5 / 1.59"], ["mamba-ssm", "–"]]
    assert "Not timed: mamba-ssm: needs a GPU." in table.note


def test_each_number_of_processes_has_a_row() -> None:
    (table,) = parallel_tables(PARALLEL)
    assert table.rows == [
        ["graphs", "in_turn", "1", "1", "9", "1", "3"],
        ["graphs", "in_turn", "2", "2", "5", "1.8", "2.5"],
        ["graphs", "apart", "4", "2", "–", "–", "–"],
    ]
    assert table.note.endswith("Not timed: 4 GPUs, graphs, apart: no end.")


def test_samplers_have_a_column_a_size() -> None:
    (table,) = sampler_tables(SAMPLER)
    assert table.title == "Samplers on cuda"
    assert table.header[2:] == ["1e+04", "1e+07"]
    assert table.rows == [
        ["DFSSampler", "16 × 128", "0.25 / 0.5", "0.42 / 0.84"],
        ["PrioritizedSampler", "2048 × 1", "–", "–"],
    ]
    assert table.note.endswith("PrioritizedSampler: RuntimeError: no trees.")


@pytest.mark.parametrize("name", ALL)
def test_any_measurement_alone_makes_a_page(tmp_path: Path, name: str) -> None:
    write(tmp_path, **{name: ALL[name]})
    assert main(["--results", str(tmp_path)]) == 0
    page = (tmp_path / "speed.md").read_text()
    assert "NVIDIA H200" in page
    images = [path.name for path in tmp_path.glob("*.png")]
    assert images == ([] if name in ("recipe", "parallel") else [f"{name}.png"])
    for image in images:
        assert f"]({image})" in page
        assert (tmp_path / image).read_bytes()[:4] == PNG


def test_a_repeatable_recipe_is_called_one() -> None:
    options = [*RECIPE["options"], "execution.deterministic=true"]
    (table,) = recipe_tables(RECIPE | {"options": options})
    assert ", repeatable" in table.title
    assert ", repeatable" not in recipe_tables(RECIPE)[0].title


def test_all_measurements_come_in_one_order(tmp_path: Path) -> None:
    results, out = tmp_path / "results", tmp_path / "out"
    results.mkdir()
    write(results, **ALL, other={"bench": "bench_other"}, numbers=[1, 2])
    assert [name for name, _ in read_reports(results)] == list(ALL)
    assert main(["--results", str(results), "--out", str(out)]) == 0
    page = (out / "speed.md").read_text()
    titles = [line for line in page.splitlines() if line.startswith("## ")]
    assert titles == [
        "## A training step",
        "## Modes of a step",
        "## The whole recipe, without compilation, a cold start "
        "(NVIDIA H200, steps 2000 to 12000)",
        "## One run on several GPUs",
        "## Imagination by size",
        "## Dynamics, training, graphs",
        "## Dynamics, imagination, graphs",
        "## The recurrence, eager",
        "## Samplers on cuda",
    ]
    assert not (results / "speed.md").exists()


def test_no_measurements_make_no_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--results", str(tmp_path)]) == 1
    assert "no measurements" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
