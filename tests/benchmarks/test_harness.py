"""Timing, memory and what is written."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import pytest
import torch

from benchmarks.harness import (
    RESULTS,
    describe_failure,
    exact_float32,
    relative_error,
    time_calls,
    watch_memory,
    write_report,
)
from benchmarks.roofline import measure_peaks

CPU = torch.device("cpu")


def test_the_median_of_a_sleep_is_its_length() -> None:
    found = time_calls(lambda: time.sleep(0.02), CPU, burn_in=1, repeats=5)
    assert found["repeats"] == 5
    assert 20.0 <= found["low_ms"] <= found["median_ms"] <= found["high_ms"]
    assert found["median_ms"] < 60.0  # of a busy machine


def test_slow_first_calls_are_burnt_in() -> None:
    delays = iter([0.2, 0.2] + [0.001] * 20)
    found = time_calls(lambda: time.sleep(next(delays)), CPU, burn_in=3, repeats=9)
    assert found["median_ms"] < 100.0
    assert found["low_ms"] < 100.0


def test_every_call_is_made_that_is_asked_for_and_no_more() -> None:
    calls: list[None] = []
    time_calls(lambda: calls.append(None), CPU, burn_in=4, repeats=7)
    assert len(calls) == 4 + 7


def test_a_budget_shortens_but_leaves_three() -> None:
    found = time_calls(lambda: time.sleep(0.02), CPU, repeats=50, budget_s=0.001)
    assert found["repeats"] == 3


def test_memory_grows_with_what_is_held() -> None:
    with watch_memory(CPU) as before:
        pass
    with watch_memory(CPU) as after:
        held = torch.ones(2**26)
    del held
    assert after["peak_rss_gb"] >= before["peak_rss_gb"] >= 0.05
    assert after["peak_rss_gb"] >= 2**28 / 1e9


def arguments(**changes: object) -> argparse.Namespace:
    given = {"out": None, "smoke": False, "device": "cpu", "repeats": 3}
    return argparse.Namespace(**given | changes)


def test_a_report_says_what_measured_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "some.json"
    write_report("bench_x", arguments(out=path), {"rows": [1]}, CPU)
    found = json.loads(path.read_text())
    assert found["bench"] == "bench_x"
    assert found["device_type"] == "cpu"
    assert found["rows"] == [1]
    assert found["arguments"] == {"repeats": 3, "smoke": False}
    assert found["provenance"]["versions"]["torch"] == torch.__version__
    assert {"commit", "device", "written"} <= set(found["provenance"])


def test_a_smoke_run_leaves_the_results_alone() -> None:
    before = sorted(RESULTS.glob("*"))
    write_report("bench_nothing", arguments(smoke=True), {}, CPU)
    assert sorted(RESULTS.glob("*")) == before


def test_errors_are_relative_to_what_was_expected() -> None:
    expected = torch.tensor([0.0, 10.0])
    assert relative_error(torch.tensor([3.0, 6.0]), expected) == pytest.approx(0.5)
    assert relative_error(expected, expected) == 0.0


def test_failures_are_named_in_a_line() -> None:
    error = RuntimeError("no such kernel\nat line 7")
    assert describe_failure(error) == "RuntimeError: no such kernel"
    assert describe_failure(KeyError()) == "KeyError: "


def test_precision_comes_back() -> None:
    torch.set_float32_matmul_precision("high")
    try:
        with exact_float32():
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_this_machine_computes_and_copies() -> None:
    found = measure_peaks(CPU)
    assert 1e8 < found["flop_per_s"] < 1e14
    assert 1e8 < found["bytes_per_s"] < 1e13
