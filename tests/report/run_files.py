"""Run directories as the recipe leaves them, without training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from PIL import Image

from drama_torchrl.config import config_from_dict, load_config
from drama_torchrl.record.atomic import write_json
from drama_torchrl.record.result import summarize
from drama_torchrl.record.run_directory import RunDirectory


def write_run(
    path: Path,
    game: str = "Boxing",
    seed: int = 1,
    *,
    training: float = 6.0,
    final: float = 9.0,
    options: Sequence[str] = (),
    episodes: Sequence[tuple[int, float]] | None = None,
    device: str = "NVIDIA H200",
    minutes: float = 30.0,
    devices: int = 1,
    film: bool = False,
) -> Path:
    """A complete run with a training score and a final score."""
    config = load_config(
        "xs", [f"env.game={game}", f"seed={seed}", "evaluation.episodes=2", *options]
    )
    run = RunDirectory.create(path, config)
    if episodes is None:
        total = config.training.total_steps
        episodes = [(total * i // 6, training + i - 4) for i in range(2, 7)]
    for step, value in episodes:
        run.append_episode(step, value, 100, seed)
    last = [value for _, value in episodes][-5:]
    run.write_result(
        {
            "game": game,
            "preset": config.preset,
            "seed": config.seed,
            "steps": config.training.total_steps,
            "complete": True,
            "training": summarize(game, last),
            "training_minutes": minutes,
            "steps_per_second": config.training.total_steps / (60 * minutes),
            "devices": devices,
            "provenance": {"commit": "0123456789abcdef", "device": device},
            "config": asdict(config),
            "sampled": summarize(game, [final - 1.0, final + 1.0]),
            "greedy": summarize(game, [final]),
        }
    )
    if film:
        write_film(run.films / "step-0100000.gif", seed)
    return path


def write_evaluation(
    path: Path, returns: Sequence[float], *options: str, steps: int = 100_000
) -> Path:
    """A run's last checkpoint, scored again with other options."""
    run = RunDirectory(path)
    before = json.loads(run.result.read_text())["config"]
    config = config_from_dict(before, [f"evaluation.episodes={len(returns)}", *options])
    write_json(
        run.evaluation,
        {
            "game": config.env.game,
            "preset": config.preset,
            "seed": config.seed,
            "steps": steps,
            "sampled": summarize(config.env.game, returns),
            "config": asdict(config),
        },
    )
    return path


def forget_option(path: Path, section: str, name: str) -> Path:
    """Take an option away, as of a run by a version that did not know it."""
    run = RunDirectory(path)
    config = json.loads(run.result.read_text())["config"]
    del config[section][name]
    OmegaConf.save(OmegaConf.create(config), run.config)
    return change_result(path, {"config": config})


def write_film(path: Path, shade: int) -> None:
    """Two small frames whose colour tells one film from another."""
    frames = [Image.new("RGB", (8, 4), (shade, 0, i)) for i in range(2)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def change_result(path: Path, changes: Mapping[str, Any]) -> Path:
    """Change entries of a run's ``result.json``; ``None`` takes an entry away."""
    run = RunDirectory(path)
    result = json.loads(run.result.read_text()) | changes
    run.write_result({k: v for k, v in result.items() if v is not None})
    return path
