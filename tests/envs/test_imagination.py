"""Imagination: aligned, equal to a loop of steps, and leaving no trace in the model."""

from __future__ import annotations

import copy

import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModule
from torch import Tensor
from torch.nn.functional import one_hot
from torchrl.envs import (
    ExplorationType,
    StepCounter,
    TransformedEnv,
    check_env_specs,
    set_exploration_type,
)

from drama_torchrl.config import load_config
from drama_torchrl.envs.imagination import ImaginationEnv, imagine
from drama_torchrl.factories import make_actor, make_world_model
from drama_torchrl.modules.world_model import WorldModel
from drama_torchrl.options import DYNAMICS
from tests.reference import scripted
from tests.reference.tiny import (
    ACTIONS,
    CATEGORICALS,
    CLASSES,
    WIDTH,
    real_batch,
    tiny_config,
)

N, CONTEXT, HORIZON = 5, 4, 6


@pytest.fixture
def world_model() -> WorldModel:
    return make_world_model(tiny_config(), ACTIONS)


@pytest.fixture
def actor() -> ProbabilisticTensorDictSequential:
    actor = make_actor(tiny_config(), ACTIONS)
    # Its last layer starts at almost nothing: every state would be acted on alike.
    torch.nn.init.normal_(actor.get_parameter("module.0.module.net.6.weight"))
    return actor


@pytest.fixture
def env(world_model: WorldModel) -> ImaginationEnv:
    return ImaginationEnv(world_model, ACTIONS)


def context(rollouts: int = N, time: int = CONTEXT) -> TensorDict:
    return real_batch(rollouts, time)


def start_of(env: ImaginationEnv, contexts: TensorDictBase) -> TensorDictBase:
    return env.reset(TensorDict(context=contexts, batch_size=contexts.shape[:1]))


class TestScriptedWorld:
    """Action a is rewarded with a; the last action ends the episode; frames count."""

    SCRIPT = torch.tensor([[1, 0, 3, 2, 2], [0, 3, 3, 1, 0]])

    @pytest.fixture
    def rollout(self) -> TensorDictBase:
        env = ImaginationEnv(scripted.make_scripted_world_model(), scripted.ACTIONS)
        moves = iter(torch.eye(scripted.ACTIONS)[self.SCRIPT].unbind(1))
        actor = TensorDictModule(lambda _: next(moves), ["belief"], ["action"])
        classes = torch.arange(3).expand(2, 3) + torch.tensor([[0], [2]])
        real = TensorDict(
            pixels=scripted.frames_of(classes),
            action=torch.eye(scripted.ACTIONS)[torch.tensor([[0, 0, 0], [0, 0, 1]])],
            batch_size=[2, 3],
        )
        return imagine(env, actor, real, horizon=5)

    def test_a_reward_belongs_to_the_action_of_its_step(
        self, rollout: TensorDictBase
    ) -> None:
        given = rollout["next", "reward"].squeeze(-1)
        torch.testing.assert_close(given, self.SCRIPT.float(), atol=1e-4, rtol=1e-4)

    def test_a_termination_belongs_to_the_action_of_its_step(
        self, rollout: TensorDictBase
    ) -> None:
        given = rollout["next", "terminated"].squeeze(-1)
        assert torch.equal(given, self.SCRIPT == scripted.ACTIONS - 1)

    def test_a_belief_includes_the_actions_before_its_state(
        self, rollout: TensorDictBase
    ) -> None:
        taken = slice(scripted.ACTIONS, 2 * scripted.ACTIONS)
        one_hot = torch.eye(scripted.ACTIONS)[self.SCRIPT]
        in_context = torch.tensor([[3.0, 0, 0, 0], [2.0, 1, 0, 0]])[:, None]
        after = in_context + one_hot.cumsum(1)
        torch.testing.assert_close(rollout["next", "belief"][..., taken], after)
        torch.testing.assert_close(rollout["belief"][..., taken], after - one_hot)

    def test_latents_follow_the_frames_of_the_context(
        self, rollout: TensorDictBase
    ) -> None:
        # The contexts ended with classes 2 and 4.
        classes = (torch.arange(6) + torch.tensor([[3], [5]])) % scripted.CLASSES
        expected = scripted.latent_of(classes)
        assert torch.equal(rollout["latent"], expected[:, :-1])
        assert torch.equal(rollout["next", "latent"], expected[:, 1:])

    def test_a_termination_stops_nothing(self, rollout: TensorDictBase) -> None:
        assert rollout["next", "terminated"].any()
        assert rollout.shape == (2, 5)


def rollout_by_hand(
    world_model: WorldModel,
    actor: ProbabilisticTensorDictSequential,
    contexts: TensorDict,
) -> TensorDictBase:
    """Imagination written out."""
    observed, state = world_model.observe(world_model.encode(contexts.clone()))
    belief = observed["next", "belief"][:, -1]
    _, latent = world_model.sample_latent(world_model.prior_head(belief))
    steps = []
    for _ in range(HORIZON):
        root = TensorDict(latent=latent, belief=belief, batch_size=[N])
        root, state = world_model.step(actor(root), state)
        steps.append(root)
        latent, belief = root["next", "latent"], root["next", "belief"]
    return torch.stack(steps, 1)


class TestRollout:
    def test_it_equals_a_hand_written_loop_bit_for_bit(
        self,
        env: ImaginationEnv,
        world_model: WorldModel,
        actor: ProbabilisticTensorDictSequential,
    ) -> None:
        contexts = context()
        torch.manual_seed(1)
        rollout = imagine(env, actor, contexts, HORIZON)
        torch.manual_seed(1)
        with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
            expected = rollout_by_hand(world_model, actor, contexts)
        assert len(rollout["action"].argmax(-1).unique()) > 1
        for key in (
            "latent",
            "belief",
            "action",
            ("next", "latent"),
            ("next", "belief"),
            ("next", "reward"),
            ("next", "terminated"),
        ):
            assert torch.equal(rollout[key], expected[key]), key

    def test_what_follows_a_step_is_the_root_of_the_next(
        self, env: ImaginationEnv, actor: ProbabilisticTensorDictSequential
    ) -> None:
        rollout = imagine(env, actor, context(), HORIZON)
        for key in ("latent", "belief"):
            assert torch.equal(rollout[key][:, 1:], rollout["next", key][:, :-1])

    def test_latents_are_exactly_one_hot_floats(
        self, env: ImaginationEnv, actor: ProbabilisticTensorDictSequential
    ) -> None:
        rollout = imagine(env, actor, context(), HORIZON)
        for latent in (rollout["latent"], rollout["next", "latent"]):
            assert latent.dtype == torch.float32
            assert latent.unique().tolist() == [0.0, 1.0]
            blocks = latent.unflatten(-1, (CATEGORICALS, CLASSES))
            assert (blocks.sum(-1) == 1).all()

    def test_it_stores_neither_recurrent_state_nor_context(
        self, env: ImaginationEnv, actor: ProbabilisticTensorDictSequential
    ) -> None:
        rollout = imagine(env, actor, context(), HORIZON)
        state = {"latent", "belief"}
        assert set(rollout.keys()) == {*state, "action", "logits", "next"}
        flags = {"done", "terminated"}
        assert set(rollout["next"].keys()) == {*state, *flags, "reward"}

    def test_it_equals_the_rollout_of_the_environment(
        self, env: ImaginationEnv, actor: ProbabilisticTensorDictSequential
    ) -> None:
        contexts = context()
        torch.manual_seed(1)
        rollout = imagine(env, actor, contexts, HORIZON)
        torch.manual_seed(1)
        with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
            expected = env.rollout(
                HORIZON,
                actor,
                auto_reset=False,
                tensordict=env.reset(TensorDict(context=contexts, batch_size=[N])),
                break_when_any_done=False,
            )
        for key in rollout.keys(include_nested=True, leaves_only=True):
            assert torch.equal(rollout[key], expected[key]), key

    def test_each_state_is_stored_once(
        self, env: ImaginationEnv, actor: ProbabilisticTensorDictSequential
    ) -> None:
        rollout = imagine(env, actor, context(), HORIZON)
        for key in ("latent", "belief"):
            rollout[key][:, 1] = -7.0
            assert (rollout["next", key][:, 0] == -7.0).all()

    @pytest.mark.parametrize("logit", [-9.0, 9.0], ids=["never", "always"])
    def test_every_rollout_is_of_full_length_whatever_ends(
        self,
        env: ImaginationEnv,
        world_model: WorldModel,
        actor: ProbabilisticTensorDictSequential,
        logit: float,
    ) -> None:
        with torch.no_grad():
            world_model.get_parameter("termination_head.net.3.bias").fill_(logit)
        rollout = imagine(env, actor, context(), HORIZON)
        assert rollout.shape == (N, HORIZON)
        assert (rollout["next", "terminated"] == (logit > 0)).all()

    def test_nothing_in_it_has_a_gradient(
        self, env: ImaginationEnv, actor: ProbabilisticTensorDictSequential
    ) -> None:
        rollout = imagine(env, actor, context(), HORIZON)
        assert not any(value.requires_grad for value in rollout.values(True, True))

    def test_actions_are_drawn_even_where_one_acts_greedily(
        self, env: ImaginationEnv, actor: ProbabilisticTensorDictSequential
    ) -> None:
        torch.nn.init.zeros_(actor.get_parameter("module.0.module.net.6.weight"))
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            rollout = imagine(env, actor, context(), HORIZON)
        assert (rollout["action"].sum(-1) == 1).all()
        assert len(rollout["action"].argmax(-1).unique()) == ACTIONS

    def test_actions_belong_to_the_spec_of_the_env(
        self, env: ImaginationEnv, actor: ProbabilisticTensorDictSequential
    ) -> None:
        rollout = imagine(env, actor, context(), HORIZON)
        assert rollout["action"].dtype == env.action_spec.dtype


class TestReset:
    def test_it_starts_where_the_context_ended(
        self, env: ImaginationEnv, world_model: WorldModel
    ) -> None:
        contexts = context()
        torch.manual_seed(1)
        start = start_of(env, contexts)
        torch.manual_seed(1)
        observed, _ = world_model.observe(world_model.encode(contexts.clone()))
        belief = observed["next", "belief"][:, -1]
        _, latent = world_model.sample_latent(world_model.prior_head(belief))
        assert torch.equal(start["belief"], belief)
        assert torch.equal(start["latent"], latent)

    @pytest.mark.parametrize("key", ["pixels", "action"])
    def test_every_step_of_the_context_counts(
        self, env: ImaginationEnv, world_model: WorldModel, key: str
    ) -> None:
        with torch.no_grad():  # an untrained encoder hardly tells frames apart
            world_model.get_parameter("encoder.linear.weight").mul_(100)
        contexts = context()
        torch.manual_seed(1)
        belief = start_of(env, contexts)["belief"]
        contexts[key][:, 0] = contexts[key][:, 0].roll(1, -1)
        torch.manual_seed(1)
        assert (start_of(env, contexts)["belief"] != belief).any(-1).all()

    def test_the_context_stays_as_it_was(self, env: ImaginationEnv) -> None:
        contexts = context()
        before = contexts.clone()
        start_of(env, contexts)
        assert set(contexts.keys(True, True)) == set(before.keys(True, True))
        assert (contexts == before).all()

    def test_a_second_reset_forgets_the_first(
        self, env: ImaginationEnv, actor: ProbabilisticTensorDictSequential
    ) -> None:
        contexts, rollouts = context(), []
        for _ in range(2):
            torch.manual_seed(1)
            rollouts.append(imagine(env, actor, contexts, HORIZON))
        assert (rollouts[0] == rollouts[1]).all()

    def test_the_batch_may_change_between_resets(
        self, env: ImaginationEnv, actor: ProbabilisticTensorDictSequential
    ) -> None:
        for rollouts in (3, 7):
            imagined = imagine(env, actor, context(rollouts), 2)
            assert imagined.shape == (rollouts, 2)

    def test_episode_starts_in_the_context_are_honoured_with_the_option(self) -> None:
        overrides = tiny_config("world_model.reset_at_episode_start=true")
        env = ImaginationEnv(make_world_model(overrides, ACTIONS), ACTIONS)
        contexts = context()
        contexts["is_init"][:, 2] = True
        torch.manual_seed(1)
        belief = start_of(env, contexts)["belief"]
        contexts["action"][:, :2] = contexts["action"][:, :2].roll(1, -1)
        torch.manual_seed(1)
        torch.testing.assert_close(start_of(env, contexts)["belief"], belief)


class TestWrapped:
    """Under a TransformedEnv, whose reset knows of the keys of the specs alone."""

    @pytest.fixture
    def ending(self, world_model: WorldModel) -> WorldModel:
        with torch.no_grad():  # every step is taken for the end
            world_model.get_parameter("termination_head.net.3.bias").fill_(100.0)
        return world_model

    def test_it_starts_where_the_context_ended(self, env: ImaginationEnv) -> None:
        wrapped = TransformedEnv(env, StepCounter())
        contexts = context()
        torch.manual_seed(1)
        bare = start_of(env, contexts)
        torch.manual_seed(1)
        start = wrapped.reset(context=contexts)
        assert torch.equal(start["belief"], bare["belief"])
        assert torch.equal(start["latent"], bare["latent"])

    def test_a_context_that_is_hidden_from_it_is_missed(
        self, env: ImaginationEnv
    ) -> None:
        wrapped = TransformedEnv(env, StepCounter())
        with pytest.raises(ValueError, match=r"reset\(context=batch\)"):
            wrapped.reset(TensorDict(context=context(), batch_size=[N]))

    def test_what_has_ended_goes_on_as_without_it(
        self, ending: WorldModel, actor: ProbabilisticTensorDictSequential
    ) -> None:
        rollouts = []
        for wrap in (False, True):
            env = ImaginationEnv(ending, ACTIONS)
            env = TransformedEnv(env, StepCounter()) if wrap else env
            torch.manual_seed(1)
            rollout = env.rollout(
                HORIZON,
                actor,
                auto_reset=False,
                tensordict=env.reset(context=context()),
                break_when_any_done=False,
            )
            assert rollout["next", "terminated"].all()
            rollouts.append(rollout)
        bare, wrapped = rollouts
        for key in ("action", ("next", "reward"), ("next", "terminated")):
            assert torch.equal(wrapped[key], bare[key])
        for key in ("latent", "belief"):
            assert torch.equal(wrapped[key], bare[key])
            assert torch.equal(wrapped["next", key], bare["next", key])
        assert (wrapped["next", "step_count"] == 1).all()  # it counts anew


class TestSpecs:
    def test_specs_are_right_without_a_batch(self, env: ImaginationEnv) -> None:
        check_env_specs(env)

    def test_specs_are_those_of_the_state(self, env: ImaginationEnv) -> None:
        assert env.observation_spec["latent"].shape == (CATEGORICALS * CLASSES,)
        assert env.observation_spec["belief"].shape == (WIDTH,)
        assert env.action_spec.shape == (ACTIONS,)

    def test_random_actions_roll_out_too(self, env: ImaginationEnv) -> None:
        start = start_of(env, context()).exclude("context")
        rollout = env.rollout(
            3, auto_reset=False, tensordict=start, break_when_any_done=False
        )
        assert rollout.shape == (N, 3)


class TestTraces:
    """The world model is the trainer's: imagination only borrows it."""

    def trained_modes(self, world_model: WorldModel) -> list[bool]:
        return [module.training for module in world_model.modules()]

    @pytest.mark.parametrize("trains", [True, False], ids=["training", "evaluating"])
    def test_modes_are_given_back(
        self,
        env: ImaginationEnv,
        world_model: WorldModel,
        actor: ProbabilisticTensorDictSequential,
        trains: bool,
    ) -> None:
        world_model.train(trains)
        actor.train(trains)
        modules = [*world_model.modules(), *actor.modules()]
        imagine(env, actor, context(), 2)
        assert {module.training for module in modules} == {trains}

    def test_nothing_of_the_model_or_the_actor_moves(
        self,
        env: ImaginationEnv,
        world_model: WorldModel,
        actor: ProbabilisticTensorDictSequential,
    ) -> None:
        world_model.train()
        actor.train()
        modules = torch.nn.ModuleList([world_model, actor])
        before = {name: value.clone() for name, value in modules.state_dict().items()}
        assert any("running_mean" in name for name in before)
        assert any("normalizer" in name for name in before)
        imagine(env, actor, context(), HORIZON)
        after = modules.state_dict()
        assert [
            name for name in before if not torch.equal(before[name], after[name])
        ] == []

    def test_dropout_and_batch_statistics_are_off(
        self,
        env: ImaginationEnv,
        world_model: WorldModel,
        actor: ProbabilisticTensorDictSequential,
    ) -> None:
        contexts, rollouts = context(), []
        for trains in (False, True):
            world_model.train(trains)
            torch.manual_seed(1)
            rollouts.append(imagine(env, actor, contexts, HORIZON))
        assert (rollouts[0] == rollouts[1]).all()

    def test_the_model_stays_the_callers(
        self, env: ImaginationEnv, world_model: WorldModel
    ) -> None:
        assert env.world_model is world_model

    def test_its_own_steps_leave_no_trace_either(
        self, env: ImaginationEnv, world_model: WorldModel
    ) -> None:
        before, steps = copy.deepcopy(world_model.state_dict()), []
        contexts = context()
        for trains in (True, False):
            world_model.train(trains)
            torch.manual_seed(1)
            start = env.reset(context=contexts)
            steps.append(env.step(env.rand_action(start)))
            assert not any(v.requires_grad for v in steps[-1].values(True, True))
        assert (steps[0] == steps[1]).all()
        after = world_model.state_dict()
        assert [k for k in before if not torch.equal(before[k], after[k])] == []


class TestAutocast:
    @pytest.mark.parametrize("dynamics", DYNAMICS)
    def test_the_memory_of_a_context_is_rounded_like_that_of_a_step(
        self, dynamics: str
    ) -> None:
        config = tiny_config(f"world_model.dynamics={dynamics}")
        env = ImaginationEnv(make_world_model(config, ACTIONS), ACTIONS)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            start, first = env.look(context())
            _, second = env.advance(env.rand_action(start), first)
        one, other = (
            {name: value.dtype for name, value in memory.flatten_keys().items()}
            for memory in (first, second)
        )
        assert one == other

    def test_state_and_rollout_stay_float32(
        self,
        env: ImaginationEnv,
        world_model: WorldModel,
        actor: ProbabilisticTensorDictSequential,
    ) -> None:
        states: list[TensorDict] = []
        advance = world_model.advance

        def recorded(
            latent: Tensor, action: Tensor, state: TensorDict
        ) -> tuple[Tensor, Tensor, TensorDict]:
            belief, latent, state = advance(latent, action, state)
            states.append(state)
            return belief, latent, state

        world_model.advance = recorded  # type: ignore[method-assign]
        with torch.autocast("cpu", torch.bfloat16):
            rollout = imagine(env, actor, context(), 3)
        assert len(states) == 3
        for state in states:
            ssm = {state[layer, "ssm"].dtype for layer in ("0", "1")}
            assert ssm == {torch.float32}
        for key in ("latent", "belief", ("next", "belief"), ("next", "reward")):
            assert rollout[key].dtype == torch.float32


class TestErrors:
    def test_a_context_without_time_is_explained(self, env: ImaginationEnv) -> None:
        flat = context()[:, 0]
        with pytest.raises(ValueError, match=r"batch size \[5, time\], got \[5\]"):
            start_of(env, flat)

    def test_a_batch_that_is_not_named_context_is_explained(
        self, env: ImaginationEnv
    ) -> None:
        with pytest.raises(ValueError, match=r"context.*got \['action', "):
            env.reset(context())

    def test_a_step_before_any_reset_is_explained(self, env: ImaginationEnv) -> None:
        root = TensorDict(
            latent=torch.zeros(N, env.world_model.latent_dim),
            belief=torch.zeros(N, WIDTH),
            action=torch.zeros(N, ACTIONS, dtype=torch.bool),
            batch_size=[N],
        )
        with pytest.raises(ValueError, match="call reset"):
            env.step(root)

    def test_a_step_of_another_batch_size_is_explained(
        self, env: ImaginationEnv
    ) -> None:
        start = env.rand_action(start_of(env, context()).exclude("context"))
        with pytest.raises(ValueError, match=r"expected batch size \[5\], got \[2\]"):
            env.step(start[:2])


def test_a_world_model_may_use_keys_of_its_own(
    actor: ProbabilisticTensorDictSequential,
) -> None:
    worlds = []
    for _ in range(2):
        torch.manual_seed(1)
        worlds.append(make_world_model(tiny_config(), ACTIONS))
    worlds[1].set_keys(
        pixels="frame",
        latent=("model", "z"),
        next_latent=("next", "model", "z"),
        next_belief=("next", "model", "d"),
    )
    contexts, rollouts = context(), []
    for world_model, pixels in zip(worlds, ("pixels", "frame"), strict=True):
        seen = contexts.clone().rename_key_("pixels", pixels)
        env = ImaginationEnv(world_model, ACTIONS)
        torch.manual_seed(1)
        rollouts.append(imagine(env, actor, seen, 3))
    assert (rollouts[0] == rollouts[1]).all()


@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_rounding_the_memory_costs_less_than_rounding_the_layers(dynamics: str) -> None:
    torch.manual_seed(0)
    config = load_config("quick", [f"world_model.dynamics={dynamics}"])
    model = make_world_model(config, 6).eval()
    env = ImaginationEnv(model, 6)
    drawn = torch.randint(model.latent_dim, (16, 8, 4))
    latents = torch.zeros(16, 8, model.latent_dim).scatter_(2, drawn, 1.0)
    actions = one_hot(torch.randint(6, (16, 8)), 6).float()

    def beliefs(*, autocast: bool, rounded: bool) -> torch.Tensor:
        _, memory = model.dynamics(latents, actions)
        found = []
        for t in range(8):
            state = TensorDict(latent=latents[:, t], action=actions[:, t])
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                if rounded:
                    following, memory = env.advance(state, memory)
                    for name, value in memory.flatten_keys().items():
                        exact = value.dtype == torch.float32
                        assert exact == name.endswith("angle"), name
                    found.append(following["belief"])
                else:
                    belief, _, memory = model.advance(*state.values(), memory)
                    found.append(belief)
        return torch.stack(found).float()

    with torch.no_grad():
        exact = beliefs(autocast=False, rounded=False)
        layers = (beliefs(autocast=True, rounded=False) - exact).norm()
        both = (beliefs(autocast=True, rounded=True) - exact).norm()
    assert 0 < layers < 0.02 * exact.norm()
    assert both < 1.5 * layers
