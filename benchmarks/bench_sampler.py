"""Drawing windows from 10⁴ to 10⁷ stored transitions, beside TorchRL's samplers.

    python -m benchmarks.bench_sampler --devices cpu cuda --transitions 10000 1000000

- ``draw`` is ``sampler.sample``: which records; ``sample`` is ``buffer.sample``, which
  gathers them too: small records of 12 bytes, since frames cost the same whatever drew
  them. Visit counts are as after training: between 0 and 20.
- Ours draw 16 windows of 128 for the world model and 1024 of 8 for imagination, from a
  full ring, no start twice. ``SliceSampler`` draws as many (with replacement, inside
  episodes of 1000 steps), once with its boundaries cached, which holds only while
  nothing is written. ``PrioritizedSampler`` draws 2048 single transitions; a sampler of
  theirs that does not load or run is listed with its error.

Before anything is timed, windows must be runs of consecutive slots, and ours must have
different starts, each of which was counted exactly once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl import torchrl_logger
from torchrl.data import (
    ImmutableDatasetWriter,
    LazyTensorStorage,
    TensorDictReplayBuffer,
)
from torchrl.data.replay_buffers import (
    PrioritizedSampler,
    Sampler,
    SliceSampler,
    Storage,
)

from benchmarks.harness import (
    add_common_arguments,
    describe_failure,
    time_calls,
    write_report,
)
from drama_torchrl.data import (
    DFSImaginationSampler,
    DFSSampler,
    UniformWindowSampler,
    VisitCounts,
)
from drama_torchrl.factories import make_device

EPISODE = 1000
MOST_VISITS = 20


class Windows(NamedTuple):
    """How many windows of how many records are drawn."""

    number: int
    length: int


class Candidate(NamedTuple):
    """A sampler to time.

    Args:
        name: in the results.
        windows: what it draws.
        make: makes it for a capacity and the counts of the storage.
        counted: which counts its draws must move, if any.
    """

    name: str
    windows: Windows
    make: Callable[[int, VisitCounts], Sampler]
    counted: str | None = None


class DisagreementError(RuntimeError):
    """A sampler did not draw what it should."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Check and time every sampler, write one JSON; return the exit code."""
    args = parse(arguments)
    torchrl_logger.setLevel("WARNING")  # it would talk between the rows
    rows: list[dict[str, Any]] = []
    for name in args.devices:
        device = make_device(name)
        timed = partial(
            time_calls,
            device=device,
            burn_in=2,
            repeats=args.repeats,
            budget_s=args.budget,
        )
        for transitions in args.transitions:
            for row in bench_size(transitions, args.scale, device, timed):
                rows.append({"device": device.type, "transitions": transitions} | row)
                print(json.dumps(rows[-1]), flush=True)
    write_report("bench_sampler", args, {"rows": rows}, make_device(args.devices[-1]))
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_arguments(parser)
    parser.add_argument("--devices", nargs="+", choices=["cpu", "cuda"])
    parser.add_argument(
        "--transitions", nargs="+", type=int, default=[10**4, 10**5, 10**6, 10**7]
    )
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--budget", type=float, default=0.3, help="seconds a time")
    args = parser.parse_args(arguments)
    if args.smoke:
        args.devices, args.transitions = ["cpu"], [2_000]
        args.repeats, args.budget = 3, 0.02
    if args.devices is None:
        found = make_device(args.device).type
        both = args.device == "auto" and found == "cuda"
        args.devices = ["cpu", "cuda"] if both else [found]
    args.scale = 8 if args.smoke else 1
    return args


def candidates(scale: int) -> list[Candidate]:
    """Ours and theirs; a ``scale`` above 1 draws fewer windows."""
    model, context = Windows(16 // scale, 128), Windows(1024 // scale, 8)

    def slices(windows: Windows, **options: Any) -> Callable[..., Sampler]:
        return lambda capacity, counts: SliceSampler(  # noqa: ARG005
            slice_len=windows.length, **options
        )

    return [
        Candidate(
            "DFSSampler",
            model,
            lambda _, counts: DFSSampler(counts, window=model.length),
            "model",
        ),
        Candidate(
            "DFSImaginationSampler",
            context,
            lambda _, counts: DFSImaginationSampler(counts, window=context.length),
            "imagination",
        ),
        Candidate(
            "UniformWindowSampler",
            model,
            lambda *_: UniformWindowSampler(window=model.length),
        ),
        Candidate("SliceSampler", model, slices(model)),
        Candidate("SliceSampler", context, slices(context)),
        Candidate("SliceSampler, cached", model, slices(model, cache_values=True)),
        Candidate(
            "PrioritizedSampler",
            Windows(model.number * model.length, 1),
            lambda capacity, _: PrioritizedSampler(capacity, alpha=0.7, beta=0.9),
        ),
    ]


def bench_size(
    transitions: int,
    scale: int,
    device: torch.device,
    timed: Callable[[Callable[[], object]], dict[str, float]],
) -> Iterator[dict[str, Any]]:
    """Time every sampler on one full storage."""
    storage = LazyTensorStorage(transitions, device=device)
    counts = VisitCounts()
    writer = TensorDictReplayBuffer(
        storage=storage, sampler=DFSSampler(counts, window=1), batch_size=1
    )
    writer.extend(make_records(transitions, device))
    for visits in (counts.model, counts.imagination):
        visits.random_(0, MOST_VISITS + 1)
    for candidate in candidates(scale):
        number, length = candidate.windows
        row = {"sampler": candidate.name, "windows": number, "length": length}
        try:
            sampler = candidate.make(transitions, counts)
            if isinstance(sampler, PrioritizedSampler):
                sampler.extend(torch.arange(transitions))
            batch_size = number
            if not hasattr(sampler, "window"):  # TorchRL counts records, not windows
                batch_size *= length
            buffer = TensorDictReplayBuffer(
                storage=storage,
                sampler=sampler,
                batch_size=batch_size,
                writer=ImmutableDatasetWriter(),
            )
            draw = partial(sampler.sample, storage, batch_size)
            check(draw, candidate, storage, counts)
            row["draw"] = timed(draw)
            row["sample"] = timed(buffer.sample)
        except Exception as error:  # not every build of TorchRL has all of its samplers
            row["failure"] = describe_failure(error)
        yield row


def make_records(transitions: int, device: torch.device) -> TensorDict:
    """Transitions without frames, in episodes of 1000 steps."""
    steps = torch.arange(transitions, device=device).unsqueeze(-1)
    done = steps % EPISODE == EPISODE - 1
    following = {"reward": steps.float(), "done": done, "truncated": done & False}
    return TensorDict(
        {
            "action": (steps % 18).to(torch.uint8),
            "is_init": steps % EPISODE == 0,
            "next": TensorDict(following, batch_size=[transitions]),
        },
        batch_size=[transitions],
    )


def check(
    draw: Callable[[], tuple[Any, dict]],
    candidate: Candidate,
    storage: Storage,
    counts: VisitCounts,
) -> None:
    """Compare one draw with what its sampler promises.

    Raises:
        DisagreementError: if windows are no runs of slots; with ``counted``, if starts
            repeat or if other visits than theirs were counted.
    """
    before = None
    if candidate.counted is not None:
        before = getattr(counts, candidate.counted).clone()
    index, _ = draw()
    slots = index[0] if isinstance(index, tuple) else index
    windows = slots.reshape(candidate.windows)
    steps = torch.arange(candidate.windows.length, device=windows.device)
    expected = (windows[:, :1] + steps) % storage.max_size
    _expect(torch.equal(windows, expected), "windows of consecutive slots", windows)
    if before is None:
        return
    starts = windows[:, 0]
    _expect(len(starts.unique()) == len(starts), "different starts", starts)
    before[starts] += 1
    after = getattr(counts, candidate.counted or "")
    _expect(torch.equal(after, before), "one more visit of each start", starts)


def _expect(holds: bool, expected: str, got: Tensor) -> None:
    if not holds:
        raise DisagreementError(
            f"expected {expected}, got {got.flatten()[:8].tolist()}"
        )


if __name__ == "__main__":
    sys.exit(main())
