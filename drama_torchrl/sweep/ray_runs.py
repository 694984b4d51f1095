"""Runs commands in Ray actors, each on the node that Ray chooses, again if it dies."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import drama_torchrl.sweep.guard as guard
from drama_torchrl.sweep.local import Command, describe_exit
from drama_torchrl.sweep.lock import is_written
from drama_torchrl.sweep.ray_worker import Place
from drama_torchrl.sweep.slots import Slot

try:
    import ray
    from ray.exceptions import RayActorError, RayError
except ImportError:
    pass  # an extra; make_backend has looked

__all__ = ["RayRuns", "Site"]

_LIVES = 5
"""Attempts at a run whose node, or Ray's process there, dies."""

_LEASE_SECONDS = 120.0
"""A file server gives the locks of a dead machine back; NFS 4 after 90 seconds."""


class Site(NamedTuple):
    """What commands find on every node.

    Args:
        claim: the file by which a node knows the directory of the sweep.
        written: what is written there.
        environment: variables added to those of the node.
        patience: seconds between an interrupt and a kill.
    """

    claim: Path
    written: str
    environment: Mapping[str, str]
    patience: float


@dataclass
class _Attempt:
    """An actor that waits for its node (no command yet) or runs a command."""

    name: str
    actor: Any
    node: str = ""
    command: Command | None = None


class _Lost(NamedTuple):
    node: str
    log: Path
    deadline: float


class RayRuns:
    """All commands of a sweep: those that wait, that run, and that ended.

    All of them are asked of Ray at once, so that a cluster can see what to grow for.

    Args:
        names: of the commands.
        new_actor: asks Ray for another :class:`RayWorker`.
        prepare: gives a command by its name, just before it starts.
        site: what commands find on every node.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        new_actor: Callable[[], Any],
        prepare: Callable[[str], Command],
        site: Site,
    ) -> None:
        self.outcomes: dict[str, str] = {}
        self._new_actor = new_actor
        self._prepare = prepare
        self._site = site
        self._attempts: dict[Any, _Attempt] = {}  # by what Ray will answer
        self._lost: dict[str, _Lost] = {}
        self._deaths: Counter[str] = Counter()
        for name in names:
            self._ask(name)

    @property
    def unfinished(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self._attempts or self._lost)

    @property
    def running(self) -> dict[str, Slot]:
        """Nodes of what has begun and not ended, by name."""
        moving = {
            name: Slot(f"node lost {count} times, waits for another", {})
            for name, count in self._deaths.items()
            if name not in self.outcomes
        }
        begun = {
            each.name: Slot(each.node, {})
            for each in self._attempts.values()
            if each.command
        }
        return moving | begun

    def advance(self) -> bool:
        """Take notice of what happened; return whether a command ended or was lost."""
        before = len(self.outcomes), self._deaths.total()
        for name, lost in [*self._lost.items()]:
            self._find_again(name, lost)
        answers = [*self._attempts]
        ready, _ = (
            ray.wait(answers, num_returns=len(answers), timeout=0)
            if answers
            else ([], [])
        )
        for answer in ready:
            attempt = self._attempts.pop(answer)
            try:
                self._take(attempt, ray.get(answer))
            except RayActorError:
                self._lose(attempt)
            except (RayError, OSError) as error:
                self._end(attempt, f"could not start: {error}")
        return before != (len(self.outcomes), self._deaths.total())

    def stop(self) -> None:
        """Interrupt what runs, wait for it, and leave nothing behind."""
        running = {ref: each for ref, each in self._attempts.items() if each.command}
        for each in running.values():
            each.actor.stop.remote()
        deadline = time.monotonic() + self._site.patience + 10
        left = [*running]
        try:
            while left and time.monotonic() < deadline:
                left = ray.wait(left, num_returns=len(left), timeout=0.1)[1]
        except KeyboardInterrupt:
            pass  # out of patience; guards interrupt what runs when actors are gone
        for each in self._attempts.values():
            ray.kill(each.actor)

    def _ask(self, name: str) -> None:
        actor = self._new_actor()
        answer = actor.look_around.remote(
            str(self._site.claim), self._site.written, [guard.__file__]
        )
        self._attempts[answer] = _Attempt(name, actor)

    def _take(self, attempt: _Attempt, answer: Place | str) -> None:
        if isinstance(answer, str):
            kind, _, detail = answer.partition(" ")
            failure = describe_exit(int(detail)) if kind == "exit" else detail
            self._end(attempt, failure)
        elif answer.fault:
            self._end(attempt, f"{_name_node(answer.node)}: {answer.fault}")
        else:
            self._start(attempt, answer)

    def _start(self, attempt: _Attempt, place: Place) -> None:
        command = self._prepare(attempt.name)
        attempt.command = command
        attempt.node = _name_node(place.node)
        if place.gpus:
            attempt.node += f" GPU {place.gpus}"
        answer = attempt.actor.run.remote(
            guard.__file__,
            [*command.words],
            str(command.log),
            self._site.environment,
            self._site.patience,
        )
        self._attempts[answer] = attempt

    def _end(self, attempt: _Attempt, failure: str) -> None:
        self.outcomes[attempt.name] = failure
        ray.kill(attempt.actor)

    def _lose(self, attempt: _Attempt) -> None:
        """What is left on the node has been told to end; note until when it may."""
        ray.kill(attempt.actor)
        self._deaths[attempt.name] += 1
        if self._deaths[attempt.name] == _LIVES:
            self.outcomes[attempt.name] = (
                f"lost its node {_LIVES} times, in the end {attempt.node or 'early'}"
            )
        elif attempt.command is None:
            self._ask(attempt.name)
        else:
            wait = self._site.patience + _LEASE_SECONDS
            self._lost[attempt.name] = _Lost(
                attempt.node, attempt.command.log, time.monotonic() + wait
            )

    def _find_again(self, name: str, lost: _Lost) -> None:
        if not is_written(lost.log):
            self._ask(name)
        elif time.monotonic() < lost.deadline:
            return
        else:
            self.outcomes[name] = (
                f"{lost.node} was lost, and what it ran still holds {lost.log}; end "
                "it there and try again"
            )
        del self._lost[name]


def _name_node(node: str) -> str:
    names = {each["NodeID"]: each["NodeName"] for each in ray.nodes()}
    return str(names.get(node) or node[:8])
