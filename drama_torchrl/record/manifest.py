"""What a checkpoint directory holds: a list with checksums, itself under one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from drama_torchrl.record.atomic import write_json
from drama_torchrl.record.checkpoint import CheckpointError
from drama_torchrl.record.replay_chunks import Chunk, checksum

__all__ = ["FORMAT", "MANIFEST", "Manifest"]

FORMAT = 1
"""Number of the layout of checkpoint directories; another one is refused."""
MANIFEST = "manifest.json"
"""Name of the file."""


@dataclass(frozen=True)
class Manifest:
    """What belongs to a checkpoint, and under which circumstances it was written.

    Args:
        step: environment steps of the run.
        config: all options, as ``dataclasses.asdict`` gives them.
        versions: of the packages, the type of the device and the number of processes.
        files: checksums of the files beside the manifest, by name.
        written: transitions that the replay buffer had received.
        chunks: files that hold those which it kept.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "loop.pt").write_text("state")
        >>> Manifest(5, {}, {}, {"loop.pt": checksum(folder / "loop.pt")}).save(folder)
        >>> Manifest.load(folder).step
        5
    """

    step: int
    config: dict[str, Any]
    versions: dict[str, Any]
    files: dict[str, str]
    written: int = 0
    chunks: list[Chunk] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Write ``manifest.json`` into a directory."""
        content = {"format": FORMAT, **asdict(self)}
        write_json(folder / MANIFEST, {"sha256": _digest(content), "content": content})

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read ``manifest.json`` of a directory and compare its own checksum.

        Raises:
            CheckpointError: if it is missing, damaged or of another format.
        """
        path = folder / MANIFEST
        try:
            data = json.loads(path.read_text())
            content = data["content"]
            if data["sha256"] != _digest(content):
                raise ValueError("a checksum that differs")
            form = content.pop("format")
            if form == FORMAT:
                chunks = [Chunk(**chunk) for chunk in content.pop("chunks")]
                return cls(**content, chunks=chunks)
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{path}: expected the list of a checkpoint's files, got no such file."
            ) from error
        # Text that is no JSON, or JSON that is no manifest.
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{path}: expected a whole list of a checkpoint's files, got a damaged "
                f"or foreign one ({error})."
            ) from error
        raise CheckpointError(
            f"{path}: expected checkpoint format {FORMAT}, got {form}; use the version "
            "of drama_torchrl that wrote it."
        )

    def verify(self, folder: Path, chunk_folder: Path) -> None:
        """Compare the checksums of all files.

        Raises:
            CheckpointError: naming the first file that is missing or differs.
        """
        expected = {folder / name: digest for name, digest in self.files.items()}
        expected |= {chunk_folder / c.name: c.sha256 for c in self.chunks}
        for path, digest in expected.items():
            if not path.is_file():
                raise CheckpointError(
                    f"{path}: expected a file of the checkpoint of step {self.step}, "
                    "got no such file."
                )
            if checksum(path) != digest:
                raise CheckpointError(
                    f"{path}: expected the file as it was written at step {self.step}, "
                    "got a damaged, truncated or foreign one: its checksum differs."
                )


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
