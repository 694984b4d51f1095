"""The Atari environment against a slow reference made of the bare emulator."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ale_py
import numpy as np
import pytest
import torch
from ale_py import roms
from tensordict import TensorDict, TensorDictBase
from torchrl.collectors import Collector
from torchrl.envs import (
    Compose,
    EnvBase,
    InitTracker,
    RewardSum,
    StepCounter,
    TransformedEnv,
)
from torchrl.envs.utils import check_env_specs

from drama_torchrl.envs.atari import AtariEnv, make_atari_env


class SlowAtari:
    """The bare emulator with frame skip, maximum and area resize spelled out."""

    def __init__(self, rom_id: str, *, frame_size: int, frame_skip: int) -> None:
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self.ale = ale_py.ALEInterface()
        self.ale.setFloat("repeat_action_probability", 0.0)
        self.rom = str(roms.get_rom_path(rom_id))
        self.frame_size = frame_size
        self.frame_skip = frame_skip

    def reset(self, seed: int, noops: int = 0) -> np.ndarray:
        self.ale.setInt("random_seed", seed)
        self.ale.loadROM(self.rom)
        self.ale.reset_game()
        for _ in range(noops):
            self.ale.act(0)
        return self.resize(self.ale.getScreenRGB())

    def step(self, action: int) -> tuple[np.ndarray, float, bool]:
        button = self.ale.getMinimalActionSet()[action]
        reward = 0.0
        screens = []
        for _ in range(self.frame_skip):
            reward += self.ale.act(button)
            screens.append(self.ale.getScreenRGB())
        frame = self.resize(np.maximum(screens[-2], screens[-1]))
        return frame, reward, self.ale.game_over()

    def resize(self, screen: np.ndarray) -> np.ndarray:
        rows = area_weights(screen.shape[0], self.frame_size)
        columns = area_weights(screen.shape[1], self.frame_size)
        channels = screen.transpose(2, 0, 1).astype(np.float64)
        mean = rows @ channels @ columns.T  # [3, frame_size, frame_size]
        return np.rint(mean).astype(np.uint8)


@cache
def area_weights(source: int, target: int) -> np.ndarray:
    """Share of each source pixel in each target pixel, [target, source]."""
    scale = source / target
    weights = np.zeros((target, source))
    for row in range(target):
        for pixel in range(source):
            low = max(row * scale, pixel)
            high = min((row + 1) * scale, pixel + 1)
            weights[row, pixel] = max(0.0, high - low) / scale
    return weights


@contextmanager
def atari_env(game: str, **options: int | float) -> Iterator[AtariEnv]:
    env = make_atari_env(game, **{"seed": 0, **options})  # type: ignore[arg-type]
    try:
        yield env
    finally:
        env.close()


def press(env: EnvBase, td: TensorDictBase, action: int) -> TensorDictBase:
    """Step ``env`` with an action given by its number; return what it caused."""
    td["action"] = torch.arange(env.action_spec.shape[-1]) == action
    return env.step(td)["next"]


def play(env: AtariEnv, actions: list[int], **reset: int) -> list[torch.Tensor]:
    td = env.reset(**reset)
    frames = [td["pixels"]]
    for action in actions:
        td = press(env, td.exclude("reward"), action)
        frames.append(td["pixels"])
    return frames


def random_actions(seed: int, number: int, num_actions: int) -> list[int]:
    return np.random.default_rng(seed).integers(num_actions, size=number).tolist()


@pytest.mark.parametrize("game", ["Breakout", "Pong"])
def test_the_environment_keeps_torchrls_contract(game: str) -> None:
    with atari_env(game) as env:
        check_env_specs(env, break_when_any_done="both")


@pytest.mark.parametrize(
    ("game", "rom_id", "frame_size", "frame_skip"),
    [
        ("Boxing", "boxing", 64, 4),
        ("MsPacman", "ms_pacman", 64, 4),
        ("Breakout", "breakout", 48, 3),
    ],
    ids=["boxing", "ms_pacman", "breakout_48px_skip3"],
)
def test_pixels_and_rewards_equal_the_bare_emulators(
    game: str, rom_id: str, frame_size: int, frame_skip: int
) -> None:
    slow = SlowAtari(rom_id, frame_size=frame_size, frame_skip=frame_skip)
    steps = 150
    rewards = []
    with atari_env(
        game,
        frame_size=frame_size,
        frame_skip=frame_skip,
        max_noops=0,
        max_frames=steps * frame_skip,
    ) as env:
        for episode in range(2):
            td = env.reset()
            frame = slow.reset(int(td["episode_seed"]))
            assert (td["pixels"].numpy() == frame).all()
            num_actions = env.action_spec.shape[-1]
            for action in random_actions(episode, steps, num_actions):
                td = press(env, td.exclude("reward"), action)
                frame, reward, over = slow.step(action)
                # The emulator does not capture the last frame of an episode.
                assert td["done"].item() or (td["pixels"].numpy() == frame).all()
                assert td["reward"].item() == reward
                assert td["terminated"].item() == over
                rewards.append(reward)
            assert td["done"].item()
    assert any(rewards), "a run without reward proves nothing about rewards"


def test_rewards_are_not_clipped() -> None:
    with atari_env("MsPacman") as env:
        rewards = env.rollout(100)["next", "reward"]
    assert rewards.max() == 10.0  # a pellet


def test_episodes_start_after_a_varying_number_of_noops() -> None:
    slow = SlowAtari("freeway", frame_size=64, frame_skip=4)
    starts = [slow.reset(seed=0, noops=number) for number in range(5)]
    found = set()
    with atari_env("Freeway", max_noops=2) as env:
        for _ in range(16):
            frame = env.reset()["pixels"].numpy()
            equal = [n for n, start in enumerate(starts) if (frame == start).all()]
            assert len(equal) == 1, "the cars move in every frame"
            found.update(equal)
    assert found == {0, 1, 2}


def test_the_same_seed_gives_the_same_frames_over_several_episodes() -> None:
    actions = random_actions(0, 10, 6)
    with atari_env("Pong", seed=3) as one, atari_env("Pong", seed=3) as other:
        for _ in range(3):
            for mine, theirs in zip(
                play(one, actions), play(other, actions), strict=True
            ):
                assert torch.equal(mine, theirs)


def test_set_seed_starts_the_sequence_of_episodes_again() -> None:
    with atari_env("Pong", seed=3) as env:
        first = [int(env.reset()["episode_seed"]) for _ in range(3)]
        env.set_seed(3)
        assert [int(env.reset()["episode_seed"]) for _ in range(3)] == first
        env.set_seed(4)
        second = [int(env.reset()["episode_seed"]) for _ in range(3)]
    assert len(set(first + second)) == 6


def test_a_recorded_seed_replays_its_episode() -> None:
    actions = random_actions(1, 30, 9)
    with atari_env("MsPacman", seed=1) as env:
        env.reset()
        start = env.reset()
        frames = play(env, actions, episode_seed=int(start["episode_seed"]))
        assert torch.equal(start["pixels"], frames[0])
    with atari_env("MsPacman", seed=2) as env:
        env.reset()
        again = play(env, actions, episode_seed=int(start["episode_seed"]))
    assert all(map(torch.equal, frames, again))


def test_the_frame_cap_truncates_and_does_not_terminate() -> None:
    with atari_env("Pong", max_frames=42) as env:
        end = env.rollout(100)["next"]
    assert end.shape == (11,)  # ceil(42 / 4)
    assert end["truncated"].flatten().tolist() == [False] * 10 + [True]
    assert end["done"].flatten().tolist() == [False] * 10 + [True]
    assert not end["terminated"].any()
    assert not end["end-of-life"].any()


def test_a_lost_life_is_flagged_and_the_game_goes_on() -> None:
    fire = 1
    with atari_env("Breakout") as env:
        td = env.reset()
        assert not td["end-of-life"].any()
        flags: list[bool] = []
        dones: list[bool] = []
        while not dones or not dones[-1]:
            td = press(env, td.exclude("reward"), fire)
            flags.append(td["end-of-life"].item())
            dones.append(td["done"].item())
            assert td["terminated"].item() == dones[-1]
            assert not td["truncated"].item()
    assert sum(flags) == 5
    assert flags[-1]
    assert sum(dones) == 1


def test_sticky_actions_follow_their_probability() -> None:
    actions = [[2] * 40, [3] * 40]
    with atari_env("Breakout", repeat_action_probability=1.0) as env:
        right, left = (play(env, sequence, episode_seed=0)[-1] for sequence in actions)
        assert torch.equal(right, left)
    with atari_env("Breakout") as env:
        right, left = (play(env, sequence, episode_seed=0)[-1] for sequence in actions)
        assert not torch.equal(right, left)


@pytest.mark.parametrize(
    ("game", "number"), [("Breakout", 4), ("Pong", 6), ("Boxing", 18)]
)
def test_actions_are_the_minimal_set(game: str, number: int) -> None:
    with atari_env(game) as env:
        assert env.action_spec.shape == (number,)


def test_a_collector_sums_rewards_per_episode() -> None:
    env = TransformedEnv(
        make_atari_env("Boxing", seed=0, max_frames=400),
        Compose(InitTracker(), RewardSum(), StepCounter()),
    )
    collector = Collector(env, None, frames_per_batch=1, total_frames=350)
    total, length = 0.0, 0
    returns: list[float] = []
    seeds: dict[int, None] = {}
    torch.manual_seed(0)
    for batch in collector:
        td = batch[0]
        assert td["is_init"].item() == (length == 0)
        total += td["next", "reward"].item()
        length += 1
        seeds[int(td["episode_seed"])] = None
        assert td["next", "episode_reward"].item() == total
        assert td["next", "step_count"].item() == length
        if td["next", "done"].item():
            assert td["next", "truncated"].item()
            assert len(seeds) == len(returns) + 1
            returns.append(total)
            total, length = 0.0, 0
    collector.shutdown()
    assert length == 50
    assert len(returns) == 3
    assert any(returns), "a run without reward proves nothing about returns"


def test_sending_and_receiving_equals_stepping() -> None:
    with atari_env("Boxing", seed=5) as one, atari_env("Boxing", seed=5) as other:
        stepped, sent = one.reset(), other.reset()
        for _ in range(20):
            action = one.action_spec.rand()
            stepped = one.step(stepped.set("action", action))["next"].exclude("reward")
            other.send_action(sent.set("action", action))
            sent = other.receive_frame()
            assert torch.equal(stepped["pixels"], sent["pixels"])


def test_a_reset_drops_the_step_under_way() -> None:
    with atari_env("Boxing") as env:
        quiet = play(env, [2] * 5, episode_seed=7)
        env.send_action(env.rand_action(env.reset()))
        interrupted = play(env, [2] * 5, episode_seed=7)
    for mine, theirs in zip(quiet, interrupted, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("seed", [-1, 2**31, 0.5])
def test_an_impossible_episode_seed_is_refused(seed: float) -> None:
    with (
        atari_env("Pong") as env,
        pytest.raises(ValueError, match=rf"episode_seed .* got {seed}"),
    ):
        env.reset(episode_seed=seed)


def test_calls_out_of_turn_name_the_next_call() -> None:
    with atari_env("Pong", max_frames=4) as env:
        action = env.rand_action()
        with pytest.raises(RuntimeError, match=r"Expected a call of reset\(\) next"):
            env.send_action(action)
        env.reset()
        with pytest.raises(RuntimeError, match=r"Expected a call of send_action\(\)"):
            env.receive_frame()
        env.send_action(action)
        with pytest.raises(RuntimeError, match=r"Expected a call of receive_frame\(\)"):
            env.send_action(action)
        assert env.receive_frame()["done"].all()
        with pytest.raises(RuntimeError, match=r"Expected a call of reset\(\) next"):
            env.send_action(action)


def test_an_action_of_another_shape_is_refused() -> None:
    with atari_env("Pong") as env:
        td = env.reset()
        td["action"] = torch.ones(18, dtype=torch.bool)
        with pytest.raises(ValueError, match=r"shape \(6,\), got \(18,\)"):
            env.step(td)


def test_a_closed_environment_says_so() -> None:
    with atari_env("Pong") as env:
        td = env.rand_action(env.reset())
        env.close()
        assert env.is_closed
        with pytest.raises(RuntimeError, match="got a closed one"):
            env.step(td)
        with pytest.raises(RuntimeError, match="got a closed one"):
            env.reset()
        env.close()


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_closing_ends_the_emulators_thread() -> None:
    threads = Path("/proc/self/task")
    before = len(list(threads.iterdir()))
    with atari_env("Pong") as env:
        env.send_action(env.rand_action(env.reset()))
        assert len(list(threads.iterdir())) == before + 1
    assert len(list(threads.iterdir())) == before


def test_the_emulator_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with atari_env("Pong") as env:
        env.rollout(2)
    output = capfd.readouterr()
    assert (output.out, output.err) == ("", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"game": "Boxin"}, r"got 'Boxin'\. Did you mean Boxing"),
        ({"seed": -1}, r"Expected seed to be a whole number in \[0, .*, got -1"),
        ({"seed": 0.5}, r"Expected seed to be a whole number in .*, got 0\.5"),
        ({"frame_size": 0}, r"Expected frame_size .* in \[1, .*, got 0"),
        ({"frame_skip": 0}, r"Expected frame_skip .* in \[1, .*, got 0"),
        ({"frame_skip": True}, "Expected frame_skip .*, got True"),
        ({"max_noops": -1}, r"Expected max_noops .* in \[0, .*, got -1"),
        ({"max_frames": 0}, r"Expected max_frames .* in \[1, .*, got 0"),
        ({"max_frames": 2**31}, "Expected max_frames .*, got 2147483648"),
        (
            {"repeat_action_probability": 1.5},
            r"Expected repeat_action_probability .* in \[0, 1\], got 1\.5",
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_impossible_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_atari_env(**{"game": "Pong", "seed": 0, **options})


class ScriptedEmulator:
    """Stands for ALE's vector environment: lives, game over and cuts as written."""

    def __init__(self, script: list[tuple[int, bool, bool]]) -> None:
        self.ale = SimpleNamespace(
            get_observation_shape=lambda: (1, 2, 2, 3), get_action_set=lambda: [0, 1]
        )
        self.script = iter(script)

    def recv(self) -> tuple[Any, ...]:
        lives, over, cut = next(self.script)
        frame = np.zeros((1, 1, 2, 2, 3), np.uint8)
        info = {"lives": np.array([lives])}
        return frame, np.zeros(1), np.array([over]), np.array([cut]), info

    def reset(self, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        del seed
        frame, *_, info = self.recv()
        return frame, info

    def send(self, action: np.ndarray) -> None:
        pass

    def close(self) -> None:
        pass


PLAY, OVER, CUT = (False, False), (True, False), (False, True)


@pytest.mark.parametrize(
    ("first", "second", "ends"),
    [
        ([(3, *PLAY), (4, *PLAY), (3, *PLAY)], [], [False, True]),
        ([(0, *PLAY), (0, *PLAY), (0, *OVER)], [], [False, True]),
        (
            [(3, *PLAY), (4, *CUT)],
            [(3, *PLAY), (3, *PLAY)],
            [False, False],
        ),
    ],
    ids=["a bonus life", "no lives", "fewer lives in the next episode"],
)
def test_a_life_ends_when_one_is_lost_or_the_game_is_over(
    first: list[tuple[int, bool, bool]],
    second: list[tuple[int, bool, bool]],
    ends: list[bool],
) -> None:
    env = AtariEnv(ScriptedEmulator(first + second))  # type: ignore[arg-type]
    action = TensorDict(action=torch.tensor([True, False]))
    seen = []
    for episode in filter(None, (first, second)):
        env.reset()
        for _ in episode[1:]:
            seen.append(env.step(action.clone())["next", "end-of-life"].item())
    assert seen == ends
