"""An emulator comes back to where its actions had led it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tensordict import TensorDict

from drama_torchrl.envs.atari import AtariEnv, make_atari_env
from drama_torchrl.envs.episode_state import episode_state, replay_episode


def game(seed: int) -> AtariEnv:
    # Breakout needs few steps to lose a life; sticky actions draw random numbers.
    return make_atari_env(
        "Breakout", seed=seed, repeat_action_probability=0.25, max_frames=400
    )


@pytest.fixture
def envs() -> Iterator[tuple[AtariEnv, AtariEnv]]:
    both = game(0), game(1)
    yield both
    for env in both:
        env.close()


def play(env: AtariEnv, steps: int, seed: int) -> list[TensorDict]:
    torch.manual_seed(seed)
    taken = []
    for _ in range(steps):
        if env._awaits == "reset":
            taken.append(env.reset())
        step = env.rand_action(TensorDict())
        taken.append(env.step(step)["next"])
    return taken


@pytest.mark.parametrize("steps", [0, 1, 60, 100, 130], ids=lambda n: f"{n} steps")
def test_it_goes_on_as_the_saved_one_through_the_next_episode(
    envs: tuple[AtariEnv, AtariEnv], steps: int
) -> None:
    env, other = envs
    last = [env.reset(), *play(env, steps, seed=0)][-1]
    state = episode_state(env)
    replayed = replay_episode(other, state)
    assert torch.equal(replayed["pixels"], last["pixels"])
    assert other._lives == env._lives
    for one, two in zip(play(env, 150, seed=1), play(other, 150, seed=1), strict=True):
        assert (one == two).all()


def test_a_state_needs_an_episode(envs: tuple[AtariEnv, AtariEnv]) -> None:
    env, _ = envs
    with pytest.raises(RuntimeError, match="never reset"):
        episode_state(env)
    env.reset()
    env.send_action(env.rand_action(TensorDict()))
    with pytest.raises(RuntimeError, match="waits for receive_frame"):
        episode_state(env)
    env.receive_frame()


def test_actions_of_another_game_are_refused(
    envs: tuple[AtariEnv, AtariEnv],
) -> None:
    env, _ = envs
    env.reset()
    state = episode_state(env)
    foreign = state | {"actions": torch.tensor([0, 4], dtype=torch.uint8)}
    with pytest.raises(ValueError, match="below 4, got 4"):
        replay_episode(env, foreign)
    endless = state | {"actions": torch.zeros(101, dtype=torch.uint8)}
    with pytest.raises(ValueError, match="got its end after 100"):
        replay_episode(env, endless)
