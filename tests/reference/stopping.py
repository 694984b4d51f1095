"""Runs that are interrupted, and what is left of a run to compare."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.envs import Transform

from drama_torchrl.factories import make_agent, make_device, make_env
from drama_torchrl.record.checkpoint import load_tensors
from drama_torchrl.record.manifest import Manifest
from drama_torchrl.record.replay_chunks import ReplayChunks
from drama_torchrl.record.resuming import open_run, read_arguments
from drama_torchrl.record.stopping import StopSignals
from drama_torchrl.seeding import seed_everything
from recipes.drama_atari100k import train


class CrashError(BaseException):
    """Nobody may take it: as if the process were killed."""


class BrokenError(Exception):
    """The environment broke."""


class After(Transform):
    """Does something in the middle of the n-th step from now."""

    def __init__(self, steps: int) -> None:
        super().__init__(in_keys=[], out_keys=[])
        self.steps = steps

    def _step(
        self, tensordict: TensorDictBase, next_tensordict: TensorDictBase
    ) -> TensorDictBase:
        self.steps -= 1
        if self.steps == 0:
            self.act()
        return next_tensordict

    def act(self) -> None:
        raise NotImplementedError


class CrashAfter(After):
    def act(self) -> None:
        raise CrashError


class BreakAfter(After):
    def act(self) -> None:
        raise BrokenError("the emulator is gone")


class SignalAfter(After):
    def act(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def run_training(arguments: Sequence[str], *transforms: Transform) -> None:
    """The recipe up to the scores."""
    config, resumed = read_arguments(arguments)
    seed_everything(config.seed)
    env = make_env(config, seed=config.seed)
    for transform in transforms:
        env.append_transform(transform)
    try:
        with (
            StopSignals(config.run_path) as stop,
            open_run(config, resumed=resumed) as run,
        ):
            num_actions = env.action_spec.shape[-1]
            agent = make_agent(
                config, num_actions, make_device(config.execution.device)
            )
            train(config, agent, env, run, stop)
    finally:
        env.close()


def newest(run: Path) -> Path:
    return max((run / "resume").glob("step-*[0-9]"))


def remains(run: Path) -> dict[str, Any]:
    """All that a run leaves, as flat names and plain values; no times."""
    folder = newest(run)
    loop = load_tensors(folder / "loop.pt", "cpu")
    for entry in ("minutes", "sizes"):
        del loop["journal"][entry]
    agent = load_tensors(folder / "agent.pt", "cpu")
    del agent["config"]["run_dir"]
    manifest = Manifest.load(folder)
    chunks = ReplayChunks.__new__(ReplayChunks)
    chunks.folder = run / "resume" / "replay"
    oldest = max(0, manifest.written - manifest.config["replay"]["capacity"])
    stored = TensorDict.cat([chunks.load(chunk) for chunk in manifest.chunks])
    with (run / "metrics.csv").open(newline="") as file:
        metrics = [row[:-1] for row in csv.reader(file)]
    return flat(
        {
            "agent": agent,
            "loop": loop,
            "replay": stored[oldest - manifest.chunks[0].first :].to_dict(),
            "metrics": metrics,
            "episodes": (run / "episodes.csv").read_text(),
        }
    )


def flat(tree: Any, name: str = "") -> dict[str, Any]:
    if isinstance(tree, TensorDict):
        tree = tree.to_dict()
    if isinstance(tree, torch.Tensor):
        return {name: tree}
    if isinstance(tree, dict):
        items = list(tree.items())
    elif isinstance(tree, list | tuple) and name != "metrics":
        items = list(enumerate(tree))
    else:
        return {name: tree}
    found: dict[str, Any] = {}
    for key, value in items:
        found |= flat(value, f"{name}/{key}")
    return found


def different(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of what is not the same in both."""
    return sorted(
        key for key in {*one, *other} if not same(one.get(key), other.get(key))
    )


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and repr(one) == repr(other)
