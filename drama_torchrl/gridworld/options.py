"""The options of the two studies, and how they are read from a command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

from omegaconf import OmegaConf

from drama_torchrl.config import WorldModelConfig
from drama_torchrl.gridworld.tokens import STEP
from drama_torchrl.limits import (
    POSITIVE,
    SEED,
    SIZES,
    WORD,
    ConfigError,
    Limit,
    Options,
    at_least,
    expect,
    one_of,
    option,
)
from drama_torchrl.options import DYNAMICS

__all__ = ["GridWorldOptions", "MemoryOptions", "StudyOptions", "read_options"]

_MODELS = Limit(
    f"a list of {', '.join(DYNAMICS)}, each once at most",
    lambda models: 0 < len(models) == len(set(models)) and set(models) <= set(DYNAMICS),
)
_LENGTHS = Limit(
    f"a list of multiples of the {STEP} tokens of a step, two steps or more",
    lambda lengths: (
        len(lengths) > 0 and all(n % STEP == 0 and n > STEP for n in lengths)
    ),
)
_QUICK = {
    "batch": 8,
    "d_model": 64,
    "head_dim": 32,
    "learning_rate": 3e-3,
    "warmup": 20,
    "evaluation": 64,
}


class _Sizes(WorldModelConfig):
    """Errors name options of a command line that has no groups."""

    section: ClassVar[str] = ""


@dataclass
class StudyOptions(Options):
    """What both studies share; the sizes are the paper's (Table 6)."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"full": {}, "quick": {}}

    preset: str = option("full", WORD)
    """`full` for a GPU, or `quick` for a CPU; other options win over it."""
    seed: int = option(0, SEED)
    """Of the weights and of all walks."""
    device: str = option("auto", one_of("auto", "cpu", "cuda"))
    """`auto` is CUDA where there is a device, else the CPU."""
    autocast: bool = option(True)
    """bfloat16 on CUDA; a CPU always computes in float32."""
    out: str = option("", WORD)
    """Directory for tables and plots."""
    models: list[str] = option([*DYNAMICS], _MODELS)
    """Dynamics models to compare."""
    d_model: int = option(512, at_least(1))
    """Width D."""
    num_layers: int = option(2, at_least(1))
    """Layers."""
    d_state: int = option(16, at_least(1))
    """Size S of the state of each `mamba`; at least 4 of `mamba3`."""
    head_dim: int = option(128, at_least(1))
    """Width P of a head of `mamba2` and `mamba3`."""
    attention_heads: int = option(8, at_least(1))
    """Heads of `transformer`."""
    batch: int = option(16, at_least(1))
    """Sequences B of an update."""
    learning_rate: float = option(3e-4, POSITIVE)
    """Of Adam."""
    warmup: int = option(100, at_least(0))
    """Updates over which it rises linearly."""
    evaluation: int = option(256, at_least(1))
    """Fresh walks on which errors are measured."""

    def __post_init__(self) -> None:
        """Checks that every model can be built."""
        super().__post_init__()
        expected = f"one of {', '.join(self.presets)}"
        expect(self.preset in self.presets, "preset", expected, self.preset)
        for kind in self.models:
            self.dynamics(kind, window=1)

    def dynamics(self, kind: str, window: int) -> WorldModelConfig:
        """Sizes of a dynamics model, without dropout: no walk is seen twice.

        Args:
            kind: one of :data:`drama_torchrl.options.DYNAMICS`.
            window: tokens that the Transformer sees.
        """
        return _Sizes(
            dynamics=kind,
            d_model=self.d_model,
            num_layers=self.num_layers,
            d_state=self.d_state,
            head_dim=self.head_dim,
            attention_heads=self.attention_heads,
            attention_window=window,
            dropout=0.0,
        )


@dataclass
class GridWorldOptions(StudyOptions):
    """Table 2: next tokens of walks. Section 3.2.3."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "full": {},
        "quick": {**_QUICK, "lengths": [104, 208], "updates": 150},
    }

    out: str = option("runs/grid-world", WORD)
    """Directory for tables and plots."""
    lengths: list[int] = option([208, 1664], _LENGTHS)
    """Tokens L of a sequence."""
    updates: int = option(2000, at_least(1))
    """Updates of each model at each length."""


@dataclass
class MemoryOptions(StudyOptions):
    """The memory variant: a goal seen once, asked for T steps later."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "full": {},
        "quick": {**_QUICK, "steps": [4, 16, 64], "first_updates": 300, "updates": 100},
    }

    out: str = option("runs/grid-world-memory", WORD)
    """Directory for tables and plots."""
    steps: list[int] = option([64, 256, 1024, 4096, 16384], SIZES)
    """Steps T between the goal and the question, ascending."""
    first_updates: int = option(2000, at_least(1))
    """Updates of each model at the fewest steps."""
    updates: int = option(400, at_least(1))
    """Updates at each next number of steps, from what was learned before."""

    def __post_init__(self) -> None:
        """Checks the order of the steps."""
        super().__post_init__()
        ascending = self.steps == sorted(set(self.steps))
        expect(ascending, "steps", "ascending numbers", self.steps)


_Study = TypeVar("_Study", bound=StudyOptions)


def read_options(kind: type[_Study], arguments: Sequence[str]) -> _Study:
    """Read ``key=value`` over the values of a preset.

    Args:
        kind: of the study.
        arguments: ``key=value``; the items of a list are separated by commas.

    Returns:
        The checked options.

    Raises:
        ConfigError: an unknown option or preset, or a value that cannot work.

    Example:
        >>> options = read_options(GridWorldOptions, ["preset=quick", "models=gru"])
        >>> options.models, options.lengths
        (['gru'], [104, 208])
    """
    given: dict[str, str] = {}
    names = {spec.name: spec for spec in fields(kind)}
    for argument in arguments:
        name, _, value = (part.strip() for part in argument.partition("="))
        expect(bool(value), argument, "key=value, such as preset=quick", argument)
        expect(name in names, "options", f"one of {', '.join(names)}", name)
        given[name] = value
    preset = kind.presets.get(given.get("preset", "full"), {})
    tree = OmegaConf.structured(kind)
    for name, value in {**preset, **given}.items():
        if isinstance(value, str) and str(names[name].type).startswith("list"):
            value = value.strip("[]").split(",")  # type: ignore[assignment]
        try:
            OmegaConf.update(tree, name, value, merge=False)
        # A wrong type arrives as one of several classes.
        except Exception as error:
            expected = f"{names[name].type}"
            raise ConfigError(f"{name}: expected {expected}, got {value!r}") from error
    options = OmegaConf.to_object(tree)
    assert isinstance(options, kind)
    return options
