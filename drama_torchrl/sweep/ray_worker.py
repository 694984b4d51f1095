"""What a sweep does on the node of a cluster where a run is to be.

Ray carries this file there by value, so that no node imports PyTorch merely to wait.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

__all__ = ["Place", "RayWorker", "find_fault"]


class Place(NamedTuple):
    """Where a run would be.

    Args:
        node: Ray's name for it.
        gpus: as ``CUDA_VISIBLE_DEVICES`` calls those that Ray has given; empty
            without any.
        fault: why no run can be there; empty where it can.
    """

    node: str
    gpus: str
    fault: str


def find_fault(claim: str, expected: str, files: Sequence[str]) -> str:
    """Say what keeps a run off this machine; empty where nothing does.

    Args:
        claim: path of a file that the sweep has written.
        expected: what it has written there.
        files: paths that are to exist.

    Example:
        >>> find_fault("/nowhere/.lock", "mine", [])
        'expected /nowhere to be on a file system that all machines share, got /now...'
    """
    for path in files:
        if not os.path.isfile(path):
            return (
                f"expected {path} as on the machine that started the sweep, got "
                "nothing; install the same at the same paths on every machine"
            )
    try:
        with open(claim) as file:
            if file.read() == expected:
                return ""
        found = "one that this sweep has not written to"
    except OSError as error:
        found = f"{claim}: {error.strerror}"
    return (
        f"expected {os.path.dirname(claim)} to be on a file system that all machines "
        f"share, got {found}; choose an out that they share"
    )


class RayWorker:
    """One run on one node; the class of a Ray actor."""

    def __init__(self) -> None:
        # Whoever watches over the run sees its one end close when this process dies.
        self._end, self._kept_open = os.pipe()

    def look_around(self, claim: str, expected: str, files: Sequence[str]) -> Place:
        """See where this is and whether a run can be here."""
        import ray

        return Place(
            ray.get_runtime_context().get_node_id(),
            os.environ.get("CUDA_VISIBLE_DEVICES", ""),
            find_fault(claim, expected, files),
        )

    def run(
        self,
        guard: str,
        words: Sequence[str],
        log: str,
        environment: Mapping[str, str],
        patience: float,
    ) -> str:
        """Run a program to its end; return what its guard says of it."""
        with subprocess.Popen(
            [sys.executable, "-S", guard, log, str(patience), *words],
            stdin=self._end,
            stdout=subprocess.PIPE,
            env=os.environ | environment,
            text=True,
        ) as process:
            return process.communicate()[0] or "error its guard was killed"

    def stop(self) -> None:
        """Interrupt the program, or keep it from starting; :meth:`run` returns."""
        os.close(self._kept_open)
