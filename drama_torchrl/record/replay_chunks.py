"""Replay on disk: append-only files of transitions, each written once."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tensordict import TensorDict
from torchrl.data import TensorDictReplayBuffer

from drama_torchrl.record.atomic import replacing
from drama_torchrl.record.checkpoint import CheckpointError
from drama_torchrl.record.ring import first_kept, refilling

__all__ = ["Chunk", "ReplayChunks", "checksum"]

_RECORDS = 10_000
_LEVEL = 3  # half the time of zlib's 6 on Atari frames, for a third more bytes
_NAME = re.compile(r"\d{9}-\d{9}\.npz")


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "empty")
        >>> path.touch()
        >>> checksum(path)[:8]
        'e3b0c442'
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Chunk:
    """A file of the transitions ``first`` to ``last`` - 1, in the order of writing.

    Args:
        first: number of the first transition; the run's first one is 0.
        last: number after that of the last one.
        sha256: checksum of the file.

    Example:
        >>> Chunk(0, 5000, "00").name
        '000000000-000005000.npz'
    """

    first: int
    last: int
    sha256: str

    @property
    def name(self) -> str:
        """Name of the file."""
        return f"{self.first:09d}-{self.last:09d}.npz"


class ReplayChunks:
    """Writes what a replay buffer has received since the last time, and reads it all.

    A chunk is an ``.npz`` archive of one array per key, compressed by zlib: 100 000
    transitions of Pong take about 20 MB, of Boxing 85 MB. Chunks are never changed;
    what the ring of the buffer has overwritten is dropped by :meth:`keep`.

    Args:
        folder: where the chunks are.
        replay: a buffer that is written round-robin, one transition after another.

    Example:
        >>> import tempfile
        >>> from torchrl.data import LazyTensorStorage
        >>> folder = Path(tempfile.mkdtemp())
        >>> replay = TensorDictReplayBuffer(storage=LazyTensorStorage(8))
        >>> _ = replay.extend(TensorDict({"time": torch.arange(5)}, [5]))
        >>> [chunk.name for chunk in ReplayChunks(folder, replay).write()]
        ['000000000-000000005.npz']
    """

    def __init__(self, folder: Path, replay: TensorDictReplayBuffer) -> None:
        self.folder = folder
        self.replay = replay
        self.chunks: list[Chunk] = []

    def write(self) -> list[Chunk]:
        """Write the transitions that are in no chunk yet.

        Returns:
            The chunks that hold all transitions of the buffer, oldest first.
        """
        self.folder.mkdir(exist_ok=True)
        end = self.replay.write_count
        oldest = first_kept(self.replay, end)
        self.chunks = [chunk for chunk in self.chunks if chunk.last > oldest]
        first = max([oldest, *(chunk.last for chunk in self.chunks)])
        for start in range(first, end, _RECORDS):
            self.chunks.append(self._write(start, min(start + _RECORDS, end)))
        return list(self.chunks)

    def read(self, chunks: list[Chunk], written: int) -> None:
        """Fill the empty buffer as it was when ``written`` transitions had come.

        Args:
            chunks: what :meth:`write` returned then.
            written: transitions that the buffer had received.

        Raises:
            CheckpointError: if a file is missing, damaged or not one of a replay.
        """
        oldest = first_kept(self.replay, written)
        with refilling(self.replay, written):
            for chunk in chunks:
                records = self.load(chunk)
                self.replay.extend(records[max(0, oldest - chunk.first) :])
            if chunks and self.replay.write_count != written - oldest:
                raise CheckpointError(
                    f"{self.folder}: expected {written - oldest} transitions, got "
                    f"{self.replay.write_count}; use an earlier checkpoint."
                )
        self.chunks = list(chunks)

    def load(self, chunk: Chunk) -> TensorDict:
        """Read the transitions of a chunk; no file can run code.

        Raises:
            CheckpointError: if the file is damaged or no chunk.
        """
        path = self.folder / chunk.name
        length = chunk.last - chunk.first
        try:
            with np.load(path, allow_pickle=False) as archive:
                columns = {key: torch.from_numpy(archive[key]) for key in archive}
            records = TensorDict(columns, batch_size=[length])
        except (OSError, ValueError, EOFError, RuntimeError, TypeError) as error:
            raise _broken(path, error) from error
        except (zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
            raise _broken(path, error) from error
        return records.unflatten_keys("/")

    def keep(self, names: set[str]) -> None:
        """Delete the chunks that no checkpoint needs any more.

        Args:
            names: of the files to keep.
        """
        for path in self.folder.iterdir():
            if _NAME.fullmatch(path.name) and path.name not in names:
                path.unlink()

    def _write(self, first: int, last: int) -> Chunk:
        slots = torch.arange(first, last) % self.replay.storage.max_size
        records = self.replay.storage.get(slots.to(self.replay.storage.device))
        columns = records.exclude("index").cpu().flatten_keys("/").to_dict()
        path = self.folder / Chunk(first, last, "").name
        buffer = io.BytesIO()
        # As np.savez_compressed, which leaves no choice of the level.
        with zipfile.ZipFile(
            buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL
        ) as archive:
            for key, value in columns.items():
                with archive.open(f"{key}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, value.numpy(), allow_pickle=False)
        with replacing(path) as temporary:
            temporary.write_bytes(buffer.getbuffer())
        return Chunk(first, last, checksum(path))


def _broken(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path}: expected an archive of transitions, got {type(error).__name__}: "
        f"{error}; use an earlier checkpoint."
    )
