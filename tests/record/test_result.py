"""The scores of a run, by hand-known numbers and by real episodes."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensordict import TensorDict

from drama_torchrl.agent import Agent
from drama_torchrl.config import DramaConfig
from drama_torchrl.factories import make_agent
from drama_torchrl.record.journal import Journal
from drama_torchrl.record.result import final_scores, score_run, summarize
from drama_torchrl.record.run_directory import RunDirectory
from tests.reference.tiny import tiny_config

ALIEN_ACTIONS = 18


def alien(*overrides: str) -> DramaConfig:
    """Alien pays for nearly every step, so that scores differ within few."""
    return tiny_config(
        "env.game=Alien",
        "env.max_frames=160",
        "evaluation.episodes=2",
        "evaluation.greedy_episodes=1",
        "log.progress=false",
        "training.total_steps=900",
        *overrides,
    )


@pytest.fixture(scope="module")
def agent() -> Agent:
    torch.manual_seed(0)
    return make_agent(alien(), ALIEN_ACTIONS, torch.device("cpu"))


@pytest.mark.parametrize(
    ("game", "returns", "mean", "normalized"),
    [
        ("Boxing", [10.0, 14.0], 12.0, 1.0),
        ("Boxing", [0.0], 0.0, 0.0),
        # Random play loses by 21, a human wins by 15.
        ("Pong", [-21.0, 15.0, -3.0], -3.0, 0.5),
        ("Pong", [], None, None),
        # Not one of the 26 games.
        ("SpaceInvaders", [100.0, 300.0], 200.0, None),
    ],
    ids=["human", "random", "halfway", "none", "other game"],
)
def test_returns_are_summarized(
    game: str, returns: list[float], mean: float | None, normalized: float | None
) -> None:
    assert summarize(game, returns) == {
        "episodes": len(returns),
        "mean": mean,
        "human_normalized": normalized,
        "returns": returns,
    }


class TestFinalScores:
    def test_drawn_actions_come_first_and_both_counts_are_kept(
        self, agent: Agent
    ) -> None:
        scores = list(final_scores(alien(), agent))
        assert [name for name, _ in scores] == ["sampled", "greedy"]
        assert [values["episodes"] for _, values in scores] == [2, 1]
        for _, values in scores:
            mean = sum(values["returns"]) / len(values["returns"])
            assert values["mean"] == mean
            assert values["human_normalized"] == pytest.approx((mean - 228) / 6900)

    def test_the_seed_of_the_run_chooses_the_episodes(self, agent: Agent) -> None:
        def play(seed: int) -> list[float]:
            torch.manual_seed(0)
            config = alien(f"seed={seed}", "evaluation.greedy_episodes=0")
            return dict(final_scores(config, agent))["sampled"]["returns"]

        assert play(0) == play(0)
        assert play(0) != play(1)

    def test_no_greedy_episodes_are_no_score(self, agent: Agent) -> None:
        scores = dict(final_scores(alien("evaluation.greedy_episodes=0"), agent))
        assert scores["sampled"]["episodes"] == 2
        assert scores["greedy"] == summarize("Alien", [])

    def test_what_is_raised_meanwhile_ends_the_episodes(self, agent: Agent) -> None:
        steps = iter(range(100))

        def stop() -> None:
            if next(steps) == 3:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            list(final_scores(alien(), agent, meanwhile=stop))
        assert next(steps) == 4

    def test_the_agent_does_not_change(self, agent: Agent) -> None:
        before = copy.deepcopy(agent.state_dict())
        list(final_scores(alien(), agent))
        torch.testing.assert_close(agent.state_dict(), before, rtol=0, atol=0)


def journal_of(run: RunDirectory, returns: list[float], *, total: int) -> Journal:
    """A run of one step an episode."""
    with Journal(run, total_steps=total, progress=False) as journal:
        for step, value in enumerate(returns, start=1):
            journal.step(
                step,
                TensorDict(
                    {
                        "pixels": torch.zeros(1, 3, 2, 2, dtype=torch.uint8),
                        "action": torch.ones(1, 1, dtype=torch.bool),
                        "is_init": torch.ones(1, 1, dtype=torch.bool),
                        ("next", "done"): torch.ones(1, 1, dtype=torch.bool),
                        ("next", "episode_reward"): torch.tensor([[value]]),
                        ("next", "step_count"): torch.ones(1, 1, dtype=torch.long),
                    },
                    batch_size=[1],
                ),
            )
    return journal


RETURNS = [1000.0, 1.0, 2.0, 3.0, 4.0, 5.0]


class TestScoreRun:
    @pytest.mark.parametrize("complete", [True, False])
    def test_the_file_holds_what_is_returned(
        self, agent: Agent, tmp_path: Path, complete: bool
    ) -> None:
        config = alien(f"training.total_steps={402 if complete else 403}")
        run = RunDirectory.create(tmp_path / "run", config)
        journal = journal_of(run, RETURNS, total=config.training.total_steps)
        journal.steps = 402
        result = score_run(config, agent, run, journal)
        assert json.loads(run.result.read_text()) == result
        assert result["steps"] == 402
        assert result["complete"] is complete
        # The paper's measure: the last five.
        assert result["training"]["returns"] == [1.0, 2.0, 3.0, 4.0, 5.0]
        assert result["training"]["mean"] == 3.0
        assert result["sampled"]["episodes"] == 2
        assert result["greedy"]["episodes"] == 1
        with Image.open(run.learning_curve) as curve:
            curve.verify()

    def test_an_interruption_keeps_the_training_score(
        self, agent: Agent, tmp_path: Path
    ) -> None:
        # A game that cannot be played stands for whatever stops the final score.
        config = alien("env.game=NoSuchGame")
        run = RunDirectory.create(tmp_path / "run", config)
        journal = journal_of(run, RETURNS, total=6)
        with pytest.raises(ValueError, match="NoSuchGame"):
            score_run(config, agent, run, journal)
        result = json.loads(run.result.read_text())
        assert result["training"]["mean"] == 3.0
        assert "sampled" not in result
        assert run.learning_curve.is_file()
