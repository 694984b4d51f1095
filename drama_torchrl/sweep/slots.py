"""Where the runs of a sweep compute: one slot for each process at a time."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from drama_torchrl.config import ConfigError
from drama_torchrl.factories import make_device
from drama_torchrl.sweep.plan import Plan

__all__ = ["Slot", "cpu_slots", "find_slots", "gpu_slots", "visible_gpus"]


class Slot(NamedTuple):
    """A place for one process at a time.

    Args:
        name: for the summary.
        environment: variables that confine a process to it.
    """

    name: str
    environment: Mapping[str, str]


def visible_gpus(variable: str | None, count: int) -> list[str]:
    """Names by which ``CUDA_VISIBLE_DEVICES`` selects each GPU that this process sees.

    Args:
        variable: ``CUDA_VISIBLE_DEVICES`` of this process; ``None`` where it is unset.
        count: number of GPUs that this process sees.

    Returns:
        `count` names: indices, or whatever the variable calls them (UUIDs, MIG
        instances).

    Example:
        >>> visible_gpus(None, 2)
        ['0', '1']
        >>> visible_gpus("5,2", 2)
        ['5', '2']
    """
    if variable is None:
        return [str(index) for index in range(count)]
    # CUDA ignores the first name that is no device, and all names behind it.
    return [name.strip() for name in variable.split(",")][:count]


def gpu_slots(gpus: Sequence[str], per_gpu: int, threads: int = 1) -> list[Slot]:
    """Slots on GPUs, in an order that fills every GPU once before any twice.

    Args:
        gpus: from :func:`visible_gpus`.
        per_gpu: slots on each.
        threads: CPU threads of each process.

    Example:
        >>> [slot.name for slot in gpu_slots(["0", "1"], per_gpu=2)]
        ['GPU 0', 'GPU 1', 'GPU 0', 'GPU 1']
        >>> gpu_slots(["3"], per_gpu=1)[0].environment["CUDA_VISIBLE_DEVICES"]
        '3'
    """
    return [
        Slot(f"GPU {gpu}", _environment(gpu, threads))
        for _ in range(per_gpu)
        for gpu in gpus
    ]


def cpu_slots(workers: int, threads: int = 1) -> list[Slot]:
    """Slots for processes that see no GPU.

    Args:
        workers: number of slots.
        threads: CPU threads of each process.

    Example:
        >>> [slot.name for slot in cpu_slots(2)]
        ['CPU', 'CPU']
    """
    return [Slot("CPU", _environment("", threads)) for _ in range(workers)]


def find_slots(plan: Plan) -> list[Slot]:
    """Slots of this machine for a plan: all visible GPUs, or workers on the CPU.

    The CPU threads are shared out evenly, unless ``OMP_NUM_THREADS`` is set.

    Args:
        plan: its runs say which device they want.

    Raises:
        ConfigError: if ``workers`` meets GPUs or ``per_gpu`` meets a CPU, or if CUDA
            is asked for and absent.
    """
    device = make_device(plan.runs[0].config.execution.device)
    if device.type == "cuda":
        if plan.workers is not None:
            raise ConfigError(
                f"workers: expected on a CPU alone, got workers={plan.workers} where "
                "runs train on GPUs; use per_gpu, or execution.device=cpu"
            )
        gpus = visible_gpus(
            os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()
        )
        per_gpu = plan.per_gpu or 1
        return gpu_slots(gpus, per_gpu, _share_threads(len(gpus) * per_gpu))
    if plan.per_gpu is not None:
        raise ConfigError(
            f"per_gpu: expected on GPUs alone, got per_gpu={plan.per_gpu} where runs "
            "train on the CPU; use workers"
        )
    workers = plan.workers or 1
    return cpu_slots(workers, _share_threads(workers))


def _environment(gpu: str, threads: int) -> dict[str, str]:
    return {"CUDA_VISIBLE_DEVICES": gpu, "OMP_NUM_THREADS": str(threads)}


def _share_threads(processes: int) -> int:
    asked_for = os.environ.get("OMP_NUM_THREADS", "")
    if asked_for.isdecimal():
        return int(asked_for)
    return max(1, (os.cpu_count() or 1) // processes)
