"""Films show at step t what the model knows of step t, and imagine on their own."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from drama_torchrl.envs import ImaginationEnv
from drama_torchrl.factories import make_world_model
from drama_torchrl.modules.world_model import WorldModel
from drama_torchrl.record.film import Film, imagination_film
from tests.reference.scripted import frames_of, make_scripted_world_model
from tests.reference.tiny import ACTIONS, real_batch, tiny_config


def scripted_batch(classes: list[int], actions: list[int]) -> TensorDict:
    length = len(classes)
    return TensorDict(
        {
            "pixels": frames_of(torch.tensor([classes])),
            "action": torch.eye(4)[torch.tensor([actions])],
            ("next", "reward"): torch.arange(float(length)).reshape(1, length, 1),
            ("next", "terminated"): torch.zeros(1, length, 1, dtype=torch.bool),
            ("next", "end-of-life"): torch.ones(1, length, 1, dtype=torch.bool),
        },
        batch_size=[1, length],
    )


def classes_of(frames: Tensor) -> list[int]:
    return frames[:, 0, 0, 0].tolist()


def test_a_counting_world_is_seen_and_then_counted_on() -> None:
    # The real frames leave the world's rule after the context; the model cannot know.
    batch = scripted_batch([0, 1, 2, 6, 6, 0, 0], actions=[1, 0, 3, 2, 0, 3, 1])
    film = imagination_film(make_scripted_world_model(), batch, context=3)
    assert classes_of(film.model) == [0, 1, 2, 3, 4, 5, 6]
    assert classes_of(film.real) == [0, 1, 2, 6, 6, 0, 0]
    assert classes_of(film.difference) == [0, 0, 0, 3, 2, 5, 6]
    # Rewards are the actions and action 3 ends, each at the step of its action.
    predicted = film.predicted_reward.tolist()
    assert predicted == pytest.approx([1, 0, 3, 2, 0, 3, 1], abs=1e-3)
    assert film.predicted_terminated.nonzero().flatten().tolist() == [2, 5]
    assert film.reward.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert not film.terminated.any()


def test_the_key_of_terminations_can_be_chosen() -> None:
    batch = scripted_batch([0, 1, 2], actions=[0, 0, 0])
    film = imagination_film(
        make_scripted_world_model(),
        batch,
        context=1,
        terminated_key=("next", "end-of-life"),
    )
    assert film.terminated.all()


@pytest.fixture
def world_model() -> WorldModel:
    world_model = make_world_model(tiny_config(), ACTIONS)
    # The reward of an untrained model hardly depends on its input.
    torch.nn.init.normal_(world_model.get_parameter("reward_head.net.3.weight"))
    return world_model


def as_frames(decoded: Tensor) -> Tensor:
    return (decoded.detach() * 255).round().to(torch.uint8)


@pytest.mark.parametrize("context", [1, 3, 7])
def test_a_film_shows_what_the_imagination_environment_imagines(
    world_model: WorldModel, context: int
) -> None:
    batch = real_batch(time=8)
    torch.manual_seed(3)
    film = imagination_film(world_model, batch, context=context)

    torch.manual_seed(3)
    env = ImaginationEnv(world_model, ACTIONS)
    step = env.reset(TensorDict(context=batch[:1, :context], batch_size=[1]))
    latents, rewards = [], []
    for t in range(context, 8):
        latents.append(step["latent"])
        step = env.step(step.set("action", batch["action"][:1, t]))
        rewards.append(step["next", "reward"].item())
        step = step["next"]
    decoded = world_model.decode(TensorDict(latent=torch.stack(latents, 1)))
    assert torch.equal(film.model[context:], as_frames(decoded["reco_pixels"][0]))
    assert film.predicted_reward[context:].tolist() == pytest.approx(rewards)


def test_the_seen_part_is_the_posteriors_reconstruction(
    world_model: WorldModel,
) -> None:
    batch = real_batch()
    torch.manual_seed(3)
    film = imagination_film(world_model, batch, context=5)
    torch.manual_seed(3)
    seen = world_model(batch[:1, :5].select("pixels", "action"))
    assert torch.equal(film.model[:5], as_frames(seen["reco_pixels"][0]))
    rewards = world_model.reward_head.decode(seen["next", "reward_logits"])
    assert torch.equal(film.predicted_reward[:5], rewards.flatten())


def test_the_model_sees_no_frame_after_the_context(world_model: WorldModel) -> None:
    batch = real_batch()
    films = []
    for unseen in (0, 255):
        batch["pixels"][:, 3:] = unseen
        torch.manual_seed(3)
        films.append(imagination_film(world_model, batch, context=3))
    assert torch.equal(films[0].model, films[1].model)
    assert not torch.equal(films[0].real, films[1].real)


def test_imagination_follows_the_real_actions(world_model: WorldModel) -> None:
    batch = real_batch()
    films = []
    for action in (0, 1):
        batch["action"][:, 5:] = torch.eye(ACTIONS)[action].bool()
        torch.manual_seed(3)
        films.append(imagination_film(world_model, batch, context=3))
    first, second = (film.predicted_reward for film in films)
    assert torch.equal(first[:5], second[:5])
    assert (first[5:] != second[5:]).all()


def test_filming_changes_neither_the_model_nor_the_batch(
    world_model: WorldModel,
) -> None:
    batch = real_batch()
    before = {key: value.clone() for key, value in world_model.state_dict().items()}
    keys = set(batch.keys(include_nested=True))
    world_model.train()
    imagination_film(world_model, batch, context=3)
    assert world_model.training
    for key, value in world_model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert set(batch.keys(include_nested=True)) == keys


def test_a_model_that_forgets_at_episode_starts_can_be_filmed() -> None:
    config = tiny_config("world_model.reset_at_episode_start=true")
    world_model = make_world_model(config, ACTIONS)
    film = imagination_film(world_model, real_batch(), context=3)
    assert film.model.shape == film.real.shape


@pytest.mark.parametrize(
    ("shape", "context"),
    [((4, 8), 0), ((4, 8), 8), ((4, 1), 1)],
    ids=["nothing seen", "nothing imagined", "one step"],
)
def test_a_film_needs_something_to_see_and_to_imagine(
    world_model: WorldModel, shape: tuple[int, int], context: int
) -> None:
    with pytest.raises(ValueError, match=rf"got \[4, \d\] and context={context}; draw"):
        imagination_film(world_model, real_batch(*shape), context=context)


def test_a_film_needs_a_batch_dimension(world_model: WorldModel) -> None:
    with pytest.raises(ValueError, match=r"expects a batch \[B, T\] .* got \[8\]"):
        imagination_film(world_model, real_batch()[0], context=3)


def test_frames_stand_side_by_side_and_the_gap_tells_imagination() -> None:
    real = torch.full((2, 3, 4, 5), 200, dtype=torch.uint8)
    model = torch.full((2, 3, 4, 5), 50, dtype=torch.uint8)
    nothing = torch.zeros(2)
    film = Film(real, model, 1, nothing, nothing, nothing.bool(), nothing.bool())
    frames = film.frames()
    assert frames.shape == (2, 3, 4, 19)
    white, orange = [255, 255, 255], [255, 127, 14]
    for frame, gap in zip(frames, (white, orange), strict=True):
        row = frame[:, 0].T.tolist()
        expected = [[200] * 3] * 5 + [gap] * 2 + [[50] * 3] * 5 + [gap] * 2
        assert row == expected + [[150] * 3] * 5
