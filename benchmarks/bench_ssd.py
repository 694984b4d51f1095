"""The forms of the state-space recurrence over B × T, mamba-ssm's beside them.

    python -m benchmarks.bench_ssd --shapes 16x128 4x8192 1x65536 --modes eager graphs

Heads, width and state are those of the agent: 8 × 128, 16. Inputs are bfloat16 with
float32 step sizes on a GPU, as training has them, float32 on a CPU. Before a form is
timed at a shape, its outputs, final states and gradients there are compared with those
of a float32 reference: the step-by-step loop up to 512 steps; beyond, where a loop
would take minutes, the chunked form in float32, whose first 512 steps are compared with
the loop first. A form that is off by more than ``TOLERANCES`` is not timed.

Forms that cannot run at a shape say why: the quadratic one grows with T², the loop with
T launches, and mamba-ssm needs its package and a GPU. ``backward`` times are those of
forward and backward together.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import (
    add_common_arguments,
    capture,
    describe_failure,
    exact_float32,
    time_calls,
    watch_memory,
    write_report,
)
from benchmarks.ssd_forms import (
    HEADS,
    LOOP_MAX_LENGTH,
    Form,
    Inputs,
    SkippedError,
    check,
    forms,
    import_mamba_scan,
    make_inputs,
    reference_form,
    run,
    wide,
)
from drama_torchrl.factories import make_device

TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 2e-2}
QUADRATIC_MAX_TOKENS_SQUARED = 2**27
MODES = ("eager", "graphs", "compile")
# An unrolled loop compiles for minutes; Triton kernels are compiled already.
UNCOMPILED = ("recurrent", "mamba-ssm")
_SHAPES = ("16x128", "1024x8", "16x256", "16x1664", "4x8192", "1x65536")
_SMOKE_SHAPES = ("2x8", "1x600")


def main(arguments: Sequence[str] | None = None) -> int:
    """Check and time every form at every shape; return the exit code."""
    args = parse(arguments)
    device = make_device(args.device)
    rows: list[dict[str, Any]] = []
    dtype = str(make_inputs(1, 1, device).x.dtype).removeprefix("torch.")
    for shape in args.shapes:
        batch, length = (int(number) for number in shape.split("x"))
        inputs = make_inputs(batch, length, device)
        with exact_float32():
            reference = run(reference_form(length), wide(inputs))
        for name, form in forms().items():
            row = {"form": name, "batch": batch, "length": length}
            for found in bench(name, form, inputs, reference, args, device):
                rows.append(row | found)
                print(json.dumps(rows[-1]), flush=True)
        write_report("bench_ssd", args, {"dtype": dtype, "rows": rows}, device)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_common_arguments(parser)
    parser.add_argument(
        "--shapes", nargs="+", metavar="BxT", help="B × T, as in 16x128"
    )
    parser.add_argument("--modes", nargs="+", choices=MODES)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--budget", type=float, default=0.3, help="seconds a time")
    args = parser.parse_args(arguments)
    if args.smoke:
        args.device, args.repeats, args.budget = "cpu", 3, 0.02
        args.shapes = args.shapes or _SMOKE_SHAPES
    on_gpu = make_device(args.device).type == "cuda"
    args.shapes = args.shapes or (_SHAPES if on_gpu else _SHAPES[:4])
    args.modes = args.modes or (["eager", "graphs"] if on_gpu else ["eager"])
    return args


def bench(
    name: str,
    form: Form,
    inputs: Inputs,
    reference: dict[str, Tensor],
    args: argparse.Namespace,
    device: torch.device,
) -> Iterator[dict[str, Any]]:
    """Check a form at a shape and time it in every mode."""
    try:
        refuse(name, inputs, device)
        with exact_float32():
            errors = check(form, inputs, reference)
        worst = max(errors, key=lambda key: errors[key])
        agreement = {"error": errors[worst], "worst": worst}
        tolerance = TOLERANCES[inputs.x.dtype]
        if not errors[worst] <= tolerance:
            yield agreement | {"failure": f"{worst} is off by more than {tolerance}"}
            return
        for mode in args.modes:
            if mode == "compile" and name in UNCOMPILED:
                continue
            timed = partial(
                time_calls, device=device, repeats=args.repeats, budget_s=args.budget
            )
            with watch_memory(device) as memory:
                times = {
                    kind: timed(call)
                    for kind, call in calls(form, inputs, mode).items()
                }
            yield agreement | {"mode": mode, "times": times, "memory": memory}
    except SkippedError as reason:
        yield {"skipped": str(reason)}
    except Exception as error:  # out of memory, say: the others are still worth it
        yield {"failure": describe_failure(error)}


def refuse(name: str, inputs: Inputs, device: torch.device) -> None:
    """Say where a form cannot run or is not worth the time.

    Raises:
        SkippedError: with the reason.
    """
    batch, length = inputs.x.shape[:2]
    if name == "recurrent" and length > LOOP_MAX_LENGTH:
        raise SkippedError(f"{length} launches a pass")
    if name == "quadratic" and batch * length**2 > QUADRATIC_MAX_TOKENS_SQUARED:
        raise SkippedError(f"{batch} x {length}² x {HEADS} decays do not fit")
    if name == "mamba-ssm":
        if device.type != "cuda":
            raise SkippedError("its Triton kernels need a CUDA device")
        import_mamba_scan()


def calls(form: Form, inputs: Inputs, mode: str) -> dict[str, Callable[[], object]]:
    """Forward alone, and forward with backward, run in a mode."""
    if mode == "compile":
        torch.compiler.reset()
        form = torch.compile(form, dynamic=False)
    leaves = Inputs(*(t.detach().clone().requires_grad_() for t in inputs))
    upstream = torch.ones_like(inputs.x)

    def forward() -> object:
        with torch.no_grad():
            return form(*inputs)

    def backward() -> object:
        y, _ = form(*leaves)
        return torch.autograd.grad(y, tuple(leaves), upstream)

    found: dict[str, Callable[[], object]] = {"forward": forward, "backward": backward}
    if mode == "graphs":
        return {kind: capture(call) for kind, call in found.items()}
    return found


if __name__ == "__main__":
    sys.exit(main())
