"""One training step: what it moves, what it leaves alone, twice the same."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor, nn

from drama_torchrl.agent import Agent
from drama_torchrl.factories import (
    learners,
    make_actor,
    make_agent,
    make_behaviour_learner,
    make_critic,
    make_world_model,
    make_world_model_learner,
)
from drama_torchrl.learner import Learner
from drama_torchrl.modules import Actor, Critic
from drama_torchrl.objectives import CriticLoss, WorldModelLoss
from drama_torchrl.precision import Precision
from drama_torchrl.updates import BehaviourUpdate, WorldModelUpdate
from tests.reference.tiny import ACTIONS, LATENT, WIDTH, real_batch, tiny_config

FAST = ("world_model.warmup_steps=0", "behaviour.warmup_steps=0")


class TinyAgent:
    """Networks and what trains them."""

    def __init__(self, *overrides: str, seed: int = 0) -> None:
        torch.manual_seed(seed)
        config = tiny_config(*FAST, *overrides)
        self.world_model = make_world_model(config, ACTIONS)
        self.actor = make_actor(config, ACTIONS)
        self.critic = make_critic(config)
        self.learn_world_model = make_world_model_learner(config, self.world_model)
        self.learn_behaviour = make_behaviour_learner(
            config, self.world_model, self.actor, self.critic, num_actions=ACTIONS
        )
        self.networks = nn.ModuleDict(
            {
                "world_model": self.world_model,
                "actor": self.actor,
                "critic": self.critic,
            }
        )

    def update(self, name: str) -> Learner:
        return {"model": self.learn_world_model, "behaviour": self.learn_behaviour}[
            name
        ]


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def moved(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    after = module.state_dict()
    return {name for name in before if not torch.equal(before[name], after[name])}


both_updates = pytest.mark.parametrize("update", ["model", "behaviour"])


class TestWorldModelUpdate:
    def test_it_moves_every_parameter_and_statistic_of_the_model_alone(self) -> None:
        agent = TinyAgent()
        before = snapshot(agent.networks)
        agent.learn_world_model(real_batch())
        expected = {name for name in before if name.startswith("world_model.")}
        assert any("running_mean" in name for name in expected)
        assert moved(agent.networks, before) == expected

    def test_it_learns_a_fixed_batch(self) -> None:
        agent = TinyAgent("world_model.learning_rate=3e-3")
        batch = real_batch()
        dark = torch.arange(4 * 8).view(4, 8) % 2 == 0
        batch["pixels"] = torch.full_like(batch["pixels"], 200)
        batch["pixels"][dark] = 20
        batch["next", "reward"] = batch["action"].long().argmax(-1, True).float()
        terms: list[dict[str, float]] = []
        for _ in range(40):
            metrics = agent.learn_world_model(batch)
            terms.append({key: value.item() for key, value in metrics.items()})

        def mean(key: str, part: slice) -> float:
            values = [term[key] for term in terms[part]]
            return sum(values) / len(values)

        for term in ("reconstruction", "reward", "termination"):
            key = f"loss_{term}"
            assert mean(key, slice(-5, None)) < 0.8 * mean(key, slice(5)), key

    def test_metrics_are_the_losses_and_the_gradient_norm(self) -> None:
        agent = TinyAgent()
        metrics = agent.learn_world_model(real_batch())
        loss = agent.learn_world_model.modules
        assert isinstance(loss, WorldModelLoss)
        expected = {*loss.out_keys, "grad_norm", "not_applied"}
        assert set(metrics.keys()) == expected
        assert not any(value.requires_grad for value in metrics.values())
        assert all(value.isfinite() for value in metrics.values())


class TestBehaviourUpdate:
    def test_it_moves_every_parameter_of_actor_and_critic_alone(self) -> None:
        agent = TinyAgent()
        before = snapshot(agent.networks)
        agent.learn_behaviour(real_batch())
        expected = {name for name in before if not name.startswith("world_model.")}
        assert any("normalizer" in name for name in expected)
        assert moved(agent.networks, before) == expected

    def test_it_leaves_a_training_world_model_training_and_unmoved(self) -> None:
        agent = TinyAgent()
        agent.world_model.train()
        before = snapshot(agent.world_model)
        agent.learn_behaviour(real_batch())
        assert moved(agent.world_model, before) == set()
        assert all(module.training for module in agent.world_model.modules())

    def test_no_gradient_is_left_on_the_world_model(self) -> None:
        agent = TinyAgent()
        agent.learn_behaviour(real_batch())
        assert all(p.grad is None for p in agent.world_model.parameters())

    def test_input_statistics_see_each_imagined_state_once(self) -> None:
        agent = TinyAgent()
        agent.learn_behaviour.modules.train()
        agent.learn_behaviour(real_batch(batch=7))
        horizon = 4
        count = agent.actor.get_buffer("module.0.module.normalizer.count")
        assert count == 7 * horizon

    def test_terminations_are_told_as_their_share(self) -> None:
        agent = TinyAgent()
        with torch.no_grad():
            agent.world_model.get_parameter("termination_head.net.3.bias").fill_(99.0)
        assert agent.learn_behaviour(real_batch())["imagined_termination"] == 1.0

    def test_the_slow_critic_follows_the_critic_after_its_step(self) -> None:
        agent = TinyAgent("behaviour.slow_decay=0.75")
        loss = agent.learn_behaviour.modules.get_submodule("critic")
        assert isinstance(loss, CriticLoss)
        slow = loss.target_critic_network_params
        weight = ("module", "net", "0", "weight")
        before = slow[weight].clone()
        agent.learn_behaviour(real_batch())
        now = agent.critic.get_parameter("module.net.0.weight").detach()
        assert not torch.equal(now, before)
        torch.testing.assert_close(slow[weight], 0.75 * before + 0.25 * now)

    def test_metrics_are_the_losses_and_what_was_imagined(self) -> None:
        metrics = TinyAgent().learn_behaviour(real_batch())
        terms = {"loss_actor", "loss_entropy", "loss_critic", "loss_slow_critic"}
        others = {"entropy", "return_scale", "advantage", "value", "value_target"}
        imagined = {"imagined_reward", "imagined_termination"}
        assert set(metrics.keys()) == (
            terms | others | imagined | {"value_error", "grad_norm", "not_applied"}
        )
        assert not any(value.requires_grad for value in metrics.values())
        assert all(value.isfinite() for value in metrics.values())

    def test_the_actor_learns_which_action_is_rewarded(self) -> None:
        agent = TinyAgent("behaviour.learning_rate=3e-3", "behaviour.discount=0")
        reward_of_actions(agent, favourite=1)
        for _ in range(40):
            agent.learn_behaviour(real_batch(batch=16))
        state = TensorDict(
            latent=torch.rand(50, LATENT),
            belief=torch.randn(50, WIDTH),
            batch_size=[50],
        )
        probabilities = torch.softmax(agent.actor(state)["logits"], -1).mean(0)
        assert probabilities[1] > 0.6


class TestBothUpdates:
    """What a step changes hangs on which update comes first."""

    ORDERS = pytest.mark.parametrize(
        ("option", "order"),
        [
            pytest.param("in_turn", ("world_model", "behaviour"), id="in-turn"),
            # Imagination must not see the update that runs beside it.
            pytest.param("at_once", ("behaviour", "world_model"), id="at-once"),
        ],
    )

    @ORDERS
    def test_it_equals_the_two_updates_one_after_the_other(
        self, option: str, order: tuple[str, str]
    ) -> None:
        windows, contexts = real_batch(), real_batch(batch=6, time=4)
        together, apart = (
            make_agent(
                tiny_config(*FAST, f"training.updates={option}"),
                ACTIONS,
                torch.device("cpu"),
            )
            for _ in "ab"
        )
        apart.load_state_dict(together.state_dict())
        for seed in range(3):
            torch.manual_seed(seed)
            metrics = together.learn(windows, contexts)
            torch.manual_seed(seed)
            batches = {"world_model": windows, "behaviour": contexts}
            for name in order:
                expected = getattr(apart, f"learn_{name}")(batches[name])
                for key, value in expected.items():
                    assert torch.equal(metrics[name][key], value), key
        for name, value in flat(together.state_dict()).items():
            assert torch.equal(value, flat(apart.state_dict())[name]), name


def new_agent(*overrides: str, seed: int = 0) -> Agent:
    torch.manual_seed(seed)
    return make_agent(tiny_config(*FAST, *overrides), ACTIONS, torch.device("cpu"))


def test_both_learning_rates_rise_with_each_step() -> None:
    agent = new_agent("world_model.warmup_steps=10", "behaviour.warmup_steps=10")
    for _ in range(3):
        agent.learn(real_batch(), real_batch(time=4))
    rates = ((agent.learn_world_model, 3e-4), (agent.learn_behaviour, 1e-4))
    for learner, full in rates:
        rate = float(learner.optimizer.param_groups[0]["lr"])
        assert rate == pytest.approx(0.4 * full)


def test_the_behaviour_is_where_its_copy_is() -> None:
    agent = new_agent()
    agent.imagined = copy.deepcopy(agent.world_model).to("meta")
    assert agent.device.type == "cpu"
    assert agent.behaviour_device.type == "meta"
    assert agent.num_devices == 2


@pytest.fixture
def new_agent_apart(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Agent]:
    """Builds agents whose two devices are the CPU, under two names."""

    def build(*overrides: str, seed: int = 0) -> Agent:
        with monkeypatch.context() as patch:
            second = torch.device("cpu", 0)
            patch.setattr(learners, "behaviour_device", lambda *_: second)
            return new_agent(*overrides, seed=seed)

    return build


class TestApart:
    """The behaviour imagines in a copy, which whoever changes the model renews."""

    @pytest.mark.parametrize("order", ["in_turn", "at_once"])
    def test_a_behaviour_in_a_copy_learns_the_same_to_the_bit(
        self, new_agent_apart: Callable[..., Agent], order: str
    ) -> None:
        together = new_agent(f"training.updates={order}")
        apart = new_agent_apart(f"training.updates={order}")
        assert apart.imagined is not apart.world_model
        windows, contexts = real_batch(), real_batch(time=4)
        for seed in range(3):
            torch.manual_seed(seed)
            expected = together.learn(windows, contexts)
            torch.manual_seed(seed)
            found = apart.learn(windows, contexts)
            assert_same(TensorDict(found), TensorDict(expected))
            assert moved(apart.imagined, snapshot(apart.world_model)) == set()
        for name, value in flat(together.state_dict()).items():
            assert torch.equal(value, flat(apart.state_dict())[name]), name

    def test_an_update_of_the_world_model_alone_renews_the_copy(
        self, new_agent_apart: Callable[..., Agent]
    ) -> None:
        agent = new_agent_apart()
        before = snapshot(agent.imagined)
        agent.learn_world_model(real_batch())
        assert moved(agent.imagined, before) == set(before)
        assert moved(agent.imagined, snapshot(agent.world_model)) == set()

    def test_loading_the_world_model_alone_renews_the_copy(
        self, new_agent_apart: Callable[..., Agent]
    ) -> None:
        agent, other = new_agent_apart(seed=1), new_agent(seed=2)
        other.learn_world_model(real_batch())
        agent.learn_world_model.load_state_dict(other.learn_world_model.state_dict())
        assert moved(agent.imagined, snapshot(other.world_model)) == set()


def assert_same(found: TensorDict, expected: TensorDict) -> None:
    assert set(found.keys(True, True)) == set(expected.keys(True, True))
    assert (found == expected).all()


def flat(state: dict[str, Any]) -> dict[str, Tensor]:
    """All tensors of nested containers, by path."""
    leaves = torch.utils._pytree.tree_flatten_with_path(state)[0]
    return {str(path): leaf for path, leaf in leaves if isinstance(leaf, Tensor)}


def reward_of_actions(agent: TinyAgent, favourite: int) -> None:
    """Make the model predict reward for one action, whatever else happened.

    The head is fitted to rewards of imagined actions, the rest of the model is as
    it was.
    """
    head = agent.world_model.reward_head
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    state = agent.world_model.initial_state(256)
    for _ in range(60):
        latent = torch.randint(5, (256, 6))
        action = torch.eye(ACTIONS)[torch.randint(ACTIONS, (256,))]
        with torch.no_grad():
            one_hot = torch.eye(5)[latent].flatten(1)
            belief, _ = agent.world_model.dynamics.step(one_hot, action, state)
        target = 3.0 * action[:, favourite : favourite + 1]
        loss = head.two_hot.cross_entropy(head(belief), target).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for parameter in head.parameters():
        parameter.grad = None


class TestModesAndRepetition:
    @both_updates
    def test_everything_evaluates_afterwards(self, update: str) -> None:
        agent = TinyAgent()
        agent.update(update)(real_batch())
        assert not any(module.training for module in agent.world_model.modules())
        assert not any(module.training for module in agent.actor.modules())

    @both_updates
    def test_the_batch_stays_as_it_was(self, update: str) -> None:
        batch = real_batch()
        before = batch.clone()
        TinyAgent().update(update)(batch)
        assert set(batch.keys(True, True)) == set(before.keys(True, True))
        assert (batch == before).all()

    def test_one_seed_gives_the_same_bits_twice(self) -> None:
        runs = []
        for _ in range(2):
            agent, metrics = TinyAgent(seed=3), []
            for _ in range(3):
                metrics.append(agent.learn_world_model(real_batch()).clone())
                metrics.append(agent.learn_behaviour(real_batch()).clone())
            runs.append((metrics, snapshot(agent.networks)))
        (first, weights), (second, others) = runs
        assert all((a == b).all() for a, b in zip(first, second, strict=True))
        assert all(torch.equal(weights[name], others[name]) for name in weights)

    def test_another_seed_gives_another_run(self) -> None:
        losses = [
            TinyAgent(seed=seed).learn_world_model(real_batch())["loss_reward"]
            for seed in (3, 4)
        ]
        assert losses[0] != losses[1]


class RecordingPrecision(Precision):
    """Tells its contexts apart."""

    opened = 0
    current: int | None = None

    @contextmanager
    def _context(self) -> Iterator[None]:
        self.opened += 1
        self.current = self.opened
        with super().__call__():
            yield
        self.current = None

    def __call__(self) -> AbstractContextManager[None]:
        return self._context()


class TestAutocast:
    """Casts of weights are cached: one made without gradient must not serve."""

    @pytest.fixture
    def agent(self) -> TinyAgent:
        agent = TinyAgent()
        for update in ("model", "behaviour"):
            step = agent.update(update).update
            assert isinstance(step, WorldModelUpdate | BehaviourUpdate)
            step.precision = Precision("cpu", enabled=True)
        return agent

    def test_the_behaviour_update_reaches_actor_and_critic(
        self, agent: TinyAgent
    ) -> None:
        agent.learn_behaviour(real_batch())
        for network in (agent.actor, agent.critic):
            for name, parameter in network.named_parameters():
                assert parameter.grad is not None, name
                assert parameter.grad.any(), name

    def test_no_context_spans_passes_with_and_without_gradient_over_a_weight(
        self, agent: TinyAgent
    ) -> None:
        # Whether such a context loses gradients depends on torch and the device.
        precision = RecordingPrecision("cpu", enabled=True)
        update = agent.learn_behaviour.update
        assert isinstance(update, BehaviourUpdate)
        update.precision = precision
        passes: dict[tuple[int, int | None], set[bool]] = {}

        def record(module: Actor | Critic, inputs: tuple[Tensor, ...]) -> None:
            weight = module.net[0].weight
            assert isinstance(weight, Tensor)
            where = weight.data_ptr(), precision.current
            passes.setdefault(where, set()).add(torch.is_grad_enabled())

        networks = agent.actor, agent.critic, update.critic_loss.critic_network
        for network in networks:
            for part in network.modules():
                if isinstance(part, Actor | Critic):
                    part.register_forward_pre_hook(record)
        agent.learn_behaviour(real_batch())
        assert len(passes) >= 5  # actor and critic twice each, the slow critic once
        assert all(len(modes) == 1 for modes in passes.values())
        assert all(context is not None for _, context in passes)

    def test_the_world_model_update_reaches_every_parameter(
        self, agent: TinyAgent
    ) -> None:
        agent.learn_world_model(real_batch())
        for name, parameter in agent.world_model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name

    @both_updates
    def test_weights_and_metrics_stay_float32(
        self, agent: TinyAgent, update: str
    ) -> None:
        metrics = agent.update(update)(real_batch())
        dtypes = {value.dtype for value in metrics.values()}
        dtypes |= {p.dtype for p in agent.networks.parameters()}
        assert dtypes == {torch.float32}

    def test_losses_stay_near_those_in_float32(self, agent: TinyAgent) -> None:
        learners: list[Callable[[TensorDict], TensorDict]] = [
            TinyAgent().learn_world_model,
            agent.learn_world_model,
        ]
        results, batch = [], real_batch()
        for learn in learners:
            torch.manual_seed(1)
            results.append(learn(batch))
        for term in ("reconstruction", "reward", "termination"):
            exact, rounded = (result[f"loss_{term}"] for result in results)
            torch.testing.assert_close(rounded, exact, atol=0.05, rtol=0.05)
        assert results[0]["loss_reward"] != results[1]["loss_reward"]
