"""Configuration becomes objects, and every option of the networks becomes something."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from inspect import signature
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from drama_torchrl.config import (
    BehaviourConfig,
    ConfigError,
    DramaConfig,
    WorldModelConfig,
    list_presets,
    load_config,
)
from drama_torchrl.data import HostStorage
from drama_torchrl.envs import make_atari_env
from drama_torchrl.factories import (
    check_environment,
    make_actor,
    make_agent,
    make_behaviour_learner,
    make_critic,
    make_device,
    make_policy,
    make_replay,
    make_world_model,
    make_world_model_learner,
)
from drama_torchrl.factories.machine import behaviour_device
from drama_torchrl.factories.replay import has_frames_on_host, make_storage
from drama_torchrl.modules import RewardHead, WorldModel
from drama_torchrl.modules.distributions import SymlogTwoHot
from drama_torchrl.objectives import ActorLoss, CriticLoss, WorldModelLoss
from drama_torchrl.optim import LaProp
from drama_torchrl.policies import (
    CarriedMemory,
    PosteriorPolicy,
    PriorPolicy,
    WindowMemory,
)
from tests.reference.tiny import ACTIONS, FRAME, real_batch, tiny_config

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


class TestSizes:
    @pytest.mark.parametrize("num_actions", [3, 6, 18])
    def test_the_world_model_of_xs_has_7_16_million_parameters(
        self, num_actions: int
    ) -> None:
        world_model = make_world_model(load_config("xs"), num_actions)
        assert count(world_model) == pytest.approx(7.16e6, abs=0.03e6)

    @pytest.mark.parametrize(
        ("dynamics", "millions"),
        [
            ("mamba2", 7.15),
            ("mamba3", 7.16),
            ("mamba", 7.34),
            ("gru", 7.10),
            ("transformer", 7.10),
        ],
    )
    def test_world_models_of_all_dynamics_are_of_one_size(
        self, dynamics: str, millions: float
    ) -> None:
        config = load_config("xs", [f"world_model.dynamics={dynamics}"])
        world_model = make_world_model(config, num_actions=6)
        assert round(count(world_model) / 1e6, 2) == millions

    def test_actions_cost_one_column_of_the_stem_each(self) -> None:
        sizes = [count(make_world_model(load_config("xs"), n)) for n in (6, 18)]
        assert sizes[1] - sizes[0] == 12 * 512

    def test_actor_and_critic_of_xs(self) -> None:
        config, state = load_config("xs"), 1024 + 512
        actor = (state + 1 + 1) * 256 + (256 + 1 + 1) * 256 + (256 + 1) * 6
        critic = (state + 1 + 1) * 512 + (512 + 1 + 1) * 512 + (512 + 1) * 255
        assert count(make_actor(config, 6)) == actor
        assert count(make_critic(config)) == critic

    @pytest.mark.parametrize("preset", list_presets())
    def test_every_preset_builds_and_observes(self, preset: str) -> None:
        config = load_config(preset)
        agent = make_agent(config, 6, CPU)
        batch = TensorDict(
            pixels=torch.zeros(1, 2, 3, 64, 64, dtype=torch.uint8),
            action=torch.zeros(1, 2, 6, dtype=torch.bool),
            batch_size=[1, 2],
        )
        out = agent.world_model(batch)
        assert out["next", "belief"].shape == (1, 2, config.world_model.d_model)
        assert out["next", "reward_logits"].isfinite().all()


def fingerprint(config: DramaConfig) -> list[Tensor]:
    """All weights after two updates of everything, and all metrics."""
    torch.manual_seed(0)
    world_model = make_world_model(config, ACTIONS)
    actor, critic = make_actor(config, ACTIONS), make_critic(config)
    learners = [
        make_world_model_learner(config, world_model),
        make_behaviour_learner(config, world_model, actor, critic, num_actions=ACTIONS),
    ]
    torch.manual_seed(1)
    batch = real_batch()
    batch["is_init"][:, 5] = True
    found: list[Tensor] = []
    for learner in learners * 2:
        torch.manual_seed(2)
        found += [value.clone() for value in learner(batch).values()]
    for learner in learners:
        found += learner.modules.state_dict().values()
    return found


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(
        x.shape == y.shape and torch.equal(x, y) for x, y in zip(a, b, strict=True)
    )


WORLD_MODEL = {
    "filters": "[4,8,6]",
    "num_categoricals": "5",
    "num_classes": "6",
    "unimix": "0.1",
    "dynamics": "gru",
    "d_model": "48",
    "num_layers": "1",
    "d_state": "4",
    "head_dim": "32",
    "expand": "1",
    "d_conv": "3",
    "dropout": "0.5",
    "head_units": "12",
    "termination": "drawn",
    "num_bins": "31",
    "bin_limit": "10",
    "dynamics_scale": "0.5",
    "representation_scale": "0.5",
    "free_nats": "5.0",
    "reset_at_episode_start": "true",
    "learning_rate": "1e-3",
    "warmup_steps": "1",
    "weight_decay": "0.5",
    "max_grad_norm": "1.0",
}
# What only a Transformer has.
ATTENTION = {"attention_heads": "4", "attention_window": "3"}
BEHAVIOUR = {
    "horizon": "3",
    "discount": "0.5",
    "trace_decay": "0.5",
    "entropy_scale": "0.1",
    "actor_units": "[16]",
    "critic_units": "[16]",
    "slow_decay": "0.5",
    "slow_scale": "0.5",
    "return_decay": "0.1",
    "learning_rate": "1e-3",
    "warmup_steps": "1",
    "max_grad_norm": "0.1",
}
# Returns must spread by more than one for their scale to count.
BASE = ("behaviour.return_decay=0.5",)


@pytest.fixture(scope="module")
def baseline() -> list[Tensor]:
    return fingerprint(tiny_config(*BASE))


class TestOptions:
    def test_the_tables_are_complete(self) -> None:
        world_model = {field.name for field in fields(WorldModelConfig)}
        assert {*WORLD_MODEL, *ATTENTION} == world_model
        assert set(BEHAVIOUR) == {field.name for field in fields(BehaviourConfig)}

    def test_the_same_options_give_the_same_agent(self, baseline: list[Tensor]) -> None:
        assert same(fingerprint(tiny_config(*BASE)), baseline)

    @pytest.mark.parametrize(
        "override",
        [
            *(f"world_model.{name}={value}" for name, value in WORLD_MODEL.items()),
            *(f"behaviour.{name}={value}" for name, value in BEHAVIOUR.items()),
        ],
    )
    def test_every_option_changes_something(
        self, override: str, baseline: list[Tensor]
    ) -> None:
        assert not same(fingerprint(tiny_config(*BASE, override)), baseline)

    @pytest.mark.parametrize("option", ATTENTION)
    def test_every_option_of_the_transformer_changes_something(
        self, option: str
    ) -> None:
        base = (*BASE, "world_model.dynamics=transformer")
        changed = f"world_model.{option}={ATTENTION[option]}"
        one, other = tiny_config(*base), tiny_config(*base, changed)
        assert not same(fingerprint(one), fingerprint(other))


class TestModes:
    def test_networks_evaluate_until_they_are_trained(self) -> None:
        config = tiny_config()
        agent = make_agent(config, ACTIONS, CPU)
        for network in (
            agent.world_model,
            agent.actor,
            make_world_model(config, ACTIONS),
            make_actor(config, ACTIONS),
        ):
            assert not any(module.training for module in network.modules())

    def test_a_life_lost_ends_the_episode_for_the_world_model(self) -> None:
        terms = []
        for key in ("end-of-life", "terminated", "reward"):
            torch.manual_seed(0)
            world_model = make_world_model(tiny_config(), ACTIONS)
            learner = make_world_model_learner(tiny_config(), world_model)
            batch = real_batch()
            if key != "reward":  # the unchanged batch
                batch["next", key] = ~batch["next", key]
            torch.manual_seed(1)
            terms.append(learner(batch)["loss_termination"].item())
        life_lost, terminated, unchanged = terms
        assert terminated == unchanged
        assert life_lost != unchanged


class TestPolicy:
    @pytest.mark.parametrize(
        ("latent", "policy"), [("posterior", PosteriorPolicy), ("prior", PriorPolicy)]
    )
    @pytest.mark.parametrize(
        ("memory", "kind"), [("carried", CarriedMemory), ("window", WindowMemory)]
    )
    def test_it_acts_and_remembers_as_configured(
        self, latent: str, policy: type, memory: str, kind: type
    ) -> None:
        config = tiny_config(f"acting.latent={latent}", f"acting.memory={memory}")
        agent = make_agent(config, ACTIONS, CPU)
        made = make_policy(config, agent, batch_size=2)
        assert type(made) is policy
        assert type(made.memory) is kind
        step = TensorDict(
            pixels=torch.zeros(2, 3, FRAME, FRAME, dtype=torch.uint8),
            is_init=torch.ones(2, 1, dtype=torch.bool),
            batch_size=[2],
        )
        assert made(step)["action"].sum(-1).tolist() == [1, 1]

    def test_the_window_is_as_long_as_configured(self) -> None:
        config = tiny_config("acting.memory=window", "acting.window=5")
        memory = make_policy(config, make_agent(config, ACTIONS, CPU)).memory
        assert isinstance(memory, WindowMemory)
        assert memory.latents.shape[1] == 5

    def test_it_shares_the_networks_that_are_trained(self) -> None:
        agent = make_agent(tiny_config(), ACTIONS, CPU)
        policy = make_policy(tiny_config(), agent)
        assert policy.world_model is agent.world_model
        assert policy.actor is agent.actor


class TestReplay:
    @pytest.mark.parametrize("sampling", ["dfs", "uniform"])
    def test_both_views_draw_windows_of_one_storage(self, sampling: str) -> None:
        config = tiny_config(
            f"replay.sampling={sampling}",
            "replay.model_batch=3",
            "replay.model_window=7",
            "replay.imagination_batch=5",
            "replay.imagination_window=4",
        )
        replay, contexts = make_replay(config, CPU)
        steps = TensorDict(index=torch.arange(60), batch_size=[60])
        replay.extend(steps)
        for view, shape in ((replay, (3, 7)), (contexts, (5, 4))):
            drawn = view.sample()
            index = drawn["index"].reshape(shape)
            assert (index.diff(dim=1) == 1).all()

    @pytest.mark.parametrize("sampling", ["dfs", "uniform"])
    def test_the_view_is_restored_with_the_buffer(
        self, sampling: str, tmp_path: Path
    ) -> None:
        config = tiny_config(
            f"replay.sampling={sampling}",
            "replay.capacity=90",
            "replay.imagination_batch=87",  # every window
            "replay.imagination_window=4",
        )
        full, _ = make_replay(config, CPU)
        full.extend(TensorDict(time=torch.arange(100), batch_size=[100]))
        full.dumps(tmp_path / "buffer")
        replay, contexts = make_replay(config, CPU)
        replay.loads(tmp_path / "buffer")
        assert (contexts.sample()["time"].diff(dim=1) == 1).all()

    def test_the_view_cannot_be_written_to(self) -> None:
        _, contexts = make_replay(tiny_config(), CPU)
        with pytest.raises(RuntimeError):
            contexts.extend(TensorDict(index=torch.arange(6), batch_size=[6]))

    def test_the_buffer_holds_as_much_as_configured(self) -> None:
        replay, _ = make_replay(tiny_config("replay.capacity=400"), CPU)
        replay.extend(TensorDict(index=torch.arange(500), batch_size=[500]))
        assert len(replay) == 400

    def test_only_a_gpu_has_frames_elsewhere(self) -> None:
        on_host = tiny_config("replay.device=cpu")
        assert not has_frames_on_host(on_host, CPU)
        assert has_frames_on_host(on_host, CUDA)
        assert not has_frames_on_host(tiny_config("replay.device=auto"), CUDA)
        assert not isinstance(make_storage(on_host, CPU), HostStorage)


_NUMBERS: dict[Callable[..., object], tuple[str, str]] = {
    ActorLoss: ("behaviour", "return_decay entropy_scale"),
    CriticLoss: ("behaviour", "discount trace_decay slow_scale"),
    WorldModelLoss: ("world_model", "dynamics_scale representation_scale free_nats"),
    WorldModel: (
        "world_model",
        "num_categoricals num_classes unimix reset_at_episode_start",
    ),
    RewardHead: ("world_model", "num_bins bin_limit"),
    make_atari_env: (
        "env",
        "frame_size frame_skip repeat_action_probability max_noops max_frames",
    ),
}


class TestDefaults:
    @pytest.mark.parametrize("build", _NUMBERS, ids=lambda build: build.__name__)
    def test_a_part_taken_alone_has_the_papers_numbers(
        self, build: Callable[..., object]
    ) -> None:
        section, names = _NUMBERS[build]
        paper = getattr(DramaConfig(), section)
        parameters = signature(build).parameters
        for name in names.split():
            assert parameters[name].default == getattr(paper, name), name

    def test_so_have_bins_and_learning_rate(self) -> None:
        assert SymlogTwoHot().bins[[0, -1]].tolist() == [-20.0, 20.0]
        optimizer = LaProp([torch.nn.Parameter(torch.zeros(1))])
        assert optimizer.defaults["lr"] == DramaConfig().world_model.learning_rate


class TestDevice:
    def test_cpu_is_cpu(self) -> None:
        assert make_device("cpu") == CPU

    @pytest.mark.skipif(
        torch.cuda.is_available(), reason="needs a machine without CUDA"
    )
    def test_cuda_that_is_absent_is_explained(self) -> None:
        assert make_device("auto") == CPU
        with pytest.raises(ConfigError, match=r"execution.device=cuda.*device=cpu"):
            make_device("cuda")

    @pytest.mark.skipif(torch.cuda.device_count() > 1, reason="needs no second GPU")
    def test_a_second_gpu_that_is_absent_is_explained(self) -> None:
        config = load_config("quick", ["execution.behaviour_device=own"])
        expected = r"behaviour_device=own expects 2 CUDA GPUs, .* got \d; leave it out"
        with pytest.raises(ConfigError, match=expected):
            check_environment(config)

    def test_the_behaviour_is_where_it_is_asked_for(self) -> None:
        world_model = torch.device("cuda", 0)
        assert behaviour_device(load_config("quick"), world_model) == world_model
        config = load_config("quick", ["execution.behaviour_device=own"])
        assert behaviour_device(config, world_model) == torch.device("cuda", 1)
