"""The directory that a run writes to."""

from __future__ import annotations

from collections.abc import Mapping
from os.path import isdir, isfile  # False of any path that cannot be looked at
from pathlib import Path
from typing import Any

from drama_torchrl.config import DramaConfig, save_config
from drama_torchrl.record.atomic import replacing, write_json
from drama_torchrl.record.new_directory import (
    explaining,
    make_new_directory,
    occupied,
)
from drama_torchrl.record.rows import Rows

__all__ = ["EPISODE_COLUMNS", "RunDirectory"]

EPISODE_COLUMNS = ("step", "return", "length", "seed")
"""Of ``episodes.csv``."""


class RunDirectory:
    """Names the files of a run and writes the small ones.

    Args:
        path: the directory of an existing run; :meth:`create` makes a new one.

    Example:
        >>> import tempfile
        >>> from drama_torchrl.config import load_config
        >>> path = Path(tempfile.mkdtemp(), "run")
        >>> run = RunDirectory.create(path, load_config("quick"))
        >>> run.append_episode(step=900, return_=-21.0, length=890, seed=7)
        >>> run.episodes.read_text().splitlines()
        ['step,return,length,seed', '900,-21.0,890,7']
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: str | Path, config: DramaConfig) -> RunDirectory:
        """Make the directory of a new run and write its configuration.

        Args:
            path: a directory that does not exist or is empty; parents are made.
            config: the options of the run.

        Raises:
            RunExistsError: if anything is there already; nothing is changed.
            ConfigError: if the directory cannot be made or written to.
        """
        run = cls(path)
        with explaining(run.path, "run_dir"):
            remedy = f"go on with resume={run.path}, " if run.unfinished else ""
            make_new_directory(run.path, "run_dir", remedy=remedy)
            try:
                run.films.mkdir()
            # Two runs may have found the directory empty; the second one loses.
            except FileExistsError as error:
                remedy = "choose another run_dir or delete it"
                raise occupied(run.path, "run_dir", "another run", remedy) from error
            run.write_config(config)
        return run

    @property
    def unfinished(self) -> bool:
        """Whether a run was started here and can go on."""
        started = isfile(self.config)
        return started and (isdir(self.snapshots) or not isfile(self.result))

    @property
    def config(self) -> Path:
        """All options, in YAML."""
        return self.path / "config.yaml"

    @property
    def checkpoint(self) -> Path:
        """The newest state of the agent."""
        return self.path / "checkpoint.pt"

    @property
    def snapshots(self) -> Path:
        """Directory of what a run needs to go on; a finished run has none."""
        return self.path / "resume"

    def checkpoint_steps(self) -> list[int]:
        """Steps of the checkpoints that the run can go on from, oldest first."""
        names = [path.name for path in self.snapshots.glob("step-*")]
        numbers = [name.removeprefix("step-") for name in names]
        return sorted(int(number) for number in numbers if number.isdecimal())

    @property
    def episodes(self) -> Path:
        """One row for each finished training episode."""
        return self.path / "episodes.csv"

    @property
    def metrics(self) -> Path:
        """One row of metrics every few steps."""
        return self.path / "metrics.csv"

    @property
    def films(self) -> Path:
        """Directory of films, film strips and videos."""
        return self.path / "films"

    @property
    def result(self) -> Path:
        """Scores and provenance, in JSON."""
        return self.path / "result.json"

    @property
    def evaluation(self) -> Path:
        """Scores of the newest checkpoint that was evaluated once more, in JSON."""
        return self.path / "evaluation.json"

    @property
    def learning_curve(self) -> Path:
        """Returns over environment steps, in PNG."""
        return self.path / "learning_curve.png"

    def append_episode(self, step: int, return_: float, length: int, seed: int) -> None:
        """Add a finished training episode; it is in the file when this returns.

        Args:
            step: environment steps of the run when the episode ended.
            return_: its undiscounted return.
            length: its environment steps.
            seed: the seed that started it.
        """
        Rows(self.episodes, EPISODE_COLUMNS).append([step, return_, length, seed])

    def write_config(self, config: DramaConfig) -> None:
        """Replace ``config.yaml``; whoever finds it finds all options.

        Args:
            config: the options that the run has from now on.
        """
        with replacing(self.config) as temporary:
            save_config(config, temporary)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Replace ``result.json``, whole or not at all.

        Args:
            result: values that JSON knows.

        Raises:
            TypeError: if JSON does not know a value; an older file stays.
        """
        write_json(self.result, result)
