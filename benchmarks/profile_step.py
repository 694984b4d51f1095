"""Which kernels a training step consists of, and what each of them takes.

    python -m benchmarks.profile_step --set execution.compile=true --top 30

Looks at the same calls as ``bench_step``, a few of each under torch's profiler: the
whole step, and the agent's two learners by themselves. Of each part it prints the
kernels by name, the most expensive first, with their number and microseconds a call.
``busy_us`` is the time in which at least one kernel runs, ``sum_us`` counts those
that run beside each other twice. On a CPU operators stand for kernels.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.bench_step import NUM_ACTIONS, SMOKE, repeat
from benchmarks.harness import add_common_arguments, write_report
from drama_torchrl.config import load_config
from drama_torchrl.estimate import random_batches
from drama_torchrl.factories import make_agent, make_device

__all__ = ["Span", "main", "summarise"]

CALLS = 5


class Span(NamedTuple):
    """A kernel that ran.

    Args:
        name: of it.
        start: microseconds.
        end: microseconds.
    """

    name: str
    start: float
    end: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Profile the parts, print their kernels, write one JSON if asked to."""
    args = parse(arguments)
    device = make_device(args.device)
    config = load_config(args.preset, args.overrides)
    agent = make_agent(config, NUM_ACTIONS, device)
    batch, context = random_batches(config, NUM_ACTIONS, device)
    calls: dict[str, Callable[[], object]] = {
        "step": partial(agent.learn, batch, context),
        "world_model": partial(agent.learn_world_model, batch),
        "behaviour": partial(agent.learn_behaviour, context),
    }
    parts = {}
    for name, call in calls.items():
        repeat(call, device)
        parts[name] = summarise(spans_of(call, device), CALLS)
        show(name, parts[name], args.top)
    if args.out:
        content = {"num_actions": NUM_ACTIONS, "parts": parts}
        write_report("profile_step", args, content, device)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_arguments(parser)
    parser.add_argument("--preset", default="xs")
    parser.add_argument("--top", type=int, default=30, help="kernels to print")
    parser.add_argument(
        "--set", dest="overrides", nargs="+", default=[], metavar="OPTION=VALUE"
    )
    args = parser.parse_args(arguments)
    if args.smoke:
        args.preset, args.device = "quick", "cpu"
        args.overrides = [*SMOKE, *args.overrides]
    return args


def spans_of(call: Callable[[], object], device: torch.device) -> list[Span]:
    """Profile some calls; return what ran."""
    on_gpu = device.type == "cuda"
    activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    with profile(activities=[activity]) as found:
        for _ in range(CALLS):
            call()
        if on_gpu:
            torch.cuda.synchronize()
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    return [
        Span(event.name, event.time_range.start, event.time_range.end)
        for event in found.events() or []
        if event.device_type == kind
    ]


def summarise(spans: Iterable[Span], calls: int) -> dict[str, Any]:
    """Add up what ran, a call.

    Args:
        spans: of all calls.
        calls: number of them.

    Returns:
        ``"kernels"``, ``"sum_us"``, ``"busy_us"`` and ``"by_name"``: name, number and
        microseconds, the most expensive first.

    Example:
        >>> both = [Span("a", 0, 4), Span("b", 2, 5), Span("a", 7, 9)]
        >>> found = summarise(both, calls=1)
        >>> found["sum_us"], found["busy_us"], found["by_name"][0]
        (9.0, 7.0, ('a', 2.0, 6.0))
    """
    spans = sorted(spans, key=lambda span: span.start)
    totals: dict[str, tuple[int, float]] = {}
    busy, until = 0.0, float("-inf")
    for name, start, end in spans:
        count, spent = totals.get(name, (0, 0.0))
        totals[name] = count + 1, spent + end - start
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    by_name = [(name, n / calls, us / calls) for name, (n, us) in totals.items()]
    return {
        "kernels": len(spans) / calls,
        "sum_us": sum(us for _, _, us in by_name),
        "busy_us": busy / calls,
        "by_name": sorted(by_name, key=lambda row: -row[2]),
    }


def show(part: str, found: dict[str, Any], top: int) -> None:
    """Print a part and its most expensive kernels."""
    heads = {name: found[name] for name in ("kernels", "sum_us", "busy_us")}
    print(part, json.dumps(heads))
    for name, count, us in found["by_name"][:top]:
        print(f"{us:10.1f} µs {count:7.1f} × {name[:100]}")


if __name__ == "__main__":
    # As the recipe does.
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    sys.exit(main())
