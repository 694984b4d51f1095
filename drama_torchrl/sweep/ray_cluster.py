"""A Ray cluster: whether it has what runs need, and running them there."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import drama_torchrl.sweep.ray_worker as ray_worker
from drama_torchrl.config import ConfigError
from drama_torchrl.sweep.local import Command, Watch
from drama_torchrl.sweep.lock import read_claim
from drama_torchrl.sweep.plan import Plan
from drama_torchrl.sweep.ray_runs import RayRuns, Site

try:
    import ray
    from ray import cloudpickle
except ImportError:
    pass  # an extra; make_backend has looked

__all__ = ["Needs", "RayCluster", "count_places", "find_needs"]

_POLL_SECONDS = 0.1
_PATIENCE_SECONDS = 30.0


class Needs(NamedTuple):
    """What one run asks of a node.

    Args:
        cpus: of the node.
        gpus: a share of a GPU; 0 for a run on the CPU.
    """

    cpus: int
    gpus: float


def find_needs(plan: Plan, nodes: Sequence[Mapping[str, float]]) -> Needs:
    """Say what each run of a plan asks for.

    Args:
        plan: its runs say which device they want.
        nodes: resources of each node, by Ray's names.

    Raises:
        ConfigError: if ``per_gpu`` meets a CPU, or if no node has enough.

    Example:
        >>> from drama_torchrl.sweep.plan import make_plan
        >>> plan = make_plan(["games=Pong", "seeds=1", "cluster=ray", "per_gpu=2"])
        >>> find_needs(plan, [{"CPU": 2.0}, {"CPU": 8.0, "GPU": 4.0}])
        Needs(cpus=1, gpus=0.5)
    """
    device = plan.runs[0].config.execution.device
    anywhere = any(node.get("GPU", 0) for node in nodes)
    on_gpu = device == "cuda" or (device == "auto" and anywhere)
    if plan.per_gpu is not None and not on_gpu:
        raise ConfigError(
            f"per_gpu: expected on GPUs alone, got per_gpu={plan.per_gpu} where runs "
            "train on CPUs; use cpus"
        )
    needs = Needs(plan.cpus or 1, 1 / (plan.per_gpu or 1) if on_gpu else 0.0)
    if not count_places(needs, nodes):
        raise ConfigError(
            f"cluster=ray: expected a node with {needs.cpus} CPUs and {needs.gpus:g} "
            f"GPUs for each run, got {len(nodes)} nodes with less; add one, or change "
            "cpus or execution.device"
        )
    return needs


def count_places(needs: Needs, nodes: Sequence[Mapping[str, float]]) -> int:
    """Count the runs for which nodes have room at once.

    Args:
        needs: of each run.
        nodes: resources of each node, by Ray's names.

    Example:
        >>> count_places(Needs(cpus=2, gpus=0.5), [{"CPU": 5.0, "GPU": 4.0}])
        2
    """
    total = 0
    for node in nodes:
        places = node.get("CPU", 0) // needs.cpus
        if needs.gpus:
            places = min(places, node.get("GPU", 0) // needs.gpus)
        total += int(places)
    return total


class RayCluster:
    """A cluster, connected to inside a ``with`` statement.

    Args:
        plan: says which cluster, and what each run needs.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.places = ""
        """How many runs at once, in words."""

    def __enter__(self) -> Self:
        """Connect.

        Raises:
            ConfigError: if it is not there, or lacks what the runs need.
        """
        _connect(self.plan.ray_address or "auto")
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        try:
            self._needs = find_needs(self.plan, nodes)
        except ConfigError:
            ray.shutdown()
            raise
        count = count_places(self._needs, nodes)
        self.places = f"{count} at once on a Ray cluster of {len(nodes)} nodes"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Disconnect; the cluster stays."""
        ray.shutdown()

    def run_commands(
        self,
        names: Sequence[str],
        *,
        prepare: Callable[[str], Command],
        watch: Watch,
        keep_open: Sequence[int] = (),
        every: float = 10.0,
    ) -> dict[str, str]:
        """Run all commands as Ray finds room; see :func:`local.run_commands`.

        A command whose node dies is prepared again and runs on another, once nothing
        is left of it on the first. Whatever ends this function early, or kills this
        process, no command outlives it by more than 30 seconds.
        """
        del keep_open  # reaches no other machine; each log is locked instead
        claim = self.plan.out / ".lock"
        site = Site(
            claim, read_claim(self.plan.out), self._environment(), _PATIENCE_SECONDS
        )
        runs = RayRuns(names, new_actor=self._new_actor, prepare=prepare, site=site)
        due = 0.0
        try:
            while runs.unfinished:
                if runs.advance() or time.monotonic() >= due:
                    watch(runs.running, runs.outcomes)
                    due = time.monotonic() + every
                time.sleep(_POLL_SECONDS)
        finally:
            runs.stop()
        return runs.outcomes

    def _new_actor(self) -> Any:
        cloudpickle.register_pickle_by_value(ray_worker)
        options = ray.remote(
            num_cpus=self._needs.cpus,
            num_gpus=self._needs.gpus,
            max_concurrency=2,  # run and stop
        )
        return options(ray_worker.RayWorker).remote()

    def _environment(self) -> dict[str, str]:
        threads = os.environ.get("OMP_NUM_THREADS") or str(self._needs.cpus)
        environment = {"OMP_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
        if not self._needs.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        return environment


def _knock(address: str) -> None:
    """Fail in seconds where Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def _connect(address: str) -> None:
    if address.startswith("ray://"):
        raise ConfigError(
            f"ray_address={address}: expected host:port of a cluster that this machine "
            "belongs to, got that of a Ray client; start the sweep on a node"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # report to nobody
    before = signal.getsignal(signal.SIGTERM)
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"ray_address={address}: expected a Ray cluster, got {error}; start one "
            "with `ray start --head` and run this on one of its nodes"
        ) from error
    finally:
        signal.signal(signal.SIGTERM, before)  # Ray ends the process there and then
