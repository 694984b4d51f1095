"""Training and imagination of each dynamics model against length (the paper's A.8).

    python -m benchmarks.bench_dynamics --dynamics mamba2 transformer --modes graphs

At the paper's sizes, with equal numbers of parameters, latents given, without frames:

- ``training``: forward and backward over B × T, in training mode, T from 16 to 4096;
- ``imagination``: a pass over contexts N × C without gradients and H steps after it,
  C from 8 to 2048. The latents of the steps are given too: what is drawn from the
  beliefs costs the same for every model.

The Transformer sees everything: its window is as long as the sequence, or the context
and the steps. Before a time is taken, in float32: beliefs of a sequence must be those
of its two halves with the state handed on, and those of the steps after a context must
be those of one pass over both, within 0.1 %. A model whose parameters differ from the
first one's by more than a tenth is not timed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from benchmarks.dynamics_cases import CASES, Imagination, Training
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
from drama_torchrl.factories import make_device
from drama_torchrl.options import DYNAMICS

MODES = ("eager", "graphs")
MAX_DIFFERENCE = 0.1  # of the numbers of parameters
_SIZES: dict[str, tuple[int, ...]] = {
    "training": (16, 32, 64, 128, 256, 512, 1024, 2048, 4096),
    "imagination": (8, 16, 32, 64, 128, 256, 512, 1024, 2048),
}
_SMALL_SIZES: dict[str, tuple[int, ...]] = {
    "training": (16, 128, 512),
    "imagination": (8, 64, 256),
}
_SMOKE_SIZES: dict[str, tuple[int, ...]] = {"training": (4, 33), "imagination": (3, 9)}
# Not narrower, or what differs between the models would be more than a tenth.
_SMOKE = (
    "world_model.d_model=128",
    "world_model.d_state=4",
    "world_model.num_categoricals=8",
    "world_model.num_classes=8",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check and time each model at each length, write a JSON; return the exit code."""
    args = parse(arguments)
    device = make_device(args.device)
    timed = partial(
        time_calls, device=device, repeats=args.repeats, budget_s=args.budget
    )
    rows: list[dict[str, Any]] = []
    for phase, length, kind in plan(args, device):
        make = partial(CASES[phase], args, kind, length, device)
        for mode in args.modes:
            row = {"phase": phase, "length": length, "dynamics": kind, "mode": mode}
            row |= measure(make, mode, timed, device, parameters_of(rows))
            rows.append(row)
            print(json.dumps(row), flush=True)
        report = {"autocast": device.type == "cuda", "rows": rows}
        write_report("bench_dynamics", args, report, device)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_arguments(parser)
    parser.add_argument("--dynamics", nargs="+", choices=DYNAMICS, default=[*DYNAMICS])
    parser.add_argument("--phases", nargs="+", choices=CASES, default=[*CASES])
    parser.add_argument("--modes", nargs="+", choices=MODES)
    parser.add_argument(
        "--lengths", nargs="+", type=int, help="T, and C (default: A.8)"
    )
    parser.add_argument("--batch", type=int, default=16, help="B of training")
    parser.add_argument("--rollouts", type=int, default=256, help="N of imagination")
    parser.add_argument("--horizon", type=int, default=16, help="H of imagination")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--budget", type=float, default=0.5, help="seconds a time")
    parser.add_argument(
        "--set", dest="overrides", nargs="+", default=[], metavar="OPTION=VALUE"
    )
    args = parser.parse_args(arguments)
    if args.smoke:
        args.device, args.repeats, args.budget = "cpu", 3, 0.02
        args.batch, args.rollouts, args.horizon = 2, 3, 4
        args.overrides = [*_SMOKE, *args.overrides]
    on_gpu = make_device(args.device).type == "cuda"
    args.modes = args.modes or (list(MODES) if on_gpu else ["eager"])
    return args


def plan(
    args: argparse.Namespace, device: torch.device
) -> Iterator[tuple[str, int, str]]:
    """Name each phase, length and model, the models of a length beside each other."""
    sizes = _SIZES if device.type == "cuda" else _SMALL_SIZES
    if args.smoke:
        sizes = _SMOKE_SIZES
    for phase in args.phases:
        for length in args.lengths or sizes[phase]:
            for kind in args.dynamics:
                yield phase, length, kind


def measure(
    make: Callable[[], Training | Imagination],
    mode: str,
    timed: Callable[[Call], dict[str, float]],
    device: torch.device,
    parameters: int | None,
) -> dict[str, Any]:
    """Check a model and time it; what fails is said instead.

    Args:
        make: makes it.
        mode: how it runs.
        timed: times a call.
        device: where it runs.
        parameters: that the others have; None for the first one.
    """
    try:
        case = make()
        with exact_float32():
            error = case.error()
        row: dict[str, Any] = {"parameters": case.parameters, "error": error}
        if not error <= 1:
            return row | {"failure": "off by more than is allowed"}
        size = parameters or case.parameters
        if abs(case.parameters - size) > MAX_DIFFERENCE * size:
            return row | {"failure": f"expected about {size} parameters"}
        with watch_memory(device) as memory:
            run = capture(case.call) if mode == "graphs" else case.call
            times = {"call": timed(run)}
    except Exception as failure:  # out of memory, say: the others are still worth it
        return {"failure": describe_failure(failure)}
    return row | {"times": times, "memory": memory}


def parameters_of(rows: Sequence[dict[str, Any]]) -> int | None:
    """Give the number of parameters of the first model that was made."""
    return next((row["parameters"] for row in rows if "parameters" in row), None)


if __name__ == "__main__":
    # As the recipe does.
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    sys.exit(main())
