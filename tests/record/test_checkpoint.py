"""Checkpoints hold all that trains, and damaged ones say so."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from drama_torchrl.agent import Agent
from drama_torchrl.config import config_from_dict
from drama_torchrl.factories import make_agent
from drama_torchrl.record.checkpoint import (
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
)
from tests.reference.tiny import ACTIONS, real_batch, tiny_config

CPU = torch.device("cpu")


def small_state(**entries: Any) -> dict[str, Any]:
    weights = {"weight": torch.arange(1000.0)}
    state = {"step": 3, "config": {}, "num_actions": 6}
    return state | {"world_model": weights, "behaviour": {}} | entries


def train_once(agent: Agent, seed: int) -> dict[str, float]:
    torch.manual_seed(seed)
    model = agent.learn_world_model(real_batch()).to_dict()
    behaviour = agent.learn_behaviour(real_batch(time=4)).to_dict()
    return {name: value.item() for name, value in (model | behaviour).items()}


def test_a_loaded_agent_goes_on_as_the_saved_one(tmp_path: Path) -> None:
    config = tiny_config()
    agent, path = make_agent(config, ACTIONS, CPU), tmp_path / "checkpoint.pt"
    for seed in range(3):
        train_once(agent, seed)
    state = {"step": 3, "config": asdict(config), "num_actions": ACTIONS}
    save_checkpoint(path, state | agent.state_dict())
    expected = [train_once(agent, seed) for seed in (3, 4)]

    loaded = load_checkpoint(path, "cpu")
    assert loaded["step"] == 3
    assert config_from_dict(loaded["config"]) == config
    other = make_agent(config, loaded["num_actions"], CPU)
    assert train_once(other, 3) != expected[0]
    other.load_state_dict(loaded)
    assert [train_once(other, seed) for seed in (3, 4)] == expected


def test_saving_again_replaces_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, small_state())
    save_checkpoint(path, small_state(step=4))
    assert load_checkpoint(path, "cpu")["step"] == 4
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_save_keeps_the_older_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, small_state())
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        save_checkpoint(path, small_state(behaviour=lambda: None))
    assert load_checkpoint(path, "cpu")["step"] == 3
    assert list(tmp_path.iterdir()) == [path]


def test_an_incomplete_state_is_not_saved(tmp_path: Path) -> None:
    state = small_state()
    del state["behaviour"]
    with pytest.raises(CheckpointError, match=r"expects .* got .*add \['behaviour'\]"):
        save_checkpoint(tmp_path / "checkpoint.pt", state)


def write_nothing(path: Path) -> None:
    path.write_bytes(b"")


def write_text(path: Path) -> None:
    path.write_text("preset: xs\n" * 1000)


def write_truncated(path: Path) -> None:
    save_checkpoint(path, small_state())
    path.write_bytes(path.read_bytes()[:-500])


def write_flipped_bit(path: Path) -> None:
    save_checkpoint(path, small_state())
    data = bytearray(path.read_bytes())
    weight = torch.arange(1000.0).numpy().tobytes()
    data[data.index(weight) + 2000] ^= 1
    path.write_bytes(data)


def write_other_archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


def write_old_pickle(path: Path) -> None:
    torch.save(small_state(), path, _use_new_zipfile_serialization=False)


def write_code(path: Path) -> None:
    torch.save(small_state(behaviour=Path("code")), path)


def write_list(path: Path) -> None:
    torch.save([1, 2], path)


def write_other_model(path: Path) -> None:
    torch.save({"step": 1, "model": {}}, path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "no such file; name the checkpoint file"),
        (Path.mkdir, "a directory; name the checkpoint file"),
        (write_nothing, "damaged, truncated or foreign .*; use an earlier copy"),
        (write_text, "damaged, truncated or foreign"),
        (write_truncated, "damaged, truncated or foreign"),
        (write_flipped_bit, "damaged, truncated or foreign"),
        (write_old_pickle, "damaged, truncated or foreign"),
        (
            write_other_archive,
            "a checkpoint that loads on cpu, got RuntimeError: .*; name",
        ),
        (write_code, "tensors and plain containers, got other objects.*; name"),
        (write_list, "without step, config, num_actions, world_model, behaviour; name"),
        (write_other_model, "without config, num_actions, world_model, behaviour"),
    ],
    ids=[
        "missing",
        "directory",
        "empty",
        "text",
        "truncated",
        "flipped bit",
        "old format",
        "other archive",
        "code",
        "list",
        "other model",
    ],
)
def test_what_is_no_checkpoint_gets_one_clear_error(
    tmp_path: Path, write: Callable[[Path], None], message: str
) -> None:
    path = tmp_path / "checkpoint.pt"
    write(path)
    with pytest.raises(CheckpointError, match=f"checkpoint.pt: expected .*{message}"):
        load_checkpoint(path, "cpu")
