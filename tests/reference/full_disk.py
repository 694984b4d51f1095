"""A run on a disk that is full for some steps: python -m tests.reference.full_disk.

Its files may not grow beyond a size while it takes the steps between two numbers.
"""

from __future__ import annotations

import resource
import sys

from tensordict import TensorDictBase
from torchrl.envs import Transform

from drama_torchrl.record.stopping import RunStopped
from tests.reference.stopping import run_training


class FullDisk(Transform):
    """From one step of this process to another, no file may grow beyond some bytes."""

    def __init__(self, first: int, last: int, limit: int) -> None:
        super().__init__(in_keys=[], out_keys=[])
        self.limits = {first: limit, last: resource.RLIM_INFINITY}
        self.steps = 0

    def _step(
        self, tensordict: TensorDictBase, next_tensordict: TensorDictBase
    ) -> TensorDictBase:
        self.steps += 1
        if self.steps in self.limits:
            limit = self.limits[self.steps]
            _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
        return next_tensordict


if __name__ == "__main__":
    first, last, limit, *arguments = sys.argv[1:]
    try:
        run_training(arguments, FullDisk(int(first), int(last), int(limit)))
    except RunStopped as stopped:
        sys.stderr.write(f"{stopped}\n")
        sys.exit(stopped.exit_code)
