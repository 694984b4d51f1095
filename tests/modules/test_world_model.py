"""The world model: what it draws, what follows from what, and under which names."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict, TensorDictBase

from drama_torchrl.factories import make_world_model
from drama_torchrl.modules.world_model import WorldModel
from tests.reference.tiny import (
    ACTIONS,
    CATEGORICALS,
    CLASSES,
    FRAME,
    LATENT,
    WIDTH,
    random_actions,
    real_batch,
    tiny_config,
)


def make_tiny(*overrides: str) -> WorldModel:
    world_model = make_world_model(tiny_config(*overrides), ACTIONS)
    # The reward of an untrained model hardly depends on its input.
    torch.nn.init.normal_(world_model.get_parameter("reward_head.net.3.weight"))
    return world_model


@pytest.fixture
def world_model() -> WorldModel:
    return make_tiny()


def latents_and_actions(batch: int = 2, time: int = 7) -> TensorDict:
    latents = torch.eye(CLASSES)[torch.randint(CLASSES, (batch, time, CATEGORICALS))]
    return TensorDict(
        latent=latents.flatten(-2),
        action=random_actions(batch, time),
        batch_size=[batch, time],
    )


PREDICTIONS = [
    ("next", "belief"),
    ("next", "prior_logits"),
    ("next", "reward_logits"),
    ("next", "terminated_logits"),
]


def assert_same_predictions(a: TensorDictBase, b: TensorDictBase) -> None:
    for key in PREDICTIONS:
        torch.testing.assert_close(a[key], b[key])


class TestLatents:
    @pytest.mark.parametrize("key", ["posterior_logits", ("next", "prior_logits")])
    def test_the_uniform_share_is_divided_by_the_number_of_classes(
        self, world_model: WorldModel, key: str
    ) -> None:
        with torch.no_grad():  # so large that all but one class vanish
            world_model.get_parameter("encoder.linear.weight").mul_(1e4)
            world_model.prior_head.weight.mul_(1e4)
        probs = world_model(real_batch())[key].exp()
        assert probs.shape == (4, 8, CATEGORICALS, CLASSES)
        torch.testing.assert_close(probs.sum(-1), torch.ones(4, 8, CATEGORICALS))
        assert probs.min().item() == pytest.approx(0.01 / CLASSES, rel=1e-4)
        assert probs.max().item() == pytest.approx(0.99 + 0.01 / CLASSES, rel=1e-4)

    def test_latents_are_exactly_one_hot_floats(self, world_model: WorldModel) -> None:
        latent = world_model.encode(real_batch())["latent"]
        assert latent.dtype == torch.float32
        assert latent.unique().tolist() == [0.0, 1.0]
        blocks = latent.unflatten(-1, (CATEGORICALS, CLASSES))
        assert (blocks.sum(-1) == 1).all()

    def test_a_latent_is_drawn_from_the_posterior_of_its_own_frame(self) -> None:
        world_model = make_tiny("world_model.unimix=0")
        with torch.no_grad():
            world_model.get_parameter("encoder.linear.weight").mul_(1e4)
        out = world_model.encode(real_batch())
        likeliest = out["posterior_logits"].argmax(-1)
        blocks = out["latent"].unflatten(-1, (CATEGORICALS, CLASSES))
        assert torch.equal(blocks.argmax(-1), likeliest)

    def test_the_reconstruction_trains_the_encoder_through_the_draw(
        self, world_model: WorldModel
    ) -> None:
        world_model(real_batch())["reco_pixels"].square().sum().backward()
        gradient = world_model.get_parameter("encoder.linear.weight").grad
        assert gradient is not None
        assert gradient.abs().sum() > 0


class TestObserve:
    def test_an_action_changes_its_own_predictions_and_none_before(
        self, world_model: WorldModel
    ) -> None:
        one = latents_and_actions()
        other = one.clone()
        other["action"][:, 3] = other["action"][:, 3].roll(1, -1)
        world_model.observe(one)
        world_model.observe(other)
        for key in PREDICTIONS:
            difference = (one[key] - other[key]).abs().flatten(2).amax((0, 2))
            assert (difference[:3] == 0).all()
            assert difference[3] > 1e-6

    def test_a_carried_state_continues_the_sequence(
        self, world_model: WorldModel
    ) -> None:
        whole = latents_and_actions()
        first, second = whole[:, :3].clone(), whole[:, 3:].clone()
        world_model.observe(whole)
        _, state = world_model.observe(first)
        world_model.observe(second, state)
        assert_same_predictions(torch.cat([first, second], 1), whole)


class TestStep:
    def test_steps_after_an_observed_context_go_on_where_it_ended(
        self, world_model: WorldModel
    ) -> None:
        whole = latents_and_actions()
        _, state = world_model.observe(whole[:, :3].clone())
        observed, _ = world_model.observe(whole.clone())
        for t in range(3, 7):
            step, state = world_model.step(whole[:, t].clone(), state)
            logits = observed[:, t]["next"]
            reward = world_model.reward_head.decode(logits["reward_logits"])
            torch.testing.assert_close(step["next", "belief"], logits["belief"])
            torch.testing.assert_close(
                step["next", "reward"], reward, rtol=1e-4, atol=1e-4
            )
            ended = logits["terminated_logits"] > 0
            assert torch.equal(step["next", "terminated"], ended)

    def test_the_next_latent_is_drawn_from_the_prior_after_the_action(self) -> None:
        world_model = make_tiny("world_model.unimix=0")
        with torch.no_grad():
            world_model.prior_head.weight.mul_(1e4)
        start = latents_and_actions(batch=20, time=1)
        observed, _ = world_model.observe(start.clone())
        step, _ = world_model.step(start[:, 0], world_model.initial_state(20))
        blocks = step["next", "latent"].unflatten(-1, (CATEGORICALS, CLASSES))
        likeliest = observed["next", "prior_logits"][:, 0].argmax(-1)
        assert torch.equal(blocks.argmax(-1), likeliest)

    def test_imagined_latents_are_exactly_one_hot_floats(
        self, world_model: WorldModel
    ) -> None:
        state = world_model.initial_state(50)
        step, _ = world_model.step(latents_and_actions(50, 1)[:, 0], state)
        latent = step["next", "latent"]
        assert latent.dtype == torch.float32
        assert latent.unique().tolist() == [0.0, 1.0]
        blocks = latent.unflatten(-1, (CATEGORICALS, CLASSES))
        assert (blocks.sum(-1) == 1).all()


class TestEpisodeStarts:
    """Two episodes in one window of eight steps; the second starts at step five."""

    START = 5

    def window(self) -> TensorDict:
        window = latents_and_actions(time=8)
        is_init = torch.zeros(2, 8, 1, dtype=torch.bool)
        is_init[:, self.START] = True
        return window.set("is_init", is_init)

    def one_after_the_other(self, world_model: WorldModel) -> TensorDictBase:
        window = self.window()
        pieces = window[:, : self.START].clone(), window[:, self.START :].clone()
        return torch.cat([world_model.observe(piece)[0] for piece in pieces], 1)

    def test_by_default_the_past_is_kept(self, world_model: WorldModel) -> None:
        torch.manual_seed(1)
        window, _ = world_model.observe(self.window())
        torch.manual_seed(1)
        ignorant, _ = world_model.observe(self.window().exclude("is_init"))
        assert_same_predictions(window, ignorant)
        torch.manual_seed(1)
        apart = self.one_after_the_other(world_model)
        key = ("next", "belief")
        torch.testing.assert_close(window[key][:, :5], apart[key][:, :5])
        difference = (window[key] - apart[key])[:, 5:].abs().amax((0, 2))
        assert (difference > 1e-3).all()

    def test_with_the_option_the_episodes_are_run_apart(self) -> None:
        world_model = make_tiny("world_model.reset_at_episode_start=true")
        torch.manual_seed(1)
        window, _ = world_model.observe(self.window())
        torch.manual_seed(1)
        assert_same_predictions(window, self.one_after_the_other(world_model))

    def test_with_the_option_the_carried_past_is_forgotten_too(self) -> None:
        world_model = make_tiny("world_model.reset_at_episode_start=true")
        window = self.window()[:, self.START :].clone()
        fresh, _ = world_model.observe(window.clone())
        past = world_model.initial_state(2).apply(torch.randn_like)
        continued, _ = world_model.observe(window, past)
        assert_same_predictions(continued, fresh)


class TestAutocast:
    def test_the_ssm_state_and_all_that_is_sampled_stay_float32(
        self, world_model: WorldModel
    ) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            batch, state = world_model.observe(world_model.encode(real_batch()))
            step, stepped = world_model.step(batch[:, -1].clone(), state)
        for states in (state, stepped):
            dtypes = {states[layer, "ssm"].dtype for layer in ("0", "1")}
            assert dtypes == {torch.float32}
        for entry in (
            batch["posterior_logits"],
            batch["next", "prior_logits"],
            batch["latent"],
            step["next", "latent"],
            step["next", "reward"],
        ):
            assert entry.dtype == torch.float32

    def test_predictions_stay_near_those_in_float32(
        self, world_model: WorldModel
    ) -> None:
        batch = latents_and_actions()
        with torch.autocast("cpu", torch.bfloat16):
            rounded, _ = world_model.observe(batch.clone())
        exact, _ = world_model.observe(batch.clone())
        key = ("next", "belief")
        torch.testing.assert_close(rounded[key], exact[key], atol=0.1, rtol=0.1)
        assert not torch.equal(rounded[key], exact[key])  # autocast did something


class TestDecode:
    def test_frames_lie_between_black_and_white(self, world_model: WorldModel) -> None:
        frames = world_model.decode(latents_and_actions(2, 7))["reco_pixels"]
        assert frames.shape == (2, 7, 3, FRAME, FRAME)
        assert frames.min() >= 0
        assert frames.max() <= 1

    def test_each_frame_is_that_of_its_latent(self, world_model: WorldModel) -> None:
        batch = latents_and_actions(2, 3)
        whole = world_model.decode(batch.clone())["reco_pixels"]
        one = world_model.decode(batch[1, 2:].clone())["reco_pixels"]
        torch.testing.assert_close(whole[1, 2:], one)


class TestKeys:
    RENAMED = {  # noqa: RUF012
        "pixels": ("seen", "frame"),
        "action": ("agent", "move"),
        "is_init": ("info", "start"),
        "posterior_logits": ("model", "q"),
        "latent": ("model", "z"),
        "reco_pixels": ("model", "frame"),
        "next_belief": ("next", "model", "d"),
        "next_prior_logits": ("next", "model", "p"),
        "next_reward_logits": ("next", "model", "r"),
        "next_terminated_logits": ("next", "model", "e"),
        "next_latent": ("next", "model", "z"),
        "next_reward": ("next", "gain"),
        "next_terminated": ("next", "end"),
    }

    @pytest.mark.parametrize("reset", ["false", "true"])
    def test_it_reads_and_writes_what_it_declares(self, reset: str) -> None:
        world_model = make_tiny(f"world_model.reset_at_episode_start={reset}")
        batch = real_batch().select(*world_model.in_keys)
        read = set(batch.keys(True, True))
        out = world_model(batch)
        assert set(out.keys(True, True)) - read == set(world_model.out_keys)

    def test_renamed_nested_keys_hold_the_same_values(self) -> None:
        world_model = make_tiny("world_model.reset_at_episode_start=true")
        batch, renamed = real_batch(), TensorDict(batch_size=[4, 8])
        for name in ("pixels", "action", "is_init"):
            renamed[self.RENAMED[name]] = batch[name]
        before = [*world_model.in_keys, *world_model.out_keys]
        torch.manual_seed(1)
        out = world_model(batch)
        world_model.set_keys(**self.RENAMED)
        after = [*world_model.in_keys, *world_model.out_keys]
        torch.manual_seed(1)
        other = world_model(renamed)
        assert all(
            torch.equal(out[a], other[b]) for a, b in zip(before, after, strict=True)
        )
        assert set(other.keys(True, True)) == set(after)

    def test_a_step_uses_renamed_keys_too(self, world_model: WorldModel) -> None:
        root = latents_and_actions(3, 1)[:, 0]
        state = world_model.initial_state(3)
        torch.manual_seed(1)
        out, _ = world_model.step(root.clone(), state)
        world_model.set_keys(**self.RENAMED)
        renamed = TensorDict(batch_size=[3])
        for name in ("latent", "action"):
            renamed[self.RENAMED[name]] = root[name]
        torch.manual_seed(1)
        other, _ = world_model.step(renamed, state)
        for name in ("belief", "latent", "reward", "terminated"):
            key = self.RENAMED[f"next_{name}"]
            assert torch.equal(out["next", name], other[key])

    def test_keys_of_one_model_are_not_those_of_another(
        self, world_model: WorldModel
    ) -> None:
        world_model.set_keys(pixels="frame")
        assert make_tiny().in_keys == ["pixels", "action"]

    def test_an_unknown_key_is_explained(self, world_model: WorldModel) -> None:
        with pytest.raises(ValueError, match=r"'frames' is not a key.*'pixels'"):
            world_model.set_keys(frames="frame")


def test_sizes_are_those_of_the_parts(world_model: WorldModel) -> None:
    assert world_model.latent_dim == LATENT
    assert world_model.belief_dim == WIDTH
    assert world_model.initial_state(5).batch_size == (5,)


def test_a_reloaded_model_gives_the_same_bits(world_model: WorldModel) -> None:
    world_model.train()(real_batch())  # BatchNorm moves
    world_model.eval()
    copy = make_tiny()
    copy.load_state_dict(world_model.state_dict())
    outs = []
    for model in (world_model, copy):
        torch.manual_seed(1)
        outs.append(model(real_batch()))
    assert (outs[0] == outs[1]).all()
