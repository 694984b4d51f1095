"""What every dynamics model promises, whatever its layers are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from drama_torchrl.envs import ImaginationEnv
from drama_torchrl.envs.imagination import imagine
from drama_torchrl.factories import (
    make_actor,
    make_world_model,
    make_world_model_learner,
)
from drama_torchrl.modules import Dynamics, WorldModel
from drama_torchrl.policies import CarriedMemory, WindowMemory
from tests.reference import tiny
from tests.reference.backbones import (
    ACTIONS,
    KINDS,
    LATENT,
    WIDTH,
    leaves,
    sequence,
    tiny_dynamics,
    warm_state,
)

BATCH, TIME = 3, 12
with_and_without_past = pytest.mark.parametrize(
    "past", [False, True], ids=["empty-past", "with-past"]
)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def dynamics(kind: str) -> Dynamics:
    torch.manual_seed(0)
    return tiny_dynamics(kind)


def results(
    dynamics: Dynamics,
    inputs: tuple[Tensor, Tensor],
    state: TensorDict | None,
    *,
    pieces: list[int],
) -> dict[str, Tensor]:
    """Values and gradients of a run in pieces; a piece of 0 is one ``step``."""
    latent, action = (x.detach().requires_grad_() for x in inputs)
    given = {"latent": latent, "action": action, **dict(dynamics.named_parameters())}
    if state is not None:
        state = state.clone()
        for key, value in leaves(state).items():
            if value.is_floating_point():
                given[f"state.{key}"] = value.requires_grad_()
    beliefs, at = [], 0
    for length in pieces:
        if length:
            piece = slice(at, at + length)
            belief, state = dynamics(latent[:, piece], action[:, piece], state)
        else:
            state = dynamics.initial_state(BATCH) if state is None else state
            belief, state = dynamics.step(latent[:, at], action[:, at], state)
            belief = belief.unsqueeze(1)
        beliefs.append(belief)
        at += max(length, 1)
    assert at == latent.shape[1]
    found = {"belief": torch.cat(beliefs, 1), **leaves(state)}
    loss = sum(
        (value * torch.linspace(-1, 2, value.numel()).view_as(value).sin()).sum()
        for value in found.values()
        if value.is_floating_point()
    )
    assert isinstance(loss, Tensor)
    gradients = torch.autograd.grad(loss, [*given.values()])
    assert all(gradient.any() for gradient in gradients)
    return found | {
        f"gradient of {k}": g for k, g in zip(given, gradients, strict=True)
    }


class TestTime:
    @with_and_without_past
    def test_steps_are_the_sequence_in_values_and_all_gradients(
        self, dynamics: Dynamics, past: bool
    ) -> None:
        inputs = sequence(BATCH, TIME)
        state = warm_state(dynamics, BATCH) if past else None
        whole = results(dynamics, inputs, state, pieces=[TIME])
        steps = results(dynamics, inputs, state, pieces=[0] * TIME)
        torch.testing.assert_close(steps, whole)

    @pytest.mark.parametrize("first", range(1, TIME))
    @with_and_without_past
    def test_a_split_anywhere_changes_no_value_and_no_gradient(
        self, dynamics: Dynamics, first: int, past: bool
    ) -> None:
        inputs = sequence(BATCH, TIME)
        state = warm_state(dynamics, BATCH) if past else None
        whole = results(dynamics, inputs, state, pieces=[TIME])
        split = results(dynamics, inputs, state, pieces=[first, TIME - first])
        torch.testing.assert_close(split, whole)

    def test_mixed_pieces_and_steps_change_nothing(self, dynamics: Dynamics) -> None:
        inputs, state = sequence(BATCH, 70), warm_state(dynamics, BATCH)
        whole = results(dynamics, inputs, state, pieces=[70])
        mixed = results(dynamics, inputs, state, pieces=[3, 0, 33, 0, 0, 1, 30])
        torch.testing.assert_close(mixed, whole)

    @pytest.mark.parametrize("changed", ["latent", "action"])
    def test_a_belief_includes_its_own_step_and_no_later_one(
        self, dynamics: Dynamics, changed: str
    ) -> None:
        latent, action = sequence(BATCH, TIME)
        other = {"latent": latent.clone(), "action": action.clone()}
        other[changed][:, 5] = other[changed][:, 5].roll(1, -1)
        with torch.no_grad():
            change = dynamics(**other)[0] - dynamics(latent, action)[0]
        size = change.abs().amax((0, 2))
        assert (size[:5] == 0).all()
        assert (size[5:] > 1e-6).all()

    def test_an_empty_past_is_none(self, dynamics: Dynamics) -> None:
        inputs, empty = sequence(BATCH, TIME), dynamics.initial_state(BATCH)
        belief, state = dynamics(*inputs)
        given_belief, given_state = dynamics(*inputs, empty)
        torch.testing.assert_close(given_belief, belief)
        torch.testing.assert_close(leaves(given_state), leaves(state))
        assert not any(value.any() for value in leaves(empty).values())


class TestEpisodes:
    def test_each_sequence_forgets_on_its_own(self, dynamics: Dynamics) -> None:
        (latent, action), carried = sequence(2, TIME), warm_state(dynamics, 2)
        is_init = torch.zeros(2, TIME, dtype=torch.bool)
        is_init[0, 4] = is_init[1, 0] = is_init[1, 9] = True
        belief, state = dynamics(latent, action, carried, is_init=is_init)
        for row, start, end, past in [
            (0, 0, 4, carried[:1]),
            (0, 4, TIME, None),
            (1, 0, 9, None),
            (1, 9, TIME, None),
        ]:
            piece = (slice(row, row + 1), slice(start, end))
            expected, final = dynamics(latent[piece], action[piece], past)
            torch.testing.assert_close(belief[piece], expected)
            if end == TIME:
                torch.testing.assert_close(leaves(state[row : row + 1]), leaves(final))

    @pytest.mark.parametrize("first", range(1, TIME))
    def test_a_split_behind_an_episode_start_does_not_see_across_it(
        self, dynamics: Dynamics, first: int
    ) -> None:
        (latent, action), past = sequence(BATCH, TIME), warm_state(dynamics, BATCH)
        is_init = torch.zeros(BATCH, TIME, dtype=torch.bool)
        is_init[0, [4, 6]] = is_init[1, 10] = True
        belief, end = dynamics(latent, action, past, is_init=is_init)
        beliefs, state = [], past
        for piece in (slice(first), slice(first, TIME)):
            part, state = dynamics(
                latent[:, piece], action[:, piece], state, is_init=is_init[:, piece]
            )
            beliefs.append(part)
        torch.testing.assert_close(torch.cat(beliefs, 1), belief)
        torch.testing.assert_close(leaves(state), leaves(end))

    def test_no_gradient_crosses_an_episode_start(self, dynamics: Dynamics) -> None:
        latent, action = sequence(BATCH, TIME)
        is_init = torch.zeros(BATCH, TIME, dtype=torch.bool)
        is_init[:, 5] = True
        latent.requires_grad_()
        belief, _ = dynamics(latent, action, is_init=is_init)
        (gradient,) = torch.autograd.grad(belief[:, 5:].square().sum(), latent)
        # Sums over time that cancel leave the rounding of their parts.
        assert (gradient[:, :5].abs() < 1e-12 * gradient.abs().max()).all()
        assert gradient[:, 5:].any(-1).all()

    def test_a_state_filled_with_zeros_has_forgotten(self, dynamics: Dynamics) -> None:
        # As the acting memory forgets: some environments of a batch, in place.
        inputs, state = sequence(BATCH, TIME), warm_state(dynamics, BATCH)
        restarted = state.clone()
        restarted.masked_fill_(torch.tensor([True, False, True]), 0.0)
        fresh, kept = dynamics(*inputs)[0], dynamics(*inputs, state)[0]
        belief = dynamics(*inputs, restarted)[0]
        torch.testing.assert_close(belief[0::2], fresh[0::2])
        torch.testing.assert_close(belief[1], kept[1])


class TestState:
    def test_it_survives_a_file(
        self, kind: str, dynamics: Dynamics, tmp_path: Path
    ) -> None:
        (latent, action), state = sequence(BATCH, TIME), warm_state(dynamics, BATCH)
        torch.save([dynamics.state_dict(), state.to_dict()], tmp_path / "state.pt")
        weights, saved = torch.load(tmp_path / "state.pt", weights_only=True)
        torch.manual_seed(1)
        other = tiny_dynamics(kind)
        other.load_state_dict(weights, strict=True)
        again = TensorDict(saved, batch_size=[BATCH])
        belief, end = dynamics(latent, action, state)
        found, found_end = other(latent, action, again)
        assert torch.equal(found, belief)
        torch.testing.assert_close(leaves(found_end), leaves(end), rtol=0, atol=0)

    @pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
    def test_it_has_one_form_for_ever(self, dynamics: Dynamics, autocast: bool) -> None:
        dynamics = dynamics.float()
        latent, action = (x.float() for x in sequence(BATCH, TIME))
        empty = dynamics.initial_state(BATCH)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            _, short = dynamics(latent[:, :2], action[:, :2])
            _, long = dynamics(latent, action, short)
            _, stepped = dynamics.step(latent[:, 0], action[:, 0], long)
            _, first = dynamics.step(latent[:, 0], action[:, 0], empty)
        forms = [
            {name: (value.shape, value.dtype) for name, value in leaves(state).items()}
            for state in (short, long, stepped, first)
        ]
        assert forms[1:] == forms[:1] * 3
        for state in (empty, short):
            assert state.batch_size == (BATCH,)
            for name, value in leaves(state).items():
                assert value.shape == leaves(empty)[name].shape
                # What adds up over the steps is never rounded.
                if not autocast or name.endswith(("ssm", "hidden", "angle")):
                    assert value.dtype == leaves(empty)[name].dtype
        same = dynamics.initial_state(torch.Size([BATCH]))
        torch.testing.assert_close(leaves(same), leaves(empty))

    def test_a_passed_state_is_not_written_to(self, dynamics: Dynamics) -> None:
        (latent, action), state = sequence(BATCH, TIME), warm_state(dynamics, BATCH)
        copy = state.clone()
        is_init = torch.ones(BATCH, TIME, dtype=torch.bool)
        with torch.no_grad():
            for _, new in (
                dynamics(latent, action, state),
                dynamics(latent, action, state, is_init=is_init),
                dynamics.step(latent[:, 0], action[:, 0], state),
            ):
                new.apply_(torch.Tensor.zero_)
        torch.testing.assert_close(leaves(state), leaves(copy), rtol=0, atol=0)

    def test_one_of_another_batch_size_is_refused(self, dynamics: Dynamics) -> None:
        latent, action = sequence(BATCH, TIME)
        message = rf"expected shape \({BATCH}, .* start with initial_state\({BATCH}\)"
        with pytest.raises(ValueError, match=message):
            dynamics(latent, action, dynamics.initial_state(2))
        with pytest.raises(ValueError, match=message):
            dynamics.step(latent[:, 0], action[:, 0], dynamics.initial_state(2))


class TestBatch:
    def test_its_sequences_do_not_mix(self, dynamics: Dynamics) -> None:
        latent, action = sequence(BATCH, TIME)
        rows = [slice(i, i + 1) for i in range(BATCH)]
        alone = [dynamics(latent[row], action[row])[0] for row in rows]
        torch.testing.assert_close(dynamics(latent, action)[0], torch.cat(alone))

    def test_bool_actions_are_taken_as_they_are(self, dynamics: Dynamics) -> None:
        latent, action = sequence(BATCH, TIME)
        belief = dynamics(latent, action.bool())[0]
        assert torch.equal(belief, dynamics(latent, action)[0])

    def test_episode_starts_with_a_trailing_dimension_are_refused(
        self, dynamics: Dynamics
    ) -> None:
        is_init = torch.zeros(BATCH, TIME, 1, dtype=torch.bool)
        with pytest.raises(ValueError, match=r"is_init: .*squeeze a trailing"):
            dynamics(*sequence(BATCH, TIME), is_init=is_init)


class TestPrecision:
    def test_bfloat16_autocast_stays_close_in_values_and_gradients(
        self, dynamics: Dynamics
    ) -> None:
        dynamics = dynamics.float()
        latent, action = (x.float() for x in sequence(8, 40))
        weights = torch.randn(8, 40, WIDTH)

        def run() -> tuple[Tensor, Tensor]:
            belief, _ = dynamics(latent, action)
            gradients = torch.autograd.grad(
                (belief.float() * weights).sum(), [*dynamics.parameters()]
            )
            return belief, torch.cat([g.flatten() for g in gradients])

        belief, gradient = run()
        with torch.autocast("cpu", torch.bfloat16):
            low_belief, low_gradient = run()
            _, state = dynamics(latent[:, :5], action[:, :5])
            stepped, _ = dynamics.step(latent[:, 5], action[:, 5], state)
        assert low_belief.dtype == stepped.dtype == torch.float32
        assert (low_belief - belief).norm() < 0.03 * belief.norm()
        assert (stepped - belief[:, 5]).norm() < 0.03 * belief[:, 5].norm()
        assert (low_gradient - gradient).norm() < 0.05 * gradient.norm()

    @pytest.mark.parametrize(
        ("backend", "resets"),
        [("aot_eager", False), ("eager", True)],
        ids=["one-episode", "episodes"],
    )
    def test_compiled_it_gives_the_same_values_and_gradients(
        self, dynamics: Dynamics, backend: str, resets: bool
    ) -> None:
        inputs, state = sequence(BATCH, 3), warm_state(dynamics, BATCH)
        is_init = torch.tensor([[False, True, False]] * BATCH) if resets else None

        def run(latent: Tensor, action: Tensor, state: TensorDict) -> Tensor:
            belief, state = dynamics(latent, action, state, is_init=is_init)
            return belief + dynamics.step(latent[:, 0], action[:, 0], state)[0][:, None]

        def outcome(run: Callable[..., Tensor]) -> list[Tensor]:
            belief = run(*inputs, state)
            parameters = [*dynamics.parameters()]
            return [belief, *torch.autograd.grad(belief.cos().sum(), parameters)]

        torch.compiler.reset()
        compiled = torch.compile(run, backend=backend, dynamic=False, fullgraph=True)
        torch.testing.assert_close(outcome(compiled), outcome(run))


def make_tiny_world_model(kind: str, *overrides: str) -> WorldModel:
    torch.manual_seed(0)
    config = tiny.tiny_config(
        f"world_model.dynamics={kind}", "world_model.attention_window=3", *overrides
    )
    return make_world_model(config, tiny.ACTIONS)


class TestWorldModel:
    def test_its_loss_trains_every_parameter_of_the_dynamics(self, kind: str) -> None:
        config = tiny.tiny_config(
            f"world_model.dynamics={kind}", "world_model.warmup_steps=0"
        )
        torch.manual_seed(0)
        world_model = make_world_model(config, tiny.ACTIONS)
        before = {k: p.clone() for k, p in world_model.dynamics.named_parameters()}
        learn = make_world_model_learner(config, world_model)
        # What leads to key biases alone is no more than rounding: softmax ignores it.
        for _ in range(2):
            metrics = learn(tiny.real_batch())
        assert all(value.isfinite().all() for value in metrics.values())
        for name, parameter in world_model.dynamics.named_parameters():
            assert parameter.isfinite().all(), name
            assert not torch.equal(parameter, before[name]), name

    def test_episodes_may_be_run_apart(self, kind: str) -> None:
        option = "world_model.reset_at_episode_start=true"
        world_model = make_tiny_world_model(kind, option)
        batch = world_model.encode(tiny.real_batch())
        batch["is_init"][:, 5] = True
        whole, _ = world_model.observe(batch.clone())
        late, _ = world_model.observe(batch[:, 5:].clone())
        torch.testing.assert_close(
            whole["next", "belief"][:, 5:], late["next", "belief"]
        )

    def test_imagination_is_the_dynamics_step_by_step(self, kind: str) -> None:
        world_model = make_tiny_world_model(kind)
        context = tiny.real_batch().exclude("next")
        env = ImaginationEnv(world_model, tiny.ACTIONS)
        actor = make_actor(tiny.tiny_config(), tiny.ACTIONS)
        torch.manual_seed(1)
        rollout = imagine(env, actor, context, horizon=6)
        torch.manual_seed(1)
        encoded = world_model.encode(context.clone())
        latents = torch.cat([encoded["latent"], rollout["latent"]], 1)
        actions = torch.cat([context["action"], rollout["action"].bool()], 1)
        with torch.no_grad():
            belief, _ = world_model.dynamics(latents, actions)
        torch.testing.assert_close(rollout["next", "belief"], belief[:, -6:])
        torch.testing.assert_close(rollout["belief"], belief[:, -7:-1])

    def test_both_acting_memories_agree_within_the_window(self, kind: str) -> None:
        world_model = make_tiny_world_model(kind)
        carried = CarriedMemory(world_model, batch_size=2)
        window = WindowMemory(world_model, 2, tiny.ACTIONS, window=7)
        starts = {3: torch.tensor([True, False])}  # one episode ends on the way
        for t in range(6):
            is_init = starts.get(t, torch.full((2,), t == 0))
            with torch.no_grad():
                recalled = carried.recall(is_init)
                torch.testing.assert_close(window.recall(is_init), recalled)
                latent = torch.rand(2, tiny.LATENT)
                action = tiny.random_actions(2)
                for memory in (carried, window):
                    memory.remember(latent, action.float())
        assert recalled.any()

    def test_the_carried_memory_is_restored_by_its_contents(self, kind: str) -> None:
        world_model = make_tiny_world_model(kind)
        memories = [CarriedMemory(world_model, batch_size=2) for _ in range(2)]
        with torch.no_grad():
            for _ in range(5):
                latent = torch.rand(2, tiny.LATENT)
                memories[0].remember(latent, tiny.random_actions(2).float())
            for name, value in memories[1].contents().items():
                value.copy_(memories[0].contents()[name])
            for memory in memories:
                memory.remember(latent, torch.eye(tiny.ACTIONS)[:2])
        never = torch.zeros(2, dtype=torch.bool)
        assert torch.equal(memories[0].recall(never), memories[1].recall(never))


def test_the_sizes_of_these_tests_tell_all_widths_apart() -> None:
    assert len({BATCH, TIME, LATENT, ACTIONS, WIDTH}) == 5
