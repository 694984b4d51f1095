"""Episodes are counted as they start, whoever shares the table with them."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import (
    InteractionType,
    ProbabilisticTensorDictModule,
    TensorDictModule,
    TensorDictModuleBase,
    TensorDictSequential,
)
from tensordict.utils import NestedKey
from torchrl.data import Binary, Composite, OneHot, Unbounded
from torchrl.envs import (
    EnvBase,
    ExplorationType,
    StepCounter,
    TransformedEnv,
    exploration_type,
)
from torchrl.modules import OneHotCategorical

from drama_torchrl.envs import make_atari_env
from drama_torchrl.evaluation import EpisodeResult, evaluate, record_episode
from drama_torchrl.factories import make_agent, make_policy, with_agent_transforms
from tests.reference.tiny import FRAME, tiny_config

ACTIONS = 5


def length_of(seed: int) -> int:
    """Even episodes are short, odd ones long."""
    return 7 + seed if seed % 2 else 2


class CountingEnv(EnvBase):
    """Rewards action t mod A at step t; the seed decides the length.

    The frame shows the step in its first channel and the seed in its second one.
    """

    made: ClassVar[list[CountingEnv]] = []

    def __init__(self, *, breaks_at: int = -1) -> None:
        super().__init__(batch_size=[])
        flag = Binary(shape=(1,), dtype=torch.bool)
        self.observation_spec = Composite(
            {"pixels": Unbounded((3, 2, 2), dtype=torch.uint8)}
        )
        self.action_spec = OneHot(ACTIONS, dtype=torch.bool)
        self.reward_spec = Unbounded((1,))
        self.full_done_spec = Composite(
            {"done": flag, "terminated": flag.clone(), "truncated": flag.clone()}
        )
        self.is_closed = False
        self.seed = -1
        self.breaks_at = breaks_at
        self.steps_played = 0
        self.made.append(self)

    def _set_seed(self, seed: int | None) -> None:
        self.seed = -1 if seed is None else seed

    def _frame(self) -> torch.Tensor:
        frame = torch.zeros(3, 2, 2, dtype=torch.uint8)
        frame[0], frame[1] = self.step_count, self.seed
        return frame

    def _reset(
        self, tensordict: TensorDictBase | None = None, **kwargs: Any
    ) -> TensorDictBase:
        del tensordict, kwargs
        self.step_count = 0
        return TensorDict(pixels=self._frame())

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        if self.seed == self.breaks_at:
            raise RuntimeError("the game hung")
        assert self.step_count < length_of(self.seed), "a finished episode was stepped"
        right = bool(tensordict["action"][self.step_count % ACTIONS])
        self.step_count += 1
        self.steps_played += 1
        over = torch.tensor([self.step_count == length_of(self.seed)])
        return TensorDict(
            pixels=self._frame(),
            reward=torch.tensor([float(right)]),
            done=over,
            terminated=over.clone(),
            truncated=torch.zeros_like(over),
        )


class CountingPolicy(TensorDictModuleBase):
    """Counts steps from ``is_init`` on, without looking: right only if that is."""

    in_keys: ClassVar[list[NestedKey]] = ["is_init"]
    out_keys: ClassVar[list[NestedKey]] = ["action"]

    def __init__(self, size: int) -> None:
        super().__init__()
        self.steps = torch.full((size,), 3)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        is_init = tensordict["is_init"].squeeze(-1)
        self.steps = torch.where(is_init, 0, self.steps)
        action = torch.eye(ACTIONS).bool()[self.steps % ACTIONS]
        self.steps = self.steps + 1
        return tensordict.set("action", action)


@pytest.fixture(autouse=True)
def _no_environments_yet() -> None:
    CountingEnv.made.clear()


def play(episodes: int, max_parallel: int = 8, seed: int = 10) -> list[EpisodeResult]:
    results = evaluate(
        CountingEnv,
        CountingPolicy,
        episodes=episodes,
        seed=seed,
        exploration_type=ExplorationType.RANDOM,
        max_parallel=max_parallel,
    )
    return list(results)


@pytest.mark.parametrize("max_parallel", [1, 2, 3, 8])
@pytest.mark.parametrize("episodes", [1, 2, 7])
def test_exactly_the_first_episodes_that_start_are_counted(
    episodes: int, max_parallel: int
) -> None:
    expected = [
        EpisodeResult(float(length_of(seed)), length_of(seed), seed)
        for seed in range(10, 10 + episodes)
    ]
    assert play(episodes, max_parallel) == expected
    assert len(CountingEnv.made) == min(episodes, max_parallel)
    played = sum(env.steps_played for env in CountingEnv.made)
    assert played == sum(result.length for result in expected)


def test_a_wrong_start_of_an_episode_would_cost_return() -> None:
    class Unaware(CountingPolicy):
        def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
            tensordict["is_init"] = torch.zeros_like(tensordict["is_init"])
            return super().forward(tensordict)

    result = next(
        evaluate(
            CountingEnv,
            Unaware,
            episodes=1,
            seed=0,
            exploration_type=ExplorationType.RANDOM,
        )
    )
    assert result.return_ == 0.0


def test_transforms_of_an_environment_are_kept() -> None:
    results = evaluate(
        lambda: with_agent_transforms(CountingEnv(), frame_size=2),
        CountingPolicy,
        episodes=5,
        seed=10,
        exploration_type=ExplorationType.RANDOM,
        max_parallel=2,
    )
    assert list(results) == play(5)
    wrong_size = evaluate(
        lambda: with_agent_transforms(CountingEnv(), frame_size=3),
        CountingPolicy,
        episodes=1,
        seed=10,
        exploration_type=ExplorationType.RANDOM,
    )
    with pytest.raises(ValueError, match=r"of shape \(3, 3, 3\)"):
        next(wrong_size)


@pytest.mark.parametrize("drawn", [True, False], ids=["drawn", "greedy"])
def test_actions_are_drawn_or_the_likeliest(drawn: bool) -> None:
    # Action 0 is likeliest at every step; it is right at every fifth.
    logits = torch.tensor([0.1, 0.0, 0.0, 0.0, 0.0])
    policy = TensorDictSequential(
        TensorDictModule(
            lambda pixels: logits.expand(len(pixels), -1), ["pixels"], ["logits"]
        ),
        ProbabilisticTensorDictModule(
            ["logits"],
            ["action"],
            distribution_class=OneHotCategorical,
            default_interaction_type=InteractionType.RANDOM,
        ),
    )
    kind = ExplorationType.RANDOM if drawn else ExplorationType.DETERMINISTIC
    results = evaluate(
        CountingEnv, lambda n: policy, episodes=6, seed=1, exploration_type=kind
    )
    greedy = [-(-length_of(seed) // ACTIONS) for seed in range(1, 7)]
    assert ([result.return_ for result in results] != greedy) == drawn


def test_a_paused_evaluation_leaves_the_callers_settings_alone() -> None:
    results = evaluate(
        CountingEnv,
        CountingPolicy,
        episodes=3,
        seed=0,
        exploration_type=ExplorationType.RANDOM,
        max_parallel=1,
    )
    before = exploration_type()
    assert before is not ExplorationType.RANDOM
    next(results)
    assert exploration_type() is before
    assert torch.is_grad_enabled()


def test_results_come_while_later_episodes_wait() -> None:
    results = evaluate(
        CountingEnv,
        CountingPolicy,
        episodes=100,
        seed=0,
        exploration_type=ExplorationType.RANDOM,
        max_parallel=2,
    )
    assert not CountingEnv.made
    assert next(results).seed == 0
    assert sum(env.steps_played for env in CountingEnv.made) == 2 * length_of(0)
    assert not any(env.is_closed for env in CountingEnv.made)
    del results
    assert len(CountingEnv.made) == 2
    assert all(env.is_closed for env in CountingEnv.made)


def test_a_broken_environment_closes_all() -> None:
    results = evaluate(
        lambda: CountingEnv(breaks_at=3),
        CountingPolicy,
        episodes=6,
        seed=0,
        exploration_type=ExplorationType.RANDOM,
        max_parallel=3,
    )
    with pytest.raises(RuntimeError, match="the game hung"):
        list(results)
    assert len(CountingEnv.made) == 3
    assert all(env.is_closed for env in CountingEnv.made)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"episodes": 0}, "episodes of 1 or more, got 0"),
        ({"episodes": 1, "max_parallel": 0}, "max_parallel of 1 or more, got 0"),
    ],
    ids=["episodes", "parallel"],
)
def test_impossible_numbers_are_refused_at_once(
    numbers: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(
            CountingEnv,
            CountingPolicy,
            seed=0,
            exploration_type=ExplorationType.RANDOM,
            **numbers,
        )


@pytest.mark.parametrize(("max_steps", "expected"), [(50, 10), (4, 4)])
def test_an_episode_is_filmed_from_its_first_frame(
    max_steps: int, expected: int
) -> None:
    frames = record_episode(
        CountingEnv,
        CountingPolicy,
        seed=3,
        exploration_type=ExplorationType.RANDOM,
        max_steps=max_steps,
    )
    assert frames.dtype is torch.uint8
    assert frames[:, 0, 0, 0].tolist() == list(range(expected))
    assert (frames[:, 1] == 3).all()
    assert CountingEnv.made[0].is_closed


def test_filming_needs_a_step() -> None:
    with pytest.raises(ValueError, match="max_steps of 1 or more, got 0"):
        record_episode(
            CountingEnv,
            CountingPolicy,
            seed=3,
            exploration_type=ExplorationType.RANDOM,
            max_steps=0,
        )


def test_a_transform_around_a_split_step_still_counts() -> None:
    results = evaluate(
        lambda: TransformedEnv(
            make_atari_env("Boxing", seed=0, frame_size=FRAME), StepCounter(max_steps=3)
        ),
        lambda n: TensorDictModule(
            lambda pixels: torch.eye(18).bool()[: len(pixels)], ["pixels"], ["action"]
        ),
        episodes=2,
        seed=5,
        exploration_type=ExplorationType.RANDOM,
    )
    assert [result.length for result in results] == [3, 3]


def test_atari_repeats_itself_and_the_split_step_changes_nothing() -> None:
    config = tiny_config()

    def make_bare() -> EnvBase:
        return make_atari_env("Boxing", seed=0, frame_size=FRAME, max_frames=320)

    def make_wrapped() -> EnvBase:
        return with_agent_transforms(make_bare(), frame_size=FRAME)

    def run(factory: Any) -> list[EpisodeResult]:
        torch.manual_seed(0)
        # Untrained, its actions are nearly uniform: they depend on every draw.
        agent = make_agent(config, 18, torch.device("cpu"))
        results = evaluate(
            factory,
            lambda n: make_policy(config, agent, batch_size=n),
            episodes=3,
            seed=5,
            exploration_type=ExplorationType.RANDOM,
            max_parallel=2,
        )
        return list(results)

    first = run(make_bare)
    assert [result.seed for result in first] == [5, 6, 7]
    assert len({result.return_ for result in first}) > 1
    assert run(make_bare) == first
    assert run(make_wrapped) == first
