"""Damaged, foreign and hostile checkpoints are named; the one before is used."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from drama_torchrl.record.checkpoint import CheckpointError
from drama_torchrl.record.manifest import Manifest
from drama_torchrl.record.new_directory import RunExistsError
from drama_torchrl.record.replay_chunks import checksum
from drama_torchrl.record.stopping import RunStopped
from tests.reference.stopping import (
    CrashAfter,
    CrashError,
    SignalAfter,
    different,
    newest,
    remains,
    run_training,
)
from tests.reference.tiny_run import run_options

OPTIONS = (
    "env.max_frames=80",
    "training.total_steps=30",
    "training.random_steps=20",
    "log.checkpoint_every=8",
    "log.film_every=1000",
)
STOP = 22


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that stopped at step 22, with checkpoints of that step and of 16."""
    path = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(RunStopped):
        run_training(run_options(path, *OPTIONS), SignalAfter(STOP))
    return path


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def test_the_newest_two_are_kept_and_every_transition_is_written_once(
    stopped: Path,
) -> None:
    resume = stopped / "resume"
    files = {str(path.relative_to(resume)) for path in resume.glob("*/*")}
    parts = ("agent.pt", "loop.pt", "manifest.json")
    assert files == {
        *(f"step-0000016/{part}" for part in parts),
        *(f"step-0000022/{part}" for part in parts),
        "replay/000000000-000000008.npz",
        "replay/000000008-000000016.npz",
        "replay/000000016-000000022.npz",
    }
    # Under two names, and on disk once.
    assert (newest(stopped) / "agent.pt").samefile(stopped / "checkpoint.pt")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def replace_by_text(path: Path) -> None:
    path.write_text("hello")


DAMAGES = {"missing": Path.unlink, "cut": cut, "flipped": flip, "text": replace_by_text}
FILES = (
    "step-0000022/agent.pt",
    "step-0000022/loop.pt",
    "step-0000022/manifest.json",
    "replay/000000016-000000022.npz",
)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_used(
    run: Path, name: str, damage: Callable[[Path], None]
) -> None:
    damage(run / "resume" / name)
    message = f"{Path(name).name}: expected .* Going on from step 16"
    with pytest.warns(UserWarning, match=message), pytest.raises(CrashError):
        run_training([f"resume={run}"], CrashAfter(1))


def test_after_a_damage_the_run_ends_the_same(run: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    run_training(run_options(whole, *OPTIONS))
    flip(newest(run) / "loop.pt")
    with pytest.warns(UserWarning, match="loop.pt"):
        run_training([f"resume={run}"])
    assert different(remains(run), remains(whole)) == []


def test_without_a_whole_checkpoint_all_damages_are_listed(run: Path) -> None:
    flip(run / "resume/replay/000000000-000000008.npz")
    with pytest.raises(CheckpointError, match="No checkpoint is whole") as caught:
        run_training([f"resume={run}"])
    assert str(caught.value).count("000000000-000000008.npz: expected") == 2


def test_missing_rows_are_named_and_nothing_is_cut(run: Path) -> None:
    episodes = run / "episodes.csv"
    episodes.write_text("step\n")
    with pytest.raises(CheckpointError, match=r"episodes\.csv: expected the \d+ bytes"):
        run_training([f"resume={run}"])
    assert episodes.read_text() == "step\n"


def test_other_options_are_listed(run: Path) -> None:
    options = ("env.game=Pong", "seed=4", "log.every=3", "training.max_minutes=9")
    with pytest.raises(CheckpointError, match="expected the options that") as caught:
        run_training([f"resume={run}", *options])
    message = str(caught.value)
    assert "env.game: 'Alien' then, 'Pong' now; seed: 0 then, 4 now" in message
    assert "log.every" not in message
    assert "max_minutes" not in message


@pytest.mark.parametrize(
    ("then", "told"),
    [
        ({"torch": "1.0"}, r"torch: '1\.0' then, "),
        ({"processes": 2}, "processes: 2 then, 1 now"),
    ],
    ids=["versions", "processes"],
)
def test_other_circumstances_are_told(
    run: Path, then: dict[str, object], told: str
) -> None:
    folder = newest(run)
    manifest = Manifest.load(folder)
    replace(manifest, versions=manifest.versions | then).save(folder)
    message = f"{told}.*not exactly"
    with pytest.warns(UserWarning, match=message), pytest.raises(CrashError):
        run_training([f"resume={run}"], CrashAfter(1))


def test_another_format_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = Manifest.load(newest(run))
    monkeypatch.setattr("drama_torchrl.record.manifest.FORMAT", 2)
    manifest.save(newest(run))
    monkeypatch.undo()
    shutil.rmtree(run / "resume" / "step-0000016")
    with pytest.raises(CheckpointError, match="expected checkpoint format 1, got 2"):
        run_training([f"resume={run}"])


class Exploit:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.write_text, (self.path, "executed")


def hostile_torch(path: Path, exploit: Exploit) -> None:
    torch.save({"journal": exploit}, path)


def hostile_pickle(path: Path, exploit: Exploit) -> None:
    path.write_bytes(pickle.dumps(exploit))


def hostile_array(path: Path, exploit: Exploit) -> None:
    array = np.empty(6, dtype=object)
    array[:] = exploit
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pixels.npy", buffer.getvalue())


@pytest.mark.parametrize("write", [hostile_torch, hostile_pickle, hostile_array])
@pytest.mark.parametrize("name", FILES)
def test_no_file_of_a_checkpoint_can_run_code(
    run: Path, tmp_path: Path, name: str, write: Callable[[Path, Exploit], None]
) -> None:
    evidence = tmp_path / "evidence"
    path = run / "resume" / name
    shutil.rmtree(run / "resume" / "step-0000016")
    if path.name != "manifest.json":  # whoever swaps a file swaps its checksum too
        manifest = Manifest.load(newest(run))
        write(path, Exploit(evidence))
        digest = checksum(path)
        chunks = [
            replace(chunk, sha256=digest) if chunk.name == path.name else chunk
            for chunk in manifest.chunks
        ]
        files = {
            each: digest if each == path.name else old
            for each, old in manifest.files.items()
        }
        replace(manifest, files=files, chunks=chunks).save(newest(run))
    else:
        write(path, Exploit(evidence))
    with pytest.raises(CheckpointError):
        run_training([f"resume={run}"])
    assert not evidence.exists()


def test_a_crash_before_the_first_checkpoint_starts_at_the_first_step(
    tmp_path: Path,
) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    late = ("log.checkpoint_every=1000",)
    with pytest.raises(CrashError):
        run_training(run_options(run, *OPTIONS, *late), CrashAfter(25))
    assert (run / "episodes.csv").stat().st_size > 0
    run_training([f"resume={run}"])
    run_training(run_options(whole, *OPTIONS, *late))
    assert different(remains(run), remains(whole)) == []


def test_starting_again_says_how_to_go_on(run: Path) -> None:
    with pytest.raises(RunExistsError, match=f"go on with resume={run}"):
        run_training(run_options(run, *OPTIONS))


def test_a_manifest_of_json_that_is_none_is_refused(tmp_path: Path) -> None:
    contents: list[object] = [[], {}, {"content": 3, "sha256": ""}, None]
    for content in contents:
        (tmp_path / "manifest.json").write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match=r"manifest\.json: expected"):
            Manifest.load(tmp_path)
