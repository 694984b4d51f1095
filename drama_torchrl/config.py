"""Reads and writes configuration: presets, overrides and files become options.

Whatever text comes in, the only exception that comes out is `ConfigError`; it names
the option, what was expected and what came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from difflib import SequenceMatcher, get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf

from drama_torchrl.limits import ConfigError, Options, show
from drama_torchrl.options import (
    CHANGES_NO_RESULT,
    MAY_CHANGE_ON_RESUME,
    ActingConfig,
    BehaviourConfig,
    DramaConfig,
    EnvConfig,
    EvaluationConfig,
    ExecutionConfig,
    LogConfig,
    ReplayConfig,
    TrainingConfig,
    WorldModelConfig,
)

__all__ = [
    "CHANGES_NO_RESULT",
    "MAY_CHANGE_ON_RESUME",
    "ActingConfig",
    "BehaviourConfig",
    "ConfigError",
    "DramaConfig",
    "EnvConfig",
    "EvaluationConfig",
    "ExecutionConfig",
    "LogConfig",
    "ReplayConfig",
    "TrainingConfig",
    "WorldModelConfig",
    "config_from_dict",
    "flatten",
    "list_options",
    "list_presets",
    "load_config",
    "read_config",
    "save_config",
]


def load_config(preset: str = "xs", overrides: Sequence[str] = ()) -> DramaConfig:
    """Options of a preset, changed by overrides; later overrides win.

    Args:
        preset: one of `list_presets()`; `preset=NAME` among the overrides wins over it.
        overrides: `key=value`, the key a dotted option name, the value as in YAML, or
            the text as it stands where the option is a `str`.

    Returns:
        The checked options.

    Raises:
        ConfigError: an unknown preset or option, or a value that cannot work.

    Example:
        >>> config = load_config("quick", ["env.game=Breakout", "seed=1"])
        >>> config.env.game, config.seed, config.preset
        ('Breakout', 1, 'quick')
    """
    layers = [_parse_override(override) for override in overrides]
    for layer in layers:
        preset = layer.pop("preset", preset)
    return _build([_read_preset(preset), *layers, {"preset": preset}])


def config_from_dict(
    data: Mapping[str, Any], overrides: Sequence[str] = ()
) -> DramaConfig:
    """Options from nested dictionaries; what is absent keeps its default.

    Args:
        data: as `dataclasses.asdict` gives it.
        overrides: `key=value`, as for `load_config`.

    Returns:
        The checked options.

    Raises:
        ConfigError: an unknown option, or a value that cannot work.

    Example:
        >>> config_from_dict({"behaviour": {"horizon": 4}}).behaviour.horizon
        4
    """
    return _build([data, *map(_parse_override, overrides)])


def save_config(config: DramaConfig, path: str | Path) -> None:
    """Writes every option to a YAML file that `read_config` reads.

    Args:
        config: the options.
        path: the file; its directory must exist.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "config.yaml")
        >>> save_config(DramaConfig(), path)
        >>> path.read_text().splitlines()[:3]
        ['preset: xs', 'seed: 0', "run_dir: ''"]
    """
    OmegaConf.save(OmegaConf.create(asdict(config)), path)


def read_config(path: str | Path) -> DramaConfig:
    """Options from a file that `save_config` wrote.

    Args:
        path: the file, usually `config.yaml` in a run directory.

    Returns:
        The checked options.

    Raises:
        ConfigError: no such file, no YAML, an unknown option or an impossible value.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "config.yaml")
        >>> save_config(load_config("quick", ["seed=7"]), path)
        >>> read_config(path) == load_config("quick", ["seed=7"])
        True
    """
    return _build([_read_yaml(str(path), Path(path))])


def flatten(
    options: Mapping[Any, Any], into: Callable[[str], bool] = lambda _: True
) -> dict[str, Any]:
    """Name nested options by dots.

    Args:
        options: values or further options by name.
        into: whether to look into the options of a dotted name.

    Example:
        >>> flatten({"seed": 1, "env": {"game": "Pong"}})
        {'seed': 1, 'env.game': 'Pong'}
    """
    return dict(_leaves("", options, into))


def list_presets() -> list[str]:
    """Names of the presets.

    Example:
        >>> list_presets()
        ['quick', 's', 'xs']
    """
    presets = files("drama_torchrl").joinpath("presets").iterdir()
    return sorted(Path(p.name).stem for p in presets if p.name.endswith(".yaml"))


def list_options() -> list[str]:
    """Dotted names of all options.

    Example:
        >>> list_options()[:4]
        ['preset', 'seed', 'run_dir', 'env.game']
    """
    return list(_kinds())


@cache
def _groups() -> dict[str, type[Options]]:
    hints = get_type_hints(DramaConfig)
    kinds = {spec.name: hints[spec.name] for spec in fields(DramaConfig)}
    return {name: kind for name, kind in kinds.items() if issubclass(kind, Options)}


@cache
def _kinds() -> dict[str, Any]:
    groups = _groups()
    hints = get_type_hints(DramaConfig)
    names = [spec.name for spec in fields(DramaConfig) if spec.name not in groups]
    kinds = {name: hints[name] for name in names}
    for group, options in groups.items():
        hints = get_type_hints(options)
        kinds |= {f"{group}.{s.name}": hints[s.name] for s in fields(options)}
    return kinds


def _build(layers: Sequence[Mapping[str, Any]]) -> DramaConfig:
    tree = OmegaConf.structured(DramaConfig)
    for layer in layers:
        if not isinstance(layer, Mapping):
            raise ConfigError(f"expected options by name, got {show(layer)}")
        for name, leaf in flatten(layer, into=_groups().__contains__).items():
            _check_name(name, leaf)
            _assign(tree, name, leaf)
    config = OmegaConf.to_object(tree)
    assert isinstance(config, DramaConfig)
    return config


def _leaves(
    prefix: str, options: Mapping[Any, Any], into: Callable[[str], bool]
) -> Iterator[tuple[str, Any]]:
    for key, value in options.items():
        name = f"{prefix}{_name(key)}"
        if isinstance(value, Mapping) and into(name):
            yield from _leaves(f"{name}.", value, into)
        else:
            yield name, value


def _check_name(name: str, value: Any) -> None:
    if name in _groups():
        expected = f"one of its options ({_options_of(name)})"
        raise ConfigError(f"{name}: expected {expected}, got {show(value)}")
    if name not in _kinds():
        raise ConfigError(f"unknown option {name!r}: {_suggest_option(name)}")


def _name(key: object) -> str:
    return key if isinstance(key, str) else show(key)


def _assign(tree: DictConfig, name: str, value: Any) -> None:
    if any(mark in show(value) for mark in ("${", "???")):
        raise ConfigError(
            f"{name}: expected a plain value, got {show(value)}; "
            "references and placeholders are not resolved"
        )
    kind = _kinds()[name]
    try:
        if kind is bool and not isinstance(value, bool):
            raise TypeError("OmegaConf would take any number for a bool")
        OmegaConf.update(tree, name, value, merge=False)
    # A wrong type arrives as one of several classes, some ValueError, some TypeError.
    except Exception as error:
        words = kind.__name__ if isinstance(kind, type) else str(kind)
        raise ConfigError(f"{name}: expected {words}, got {show(value)}") from error


def _parse_override(override: str) -> dict[str, Any]:
    key, _, text = override.partition("=")
    key, text = key.strip(), text.strip()
    if not (key and text):
        raise ConfigError(
            f"expected key=value, got {override!r}; write for example 'env.game=Pong'"
        )
    if _kinds().get(key) is str:
        return {key: text}
    try:
        return {key: _plain(OmegaConf.from_dotlist([f"value={text}"]))["value"]}
    # YAML and OmegaConf raise a dozen unrelated types on text they cannot read.
    except Exception as error:
        raise ConfigError(f"{key}: cannot read the value {text!r}") from error


def _read_preset(preset: str) -> dict[str, Any]:
    names = list_presets()
    if preset not in names:
        raise ConfigError(f"unknown preset {preset!r}: {_suggest(preset, names)}")
    path = files("drama_torchrl").joinpath("presets", f"{preset}.yaml")
    return _read_yaml(f"preset {preset}", Path(str(path)))


def _read_yaml(name: str, path: Path) -> dict[str, Any]:
    try:
        data = _plain(OmegaConf.load(path))
    # As above, and whatever the file system says.
    except Exception as error:
        raise ConfigError(
            f"{name}: expected a YAML file of options, got {type(error).__name__}"
        ) from error
    if not isinstance(data, dict):
        raise ConfigError(f"{name}: expected options by name, got {data!r}")
    return data


def _plain(config: Any) -> Any:
    """Plain containers; fails where no error message could show a value."""
    data = OmegaConf.to_container(config)
    repr(data)  # raises on a hexadecimal integer of thousands of digits
    return data


def _suggest(name: str, names: Sequence[str]) -> str:
    near = get_close_matches(name, names, n=3)
    return _did_you_mean(near) if near else f"expected one of {', '.join(names)}"


def _suggest_option(name: str) -> str:
    """The options nearest by last part, then by group; else all that there is."""
    group, _, leaf = name.rpartition(".")

    def nearness(option: str) -> tuple[float, float]:
        option_group, _, option_leaf = option.rpartition(".")
        by_leaf = SequenceMatcher(None, leaf, option_leaf).ratio()
        return by_leaf, SequenceMatcher(None, group, option_group).ratio()

    near = [option for option in list_options() if nearness(option)[0] > 0.7]
    if near:
        return _did_you_mean(sorted(near, key=nearness, reverse=True)[:3])
    if group in _groups():
        return f"expected one of {_options_of(group)}"
    top = [option for option in list_options() if "." not in option]
    return f"expected one of {', '.join([*top, *(f'{g}.*' for g in _groups())])}"


def _options_of(group: str) -> str:
    return ", ".join(o for o in list_options() if o.startswith(f"{group}."))


def _did_you_mean(names: Sequence[str]) -> str:
    return f"did you mean {' or '.join(map(repr, names))}?"
