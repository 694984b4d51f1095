"""Every process gets a device of its own, among those that the user left visible."""

from __future__ import annotations

import pytest
import torch

from drama_torchrl.config import ConfigError
from drama_torchrl.sweep.plan import make_plan
from drama_torchrl.sweep.slots import cpu_slots, find_slots, gpu_slots, visible_gpus

OPTIONS = ["games=Pong", "seeds=1", "preset=quick"]


@pytest.mark.parametrize(
    ("variable", "count", "names"),
    [
        (None, 0, []),
        (None, 3, ["0", "1", "2"]),
        ("3,1", 2, ["3", "1"]),
        ("2", 1, ["2"]),
        (" 4 , 6 ", 2, ["4", "6"]),
        ("GPU-8c1f,MIG-77", 2, ["GPU-8c1f", "MIG-77"]),
        ("", 0, []),
        ("-1", 0, []),
        ("0,9,1", 1, ["0"]),
    ],
)
def test_gpus_are_called_what_the_user_calls_them(
    variable: str | None, count: int, names: list[str]
) -> None:
    assert visible_gpus(variable, count) == names


def test_every_gpu_gets_a_run_before_any_gets_a_second() -> None:
    slots = gpu_slots(["5", "2"], per_gpu=2, threads=3)
    visible = [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots]
    assert visible == ["5", "2", "5", "2"]
    assert {slot.environment["OMP_NUM_THREADS"] for slot in slots} == {"3"}


def test_workers_on_the_cpu_see_no_gpu() -> None:
    visible = [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in cpu_slots(3)]
    assert visible == ["", "", ""]


def test_slots_of_a_cpu_are_the_workers_asked_for_and_share_its_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    cpu = [*OPTIONS, "execution.device=cpu"]
    assert find_slots(make_plan(cpu)) == cpu_slots(1, threads=8)
    assert find_slots(make_plan([*cpu, "workers=3"])) == cpu_slots(3, threads=2)
    assert find_slots(make_plan([*cpu, "workers=99"])) == cpu_slots(99, threads=1)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert find_slots(make_plan([*cpu, "workers=3"])) == cpu_slots(3, threads=5)


def test_slots_of_gpus_are_those_that_are_visible(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,4")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_slots(make_plan(OPTIONS)) == gpu_slots(["6", "4"], per_gpu=1)
    packed = find_slots(make_plan([*OPTIONS, "per_gpu=3"]))
    assert packed == gpu_slots(["6", "4"], per_gpu=3)
    with pytest.raises(ConfigError, match=r"workers: .* use per_gpu"):
        find_slots(make_plan([*OPTIONS, "workers=2"]))


def test_runs_per_gpu_are_refused_on_a_cpu() -> None:
    with pytest.raises(ConfigError, match=r"per_gpu: .* use workers"):
        find_slots(make_plan([*OPTIONS, "execution.device=cpu", "per_gpu=2"]))
