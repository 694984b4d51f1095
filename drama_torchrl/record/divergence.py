"""Stop a run whose updates are not finite any more."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from tensordict import TensorDictBase

from drama_torchrl.record.checkpoint import save_tensors
from drama_torchrl.record.run_directory import RunDirectory
from drama_torchrl.record.stopping import RunStopped

__all__ = ["RunDivergedError", "stop_if_diverged"]

_TERMS = ("loss_", "grad_norm")


class RunDivergedError(RunStopped):
    """A run stopped since its losses or gradients are not finite; it says which."""

    exit_code: ClassVar[int] = 70
    """Of the process: ``EX_SOFTWARE``."""


def stop_if_diverged(
    run: RunDirectory,
    step: int,
    row: Mapping[str, float],
    batches: Mapping[str, TensorDictBase],
    *,
    limit: int,
) -> None:
    """Stop a run of which too many updates in a row were not applied.

    The batches of the last update go to ``diverged-<step>.pt`` if there is room.

    Args:
        run: the run.
        step: environment steps so far.
        row: metrics of the last updates, named ``group/name``.
        batches: what they trained on.
        limit: number of updates in a row.

    Raises:
        RunDivergedError: naming the terms that are not finite, and the learning rates
            to lower; from its checkpoint the run would take the same steps again.

    Example:
        >>> row = {"world_model/loss_reward": 1.0, "world_model/not_applied": 0.0}
        >>> stop_if_diverged(RunDirectory("run"), 100, row, {}, limit=10)
    """
    lost = {
        name.removesuffix("not_applied"): int(count)
        for name, count in row.items()
        if name.endswith("/not_applied") and count >= limit
    }
    if not lost:
        return
    broken = [
        f"{name}={value:g}"
        for name, value in row.items()
        if name.startswith(tuple(f"{group}{term}" for group in lost for term in _TERMS))
        and not math.isfinite(value)
    ]
    kept = max(run.checkpoint_steps(), default=None)
    rates = " and ".join(f"{group.rstrip('/')}.learning_rate" for group in lost)
    raise RunDivergedError(
        run.path,
        f"step {step}: expected finite losses and gradients, got {', '.join(broken)} "
        f"in the last of {max(lost.values())} updates in a row, none of which was "
        f"applied; {_keep(batches, run.path / f'diverged-{step:07d}.pt')}; last "
        f"checkpoint: step {kept}",
        f"resume= would come to this again: start a new run with a lower {rates} in "
        "another run_dir",
    )


def _keep(batches: Mapping[str, TensorDictBase], path: Path) -> str:
    """Write batches if there is room for them; say where they are."""
    try:
        save_tensors(path, {name: batch.to_dict() for name, batch in batches.items()})
    except OSError as error:
        return f"its batches cannot be written ({error.strerror or error})"
    return f"its batches are in {path}"
