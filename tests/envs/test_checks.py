"""Broken transitions are refused with what was expected, what came and what to do."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Bounded, Composite, Unbounded
from torchrl.envs import EnvBase, SerialEnv, TransformedEnv
from torchrl.envs.utils import check_env_specs

from drama_torchrl.envs.checks import CheckTransition


class ScriptedEnv(EnvBase):
    """Returns the frames and rewards it was given, one a step."""

    def __init__(self, frames: list[torch.Tensor], rewards: list[float]) -> None:
        super().__init__(device="cpu")
        self.frames, self.rewards = frames, rewards
        self.observation_spec = Composite(
            pixels=Unbounded(frames[0].shape, dtype=frames[0].dtype)
        )
        self.action_spec = Bounded(-1.0, 1.0, (1,))
        self.reward_spec = Unbounded((1,))

    def _reset(self, tensordict: TensorDictBase | None) -> TensorDict:
        self.time = 0
        return TensorDict({"pixels": self.frames[0]})

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        self.time += 1
        return TensorDict(
            {
                "pixels": self.frames[self.time],
                "reward": torch.tensor([self.rewards[self.time - 1]]),
                "done": torch.tensor([False]),
            }
        )

    def _set_seed(self, seed: int | None) -> None:
        pass


GOOD = torch.zeros(3, 8, 8, dtype=torch.uint8)


def checked(frames: list[torch.Tensor], rewards: list[float]) -> TransformedEnv:
    return TransformedEnv(ScriptedEnv(frames, rewards), CheckTransition((3, 8, 8)))


def test_good_transitions_pass_unchanged() -> None:
    frames = [GOOD + step for step in range(4)]
    rewards = [-1.0, 0.0, 300.0]
    rollout = checked(frames, rewards).rollout(3)
    assert torch.equal(rollout["next", "pixels"], torch.stack(frames[1:]))
    assert rollout["next", "reward"].flatten().tolist() == rewards


def test_the_transform_keeps_torchrls_contract() -> None:
    check_env_specs(checked([GOOD] * 4, [0.0] * 3))


@pytest.mark.parametrize(
    ("reward", "got"),
    [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")],
)
def test_a_reward_that_is_not_finite_is_refused(reward: float, got: str) -> None:
    env = checked([GOOD] * 4, [0.0, reward, 0.0])
    with pytest.raises(
        ValueError, match=rf"Expected 'reward' to be a finite number, got \[{got}\]"
    ):
        env.rollout(3)
    assert env.base_env.time == 2


@pytest.mark.parametrize(
    ("frame", "got"),
    [
        (torch.zeros(8, 8, 3, dtype=torch.uint8), r"torch.uint8 of shape \(8, 8, 3\)"),
        (torch.zeros(3, 9, 8, dtype=torch.uint8), r"torch.uint8 of shape \(3, 9, 8\)"),
        (torch.zeros(3, 8, 8), r"torch.float32 of shape \(3, 8, 8\)"),
    ],
    ids=["channels_last", "another_size", "another_dtype"],
)
@pytest.mark.parametrize("time", [0, 2], ids=["at_reset", "at_step"])
def test_another_frame_is_refused(frame: torch.Tensor, got: str, time: int) -> None:
    frames = [GOOD] * 4
    frames[time] = frame
    with pytest.raises(
        ValueError,
        match=rf"uint8 frame of shape \(3, 8, 8\), got {got}\. Resize or permute",
    ):
        checked(frames, [0.0] * 3).rollout(3)


def test_a_missing_frame_names_the_keys_there_are() -> None:
    env = TransformedEnv(
        ScriptedEnv([GOOD], []), CheckTransition((3, 8, 8), pixels_key="image")
    )
    with pytest.raises(ValueError, match=r"'image' .* no such key among .*'pixels'"):
        env.reset()


def test_a_missing_reward_is_refused() -> None:
    check = CheckTransition((3, 8, 8), reward_key=("agent", "reward"))
    env = TransformedEnv(ScriptedEnv([GOOD] * 2, [0.0]), check)
    with pytest.raises(ValueError, match=r"\('agent', 'reward'\).* got no such key"):
        env.rollout(1)


def test_one_bad_environment_of_a_batch_is_found() -> None:
    scripts = [[0.0, 0.0], [0.0, math.nan]]
    batch = SerialEnv(2, [lambda r=r: ScriptedEnv([GOOD] * 3, r) for r in scripts])
    env = TransformedEnv(batch, CheckTransition((3, 8, 8)))
    env.rollout(1)
    with pytest.raises(ValueError, match=r"got \[0.0, nan\]"):
        env.rollout(2)
    env.close()
