"""The end of a run: its scores, its ``result.json`` and its curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from torchrl.envs import ExplorationType
from tqdm import tqdm

from drama_torchrl.agent import Agent
from drama_torchrl.config import DramaConfig
from drama_torchrl.evaluation import evaluate
from drama_torchrl.factories import make_atari, make_policy
from drama_torchrl.record.curve import plot_learning_curve
from drama_torchrl.record.journal import Journal
from drama_torchrl.record.run_directory import RunDirectory, provenance
from drama_torchrl.record.scores import human_normalized, reference_scores

__all__ = ["final_scores", "score_run", "summarize"]

EVALUATION_SEED = 1_000_003
"""Episodes of the final score are seeded from here on, away from those of training."""


def summarize(game: str, returns: Sequence[float]) -> dict[str, Any]:
    """Mean return and human-normalised score of some episodes.

    Args:
        game: name of the game.
        returns: one per episode.

    Returns:
        ``episodes``, ``mean`` (None of none), ``human_normalized`` (None also outside
        the 26 games of Atari100k) and the ``returns`` themselves.

    Example:
        >>> scores = summarize("Boxing", [10.0, 14.0])
        >>> scores["mean"], round(scores["human_normalized"], 2)
        (12.0, 1.0)
    """
    mean = sum(returns) / len(returns) if returns else None
    return {
        "episodes": len(returns),
        "mean": mean,
        "human_normalized": human_normalized(game, mean),
        "returns": list(returns),
    }


def final_scores(
    config: DramaConfig, agent: Agent, *, episodes: int, exploration: ExplorationType
) -> dict[str, Any]:
    """Play complete episodes with a frozen agent and summarise them.

    Args:
        config: names the game and the way of acting.
        agent: the agent; it does not change.
        episodes: number of episodes; 0 plays none.
        exploration: RANDOM draws actions, DETERMINISTIC takes the likeliest ones.

    Returns:
        As :func:`summarize`.
    """
    if episodes == 0:
        return summarize(config.env.game, [])
    results = evaluate(
        lambda: make_atari(config, seed=EVALUATION_SEED),
        lambda batch_size: make_policy(config, agent, batch_size=batch_size),
        episodes=episodes,
        seed=EVALUATION_SEED + config.seed * episodes,
        exploration_type=exploration,
    )
    shown = tqdm(
        results,
        total=episodes,
        unit="episode",
        desc=f"final score ({exploration.name.lower()})",
        disable=not config.log.progress,
    )
    return summarize(config.env.game, [result.return_ for result in shown])


def score_run(
    config: DramaConfig, agent: Agent, run: RunDirectory, journal: Journal
) -> dict[str, Any]:
    """Score a finished run by both measures and write its result and curve.

    The paper's measure is the mean return of the last five training episodes; the
    other is that of complete episodes played by the last checkpoint. ``result.json``
    is written before those are played too, so that an interruption loses nothing.

    Returns:
        What ``result.json`` holds.
    """
    game = config.env.game
    minutes = journal.minutes
    result: dict[str, Any] = {
        "game": game,
        "preset": config.preset,
        "seed": config.seed,
        "steps": journal.steps,
        "complete": journal.steps == config.training.total_steps,
        "training": summarize(game, [value for _, value in journal.episodes[-5:]]),
        "training_minutes": minutes,
        "steps_per_second": journal.steps / (60 * minutes),
        "provenance": provenance(agent.device),
        "config": asdict(config),
    }
    run.write_result(result)
    scores = reference_scores(game)
    references = {} if scores is None else scores._asdict()
    plot_learning_curve(journal.episodes, run.learning_curve, game=game, **references)
    episodes = config.evaluation
    for name, count, exploration in (
        ("sampled", episodes.episodes, ExplorationType.RANDOM),
        ("greedy", episodes.greedy_episodes, ExplorationType.DETERMINISTIC),
    ):
        result[name] = final_scores(
            config, agent, episodes=count, exploration=exploration
        )
        run.write_result(result)
    return result
