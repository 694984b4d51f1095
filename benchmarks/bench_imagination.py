"""Imagination over batch, horizon and context length; long contexts without frames.

    python -m benchmarks.bench_imagination --axes batch context --modes eager graphs

Four axes, each with the others at the paper's sizes (1024 contexts of 8 frames, 16
steps), in the precision of training:

- ``batch``: contexts, and ``horizon``: imagined steps;
- ``context``: frames in each of 256 contexts, encoding included;
- ``dynamics``: sequences B × T of given latents, up to 65 536 steps, through the
  sequence model alone. At such lengths no frame is encoded: the frames would take
  hundreds of times the memory of what is measured. Beside the pass over the context
  stands ``step``, one imagined step after it, which costs the same after any length.

Before a rollout is timed, one in float32 with fixed draws is compared with TorchRL's
own ``env.rollout`` of the same environment and policy: 99 % of the latents must be the
same and rewards agree within 1 %. Before a context is timed, its last belief in float32
must be that of a pass over all but one step and one step more, within 0.1 %. Modes
that compile are not offered: each size would compile for minutes (``bench_step`` has
them at the sizes of training).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from benchmarks.harness import (
    Call,
    add_common_arguments,
    capture,
    describe_failure,
    exact_float32,
    time_calls,
    watch_memory,
    write_report,
)
from benchmarks.imagination_cases import NUM_ACTIONS, Context, Measurement, Rollout
from drama_torchrl.agent import Agent
from drama_torchrl.config import DramaConfig, load_config
from drama_torchrl.factories import make_agent, make_device

MODES = ("eager", "graphs")
# (batch, context, horizon) of the rollouts on each axis; (batch, length) of the last.
_ROLLOUTS = {
    "batch": [(64, 8, 16), (256, 8, 16), (1024, 8, 16), (4096, 8, 16)],
    "horizon": [(1024, 8, 4), (1024, 8, 16), (1024, 8, 64)],
    "context": [(256, 8, 16), (256, 32, 16), (256, 64, 16)],
}
_SEQUENCES = [(16, 128), (16, 1024), (4, 8192), (1, 16384), (1, 65536)]
_SMALL_ROLLOUTS = {
    "batch": [(8, 4, 4), (32, 4, 4)],
    "horizon": [(8, 4, 2), (8, 4, 8)],
    "context": [(8, 2, 4), (8, 8, 4)],
}
_SMALL_SEQUENCES = [(2, 32), (1, 600)]
_SMALL = (
    "env.frame_size=16",
    "world_model.filters=[4,8,8]",
    "world_model.d_model=32",
    "world_model.head_dim=16",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check and time every size, write one JSON; return the exit code."""
    args = parse(arguments)
    device = make_device(args.device)
    config = load_config(args.preset, args.overrides)
    torch.manual_seed(0)
    agent = make_agent(config, NUM_ACTIONS, device)
    timed = partial(
        time_calls, device=device, repeats=args.repeats, budget_s=args.budget
    )
    rows: list[dict[str, Any]] = []
    for axis, size, make in plan(args, config, agent):
        for mode in args.modes:
            row: dict[str, Any] = {"axis": axis, **size, "mode": mode}
            row |= measure(make, mode, timed, device)
            rows.append(row)
            print(json.dumps(row), flush=True)
        report = {"autocast": device.type == "cuda", "rows": rows}
        write_report("bench_imagination", args, report, device)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_arguments(parser)
    axes = [*_ROLLOUTS, "dynamics"]
    parser.add_argument("--preset", default="xs")
    parser.add_argument("--axes", nargs="+", choices=axes, default=axes)
    parser.add_argument("--modes", nargs="+", choices=MODES)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--budget", type=float, default=0.3, help="seconds a time")
    parser.add_argument(
        "--set", dest="overrides", nargs="+", default=[], metavar="OPTION=VALUE"
    )
    args = parser.parse_args(arguments)
    if args.smoke:
        args.device, args.preset, args.repeats, args.budget = "cpu", "quick", 3, 0.05
        args.overrides = [*_SMALL, *args.overrides]
    on_gpu = make_device(args.device).type == "cuda"
    args.modes = args.modes or (list(MODES) if on_gpu else ["eager"])
    return args


def plan(
    args: argparse.Namespace, config: DramaConfig, agent: Agent
) -> Iterator[tuple[str, dict[str, int], Callable[[], Measurement]]]:
    """Name each size on each axis, with what makes its measurement."""
    small = agent.device.type == "cpu"
    rollouts = _SMALL_ROLLOUTS if small else _ROLLOUTS
    for axis in args.axes:
        if axis == "dynamics":
            for batch, length in _SMALL_SEQUENCES if small else _SEQUENCES:
                make = partial(Context, config, agent, batch, length)
                yield axis, {"batch": batch, "context": length}, make
        else:
            for triple in rollouts[axis]:
                sizes = dict(zip(("batch", "context", "horizon"), triple, strict=True))
                yield axis, sizes, partial(Rollout, config, agent, *triple)


def measure(
    make: Callable[[], Measurement],
    mode: str,
    timed: Callable[[Callable[[], object]], dict[str, float]],
    device: torch.device,
) -> dict[str, Any]:
    """Check a measurement in a mode, then time it; what fails is said instead."""
    run = capture if mode == "graphs" else _as_it_is
    try:
        measurement = make()
        with exact_float32():
            errors = measurement.errors(run)
        if not all(error <= 1 for error in errors.values()):
            return {"errors": errors, "failure": "off by more than is allowed"}
        with watch_memory(device) as memory:
            times = {
                name: timed(run(call)) for name, call in measurement.calls().items()
            }
    except Exception as error:  # out of memory, say: the other sizes are still worth it
        return {"failure": describe_failure(error)}
    return {"errors": errors, "times": times, "memory": memory}


def _as_it_is(call: Call) -> Call:
    return call


if __name__ == "__main__":
    # As the recipe does.
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    sys.exit(main())
