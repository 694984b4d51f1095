"""Options of the smallest run of the recipe that still does everything."""

from __future__ import annotations

from pathlib import Path

EPISODE = 60
STEPS = 72
RANDOM_STEPS = 60

_OPTIONS = (
    "preset=quick",
    "env.game=Alien",
    f"env.max_frames={4 * EPISODE}",
    f"training.total_steps={STEPS}",
    f"training.random_steps={RANDOM_STEPS}",
    "replay.model_batch=2",
    "replay.model_window=8",
    "replay.imagination_batch=8",
    "replay.imagination_window=4",
    "world_model.filters=[4,8,8,8,8]",
    "world_model.num_categoricals=4",
    "world_model.num_classes=4",
    "world_model.d_model=32",
    "world_model.head_dim=16",
    "behaviour.horizon=3",
    "evaluation.episodes=1",
    "evaluation.greedy_episodes=1",
    "execution.device=cpu",
    "log.progress=false",
    "log.every=4",
    "log.film_every=40",
    "log.checkpoint_every=40",
)


def run_options(run_dir: Path, *overrides: str) -> list[str]:
    """Arguments of the recipe for a run in a directory; later ones win."""
    return [*_OPTIONS, f"run_dir={run_dir}", *overrides]
