"""The other benchmarks run, check what they time and write what is read later."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import (
    bench_dynamics,
    bench_imagination,
    bench_parallel,
    bench_recipe,
    bench_sampler,
    bench_ssd,
    checkpoint_cost,
    dynamics_cases,
    imagination_cases,
    ssd_forms,
)
from benchmarks.bench_recipe import first_trained_step, read_rows, steady_state
from drama_torchrl.config import load_config
from drama_torchrl.factories import make_dynamics
from drama_torchrl.modules import Dynamics
from drama_torchrl.modules.ssd import ssd_quadratic
from drama_torchrl.record.run_directory import RunDirectory

REPOSITORY = Path(__file__).parents[2]
CPU = torch.device("cpu")
SCRIPTS = sorted(path.stem for path in (REPOSITORY / "benchmarks").glob("bench_*.py"))


def run(
    main: Callable[[Sequence[str]], int], folder: Path, *arguments: str
) -> dict[str, Any]:
    out = folder / "out.json"
    assert main(["--smoke", "--out", str(out), *arguments]) == 0
    report: dict[str, Any] = json.loads(out.read_text())
    return report


@pytest.mark.parametrize(
    "script", [*SCRIPTS, "checkpoint_cost", "profile_step", "report_speed"]
)
def test_help_shows_how_to_run_it(
    script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(f"benchmarks.{script}").main(["--help"])
    assert stopped.value.code == 0
    assert f"python -m benchmarks.{script}" in capsys.readouterr().out


@pytest.mark.slow
def test_a_script_runs_as_its_help_says() -> None:
    command = [sys.executable, "-m", "benchmarks.bench_ssd", "--smoke"]
    done = subprocess.run(
        [*command, "--shapes", "1x8"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=True,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == len(ssd_forms.forms())


def test_ssd_forms_are_timed_or_say_why_not(tmp_path: Path) -> None:
    report = run(bench_ssd.main, tmp_path)
    rows = {(row["form"], row["length"]): row for row in report["rows"]}
    assert {form for form, _ in rows} == set(ssd_forms.forms())
    assert {length for _, length in rows} == {8, 600}
    for (form, length), row in rows.items():
        if form in ("mamba-ssm", "Triton chunks"):
            assert "CUDA" in row["skipped"]
        elif (form, length) == ("recurrent", 600):
            assert row["skipped"] == "600 launches a pass"
        else:
            assert row["error"] < 1e-5
            times = [row["times"][kind]["low_ms"] for kind in ("forward", "backward")]
            assert 0 < times[0] < times[1]


def test_a_wrong_form_is_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(
        x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor
    ) -> tuple[Tensor, Tensor]:
        return ssd_quadratic(x.roll(1, 1), dt, A, B, C)

    monkeypatch.setattr(bench_ssd, "forms", lambda: {"late": late})
    report = run(bench_ssd.main, tmp_path, "--shapes", "1x16")
    (row,) = report["rows"]
    assert row["error"] > 0.1
    assert "off by more" in row["failure"]
    assert "times" not in row


def test_the_reference_of_long_sequences_is_checked_too() -> None:
    inputs = ssd_forms.make_inputs(1, 600, CPU)
    reference = ssd_forms.run(ssd_forms.reference_form(600), inputs)
    reference["y"][:, 3] += 1.0
    errors = ssd_forms.check(ssd_quadratic, inputs, reference)
    assert errors["reference"] > 0.01


def test_imagination_is_timed_on_every_axis(tmp_path: Path) -> None:
    report = run(bench_imagination.main, tmp_path)
    rows = report["rows"]
    assert {row["axis"] for row in rows} == {"batch", "horizon", "context", "dynamics"}
    assert all(error <= 1 for row in rows for error in row["errors"].values())
    assert all(time["median_ms"] > 0 for row in rows for time in row["times"].values())
    long, short = (
        max(
            (row for row in rows if row["axis"] == "horizon" and row["horizon"] == h),
            key=lambda row: row["batch"],
        )["times"]["rollout"]["low_ms"]
        for h in (8, 2)
    )
    assert long > short


def test_imagination_that_differs_from_the_rollout_is_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shifted(*arguments: Any) -> Any:
        rollout = imagination_cases.Rollout.reference(measured[-1])
        rollout["next", "reward"] += 1.0
        return rollout

    measured: list[imagination_cases.Rollout] = []
    init = imagination_cases.Rollout.__init__

    def remember(self: imagination_cases.Rollout, *arguments: Any) -> None:
        init(self, *arguments)
        measured.append(self)

    monkeypatch.setattr(imagination_cases.Rollout, "__init__", remember)
    monkeypatch.setattr(imagination_cases, "imagine", shifted)
    report = run(bench_imagination.main, tmp_path, "--axes", "horizon")
    for row in report["rows"]:
        assert row["errors"]["rewards"] > 1
        assert "times" not in row


def test_every_dynamics_model_is_timed_in_both_phases(tmp_path: Path) -> None:
    report = run(bench_dynamics.main, tmp_path)
    rows = {(r["phase"], r["length"], r["dynamics"]): r for r in report["rows"]}
    lengths = {"training": (4, 33), "imagination": (3, 9)}
    assert set(rows) == {
        (phase, length, kind)
        for phase in lengths
        for length in lengths[phase]
        for kind in bench_dynamics.DYNAMICS
    }
    for row in rows.values():
        assert row["error"] < 0.1
        assert row["times"]["call"]["median_ms"] > 0
    sizes = [row["parameters"] for row in rows.values()]
    assert max(sizes) < 1.2 * min(sizes)


def test_a_longer_sequence_takes_longer(tmp_path: Path) -> None:
    report = run(
        bench_dynamics.main, tmp_path, "--lengths", "2", "400", "--dynamics", "gru"
    )
    for phase in ("training", "imagination"):
        short, long = (
            row["times"]["call"]["low_ms"]
            for row in report["rows"]
            if row["phase"] == phase
        )
        assert long > 2 * short


def test_dynamics_whose_steps_are_not_their_sequence_are_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(self: Dynamics, latent: Tensor, action: Tensor, state: Any) -> Any:
        return step(self, latent, action, self.initial_state(latent.shape[0]))

    step = Dynamics.step
    monkeypatch.setattr(Dynamics, "step", forgetful)
    report = run(bench_dynamics.main, tmp_path, "--phases", "imagination")
    for row in report["rows"]:
        assert row["failure"] == "off by more than is allowed"
        assert "times" not in row


def test_dynamics_that_forget_between_halves_are_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(self: Dynamics, latent: Tensor, action: Tensor, *_: Any) -> Any:
        return forward(self, latent, action)

    forward = Dynamics.forward
    monkeypatch.setattr(Dynamics, "forward", forgetful)
    report = run(bench_dynamics.main, tmp_path, "--phases", "training")
    assert all("off by more" in row["failure"] for row in report["rows"])


def test_dynamics_of_another_size_are_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def larger(config: Any, *sizes: int) -> Dynamics:
        if config.dynamics == "gru":
            config = replace(config, num_layers=3)
        return make_dynamics(config, *sizes)

    monkeypatch.setattr(dynamics_cases, "make_dynamics", larger)
    chosen = ["--dynamics", "mamba2", "gru", "--lengths", "4"]
    report = run(bench_dynamics.main, tmp_path, *chosen)
    for row in report["rows"]:
        assert ("times" in row) == (row["dynamics"] == "mamba2")
        assert ("expected about" in row.get("failure", "")) == ("times" not in row)


def test_samplers_are_timed_or_say_why_not(tmp_path: Path) -> None:
    report = run(bench_sampler.main, tmp_path)
    rows = {(row["sampler"], row["length"]): row for row in report["rows"]}
    assert set(rows) == {
        ("DFSSampler", 128),
        ("DFSImaginationSampler", 8),
        ("UniformWindowSampler", 128),
        ("SliceSampler", 128),
        ("SliceSampler", 8),
        ("SliceSampler, cached", 128),
        ("PrioritizedSampler", 1),
    }
    for (name, _), row in rows.items():
        assert (row["device"], row["transitions"]) == ("cpu", 2_000)
        if "failure" in row:  # TorchRL's own trees need a matching build of torch
            assert name == "PrioritizedSampler"
            assert "SegmentTree" in row["failure"]
        else:
            assert row["draw"]["median_ms"] > 0
            assert row["sample"]["median_ms"] > 0


class Scattered(bench_sampler.UniformWindowSampler):
    """Draws windows with a gap."""

    def sample(self, storage: Any, batch_size: int) -> tuple[Tensor, dict]:
        index, info = super().sample(storage, batch_size)
        index[:, -1] += 1
        return index, info


def test_a_sampler_with_gaps_is_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scattered = bench_sampler.Candidate(
        "scattered", bench_sampler.Windows(4, 8), lambda *_: Scattered(window=8)
    )
    monkeypatch.setattr(bench_sampler, "candidates", lambda scale: [scattered])
    (row,) = run(bench_sampler.main, tmp_path)["rows"]
    assert row["failure"].startswith("DisagreementError: expected windows")
    assert "draw" not in row


def test_a_sampler_that_counts_others_is_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uncounted = bench_sampler.Candidate(
        "uncounted",
        bench_sampler.Windows(4, 8),
        lambda *_: bench_sampler.UniformWindowSampler(window=8),
        "model",
    )
    monkeypatch.setattr(bench_sampler, "candidates", lambda scale: [uncounted])
    (row,) = run(bench_sampler.main, tmp_path)["rows"]
    assert "expected one more visit" in row["failure"]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [([], 340), (["log.every=8"], 328), (["training.steps_per_update=1"], 340)],
    ids=["quick", "often", "each step"],
)
def test_the_first_trained_step_is_a_logged_one(
    overrides: list[str], expected: int
) -> None:
    config = load_config("quick", overrides)
    step = first_trained_step(config)
    assert step == expected
    assert step > config.training.random_steps
    assert config.training.updates_at(step)
    assert step % config.log.every < config.training.steps_per_update


def test_speed_is_that_between_two_logged_steps() -> None:
    config = load_config("xs", ["log.checkpoint_every=150", "log.film_every=1000"])
    # Half a minute for the first hundred steps, a minute for each later one.
    rows = [{"step": 100.0 * i, "minutes": max(0.5, i - 0.5)} for i in range(1, 6)]
    found = steady_state(rows, 150, 400, config)
    assert (found["from_step"], found["to_step"]) == (200, 400)
    assert found["steps_per_second"] == pytest.approx(200 / 120)
    assert found["ms_per_step"] == pytest.approx(600.0)
    assert found["minutes_a_run"] == pytest.approx(1000.0)
    assert (found["checkpoints"], found["films"]) == (1, 0)


def test_a_row_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    assert read_rows(path) == []
    path.write_text("step,loss,minutes\n4,0.5,0.25\n8,0.5,0.2")
    assert read_rows(path) == [{"step": 4.0, "minutes": 0.25}]


@pytest.mark.slow
def test_processes_that_share_a_step_are_timed_if_they_agree(tmp_path: Path) -> None:
    report = run(bench_parallel.main, tmp_path)
    alone, both = report["rows"]
    assert (alone["processes"], both["processes"]) == (1, 2)
    assert alone["agreement"]["errors"]["parameter"] == 0.0
    assert 0 < both["agreement"]["errors"]["metric"] < 1e-4
    ratio = alone["times"]["step"]["median_ms"] / both["times"]["step"]["median_ms"]
    assert both["speedup"] == pytest.approx(ratio)


@pytest.mark.slow
def test_the_recipe_is_timed_as_it_runs(tmp_path: Path) -> None:
    report = run(bench_recipe.main, tmp_path)
    assert (report["from_step"], report["to_step"]) == (80, 160)
    assert report["first_trained_step"] == 64
    assert report["first_trained_s"] > 1
    assert report["exit_code"] == 75  # asked to stop, and did
    assert report["ms_per_step"] * report["steps_per_second"] == pytest.approx(1e3)
    assert 1 < report["steps_per_second"] < 2000


def test_a_start_is_cold_while_the_caches_are_empty(tmp_path: Path) -> None:
    caches = tmp_path / "caches"
    assert bench_recipe.describe_cache(caches) == "empty"
    (caches / "triton").mkdir(parents=True)
    assert bench_recipe.describe_cache(caches) == "filled"
    assert bench_recipe.describe_cache(None) == "inherited"


@pytest.mark.slow
def test_a_recipe_that_fails_is_quoted() -> None:
    with pytest.raises(bench_recipe.RecipeError, match=r"replay\.capacity"):
        bench_recipe.run_recipe(
            ["replay.capacity=1", "run_dir=nowhere"], 10, timeout=60.0, cache=None
        )


@pytest.mark.slow
def test_checkpoints_are_timed_in_a_run_and_weighed_on_disk(tmp_path: Path) -> None:
    report = run(checkpoint_cost.main, tmp_path)
    small, large = report["rows"]
    assert (small["step"], large["step"]) == (200, 300)
    assert small["new"] == large["new"] == report["checkpoint_every"] == 100
    assert 0 < large["replay_seconds"] < large["seconds"] < 30
    # Two agents with their optimisers, and some small frames.
    assert 3 < small["disk_mb"] < large["disk_mb"] < 10
    expected = report["seconds"] * report["steps_per_second"] / 100
    assert report["share"] == pytest.approx(expected)


def test_a_file_with_two_names_is_weighed_once(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    (directory.snapshots / "replay").mkdir(parents=True)
    file = directory.snapshots / "replay" / "one"
    file.write_bytes(bytes(1000))
    file.with_name("two").hardlink_to(file)
    assert checkpoint_cost.disk_bytes(directory) == 1000


@pytest.mark.parametrize(
    "arguments", [["--sizes", "15000"], ["--sizes", "0"], ["--train", "1"]]
)
def test_checkpoints_that_would_not_be_made_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        checkpoint_cost.parse(arguments)
    checkpoint_cost.parse(["--train", "1", "--steps-per-second", "60"])


def test_steps_must_be_in_order() -> None:
    with pytest.raises(SystemExit):
        bench_recipe.parse(["--from-step", "200", "--to-step", "100"])
