"""On a GPU, too, a run that is stopped ends as the same run that is not."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from tests.reference.stopped_run import STOP, stopped_and_whole
from tests.reference.stopping import different, remains

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
GRAPHS = (
    "execution.device=cuda",
    "execution.cudagraphs=true",
    "execution.compile=false",
)
# Sums whose order is not fixed. What captured updates may differ by from plain ones.
TOLERANCE = 0.02


@pytest.mark.parametrize("updates", ["in_turn", "at_once"])
def test_repeatable_kernels_end_with_the_same_bits(
    tmp_path: Path, updates: str
) -> None:
    options = (f"training.updates={updates}", "execution.deterministic=true")
    stopped, whole = stopped_and_whole(tmp_path, *GRAPHS, *options)
    assert different(remains(stopped), remains(whole)) == []


def test_other_kernels_end_close_by(tmp_path: Path) -> None:
    stopped, whole = (losses(run) for run in stopped_and_whole(tmp_path, *GRAPHS))
    assert stopped.keys() == whole.keys()
    assert min(stopped) < STOP < max(stopped)
    for step, expected in whole.items():
        assert stopped[step] == pytest.approx(expected, rel=TOLERANCE), step


def losses(run: Path) -> dict[int, list[float]]:
    """By step, what hangs on all parameters of the world model and of the critic."""
    names = ("world_model/loss_reconstruction", "behaviour/loss_critic")
    with (run / "metrics.csv").open(newline="") as file:
        return {
            int(row["step"]): [float(row[name]) for name in names]
            for row in csv.DictReader(file)
        }
