"""A real Ray cluster on this machine, in a process of its own: nodes come and go.

Started as a script, it says where it is, and obeys ``add NAME CPUS`` and ``kill NAME``
on standard input; when that ends, so does the cluster.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["RayNodes", "ray_nodes"]

NODE = {
    "num_gpus": 0,
    "object_store_memory": 80_000_000,
    "include_dashboard": False,
}


class RayNodes:
    """A cluster; its first node stays."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.address = self._read()

    def add(self, name: str, *, cpus: int) -> None:
        self._tell(f"add {name} {cpus}")

    def kill(self, name: str) -> None:
        """Its processes get no chance to say goodbye."""
        self._tell(f"kill {name}")

    def _tell(self, order: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{order}\n")
        self._process.stdin.flush()
        assert self._read() == order

    def _read(self) -> str:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("> "):
                return line[2:].strip()
        raise RuntimeError("the cluster is down; what it printed is above")


@contextmanager
def ray_nodes() -> Iterator[RayNodes]:
    """A cluster of the nodes ``first`` with one CPU and ``second`` with two."""
    # Short, for sockets lie there, and away from any other cluster's files.
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0"},
            cwd=folder,
            text=True,
        )
        with process:
            yield RayNodes(process)
            process.communicate()


def serve() -> None:
    """Build the cluster and obey."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={**NODE, "num_cpus": 1, "node_name": "first"},
    )
    nodes: dict[str, Any] = {}
    nodes["second"] = cluster.add_node(**NODE, num_cpus=2, node_name="second")
    sys.stdout.write(f"> {cluster.address}\n")
    sys.stdout.flush()
    for line in sys.stdin:
        order, name, *cpus = line.split()
        if order == "add":
            nodes[name] = cluster.add_node(
                **NODE, num_cpus=int(cpus[0]), node_name=name
            )
        else:
            cluster.remove_node(nodes.pop(name), allow_graceful=False)
        sys.stdout.write(f"> {line}")
        sys.stdout.flush()
    cluster.shutdown()


if __name__ == "__main__":
    serve()
