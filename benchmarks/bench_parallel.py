"""Milliseconds of a training step on one GPU, and on several that share its work.

    python -m benchmarks.bench_parallel --rows 1 2 2:apart 4:apart --modes graphs

A row is a number of GPUs and the order of the updates, each a launch of its own by
``torchrun`` with one process for each GPU, or, with ``apart`` and ``apart_at_once``,
for each two: one for the world model, one for the behaviour. The batch sizes are those
of the preset and are shared, so that all rows do the same work. Each first has to agree
with plain eager updates of one process, as ``bench_step`` does; one that does not is
not timed, and the exit code is 1. What is timed is ``agent.learn`` on random frames
that are on the devices already: neither the environment nor the replay buffer is part
of it, nor what the first process tells the others in each step. Times are the first
process's; all wait for each other in every update.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.agreement import Trace, compare_traces, trace_updates
from benchmarks.bench_step import MODES, NUM_ACTIONS, SMOKE, repeat
from benchmarks.harness import (
    add_common_arguments,
    time_calls,
    watch_memory,
    write_report,
)
from drama_torchrl.config import load_config
from drama_torchrl.estimate import random_batches
from drama_torchrl.factories import make_agent, make_device
from drama_torchrl.parallel import my_share, processes, rank

ORDERS = {
    "in_turn": ("training.updates=in_turn",),
    "at_once": ("training.updates=at_once",),
    "apart": ("execution.behaviour_device=own",),
    "apart_at_once": ("execution.behaviour_device=own", "training.updates=at_once"),
}
# The same updates in the same order.
_REFERENCES = {
    "in_turn": "in_turn",
    "at_once": "at_once",
    "apart": "in_turn",
    "apart_at_once": "at_once",
}
# Every process makes as many calls, whatever its own clock says.
_UNLIMITED_S = 1e9


def main(arguments: Sequence[str] | None = None) -> int:
    """Launch, check and collect all rows, write one JSON; return the exit code."""
    args = parse(arguments)
    device = make_device(args.device)
    if args.worker is not None:
        work(args, device)
        return 0
    report: dict[str, Any] = {"num_actions": NUM_ACTIONS, "rows": []}
    orders = {_REFERENCES[order] for _, order in args.rows}
    references = {order: launch(args, 1, "eager", order) for order in sorted(orders)}
    alone: dict[tuple[str, str], float] = {}
    for (gpus, order), mode in product(args.rows, args.modes):
        count = gpus // gpus_a_process(order)
        row: dict[str, Any] = {
            "gpus": gpus,
            "processes": count,
            "mode": mode,
            "updates": order,
        }
        report["rows"].append(row)
        found = launch(args, count, mode, order)
        reference = references[_REFERENCES[order]]
        failure = reference.get("failure") or found.get("failure")
        if failure:
            row["failure"] = failure
        else:
            row["agreement"] = compare_traces(found["trace"], reference["trace"])
        if row.get("agreement", {}).get("agrees"):
            row |= {key: found[key] for key in ("startup_s", "memory", "times")}
            median = row["times"]["step"]["median_ms"]
            if gpus == 1:
                alone[mode, order] = median
            if (mode, _REFERENCES[order]) in alone:
                row["speedup"] = alone[mode, _REFERENCES[order]] / median
        print(json.dumps(row), flush=True)
        write_report("bench_parallel", args, report, device)
    return 0 if all("times" in row for row in report["rows"]) else 1


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_arguments(parser)
    parser.add_argument("--preset", default="xs")
    parser.add_argument(
        "--rows",
        nargs="+",
        type=read_row,
        metavar="GPUS[:ORDER]",
        help=f"orders are {', '.join(ORDERS)} (default: the first, and all GPUs apart)",
    )
    parser.add_argument(
        "--modes", nargs="+", choices=MODES, help="default: graphs; on a CPU, eager"
    )
    parser.add_argument("--repeats", type=int, default=50, help="timed updates a row")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds a row")
    parser.add_argument(
        "--set", dest="overrides", nargs="+", default=[], metavar="OPTION=VALUE"
    )
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.smoke and args.worker is None:
        args.preset, args.device, args.repeats = "quick", "cpu", 3
        args.overrides = [*SMOKE, *args.overrides]
    on_gpu = make_device(args.device).type == "cuda"
    args.modes = args.modes or (["graphs"] if on_gpu else ["eager"])
    most = torch.cuda.device_count() if on_gpu else 2
    if args.rows is None:
        args.rows = [(n, "in_turn") for n in (1, 2, 4, 8) if n <= most]
        args.rows += [(most, "apart")] * (on_gpu and most % 2 == 0)
    return args


def read_row(text: str) -> tuple[int, str]:
    """Read a number of GPUs and the order of the updates on them."""
    gpus, _, order = text.partition(":")
    order = order or "in_turn"
    fits = gpus.isdecimal() and order in ORDERS and int(gpus) > 0
    if not fits or int(gpus) % gpus_a_process(order):
        raise argparse.ArgumentTypeError(
            f"expected GPUS[:ORDER], an even number of them if apart, got {text!r}"
        )
    return int(gpus), order


def gpus_a_process(order: str) -> int:
    """One, or one for each of the two updates."""
    return 1 if order == _REFERENCES[order] else 2


def launch(
    args: argparse.Namespace, count: int, mode: str, order: str
) -> dict[str, Any]:
    """Return what processes of their own found, or their ``"failure"``."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "found.pt")
        options = [*args.overrides, *MODES[mode], *ORDERS[order]]
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc-per-node={count}", "-m", "benchmarks.bench_parallel"),
            *("--worker", str(out), "--preset", args.preset, "--device", args.device),
            *("--repeats", str(args.repeats), "--set", *options),
        ]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=args.timeout
            )
        except subprocess.TimeoutExpired:
            return {"failure": f"no end after {args.timeout:g} s"}
        if done.returncode:
            print(done.stderr, file=sys.stderr)
            return {"failure": last_error(done.stderr)}
        found: dict[str, Any] = torch.load(out, weights_only=True)
    return found | {"trace": Trace(*found["trace"])}


def last_error(stderr: str) -> str:
    """The line that names what went wrong first, of the traces of all processes."""
    named = [line for line in stderr.splitlines() if "Error: " in line]
    return (named or stderr.strip().splitlines() or ["no message"])[0].strip()


def work(args: argparse.Namespace, device: torch.device) -> None:
    """Trace and time as one of the processes; the first one writes."""
    # As the recipe does.
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    with processes(device):
        trace = trace_updates(args.preset, args.overrides, NUM_ACTIONS, device)
        torch.compiler.reset()
        found: dict[str, Any] = {"trace": tuple(trace)}
        torch.manual_seed(0)
        start = time.perf_counter()
        with watch_memory(device) as memory:
            config = load_config(args.preset, args.overrides)
            agent = make_agent(config, NUM_ACTIONS, device)
            batches = random_batches(config, NUM_ACTIONS, device)
            windows, contexts = (my_share(batch) for batch in batches)
            step = partial(agent.learn, windows, contexts.to(agent.behaviour_device))
            repeat(step, device)
            found["startup_s"] = time.perf_counter() - start
            times = time_calls(
                step, device, repeats=args.repeats, budget_s=_UNLIMITED_S
            )
        found |= {"memory": memory, "times": {"step": times}}
        if rank() == 0:
            torch.save(found, args.worker)


if __name__ == "__main__":
    sys.exit(main())
