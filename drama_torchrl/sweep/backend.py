"""Where a sweep runs: this machine, or a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import NamedTuple, Protocol

from drama_torchrl.config import ConfigError
from drama_torchrl.factories import check_environment
from drama_torchrl.sweep.local import Command, Watch, run_commands
from drama_torchrl.sweep.plan import Plan
from drama_torchrl.sweep.slots import find_slots

__all__ = ["Backend", "RunCommands", "make_backend"]


class RunCommands(Protocol):
    """Runs all commands, as places become free; :func:`run_commands` says how."""

    def __call__(
        self,
        names: Sequence[str],
        *,
        prepare: Callable[[str], Command],
        watch: Watch,
        keep_open: Sequence[int],
        every: float,
    ) -> dict[str, str]:
        """Run them; say for each how it failed, empty if it did not."""
        ...


class Backend(NamedTuple):
    """Somewhere to run.

    Args:
        places: how many runs at once, and where, in words.
        run_commands: runs commands there.
    """

    places: str
    run_commands: RunCommands


@contextmanager
def make_backend(plan: Plan) -> Iterator[Backend]:
    """Find the machine or the cluster that a plan asks for; nothing is started.

    Args:
        plan: says which, and what each run needs.

    Yields:
        It, connected.

    Raises:
        ConfigError: if it is not there, or lacks what the runs need, or if they need
            more than one GPU each.

    Example:
        >>> from drama_torchrl.sweep.plan import make_plan
        >>> arguments = ["games=Pong", "seeds=1", "execution.device=cpu", "workers=2"]
        >>> with make_backend(make_plan(arguments)) as backend:
        ...     backend.places
        '2 at once on CPU'
    """
    _check_one_gpu_suffices(plan)
    if plan.cluster == "ray":
        if find_spec("ray") is None:
            raise ConfigError(
                "cluster=ray expects the package ray, which is not installed; "
                "pip install 'drama_torchrl[ray]', or use cluster=local"
            )
        # Only here: it is slow to import, and an extra.
        from drama_torchrl.sweep.ray_cluster import RayCluster

        with RayCluster(plan) as cluster:
            yield Backend(cluster.places, cluster.run_commands)
        return
    check_environment(plan.runs[0].config)
    slots = find_slots(plan)
    names = ", ".join(dict.fromkeys(slot.name for slot in slots))
    yield Backend(
        f"{len(slots)} at once on {names}", partial(run_commands, slots=slots)
    )


def _check_one_gpu_suffices(plan: Plan) -> None:
    name = plan.runs[0].config.execution.behaviour_device
    if name != "auto":
        raise ConfigError(
            "execution.behaviour_device: expected auto in a sweep, which gives each "
            f"run one GPU at most, got {name!r}; leave it out, or train one run at a "
            "time with recipes/drama_atari100k.py"
        )
