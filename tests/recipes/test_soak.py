"""A long run holds no more memory, files or threads than a short one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.soak import Sample, judge

REPOSITORY = Path(__file__).parents[2]


def samples(
    grows: float = 0.0, descriptors: int = 0, threads: int = 0, number: int = 100
) -> list[Sample]:
    """All that grows does so in equal steps; the first fifth is another story."""
    start = [Sample(step, 10**6 * step, 99, 99) for step in range(number // 5)]
    return start + [
        Sample(
            step,
            int(10**9 * (1 + grows * step / number)),
            9 + descriptors * step // number,
            3 + threads * step // number,
        )
        for step in range(number // 5, number)
    ]


def test_what_grows_is_found() -> None:
    assert judge(samples())["good"]
    assert judge(samples(grows=0.02))["good"]
    assert not judge(samples(grows=0.05))["good"]
    assert not judge(samples(grows=-0.05))["good"]
    assert not judge(samples(descriptors=3))["good"]
    assert not judge(samples(threads=3))["good"]


@pytest.mark.slow
def test_three_thousand_steps_leave_nothing_behind(tmp_path: Path) -> None:
    report = tmp_path / "soak.json"
    arguments = ["--steps", "3000", "--out", str(report)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(report.read_text())["steps"] == 3000
