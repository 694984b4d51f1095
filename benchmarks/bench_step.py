"""Milliseconds of a training step: world model, behaviour, and both.

    python benchmarks/bench_step.py --preset xs --modes eager graphs compile+graphs

Batches are made of random frames, of the preset's sizes; the replay buffer and the
environment are not part of it. Times are medians over steps that follow the warm-up.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from tensordict import TensorDict

from drama_torchrl.config import load_config
from drama_torchrl.estimate import random_batches
from drama_torchrl.factories import make_agent, make_device
from drama_torchrl.learner import Learner
from drama_torchrl.record import provenance

MODES = {
    "eager": ["execution.cudagraphs=false", "execution.compile=false"],
    "compile": ["execution.cudagraphs=false", "execution.compile=true"],
    "graphs": ["execution.cudagraphs=true", "execution.compile=false"],
    "compile+graphs": ["execution.cudagraphs=true", "execution.compile=true"],
}
NUM_ACTIONS = 18


def milliseconds(learner: Learner, batch: TensorDict, repeats: int) -> float:
    """Median time of one call, synchronised with the device around it."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        learner(batch)
        if batch.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def bench(mode: str, args: argparse.Namespace) -> dict[str, float]:
    """Build a fresh agent in a mode and time it."""
    config = load_config(args.preset, [*MODES[mode], *args.overrides])
    device = make_device(args.device)
    torch.manual_seed(0)
    start = time.perf_counter()
    agent = make_agent(config, NUM_ACTIONS, device)
    batch, context = random_batches(config, NUM_ACTIONS, device)
    for _ in range(args.warmup):
        model_metrics = agent.learn_world_model(batch)
        behaviour_metrics = agent.learn_behaviour(context)
    result = {
        "startup_s": time.perf_counter() - start,
        "world_model_ms": milliseconds(agent.learn_world_model, batch, args.repeats),
        "behaviour_ms": milliseconds(agent.learn_behaviour, context, args.repeats),
    }
    result["step_ms"] = result["world_model_ms"] + result["behaviour_ms"]
    result["loss_reconstruction"] = model_metrics["loss_reconstruction"].item()
    result["loss_critic"] = behaviour_metrics["loss_critic"].item()
    if device.type == "cuda":
        result["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
        torch.cuda.reset_peak_memory_stats()
    return result


def main() -> None:
    """Time the modes asked for and write one JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="xs")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--modes", nargs="+", default=["eager"], choices=MODES)
    parser.add_argument("--warmup", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("overrides", nargs="*", default=[])
    args = parser.parse_args()
    report = {"preset": args.preset, "provenance": provenance(), "modes": {}}
    for mode in args.modes:
        report["modes"][mode] = bench(mode, args)
        torch.compiler.reset()
        print(mode, json.dumps(report["modes"][mode]), flush=True)
        if args.out:
            args.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
