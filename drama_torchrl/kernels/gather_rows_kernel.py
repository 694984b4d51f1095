"""A kernel of few programs that copies rows by their numbers."""

from __future__ import annotations

from drama_torchrl.kernels.launch import kernel
from drama_torchrl.kernels.optional_triton import tl

__all__ = ["gather_rows_kernel"]


@kernel
def gather_rows_kernel(
    rows: tl.tensor,
    index: tl.tensor,
    gathered: tl.tensor,
    length: tl.tensor,
    count: tl.tensor,
    ROW: tl.constexpr,
    PROGRAMS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Copies every PROGRAMS-th of the ``count`` rows: gathered [count, ROW], in bytes.

    ``rows`` [length, ROW] are numbered from either end, as torch numbers them.
    """
    for place in tl.range(tl.program_id(0), count, PROGRAMS):
        row = tl.load(index + place)
        row = tl.where(row < 0, row + length, row)
        source = rows + row * ROW
        target = gathered + tl.cast(place, tl.int64) * ROW
        for start in tl.range(0, ROW, BLOCK):
            byte = start + tl.arange(0, BLOCK)
            inside = byte < ROW
            tl.store(target + byte, tl.load(source + byte, mask=inside), mask=inside)
