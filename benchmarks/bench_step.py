"""Milliseconds of a training step: world model, imagination, actor-critic, all.

    python -m benchmarks.bench_step --modes eager graphs compile compile+graphs

Each mode first has to agree with plain eager updates: ``benchmarks/agreement.py`` says
what is compared, in float32, and how closely. A mode that does not is not timed, and
the exit code is 1. Then a fresh agent of the configured precision is timed on batches
of random frames that are on the device already; neither the environment nor the replay
buffer is part of it. Times are medians after a burn-in.

- ``step`` is ``agent.learn``, what the recipe calls. Memory is of it alone: what the
  start takes at most, when cuDNN tries its algorithms with as much as there is, and
  what training then holds;
- ``world_model`` and ``behaviour`` are the agent's two learners, each by itself;
- ``actor_critic`` is the behaviour of a second agent whose update is given one kept
  rollout instead of imagining a new one;
- ``imagination`` is what that saves: a difference of two medians.

Beside them stand the floors of ``benchmarks/floor.py``, in milliseconds by the rates
that this machine reaches. Compilation takes minutes, for the check and again for the
times: the modes that compile are not among the defaults.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from tensordict import TensorDictBase

from benchmarks.agreement import compare_traces, trace_updates
from benchmarks.floor import step_floor
from benchmarks.harness import (
    add_common_arguments,
    describe_failure,
    time_calls,
    watch_memory,
    write_report,
)
from benchmarks.roofline import floor_ms, measure_peaks
from benchmarks.substitution import substituted
from drama_torchrl.config import DramaConfig, load_config
from drama_torchrl.envs.imagination import imagine
from drama_torchrl.estimate import random_batches
from drama_torchrl.factories import make_agent, make_device

MODES = {
    "eager": ("execution.cudagraphs=false", "execution.compile=false"),
    "graphs": ("execution.cudagraphs=true", "execution.compile=false"),
    "compile": ("execution.cudagraphs=false", "execution.compile=true"),
    "compile+graphs": ("execution.cudagraphs=true", "execution.compile=true"),
}
NUM_ACTIONS = 18
BURN_IN = 8
Measure = Callable[[Callable[[], object]], dict[str, float]]
SMOKE = (
    "env.frame_size=16",
    "replay.model_batch=2",
    "replay.model_window=8",
    "replay.imagination_batch=8",
    "replay.imagination_window=4",
    "world_model.filters=[4,8,8]",
    "world_model.d_model=32",
    "world_model.head_dim=16",
    "behaviour.horizon=3",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check and time the modes asked for, write one JSON; return the exit code."""
    args = parse(arguments)
    device = make_device(args.device)
    reference = trace_updates(
        args.preset, [*args.overrides, *MODES["eager"]], NUM_ACTIONS, device
    )
    report: dict[str, Any] = {"num_actions": NUM_ACTIONS, "modes": {}}
    report |= floors(load_config(args.preset, args.overrides), device)
    for mode in args.modes:
        overrides = [*args.overrides, *MODES[mode]]
        row: dict[str, Any] = {}
        report["modes"][mode] = row
        try:
            found = trace_updates(args.preset, overrides, NUM_ACTIONS, device)
            row["agreement"] = compare_traces(found, reference)
            torch.compiler.reset()
            if row["agreement"]["agrees"]:
                config = load_config(args.preset, overrides)
                row |= bench(config, device, args.repeats, args.budget)
        except Exception as error:  # the other modes are still worth their numbers
            row["failure"] = describe_failure(error)
        torch.compiler.reset()
        print(mode, json.dumps(row), flush=True)
        write_report("bench_step", args, report, device)
    return 0 if all("parts" in row for row in report["modes"].values()) else 1


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_arguments(parser)
    parser.add_argument("--preset", default="xs")
    parser.add_argument(
        "--modes", nargs="+", choices=MODES, help="default: eager and, on a GPU, graphs"
    )
    parser.add_argument("--repeats", type=int, default=30, help="timed calls a part")
    parser.add_argument("--budget", type=float, default=2.0, help="seconds a part")
    parser.add_argument(
        "--set", dest="overrides", nargs="+", default=[], metavar="OPTION=VALUE"
    )
    args = parser.parse_args(arguments)
    if args.smoke:
        args.preset, args.device, args.repeats, args.budget = "quick", "cpu", 3, 0.1
        args.overrides = [*SMOKE, *args.overrides]
    on_gpu = make_device(args.device).type == "cuda"
    args.modes = args.modes or (["eager", "graphs"] if on_gpu else ["eager"])
    return args


def floors(config: DramaConfig, device: torch.device) -> dict[str, Any]:
    """Compute FLOP, bytes and the least milliseconds of each part on this machine."""
    agent = make_agent(config, NUM_ACTIONS, device)
    parameters = {
        name: sum(p.numel() for p in learner.modules.parameters() if p.requires_grad)
        for name, learner in (
            ("world_model", agent.learn_world_model),
            ("behaviour", agent.learn_behaviour),
        )
    }
    halves = config.execution.autocast and device.type == "cuda"
    works = step_floor(
        config, NUM_ACTIONS, parameters=parameters, width=2 if halves else 4
    )
    peaks = measure_peaks(device)
    floor = {
        part: asdict(work) | {"ms": floor_ms(work, peaks)}
        for part, work in works.items()
    }
    return {"parameters": parameters, "peaks": peaks, "floor": floor}


def bench(
    config: DramaConfig, device: torch.device, repeats: int, budget_s: float
) -> dict[str, Any]:
    """Build fresh agents of a configuration and time their parts."""

    measure: Measure = partial(
        time_calls, device=device, burn_in=2, repeats=repeats, budget_s=budget_s
    )
    torch.manual_seed(0)
    start = time.perf_counter()
    with watch_memory(device) as startup_memory:
        agent = make_agent(config, NUM_ACTIONS, device)
        batch, context = random_batches(config, NUM_ACTIONS, device)
        step = partial(agent.learn, batch, context)
        repeat(step, device)
    startup = time.perf_counter() - start
    with watch_memory(device) as memory:
        parts = {"step": measure(step)}
    # What follows captures graphs that training does not have.
    for name, call in (
        ("world_model", partial(agent.learn_world_model, batch)),
        ("behaviour", partial(agent.learn_behaviour, context)),
    ):
        repeat(call, device)
        parts[name] = measure(call)
    torch.compiler.reset()  # one agent's regions do not count against another's
    parts["actor_critic"] = bench_actor_critic(config, device, measure)
    saved = parts["behaviour"]["median_ms"] - parts["actor_critic"]["median_ms"]
    parts["imagination"] = {"median_ms": saved}
    return {
        "startup_s": startup,
        "startup_memory": startup_memory,
        "memory": memory,
        "parts": parts,
    }


def repeat(call: Callable[[], object], device: torch.device) -> None:
    """Call often enough for an update to have been recorded as a CUDA graph."""
    for _ in range(BURN_IN):
        call()
    if device.type == "cuda":
        torch.cuda.synchronize()


def bench_actor_critic(
    config: DramaConfig, device: torch.device, measure: Measure
) -> dict[str, float]:
    """Time an update of the behaviour that imagines at its first call only."""
    kept = KeptRollouts()
    with substituted(imagine, kept):
        torch.manual_seed(0)
        agent = make_agent(config, NUM_ACTIONS, device)
        _, context = random_batches(config, NUM_ACTIONS, device)
        agent.learn_behaviour(context)
        kept.recording = False
        update = partial(agent.learn_behaviour, context)
        repeat(update, device)
        return measure(update)


class KeptRollouts:
    """Stands for ``imagine``: keeps what it imagines, then returns that in turn."""

    def __init__(self) -> None:
        self.recording = True
        self._kept: list[TensorDictBase] = []
        self._calls = 0

    def __call__(self, *arguments: Any, **named: Any) -> TensorDictBase:
        """Imagine while recording, else repeat."""
        if self.recording:
            self._kept.append(imagine(*arguments, **named))
            return self._kept[-1].copy()
        self._calls += 1
        return self._kept[(self._calls - 1) % len(self._kept)].copy()


if __name__ == "__main__":
    # As the recipe does.
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    sys.exit(main())
