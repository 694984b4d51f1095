"""What is written and shown while a run trains: episodes, metrics, progress."""

from __future__ import annotations

import csv
import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import torch
from tensordict import TensorDictBase
from torchrl.record.loggers import Logger
from tqdm import tqdm

from drama_torchrl.record.run_directory import RunDirectory
from drama_torchrl.record.scores import training_score

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

    Example:
        >>> import tempfile
        >>> from tensordict import TensorDict
        >>> from drama_torchrl.config import load_config
        >>> from drama_torchrl.record import RunDirectory
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = RunDirectory.create(f"{folder}/run", load_config("quick"))
        ...     with Journal(run, total_steps=10, progress=False) as journal:
        ...         journal.metrics(5, {"model": TensorDict(loss=torch.tensor(0.5))})
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
    ) -> None:
        self.run = run
        self.steps = 0
        self.episodes: list[tuple[int, float]] = []
        self._started = time.monotonic()
        self.recent: deque[TensorDictBase] = deque(maxlen=recent)
        self._loggers = [] if logger is None else [logger]
        self._columns: list[str] = []
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
        self.run.append_episode(step, episode_return, length, seed)
        score = training_score([value for _, value in self.episodes])
        self._bar.set_postfix(score=f"{score:.1f}", episodes=len(self.episodes))
        for logger in self._loggers:
            logger.log_scalar("episode_return", episode_return, step)

    @property
    def minutes(self) -> float:
        """Minutes since the journal was opened."""
        return (time.monotonic() - self._started) / 60

    def metrics(self, step: int, metrics: Mapping[str, TensorDictBase]) -> None:
        """Write a row of ``group/name`` columns; here alone metrics reach the host."""
        named = {
            f"{group}/{name}": value
            for group, values in metrics.items()
            for name, value in values.items()
        }
        values = torch.stack([value.float() for value in named.values()]).tolist()
        row = dict(zip(named, values, strict=True)) | {"minutes": self.minutes}
        if not self._columns:
            self._columns = ["step", *row]
            with self.run.metrics.open("w", newline="") as file:
                csv.writer(file, lineterminator="\n").writerow(self._columns)
        with self.run.metrics.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([step, *(f"{row[name]:.6g}" for name in self._columns[1:])])
        for logger in self._loggers:
            for name, value in row.items():
                logger.log_scalar(name, value, step)

    def recent_sequence(self) -> TensorDictBase:
        """Newest transitions as one sequence ``[1, T]``."""
        return torch.stack(list(self.recent), 1)
