"""Whatever comes in, options come out or the one documented error."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from drama_torchrl.config import (
    ConfigError,
    DramaConfig,
    config_from_dict,
    list_options,
    load_config,
    read_config,
    save_config,
)

GROUPS = sorted({name.partition(".")[0] for name in list_options() if "." in name})
LEAVES = sorted({name.rpartition(".")[2] for name in list_options()})

names = st.sampled_from([*list_options(), *GROUPS, *LEAVES]) | st.text(max_size=8)
keys = names | st.none() | st.booleans() | st.integers() | st.floats() | st.binary()
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**63)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=8)
    | st.sampled_from(["???", "${seed}", "${", "1e5", "nan", "0x1f", "auto", "xs"])
    | st.builds(object)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=4)
        | st.tuples(inner, inner)
    ),
    max_leaves=8,
)
trees = st.dictionaries(keys, values, max_size=4) | st.dictionaries(
    st.sampled_from(GROUPS),
    st.dictionaries(st.sampled_from(LEAVES), scalars, max_size=3),
    max_size=3,
)
overrides = st.builds(
    lambda key, sign, value: f"{key}{sign}{value}",
    names,
    st.sampled_from(["=", "", " = ", "=="]),
    st.text(max_size=12)
    | st.sampled_from(["[1,2]", "{a: 1}", "!!python/object:x", "&a [*a]", "1e400"])
    | values.map(repr),
)


@given(trees | values)
@example({"env": {"game": "\ud800"}})
@example({"seed": 10**5000})
@example({10**5000: {}, "env": {10**5000: 1}})
def test_nested_input_gives_checked_options_or_a_config_error(data: Any) -> None:
    try:
        config = config_from_dict(data)
    except ConfigError:
        return
    assert isinstance(config, DramaConfig)
    assert config_from_dict(asdict(config)) == config


@given(st.lists(overrides, max_size=3))
@example(["seed=" + "[" * 2000])
def test_overrides_give_checked_options_or_a_config_error(given: list[str]) -> None:
    try:
        config = load_config("quick", given)
    except ConfigError:
        return
    assert isinstance(config, DramaConfig)


@given(values | st.binary(max_size=30) | st.text(max_size=60))
def test_files_give_checked_options_or_a_config_error(
    tmp_path_factory: Any, data: Any
) -> None:
    path = Path(tmp_path_factory.getbasetemp(), "config.yaml")
    path.write_bytes(data if isinstance(data, bytes) else repr(data).encode())
    try:
        assert isinstance(read_config(path), DramaConfig)
    except ConfigError:
        return


sound = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 2**32 - 1),
        "run_dir": st.text(max_size=12),
        "env.game": st.text(min_size=1, max_size=12),
        "replay.temperature": st.floats(1e-300, 1e300),
        "world_model.filters": st.lists(st.integers(1, 9), min_size=2, max_size=5),
        "log.progress": st.booleans(),
    },
)


@settings(max_examples=30)
@given(sound)
def test_options_survive_their_file(tmp_path_factory: Any, options: Any) -> None:
    path = Path(tmp_path_factory.getbasetemp(), "sound.yaml")
    data: dict[str, Any] = {}
    for name, value in options.items():
        group, _, leaf = name.rpartition(".")
        (data.setdefault(group, {}) if group else data)[leaf] = value
    try:
        config = config_from_dict(data)
    except ConfigError:  # a name of blanks, a reference
        return
    save_config(config, path)
    assert read_config(path) == config


class Silent:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_a_value_that_cannot_be_shown_is_named_by_its_type() -> None:
    for data in ({"seed": Silent()}, {"env": Silent()}, {Silent(): 1}, Silent()):
        with pytest.raises(ConfigError, match="of type Silent that cannot be shown"):
            config_from_dict(data)  # type: ignore[arg-type]
