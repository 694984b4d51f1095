"""CSV files that grow by whole rows."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["Rows"]


class Rows:
    """Append rows to a CSV file, each whole or not at all; none is lost.

    A row that cannot be written, since the disk is full, waits in memory and goes
    before the next one.

    Args:
        path: the file; its directory must exist.
        columns: names, written above the first row.

    Example:
        >>> import tempfile
        >>> rows = Rows(Path(tempfile.mkdtemp(), "episodes.csv"), ["step", "return"])
        >>> rows.append([900, -21.0])
        >>> rows.path.read_text().splitlines()
        ['step,return', '900,-21.0']
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.columns = columns
        self._waiting: list[Sequence[object]] = []

    def append(self, row: Sequence[object]) -> None:
        """Add a row; it is in the file when this returns.

        Raises:
            OSError: if it cannot be written; the file is as it was.
        """
        self._waiting.append(row)
        self.flush()

    def flush(self) -> None:
        """Write the rows that wait.

        Raises:
            OSError: if they cannot be written; the file is as it was.
        """
        if not self._waiting:
            return
        size = self.path.stat().st_size if self.path.exists() else 0
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([*([] if size else [self.columns]), *self._waiting])
        try:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                file.write(text.getvalue())
        except OSError:
            if self.path.exists():
                os.truncate(self.path, size)
            raise
        self._waiting.clear()
