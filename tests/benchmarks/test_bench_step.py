"""A step is checked, then timed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import agreement, bench_step
from benchmarks.bench_step import KeptRollouts, main
from drama_torchrl.config import load_config
from drama_torchrl.envs import ImaginationEnv
from drama_torchrl.estimate import random_batches
from drama_torchrl.factories import make_agent


@pytest.mark.slow
def test_parts_add_up_to_the_step(tmp_path: Path) -> None:
    out = tmp_path / "step.json"
    assert main(["--smoke", "--modes", "eager", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    mode = report["modes"]["eager"]
    assert mode["agreement"]["agrees"]
    parts = {name: part["median_ms"] for name, part in mode["parts"].items()}
    assert set(parts) == set(report["floor"])
    assert parts["imagination"] + parts["actor_critic"] == pytest.approx(
        parts["behaviour"]
    )
    least = {n: part["low_ms"] for n, part in mode["parts"].items() if "low_ms" in part}
    assert 0 < least["actor_critic"] < least["behaviour"] < least["step"]
    # Two updates in turn cost what each costs, within the noise of a busy machine.
    separately = least["world_model"] + least["behaviour"]
    assert separately / 2 < least["step"] < 2 * separately
    assert least["step"] > report["floor"]["step"]["ms"]


@pytest.mark.slow
def test_a_mode_that_does_not_agree_is_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(bench_step.MODES, "graphs", ("behaviour.learning_rate=1e-3",))
    out = tmp_path / "step.json"
    assert main(["--smoke", "--modes", "graphs", "--out", str(out)]) == 1
    mode = json.loads(out.read_text())["modes"]["graphs"]
    assert not mode["agreement"]["agrees"]
    assert "parts" not in mode


def test_a_mode_that_breaks_is_said_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, "UPDATES", 1)
    monkeypatch.setitem(bench_step.MODES, "graphs", ("execution.compile=perhaps",))
    out = tmp_path / "step.json"
    assert main(["--smoke", "--modes", "graphs", "--out", str(out)]) == 1
    mode = json.loads(out.read_text())["modes"]["graphs"]
    assert mode["failure"].startswith("ConfigError: execution.compile")


def test_rollouts_are_kept_in_the_order_they_were_made() -> None:
    config = load_config("quick", bench_step.SMOKE)
    device = torch.device("cpu")
    agent = make_agent(config, 6, device)
    _, context = random_batches(config, 6, device)
    env, kept = ImaginationEnv(agent.world_model, 6), KeptRollouts()

    def beliefs() -> torch.Tensor:
        return kept(env, agent.actor, context, 2)["belief"]

    first, second = beliefs(), beliefs()
    assert not torch.equal(first, second)
    kept.recording = False
    assert [beliefs().data_ptr() for _ in range(4)] == 2 * [
        first.data_ptr(),
        second.data_ptr(),
    ]
