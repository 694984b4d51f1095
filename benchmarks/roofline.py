"""What this machine reaches: matrix products and memory copies, measured."""

from __future__ import annotations

import torch

from benchmarks.floor import Work
from benchmarks.harness import time_calls

__all__ = ["floor_ms", "measure_peaks"]

# Side of the matrices and number of float32 values copied.
_GPU_SIZES, _CPU_SIZES = (8192, 2**28), (1024, 2**24)


def measure_peaks(device: torch.device) -> dict[str, float]:
    """Measure the rates that the floors of this machine are computed with.

    Returns:
        ``"flop_per_s"`` of a square matrix product (bfloat16 on a GPU, float32 on a
        CPU) and ``"bytes_per_s"``, read and written, of a copy.
    """
    on_gpu = device.type == "cuda"
    side, values = _GPU_SIZES if on_gpu else _CPU_SIZES
    dtype = torch.bfloat16 if on_gpu else torch.float32
    a = torch.randn(side, side, device=device, dtype=dtype)
    b, product = torch.randn_like(a), torch.empty_like(a)
    source = torch.ones(values, device=device)
    target = torch.empty_like(source)
    multiply = time_calls(lambda: torch.mm(a, b, out=product), device, budget_s=0.5)
    copy = time_calls(lambda: target.copy_(source), device, budget_s=0.5)
    moved = 2 * source.numel() * source.element_size()
    return {
        "flop_per_s": 2 * side**3 / (1e-3 * multiply["median_ms"]),
        "bytes_per_s": moved / (1e-3 * copy["median_ms"]),
    }


def floor_ms(work: Work, peaks: dict[str, float]) -> float:
    """Milliseconds below which the work cannot be done at those rates.

    max(FLOP / (FLOP/s), bytes / (bytes/s)): arithmetic and traffic overlap at best.

    Example:
        >>> floor_ms(Work(2e9, 1e9), {"flop_per_s": 1e12, "bytes_per_s": 1e11})
        10.0
    """
    arithmetic = work.flop / peaks["flop_per_s"]
    traffic = work.bytes / peaks["bytes_per_s"]
    return 1e3 * max(arithmetic, traffic)
