"""Every option is read by a run: one that nobody reads changes nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from drama_torchrl.config import DramaConfig, list_options, load_config
from drama_torchrl.limits import Options
from recipes import drama_atari100k
from tests.reference.tiny_run import run_options

# They read every option alike, to copy, to write or to compare it.
_INDIFFERENT = {"dataclasses", "copy", "pprint"}


@contextmanager
def watched(config: DramaConfig) -> Iterator[set[str]]:
    """Collects the dotted names of the options that are read meanwhile."""
    seen: set[str] = set()
    groups = [config, *(getattr(config, spec.name) for spec in fields(config))]
    groups = [group for group in groups if isinstance(group, Options)]
    kinds = [type(group) for group in groups]
    for group, kind in zip(groups, kinds, strict=True):
        group.__class__ = _watching(kind, seen)
    try:
        yield seen
    finally:
        for group, kind in zip(groups, kinds, strict=True):
            group.__class__ = kind


def _watching(kind: type[Options], seen: set[str]) -> type[Options]:
    names = {
        spec.name: f"{kind.section}.{spec.name}" if kind.section else spec.name
        for spec in fields(kind)
    }

    def read(self: Options, name: str) -> Any:
        if name in names and sys._getframe(1).f_globals["__name__"] not in _INDIFFERENT:
            seen.add(names[name])
        return object.__getattribute__(self, name)

    return type(kind.__name__, (kind,), {"__getattribute__": read})


def test_the_watch_sees_reads_and_nothing_else(tmp_path: Path) -> None:
    config = load_config("quick")
    with watched(config) as seen:
        assert config.behaviour.horizon == 8
        assert config.world_model.latent_dim == 256
    assert seen == {
        "behaviour",
        "behaviour.horizon",
        "world_model",
        "world_model.num_categoricals",
        "world_model.num_classes",
    }
    assert config.seed == 0
    assert "seed" not in seen


# No single run needs all of them: these are looked at where they matter.
RUNS = {
    "carried": (
        "acting.memory=carried",
        "replay.sampling=uniform",
        "world_model.dynamics=transformer",
    ),
    "window": ("acting.memory=window", "replay.sampling=dfs"),
}
ONLY_WITH_WINDOW = {"acting.window", "replay.temperature", "replay.ratio"}
ONLY_WITH_MAMBA2 = {
    f"world_model.{name}" for name in ("d_state", "d_conv", "expand", "head_dim")
}
ONLY_WITH_ATTENTION = {"world_model.attention_heads", "world_model.attention_window"}


@pytest.mark.parametrize(
    ("overrides", "unread"),
    [
        (RUNS["window"], ONLY_WITH_ATTENTION),
        (RUNS["carried"], ONLY_WITH_WINDOW | ONLY_WITH_MAMBA2),
    ],
    ids=RUNS.keys(),
)
def test_a_run_reads_every_option(
    overrides: tuple[str, ...],
    unread: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short = (
        "env.max_frames=40",
        "training.total_steps=24",
        "training.random_steps=20",
        "log.film_every=1000",
    )
    config = load_config(overrides=run_options(tmp_path / "run", *short, *overrides))
    with watched(config) as seen:
        started = (config, False)
        monkeypatch.setattr(drama_atari100k, "read_arguments", lambda _: started)
        drama_atari100k.main([])
    assert set(list_options()) - seen == unread
