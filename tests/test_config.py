"""Presets, overrides, files, and what is said about bad ones."""

from __future__ import annotations

import random
import string
from dataclasses import asdict
from pathlib import Path

import pytest

from drama_torchrl.config import (
    ConfigError,
    DramaConfig,
    EnvConfig,
    WorldModelConfig,
    config_from_dict,
    flatten,
    list_options,
    list_presets,
    load_config,
    read_config,
    save_config,
)

UNKNOWN = {
    "misspelt": ("world_model.dmodel=3", r"'world_model\.d_model'"),
    "misspelt group": ("wrold_model.filters=[1]", r"'world_model\.filters'"),
    "without its group": ("temperature=3", r"'replay\.temperature'"),
    "in two groups": (
        "learning_rate=3",
        r"'world_model\.learning_rate' or 'behaviour\.learning_rate'",
    ),
    "inside a group's value": ("env={game: Pong, gme: 3}", r"'env\.gme'.*'env\.game'"),
    "too deep": ("env.game.name=Pong", r"'env\.game\.name'"),
    "element of a list": ("world_model.filters[0]=8", r"'world_model\.filters'\?"),
    "nothing near": ("zzz=3", r"one of preset, seed, run_dir, env\.\*"),
    "nothing near in a group": ("env.zzz=3", r"one of env\.game, env\.frame_skip"),
    "a class attribute": ("env.section=x", r"unknown option 'env\.section'"),
    "empty part": ("env..game=Pong", r"unknown option 'env\.\.game'"),
}

UNREADABLE = {
    "no value": ("seed=", r"expected key=value, got 'seed='"),
    "no equals sign": ("seed", r"expected key=value, got 'seed'"),
    "no key": ("=3", r"expected key=value, got '=3'"),
    "empty": ("", r"expected key=value, got ''"),
    "a flag": ("--seed 3", r"expected key=value, got '--seed 3'"),
    "open bracket": ("world_model.filters=[1", r"world_model\.filters: cannot read"),
    "reference": ("seed=${env.game}", r"seed: expected a plain value"),
    "broken reference": ("seed=${", r"seed: cannot read the value '\${'"),
    "placeholder": ("env.game=???", r"env\.game: expected a plain value"),
    "number without end": ("seed=0x" + "f" * 9000, r"seed: cannot read"),
}

MISTYPED = {
    "word for int": ("seed=abc", r"seed: expected int, got 'abc'"),
    "float for int": ("replay.capacity=1e5", r"capacity: expected int, got 100000\.0"),
    "bool for float": ("world_model.unimix=true", r"unimix: expected float, got True"),
    "number for bool": ("log.progress=3", r"log\.progress: expected bool, got 3"),
    "number for list": ("world_model.filters=3", r"filters: expected list\[int\], got"),
    "words in list": ("world_model.filters=[a]", r"expected list\[int\], got \['a'\]"),
    "list for word": ("env={game: [Pong]}", r"env\.game: expected str, got \['Pong'\]"),
    "null": ("env={game: null}", r"env\.game: expected str, got None"),
    "word for group": ("env=Pong", r"env: expected one of its options \(env\.game"),
}

IMPOSSIBLE = {
    "no game": ("env={game: ''}", r"env\.game: expected a name, got ''"),
    "negative no-ops": ("env.max_noops=-1", r"env\.max_noops: .*at least 0, got -1"),
    "sticky above 1": (
        "env.repeat_action_probability=1.5",
        r"repeat_action_probability: expected a number in \[0, 1\], got 1\.5",
    ),
    "frame not divisible": (
        "env.frame_size=60",
        r"env\.frame_size: expected a multiple of 16.*filters.*got 60",
    ),
    "filters deeper than the frame": (
        "world_model.filters=[1,1,1,1,1,1,1,1]",
        r"env\.frame_size: expected a multiple of 128.*got 64",
    ),
    "no filters": ("world_model.filters=[]", r"filters: expected a list.*got \[\]"),
    "one filter": ("world_model.filters=[4]", r"filters: .* two or more .*got \[4\]"),
    "no units": ("behaviour.actor_units=[64,0]", r"actor_units: expected a list"),
    "window longer than the buffer": (
        "replay.capacity=100",
        r"replay\.model_window: expected at most replay\.capacity=100 steps, got 128",
    ),
    "more model windows than starts": (
        "replay.model_batch=906",
        r"replay\.model_batch: expected at most 905,.*random_steps=1032.*got 906",
    ),
    "more contexts than starts": (
        "replay.imagination_batch=1026",
        r"imagination_batch: expected at most 1025,.*imagination_window=8.*got 1026",
    ),
    "buffer smaller than the batch": (
        "replay.capacity=1000",
        r"imagination_batch: expected at most 993.*got 1024",
    ),
    "temperature 0": ("replay.temperature=0", r"temperature: .*above 0, got 0\.0"),
    "one-step model window": ("replay.model_window=1", r"model_window: .*at least 2"),
    "unknown device": ("execution.device=gpu", r"one of auto, cpu, cuda, got 'gpu'"),
    "unknown frame store": ("replay.device=disk", r"one of auto, cpu, cuda, got"),
    "unknown sampling": ("replay.sampling=per", r"one of dfs, uniform, got 'per'"),
    "unknown latent": ("acting.latent=both", r"one of posterior, prior, got 'both'"),
    "unknown memory": ("acting.memory=none", r"one of carried, window, got 'none'"),
    "unknown logger": ("log.logger=cvs", r"one of csv, tensorboard, wandb, mlflow"),
    "head dim": (
        "world_model.head_dim=100",
        r"head_dim: expected a divisor of d_model\*expand=512\*2=1024, got 100",
    ),
    "unknown dynamics": (
        "world_model.dynamics=lstm",
        r"one of mamba2, mamba3, mamba, gru, transformer, got 'lstm'",
    ),
    "no heads": ("world_model.attention_heads=0", r"attention_heads: .*got 0"),
    "no window": ("world_model.attention_window=0", r"attention_window: .*got 0"),
    "unimix 1": ("world_model.unimix=1", r"unimix: .*in \[0, 1\), got 1\.0"),
    "unimix not a number": ("world_model.unimix=.nan", r"unimix: .*got nan"),
    "learning rate infinite": ("world_model.learning_rate=.inf", r"got inf"),
    "one class": ("world_model.num_classes=1", r"num_classes: .*at least 2, got 1"),
    "horizon 0": ("behaviour.horizon=0", r"behaviour\.horizon: .*at least 1, got 0"),
    "discount 1": ("behaviour.discount=1", r"discount: .*in \[0, 1\), got 1\.0"),
    "only random steps": (
        "training.total_steps=1032",
        r"total_steps: expected more than training\.random_steps=1032, got 1032",
    ),
    "never an update": ("training.steps_per_update=0", r"steps_per_update: .*got 0"),
    "no episodes": ("evaluation.episodes=0", r"evaluation\.episodes: .*got 0"),
    "negative seed": ("seed=-1", r"seed: expected a whole number in \[0, 2\*\*32\)"),
    "seed too large": ("seed=4294967296", r"got 4294967296"),
    "unknown preset": ("preset=quik", r"unknown preset 'quik': did you mean 'quick'\?"),
    "far preset": ("preset=../xs.yaml", r"expected one of quick, s, xs"),
}

BAD = {
    f"{table}, {name}": case
    for table, cases in {
        "unknown": UNKNOWN,
        "unreadable": UNREADABLE,
        "mistyped": MISTYPED,
        "impossible": IMPOSSIBLE,
    }.items()
    for name, case in cases.items()
}


@pytest.mark.parametrize(("override", "message"), BAD.values(), ids=BAD.keys())
def test_bad_override_is_explained(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("xs", [override])


@pytest.mark.parametrize("preset", list_presets())
def test_preset_loads_and_keeps_its_name(preset: str) -> None:
    assert load_config(preset).preset == preset


PAPER = """
    replay.capacity=100000 replay.sampling=dfs replay.temperature=10 replay.ratio=64
    replay.model_batch=16 replay.model_window=128 world_model.dynamics=mamba2
    replay.imagination_batch=1024 replay.imagination_window=8
    env.frame_skip=4 env.repeat_action_probability=0 env.frame_size=64
    world_model.filters=[16,32,48,64,64] world_model.num_categoricals=32
    world_model.num_classes=32 world_model.unimix=0.01 world_model.d_model=512
    world_model.num_layers=2 world_model.d_state=16 world_model.head_dim=128
    world_model.expand=2 world_model.d_conv=4 world_model.dropout=0.1
    world_model.head_units=256 world_model.termination=likeliest
    world_model.num_bins=255 world_model.bin_limit=20
    world_model.dynamics_scale=1 world_model.representation_scale=0.1
    world_model.free_nats=1 world_model.learning_rate=4e-5
    world_model.warmup_steps=1000 world_model.weight_decay=1e-4
    world_model.max_grad_norm=1000 behaviour.horizon=16 behaviour.discount=0.985
    behaviour.trace_decay=0.95 behaviour.entropy_scale=3e-4
    behaviour.actor_units=[256,256] behaviour.critic_units=[512,512]
    behaviour.slow_decay=0.98 behaviour.slow_scale=1 behaviour.return_decay=0.99
    behaviour.learning_rate=4e-5 behaviour.warmup_steps=1000
    behaviour.max_grad_norm=100 training.total_steps=100000
    training.random_steps=1032 training.steps_per_update=1
"""


def test_xs_is_the_paper() -> None:
    assert load_config("xs") == load_config("xs", PAPER.split()) == DramaConfig()


def test_heads_are_checked_where_there_are_some() -> None:
    attention = ["world_model.dynamics=transformer", "world_model.attention_heads=3"]
    message = r"attention_heads: expected a divisor of d_model/2=512/2, got 3"
    with pytest.raises(ConfigError, match=message):
        load_config("xs", attention)
    for dynamics in ("mamba2", "mamba3", "mamba", "gru"):
        load_config("xs", [*attention, f"world_model.dynamics={dynamics}"])
    for dynamics in ("mamba", "gru", "transformer"):
        options = [f"world_model.dynamics={dynamics}", "world_model.head_dim=100"]
        load_config("xs", options)
    options = ["world_model.dynamics=mamba3", "world_model.head_dim=100"]
    with pytest.raises(ConfigError, match=r"head_dim: expected a divisor of .*got 100"):
        load_config("xs", options)


def test_mamba3_needs_a_pair_of_states_to_turn() -> None:
    small = ["world_model.d_state=3"]
    with pytest.raises(ConfigError, match=r"d_state: expected at least 4 .*got 3"):
        load_config("xs", [*small, "world_model.dynamics=mamba3"])
    load_config("xs", small)


def test_derived_numbers_of_xs() -> None:
    model = DramaConfig().world_model
    assert (model.latent_dim, model.inner_width, model.num_heads) == (1024, 1024, 8)
    assert model.downsampling == 16
    assert DramaConfig().starts(window=8) == 1025


def test_s_differs_from_xs_in_filters_and_state_alone() -> None:
    small, paper = asdict(load_config("s")), asdict(load_config("xs"))
    assert small.pop("preset") == "s"
    assert paper.pop("preset") == "xs"
    assert small["world_model"].pop("filters") == [32, 64, 96, 128, 128]
    assert small["world_model"].pop("d_state") == 32
    del paper["world_model"]["filters"], paper["world_model"]["d_state"]
    assert small == paper


def test_limits_themselves_are_allowed() -> None:
    edges = ["replay.imagination_batch=1025", "replay.model_batch=905"]
    assert load_config("xs", edges).replay.imagination_batch == 1025
    edges = ["replay.capacity=1031", "training.total_steps=1033"]
    assert load_config("xs", edges).replay.capacity == 1031


@pytest.mark.parametrize(
    ("overrides", "read"),
    [
        (["seed=1", "seed=2"], lambda config: config.seed == 2),
        ([" seed = 5 "], lambda config: config.seed == 5),
        (["env={game: Pong, max_noops: 0}"], lambda config: config.env.max_noops == 0),
        (["behaviour.discount=0"], lambda config: config.behaviour.discount == 0.0),
        (
            ["world_model.learning_rate=1e-3"],
            lambda c: c.world_model.learning_rate == 1e-3,
        ),
        (["log.progress=false"], lambda config: config.log.progress is False),
        (["run_dir=a=b"], lambda config: config.run_path == Path("a=b")),
        (["world_model.filters=[8,8]"], lambda c: c.world_model.filters == [8, 8]),
    ],
    ids=lambda case: case[0] if isinstance(case, list) else "",
)
def test_override_takes_effect(overrides, read) -> None:  # type: ignore[no-untyped-def]
    assert read(load_config("xs", overrides))


@pytest.mark.parametrize("preset", ["quick", "s", "xs"])
def test_what_imagination_may_use_up_is_what_it_draws(preset: str) -> None:
    replay = load_config(preset).replay
    assert replay.ratio == replay.imagination_batch / replay.model_batch


@pytest.mark.parametrize(
    "text",
    ["20251128_1326", "0042", "1e3", "12:30:00", "a #b", "null", "[a", "'a'", "a: b"],
)
@pytest.mark.parametrize("name", ["run_dir", "env.game"])
def test_the_text_of_a_word_is_taken_as_it_is(name: str, text: str) -> None:
    config = load_config("xs", [f"{name}= {text} "])
    assert flatten(asdict(config))[name] == text


def test_preset_among_the_overrides_wins() -> None:
    config = load_config("s", ["seed=1", "preset=quick"])
    assert config == load_config("quick", ["seed=1"])
    assert config != load_config("s", ["seed=1"])


def test_overrides_win_over_the_preset() -> None:
    assert load_config("quick").env.game == "Pong"
    assert load_config("quick", ["env.game=Boxing"]).env.game == "Boxing"


def test_relations_are_checked_once_all_overrides_are_in() -> None:
    overrides = ["training.random_steps=200", "replay.imagination_batch=100"]
    assert load_config("xs", overrides) == load_config("xs", overrides[::-1])


def test_run_path_tells_the_run_apart() -> None:
    runs = [["seed=1"], ["seed=2"], ["env.game=Pong"], ["preset=s"], ["run_dir=x"]]
    assert len({load_config("xs", run).run_path for run in runs}) == len(runs)


def test_lists_are_not_shared_between_configs() -> None:
    DramaConfig().world_model.filters.append(1)
    assert DramaConfig().world_model.filters == [16, 32, 48, 64, 64]


@pytest.mark.parametrize("preset", list_presets())
def test_saved_config_reads_back_the_same(preset: str, tmp_path: Path) -> None:
    overrides = ["seed=4294967295", "run_dir=#: [x", "behaviour.entropy_scale=1e-12"]
    config = load_config(preset, overrides)
    save_config(config, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == config
    assert config_from_dict(asdict(config)) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: [", r"config\.yaml: expected a YAML file of options, got \w+Error"),
        ("- 1", r"config\.yaml: expected options by name, got \[1\]"),
        ("seed: x", r"seed: expected int, got 'x'"),
        ("sede: 1", r"unknown option 'sede': did you mean 'seed'\?"),
        ("env: {game: null}", r"env\.game: expected str, got None"),
        ("behaviour: {horizon: 0}", r"behaviour\.horizon: .*at least 1, got 0"),
        ("\x00\x01", r"config\.yaml: expected a YAML file of options"),
        ("seed: 0x" + "f" * 9000, r"config\.yaml: expected a YAML file of options"),
    ],
    ids=["broken", "list", "type", "unknown", "null", "impossible", "binary", "huge"],
)
def test_bad_file_is_explained(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_config(path)


def test_missing_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a YAML file.*FileNotFoundError"):
        read_config(tmp_path / "config.yaml")


def test_wrong_type_in_python_is_explained() -> None:
    with pytest.raises(ConfigError, match=r"env\.frame_skip: .*at least 1, got 'four'"):
        EnvConfig(frame_skip="four")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"world_model\.filters: .*got 16"):
        WorldModelConfig(filters=16)  # type: ignore[arg-type]


def test_only_config_errors_come_out_of_random_text() -> None:
    draw = random.Random(0)
    alphabet = string.printable + "${}[]:'\"?=.,!&*%@`|>é\x00\ud800"
    keys = [*list_options(), "env", "world_model", "nothing", ""]
    hostile = [
        "[" * 300,
        "!!python/object:os.system",
        "*x",
        "&x [*x]",
        "${oc.env:HOME}",
    ]
    accepted = 0
    for _ in range(200):
        text = "".join(draw.choices(alphabet, k=draw.randrange(12)))
        value = draw.choice([text, text, draw.choice(hostile), str(draw.randrange(40))])
        override = draw.choice([text, f"{draw.choice(keys)}={value}"])
        try:
            load_config("quick", [override])
            accepted += 1
        except ConfigError as error:
            assert str(error)  # noqa: PT017 (most texts must fail, not each of them)
    assert 0 < accepted < 100
