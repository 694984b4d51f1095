"""What is written and shown while a run trains: episodes, metrics, progress."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.record.loggers import Logger
from tqdm import tqdm

from drama_torchrl.parallel import size
from drama_torchrl.record.checkpoint import CheckpointError
from drama_torchrl.record.rows import Rows
from drama_torchrl.record.run_directory import EPISODE_COLUMNS, RunDirectory
from drama_torchrl.record.scores import training_score
from drama_torchrl.record.write_errors import Stop, WriteErrors

__all__ = ["Journal"]

_FILMED = ("pixels", "action", "is_init", "next")


class Journal:
    """Write episodes and metrics of a run and show its progress.

    Args:
        run: where ``episodes.csv`` and ``metrics.csv`` go.
        total_steps: length of the progress bar, in environment steps.
        progress: whether to show the bar.
        recent: newest transitions kept for films.
        logger: receives every metric besides the CSV file.
        write_errors: takes the errors of writing; by default they stop the run.

    Example:
        >>> import tempfile
        >>> from tensordict import TensorDict
        >>> from drama_torchrl.config import load_config
        >>> from drama_torchrl.record import RunDirectory
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = RunDirectory.create(f"{folder}/run", load_config("quick"))
        ...     with Journal(run, total_steps=10, progress=False) as journal:
        ...         loss = TensorDict(loss=torch.tensor(0.5))
        ...         row = journal.metrics(5, {"model": loss})
        ...     print(run.metrics.read_text().split(",minutes")[0])
        step,model/loss
    """

    def __init__(
        self,
        run: RunDirectory,
        *,
        total_steps: int,
        progress: bool = True,
        recent: int = 64,
        logger: Logger | None = None,
        write_errors: WriteErrors | None = None,
    ) -> None:
        self.run = run
        self.write_errors = write_errors or Stop(run)
        self.processes = size()
        self.steps = 0
        self.episodes: list[tuple[int, float]] = []
        self._started = time.monotonic()
        self.recent: deque[TensorDictBase] = deque(maxlen=recent)
        self._loggers = [] if logger is None else [logger]
        self._episodes = Rows(run.episodes, EPISODE_COLUMNS)
        self._metrics = Rows(run.metrics, [])
        self._bar = tqdm(
            total=total_steps, unit="step", disable=not progress, mininterval=1.0
        )

    def __enter__(self) -> Self:
        """Start writing."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the progress bar as it stands."""
        self._bar.close()

    def step(self, step: int, transition: TensorDictBase) -> None:
        """Take in one transition ``[1]``; write the episode if it ends one."""
        self.steps = step
        self.recent.append(transition.select(*_FILMED).clone())
        self._bar.update()
        following = transition.get("next")
        if not following.get("done").item():
            return
        episode_return = following.get("episode_reward").item()
        self.episodes.append((step, episode_return))
        length = following.get("step_count").item()
        # Environments without recorded seeds have none to write.
        seed = int(transition.get("episode_seed", torch.tensor(-1)).item())
        with self.write_errors.during(self.run.episodes.name):
            self._episodes.append([step, episode_return, length, seed])
        score = training_score([value for _, value in self.episodes])
        self._bar.set_postfix(score=f"{score:.1f}", episodes=len(self.episodes))
        for logger in self._loggers:
            logger.log_scalar("episode_return", episode_return, step)

    @property
    def minutes(self) -> float:
        """Minutes since the journal was opened."""
        return (time.monotonic() - self._started) / 60

    def metrics(
        self, step: int, metrics: Mapping[str, TensorDictBase]
    ) -> dict[str, float]:
        """Write and return a row of ``group/name``; here alone they reach the host."""
        named = {
            f"{group}/{name}": value
            for group, values in metrics.items()
            for name, value in values.items()
        }
        # Of several devices, perhaps.
        where = next(iter(named.values())).device
        values = [value.float().to(where) for value in named.values()]
        values = torch.stack(values).tolist()
        row = dict(zip(named, values, strict=True)) | {"minutes": self.minutes}
        self._metrics.columns = self._metrics.columns or ["step", *row]
        cells = [f"{row[name]:.6g}" for name in self._metrics.columns[1:]]
        with self.write_errors.during(self.run.metrics.name):
            self._metrics.append([step, *cells])
        for logger in self._loggers:
            for name, value in row.items():
                logger.log_scalar(name, value, step)
        return row

    def state_dict(self) -> dict[str, Any]:
        """Where the files stand, which are on disk then, and what films need.

        Raises:
            OSError: if a file cannot be brought to disk.
        """
        for rows in (self._metrics, self._episodes):
            rows.flush()
        return {
            "steps": self.steps,
            "minutes": self.minutes,
            "episodes": list(self.episodes),
            "columns": list(self._metrics.columns),
            "recent": self.recent_sequence().to_dict() if self.recent else {},
            "sizes": {path.name: _synced_size(path) for path in self._files},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned; what was written since is cut off.

        Raises:
            CheckpointError: if rows are missing; no file is changed.
        """
        sizes = state_dict["sizes"]
        for path in self._files:
            found = path.stat().st_size if path.exists() else 0
            if found < sizes[path.name]:
                raise CheckpointError(
                    f"{path}: expected the {sizes[path.name]} bytes that were there at "
                    f"step {state_dict['steps']}, got {found}; use a whole copy."
                )
        self.rewind(sizes)
        self.steps = state_dict["steps"]
        self.episodes = [(step, value) for step, value in state_dict["episodes"]]
        self._metrics.columns = list(state_dict["columns"])
        self._started = time.monotonic() - 60 * state_dict["minutes"]
        self.recent.clear()
        if state_dict["recent"]:
            length = len(state_dict["recent"]["pixels"][0])
            sequence = TensorDict(state_dict["recent"], batch_size=[1, length])
            self.recent.extend(sequence.unbind(1))
        self._bar.update(self.steps - self._bar.n)

    def rewind(self, sizes: Mapping[str, int]) -> None:
        """Cut the CSV files off.

        Args:
            sizes: bytes to keep, by name of the file; none of a file not listed.
        """
        for path in self._files:
            if path.exists():
                os.truncate(path, sizes.get(path.name, 0))

    @property
    def _files(self) -> tuple[Path, Path]:
        return self.run.metrics, self.run.episodes

    def recent_sequence(self) -> TensorDictBase:
        """Newest transitions as one sequence ``[1, T]``."""
        return torch.stack(list(self.recent), 1)


def _synced_size(path: Path) -> int:
    if not path.exists():
        return 0
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return path.stat().st_size
