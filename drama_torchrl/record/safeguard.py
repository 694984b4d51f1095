"""A run in which a step breaks is saved as it was before that step, or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from drama_torchrl.record.run_state import Mark, MovedByAStep
from drama_torchrl.record.snapshot import Snapshots
from drama_torchrl.record.stopping import how_to_go_on

__all__ = ["Safeguard"]

_T = TypeVar("_T")


class Safeguard:
    """Saves a run whose environment breaks; never what a broken update leaves.

    Args:
        snapshots: of the run.
    """

    def __init__(self, snapshots: Snapshots) -> None:
        self.snapshots = snapshots
        self._torn = ""

    def steps(self, transitions: Iterable[_T]) -> Iterator[_T]:
        """Pass transitions on; if one fails to come, save the run as it was before it.

        The environment may have broken in the middle of a step. What the step has
        changed of the acting and of random states is not saved: the run goes on from
        the last whole step. An update that was made while the environment stepped
        stays; the step will make it again.

        Args:
            transitions: of the collector, one environment step each.

        Raises:
            Exception: as it came, with a note that says how the run goes on.
        """
        iterator = iter(transitions)
        moved = {
            name: part
            for name, part in self.snapshots.parts.items()
            if isinstance(part, MovedByAStep)
        }
        while True:
            before = {name: part.mark() for name, part in moved.items()}
            try:
                transition = next(iterator)
            except StopIteration:
                return
            except Exception as error:
                error.add_note(self._save(before))
                raise
            yield transition

    @contextmanager
    def indivisible(self) -> Iterator[None]:
        """Change the agent; if the block breaks, what it leaves is never saved."""
        try:
            yield
        except BaseException:
            self._torn = "broke in the middle of an update"
            raise

    def _save(self, before: Mapping[str, Mark]) -> str:
        """Save the last whole step; say what became of it."""
        run, step = self.snapshots.run, self.snapshots.journal.steps
        try:
            if step and not self._torn:  # at 0 nothing has happened yet
                self.snapshots.save(step, before)
        # Whatever broke may keep the state from being read, too.
        except Exception as problem:
            self._torn = f"cannot be saved: {problem}"
        go_on = how_to_go_on(run.path)
        if self._torn:
            kept = run.checkpoint_steps()[-1:] or "none"
            return f"Step {step} {self._torn}; last checkpoint: {kept}; {go_on}"
        return f"The run is saved as it was after step {step}; {go_on}"
