"""What all benchmarks share: timing, memory, CUDA graphs, arguments and the JSON.

Run them as modules from the root of the repository, for example
``python -m benchmarks.bench_ssd --smoke``.
"""

from __future__ import annotations

import argparse
import gc
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from drama_torchrl.record import provenance
from drama_torchrl.record.atomic import write_json

__all__ = [
    "RESULTS",
    "Call",
    "add_common_arguments",
    "autocast",
    "capture",
    "describe_failure",
    "exact_float32",
    "relative_error",
    "time_calls",
    "watch_memory",
    "write_report",
]

RESULTS = Path(__file__).parent / "results" / "speed"
MIN_REPEATS = 3
_GB = 1e9

Call = Callable[[], object]


def time_calls(
    call: Call,
    device: torch.device,
    *,
    burn_in: int = 4,
    repeats: int = 30,
    budget_s: float = 2.0,
) -> dict[str, float]:
    """Time single calls after a burn-in: CUDA events on a GPU, else the wall clock.

    On a GPU the calls are queued without waiting between them, as training queues
    them: what is measured is the device's time where the device is the slower one,
    and the time of the launches where these are.

    Args:
        call: what to time.
        device: where it computes.
        burn_in: calls before the first timed one, at least one.
        repeats: timed calls.
        budget_s: they are made fewer, but not fewer than three, to end in this time.

    Returns:
        ``"median_ms"``, ``"low_ms"`` and ``"high_ms"`` (10th and 90th percentile)
        and ``"repeats"``.
    """
    for _ in range(burn_in - 1):
        call()
    _synchronize(device)
    start = time.perf_counter()
    call()
    _synchronize(device)
    single = time.perf_counter() - start
    repeats = max(min(MIN_REPEATS, repeats), min(repeats, int(budget_s / single)))
    measure = _time_on_gpu if device.type == "cuda" else _time_on_host
    times = sorted(measure(call, repeats))
    return {
        "median_ms": statistics.median(times),
        "low_ms": times[len(times) // 10],
        "high_ms": times[-1 - len(times) // 10],
        "repeats": len(times),
    }


def _time_on_host(call: Call, repeats: int) -> list[float]:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return times


def _time_on_gpu(call: Call, repeats: int) -> list[float]:
    event = partial(torch.cuda.Event, enable_timing=True)
    events = [event() for _ in range(repeats + 1)]
    events[0].record()
    for after in events[1:]:
        call()
        after.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) for a, b in pairwise(events)]


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


@contextmanager
def watch_memory(device: torch.device) -> Iterator[dict[str, float]]:
    """Fill the dictionary it yields with the peak memory of the block.

    On a GPU, ``"peak_allocated_gb"`` by tensors and ``"peak_reserved_gb"``, which has
    the pools of CUDA graphs too. On a CPU, ``"peak_rss_gb"`` of the process so far:
    the system keeps no peak of a block.
    """
    found: dict[str, float] = {}
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    yield found
    if device.type == "cuda":
        found["peak_allocated_gb"] = torch.cuda.max_memory_allocated() / _GB
        found["peak_reserved_gb"] = torch.cuda.max_memory_reserved() / _GB
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found["peak_rss_gb"] = peak * unit / _GB


def autocast(device: torch.device) -> torch.autocast:
    """Give the precision that training has: bfloat16 products on CUDA alone."""
    enabled = device.type == "cuda"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute float32 products and convolutions without TF32, whose error is 1e-3."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def capture(call: Call, *, warmup: int = 3) -> Call:
    """Record a call as a CUDA graph; what is returned replays it.

    Args:
        call: reads and writes the same memory at every call and never waits for the
            device.
        warmup: ordinary calls before, for lazy initialisation.

    Returns:
        A function that replays the graph and returns what the recorded call returned,
        overwritten by each replay.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warmup):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        recorded = call()

    def replay() -> object:
        graph.replay()
        return recorded

    return replay


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over the norm of what was expected.

    Example:
        >>> relative_error(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0]))
        0.1
    """
    expected = expected.double()
    difference = torch.linalg.vector_norm(found.double() - expected)
    scale = torch.linalg.vector_norm(expected).clamp_min(torch.finfo(torch.double).tiny)
    return (difference / scale).item()


def describe_failure(error: Exception) -> str:
    """Name an error and its first line, for a JSON."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}"


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that every benchmark has."""
    parser.add_argument(
        "--device", default="auto", choices=["auto", "cpu", "cuda"], help="where to run"
    )
    parser.add_argument(
        "--smoke", action="store_true", help="tiny sizes on the CPU, seconds; no claim"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help=f"JSON to write (default: {RESULTS.name}/<bench>.json among the results; "
        "with --smoke, none)",
    )


def write_report(
    bench: str,
    arguments: argparse.Namespace,
    content: Mapping[str, Any],
    device: torch.device,
) -> None:
    """Write what was measured, by what, where and on what.

    Args:
        bench: name of the benchmark.
        arguments: its command line, with ``out`` and ``smoke``.
        content: values that JSON knows.
        device: where it ran.
    """
    path: Path | None = arguments.out
    if path is None and not arguments.smoke:
        path = RESULTS / f"{bench}.json"
    if path is None:
        return
    given = {
        name: value
        for name, value in vars(arguments).items()
        if name not in ("out", "device", "cache")  # of this machine, not of the result
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {
        "bench": bench,
        "provenance": provenance(device),
        "device_type": device.type,
        "arguments": given,
    }
    write_json(path, header | dict(content))
    print(f"wrote {path}", file=sys.stderr, flush=True)
