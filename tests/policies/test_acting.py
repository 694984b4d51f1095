"""Acting after seeing the frame, or on its prediction."""

from __future__ import annotations

from typing import TypeAlias

import pytest
import torch
from scipy.stats import chisquare
from tensordict import TensorDict
from tensordict.nn import ProbabilisticTensorDictSequential
from torch import Tensor
from torchrl.envs import ExplorationType, set_exploration_type

from drama_torchrl.factories import make_actor, make_world_model
from drama_torchrl.modules.world_model import WorldModel
from drama_torchrl.policies.acting import PosteriorPolicy, PriorPolicy
from drama_torchrl.policies.memory import CarriedMemory, Memory, WindowMemory
from tests.reference.tiny import ACTIONS, WIDTH, real_batch, tiny_config

Actor: TypeAlias = ProbabilisticTensorDictSequential
Policy: TypeAlias = PosteriorPolicy | PriorPolicy

both_latents = pytest.mark.parametrize("latent", ["posterior", "prior"])
both_memories = pytest.mark.parametrize("memory", ["carried", "window"])


@pytest.fixture
def world_model() -> WorldModel:
    """Every latent is certain: what is acted on can be computed again."""
    world_model = make_world_model(tiny_config("world_model.unimix=0"), ACTIONS)
    with torch.no_grad():
        world_model.get_parameter("encoder.linear.weight").mul_(1e5)
        world_model.prior_head.weight.mul_(1e5)
    return world_model


@pytest.fixture
def actor() -> Actor:
    actor = make_actor(tiny_config(), ACTIONS)
    torch.nn.init.normal_(actor.get_parameter("module.0.module.net.6.weight"))
    return actor


def policy_of(
    world_model: WorldModel,
    actor: Actor,
    latent: str,
    memory: str = "carried",
    batch_size: int = 2,
) -> Policy:
    remember: Memory = CarriedMemory(world_model, batch_size)
    if memory == "window":
        remember = WindowMemory(world_model, batch_size, ACTIONS, window=3)
    kinds = {"posterior": PosteriorPolicy, "prior": PriorPolicy}
    return kinds[latent](world_model, actor, remember)


def episode(environments: int = 2, steps: int = 6) -> TensorDict:
    frames = real_batch(environments, steps).select("pixels", "is_init")
    frames["is_init"][:, 0] = True
    return frames


def act(policy: Policy, frames: TensorDict) -> Tensor:
    """Actions ``[B, T, A]`` for frames ``[B, T]``."""
    steps = [policy(frames[:, t].clone())["action"] for t in range(frames.shape[1])]
    return torch.stack(steps, 1)


def states_of(policy: Policy, actor: Actor, frames: TensorDict) -> TensorDict:
    """The latents and beliefs ``[B, T]`` that the actor was asked about."""
    seen: list[TensorDict] = []

    def record(module: torch.nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
        latent, belief = (value.clone() for value in inputs)
        seen.append(TensorDict(latent=latent, belief=belief, batch_size=[len(latent)]))

    hook = actor.get_submodule("module.0.module").register_forward_pre_hook(record)
    torch.manual_seed(1)
    act(policy, frames)
    hook.remove()
    return torch.stack(seen, 1)


class TestWhatIsActedOn:
    @both_memories
    def test_the_posterior_policy_sees_the_frame_and_all_before(
        self, world_model: WorldModel, actor: Actor, memory: str
    ) -> None:
        frames = episode(steps=4)  # the window holds the three steps before the last
        policy = policy_of(world_model, actor, "posterior", memory)
        with set_exploration_type(ExplorationType.DETERMINISTIC), torch.no_grad():
            actions = act(policy, frames)
            known = world_model.encode(frames.clone()).set("action", actions)
            beliefs = world_model.observe(known)[0]["next", "belief"][:, :-1]
            state = known.select("latent")
            first = torch.zeros(2, 1, WIDTH)
            state["belief"] = torch.cat([first, beliefs], 1)
            expected = actor(state)["action"].bool()
        assert torch.equal(actions, expected)
        assert len(actions.long().argmax(-1).unique()) > 1
        states = states_of(policy, actor, frames)
        assert torch.equal(states["latent"], state["latent"])

    @both_memories
    def test_the_prior_policy_acts_on_what_it_expects(
        self, world_model: WorldModel, actor: Actor, memory: str
    ) -> None:
        frames = episode(steps=4)
        policy = policy_of(world_model, actor, "prior", memory)
        states = states_of(policy, actor, frames)
        beliefs = states["belief"][:, 1:]
        with torch.no_grad():
            _, expected = world_model.sample_latent(world_model.prior_head(beliefs))
        assert torch.equal(states["latent"][:, 1:], expected)

    def test_the_prior_policy_remembers_the_frames_it_saw(
        self, world_model: WorldModel, actor: Actor
    ) -> None:
        frames = episode(steps=4)
        policy = policy_of(world_model, actor, "prior")
        torch.manual_seed(1)
        actions = act(policy, frames)
        states = states_of(policy, actor, frames)
        known = world_model.encode(frames.clone()).set("action", actions)
        with torch.no_grad():
            beliefs = world_model.observe(known)[0]["next", "belief"][:, :-1]
        torch.testing.assert_close(
            states["belief"][:, 1:], beliefs, atol=1e-4, rtol=1e-4
        )

    @pytest.mark.parametrize(
        ("latent", "changed"), [("posterior", {3}), ("prior", set())]
    )
    def test_a_frame_reaches_the_action_of_its_step_or_of_the_next(
        self, world_model: WorldModel, actor: Actor, latent: str, changed: set[int]
    ) -> None:
        frames = episode()
        policy = policy_of(world_model, actor, latent)
        before = states_of(policy, actor, frames)
        frames["pixels"][:, 3] = 255 - frames["pixels"][:, 3]
        after = states_of(policy, actor, frames)
        for t in range(4):
            differs = (before["latent"][:, t] != after["latent"][:, t]).any(-1)
            assert set(differs.tolist()) == {t in changed}
            assert torch.equal(before["belief"][:, t], after["belief"][:, t])
        assert (before["belief"][:, 4] != after["belief"][:, 4]).any(-1).all()

    @both_latents
    def test_nothing_is_believed_at_the_first_step(
        self, world_model: WorldModel, actor: Actor, latent: str
    ) -> None:
        frames = episode()
        frames["is_init"][1, 4] = True
        states = states_of(policy_of(world_model, actor, latent), actor, frames)
        believes = states["belief"].abs().sum(-1) > 0
        assert not believes[:, 0].any()
        assert believes[0, 1:].all()
        assert believes[1].tolist() == [False, True, True, True, False, True]


class TestExploration:
    def test_the_first_action_of_the_prior_policy_is_uniform(
        self, world_model: WorldModel, actor: Actor
    ) -> None:
        with torch.no_grad():  # an actor that always wants the first action
            actor.get_parameter("module.0.module.net.6.bias").copy_(
                torch.tensor([50.0, 0.0, 0.0])
            )
        policy = policy_of(world_model, actor, "prior", batch_size=3000)
        frames = episode(1, 1).expand(3000, 1)
        for how in (ExplorationType.RANDOM, ExplorationType.DETERMINISTIC):
            with set_exploration_type(how):
                first = act(policy, frames)[:, 0]
            assert (first.sum(-1) == 1).all()
            assert chisquare(first.sum(0)).pvalue > 1e-3

    def test_the_actor_decides_from_the_second_step_on(
        self, world_model: WorldModel, actor: Actor
    ) -> None:
        with torch.no_grad():
            actor.get_parameter("module.0.module.net.6.bias").copy_(
                torch.tensor([50.0, 0.0, 0.0])
            )
        policy = policy_of(world_model, actor, "prior", batch_size=50)
        actions = act(policy, episode(50, 3))
        assert actions[:, 1:, 0].all()

    def test_only_environments_that_start_act_at_random(
        self, world_model: WorldModel, actor: Actor
    ) -> None:
        with torch.no_grad():
            actor.get_parameter("module.0.module.net.6.bias").copy_(
                torch.tensor([50.0, 0.0, 0.0])
            )
        frames = episode(200, 2)
        frames["is_init"][:100, 1] = True
        actions = act(policy_of(world_model, actor, "prior", batch_size=200), frames)
        assert not actions[:100, 1, 0].all()
        assert actions[100:, 1, 0].all()

    def test_the_likeliest_action_is_taken_where_asked_for(
        self, world_model: WorldModel, actor: Actor
    ) -> None:
        frames = episode(50, 1)
        policy = policy_of(world_model, actor, "posterior", batch_size=50)
        runs = {}
        for how in (ExplorationType.DETERMINISTIC, ExplorationType.RANDOM):
            with set_exploration_type(how):
                runs[how] = [act(policy, frames) for _ in range(2)]
        assert torch.equal(*runs[ExplorationType.DETERMINISTIC])
        assert not torch.equal(*runs[ExplorationType.RANDOM])


class TestTraces:
    @both_latents
    @both_memories
    def test_nothing_of_the_model_or_the_actor_moves(
        self, world_model: WorldModel, actor: Actor, latent: str, memory: str
    ) -> None:
        modules = torch.nn.ModuleList([world_model, actor]).train()
        before = {name: value.clone() for name, value in modules.state_dict().items()}
        act(policy_of(world_model, actor, latent, memory), episode())
        after = modules.state_dict()
        assert [
            name for name in before if not torch.equal(before[name], after[name])
        ] == []
        assert all(module.training for module in modules.modules())

    @both_latents
    def test_dropout_and_batch_statistics_are_off(
        self, world_model: WorldModel, actor: Actor, latent: str
    ) -> None:
        frames, states = episode(), []
        for trains in (False, True):
            world_model.train(trains)
            policy = policy_of(world_model, actor, latent)
            policy.world_model.train(trains)
            states.append(states_of(policy, actor, frames))
        assert (states[0] == states[1]).all()

    @both_memories
    def test_what_it_remembers_has_no_gradient(
        self, world_model: WorldModel, actor: Actor, memory: str
    ) -> None:
        policy = policy_of(world_model, actor, "posterior", memory)
        act(policy, episode(steps=2))
        contents = policy.memory.contents().values()
        assert not any(value.requires_grad for value in contents)

    @both_latents
    def test_the_action_is_all_that_is_written(
        self, world_model: WorldModel, actor: Actor, latent: str
    ) -> None:
        policy = policy_of(world_model, actor, latent)
        step = policy(episode()[:, 0].clone())
        assert set(step.keys()) == {"pixels", "is_init", "action"}
        assert step["action"].dtype == torch.bool
        assert (step["action"].sum(-1) == 1).all()
        assert policy.in_keys == ["pixels", "is_init"]
        assert policy.out_keys == ["action"]


class TestBatches:
    @both_memories
    def test_environments_of_a_batch_do_not_mix(
        self, world_model: WorldModel, actor: Actor, memory: str
    ) -> None:
        frames = episode(3, 6)
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            whole = policy_of(world_model, actor, "posterior", memory, batch_size=3)
            together = act(whole, frames)
            for i in range(3):
                one = policy_of(world_model, actor, "posterior", memory, batch_size=1)
                assert torch.equal(act(one, frames[i : i + 1])[0], together[i])

    @both_latents
    @both_memories
    def test_a_single_environment_has_no_batch(
        self, world_model: WorldModel, actor: Actor, latent: str, memory: str
    ) -> None:
        policy = policy_of(world_model, actor, latent, memory, batch_size=1)
        for t in range(3):
            step = policy(episode()[0, t].clone())
            assert step["action"].shape == (ACTIONS,)


def test_what_runs_meanwhile_comes_after_the_choice_and_may_learn(
    world_model: WorldModel, actor: Actor
) -> None:
    calls: list[tuple[float, bool]] = []
    memory = CarriedMemory(world_model, 2)

    def meanwhile() -> None:
        # The action is in the memory already: the choice has been made.
        calls.append((memory.belief.abs().sum().item(), torch.is_grad_enabled()))
        with torch.no_grad():
            actor.get_parameter("module.0.module.net.6.bias")[2] = 1e3

    policy = PosteriorPolicy(world_model, actor, memory, meanwhile=meanwhile)
    frames = episode(steps=2)
    first, second = (
        policy(frames[:, t].clone())["action"].int().argmax(-1).tolist()
        for t in range(2)
    )
    assert len(calls) == 2
    assert calls[0][0] > 0
    assert all(may_learn for _, may_learn in calls)
    assert second == [2, 2]
    assert first != [2, 2]
