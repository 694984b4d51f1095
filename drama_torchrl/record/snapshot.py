"""All of a run, saved so that it goes on as if nothing had happened."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torchrl.data import TensorDictReplayBuffer

from drama_torchrl.agent import Agent
from drama_torchrl.config import DramaConfig
from drama_torchrl.parallel import size
from drama_torchrl.record.atomic import remove_leftovers, replacing, sync_directory
from drama_torchrl.record.checkpoint import (
    CheckpointError,
    load_checkpoint,
    load_tensors,
    save_checkpoint,
    save_tensors,
)
from drama_torchrl.record.journal import Journal
from drama_torchrl.record.manifest import Manifest
from drama_torchrl.record.origin import find_versions
from drama_torchrl.record.replay_chunks import ReplayChunks, checksum
from drama_torchrl.record.resuming import check_circumstances
from drama_torchrl.record.run_directory import RunDirectory
from drama_torchrl.record.run_state import Mark, Stateful
from drama_torchrl.record.write_errors import Stop, WriteErrors

__all__ = ["Snapshots", "discard_snapshots"]

_AGENT, _LOOP = "agent.pt", "loop.pt"


class Snapshots:
    """Checkpoints from which a run goes on exactly, the newest two of them.

    Each is a directory ``resume/step-NNNNNNN`` with the agent, the rest of the loop
    and a manifest with checksums; it gets this name when all of it is on disk. The
    replay is shared: ``resume/replay`` has chunks that are written once. The newest
    agent is ``checkpoint.pt`` as well, under a second name and not copied where the
    file system can.

    Args:
        run: the run's directory.
        config: its options.
        agent: networks and learners.
        replay: its transitions go to disk.
        journal: counts the steps; its files are cut back on resume.
        keep: number of checkpoints to keep.
        write_errors: takes the errors of writing; by default they stop the run.
        parts: all else that changes, by name; restored in this order.
    """

    def __init__(
        self,
        run: RunDirectory,
        config: DramaConfig,
        agent: Agent,
        replay: TensorDictReplayBuffer,
        journal: Journal,
        *,
        keep: int = 2,
        write_errors: WriteErrors | None = None,
        **parts: Stateful,
    ) -> None:
        self.run = run
        self.write_errors = write_errors or Stop(run)
        self.config = config
        self.agent = agent
        self.chunks = ReplayChunks(run.snapshots / "replay", replay)
        self.journal = journal
        self.parts: dict[str, Stateful] = {"journal": journal, **parts}
        self.keep = keep
        self.saved: int | None = None

    def save(self, step: int, past: Mapping[str, Mark] | None = None) -> None:
        """Write a checkpoint, unless that of this step is there already.

        Killed at any moment or out of room, it leaves the older checkpoints as they
        were.

        Args:
            step: environment steps of the run.
            past: parts that are saved as they were, by name; the others as they are.
        """
        if step == self.saved:
            return
        with self.write_errors.during(f"the checkpoint of step {step}"):
            final = self.run.snapshots / f"step-{step:07d}"
            folder = final.with_suffix(".tmp")
            _remove(final)
            _remove(folder)
            try:
                self._write(step, folder, past or {})
                folder.rename(final)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            sync_directory(self.run.snapshots)
            _publish(final / _AGENT, self.run.checkpoint)
            self.saved = step
            self._rotate(step)

    def _write(self, step: int, folder: Path, past: Mapping[str, Mark]) -> None:
        folder.mkdir(parents=True)
        chunks = self.chunks.write()
        about = {
            "step": step,
            "config": asdict(self.config),
            "num_actions": self.agent.num_actions,
        }
        save_checkpoint(folder / _AGENT, about | self.agent.state_dict())
        now: dict[str, Mark] = {**self.parts, **past}
        parts = {name: part.state_dict() for name, part in now.items()}
        save_tensors(folder / _LOOP, parts)
        Manifest(
            step=step,
            config=asdict(self.config),
            versions=_circumstances(self.agent),
            files={name: checksum(folder / name) for name in (_AGENT, _LOOP)},
            written=self.chunks.replay.write_count,
            chunks=chunks,
        ).save(folder)

    def restore(self) -> int:
        """Load the newest whole checkpoint into all parts.

        A damaged checkpoint is named in a warning, and the one before it is used.

        Returns:
            The step that the run stands at; 0 if it has not come to a checkpoint.

        Raises:
            CheckpointError: if no checkpoint is whole, or this run is another one.
        """
        self._clean_up()
        problems: list[str] = []
        for folder in sorted(_finished(self.run.snapshots), reverse=True):
            try:
                manifest = Manifest.load(folder)
                manifest.verify(folder, self.chunks.folder)
            except CheckpointError as error:
                problems.append(str(error))
                continue
            for problem in problems:
                warnings.warn(
                    f"{problem} Going on from step {manifest.step}.", stacklevel=2
                )
            check_circumstances(
                manifest, self.config, _circumstances(self.agent), folder
            )
            self._load(folder, manifest)
            return manifest.step
        if problems:
            raise CheckpointError(
                "\n".join([*problems, "No checkpoint is whole: start the run again."])
            )
        self.journal.rewind({})
        return 0

    def _clean_up(self) -> None:
        """Delete what a process that was killed had not finished."""
        for folder in (self.run.path, self.run.films, self.chunks.folder):
            remove_leftovers(folder)
        for folder in self.run.snapshots.glob("step-*.tmp"):
            _remove(folder)

    def _load(self, folder: Path, manifest: Manifest) -> None:
        device = self.agent.device
        agent = load_checkpoint(folder / _AGENT, device)
        loop = load_tensors(folder / _LOOP, "cpu")
        try:
            self.agent.load_state_dict(agent)
            self.chunks.read(manifest.chunks, manifest.written)
            for name, part in self.parts.items():
                part.load_state_dict(loop[name])
        except CheckpointError as error:
            raise CheckpointError(f"{folder}: {error}") from error
        # Files with right checksums and wrong contents.
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{folder}: expected the state of this run, got another one "
                f"({type(error).__name__}: {error})."
            ) from error
        # The process may have ended before the newest agent got its second name.
        _publish(folder / _AGENT, self.run.checkpoint)
        self.saved = manifest.step

    def _rotate(self, step: int) -> None:
        """Keep the newest checkpoints up to ``step`` and what they need."""
        folders = sorted(_finished(self.run.snapshots))
        names = [folder.name for folder in folders]
        newest = names.index(f"step-{step:07d}") + 1
        kept = folders[max(0, newest - self.keep) : newest]
        for folder in folders:
            if folder not in kept:
                _remove(folder)
        needed = set()
        for folder in kept:
            try:
                needed |= {chunk.name for chunk in Manifest.load(folder).chunks}
            except CheckpointError:  # named when it was met
                continue
        self.chunks.keep(needed)


def _circumstances(agent: Agent) -> dict[str, Any]:
    """What results hang on beside the options."""
    return {**find_versions(), "device": agent.device.type, "processes": size()}


def discard_snapshots(run: RunDirectory) -> None:
    """Delete what a run needs to go on, when it is finished.

    Example:
        >>> import tempfile
        >>> discard_snapshots(RunDirectory(tempfile.mkdtemp()))
    """
    shutil.rmtree(run.snapshots, ignore_errors=True)


def _finished(snapshots: Path) -> Iterator[Path]:
    for path in snapshots.glob("step-*"):
        if path.suffix != ".tmp":
            yield path


def _remove(folder: Path) -> None:
    """Delete a directory, which loses its name before its files."""
    if folder.is_dir():
        temporary = folder.with_suffix(".tmp")
        if folder != temporary:
            shutil.rmtree(temporary, ignore_errors=True)
            folder.rename(temporary)
        shutil.rmtree(temporary)


def _publish(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:  # a file system without links
            shutil.copyfile(source, temporary)
