"""The end of a run: its scores, its ``result.json`` and its curve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from drama_torchrl.record.origin import provenance
from drama_torchrl.record.run_directory import RunDirectory
from drama_torchrl.record.scores import human_normalized, reference_scores

__all__ = ["EVALUATION_SEED", "final_scores", "score_run", "summarize"]

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
    config: DramaConfig, agent: Agent, **options: Any
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Play complete episodes with a frozen agent: actions drawn, then the likeliest.

    Args:
        config: names the game, the way of acting and the numbers of episodes.
        agent: the agent; it does not change.
        options: ``meanwhile`` of the policy, called at each step of the environments;
            what it raises ends the episodes.

    Yields:
        ``"sampled"`` and ``"greedy"``, each with what :func:`summarize` returns, as
        soon as its episodes are played.
    """
    episodes = config.evaluation
    for name, count, exploration in (
        ("sampled", episodes.episodes, ExplorationType.RANDOM),
        ("greedy", episodes.greedy_episodes, ExplorationType.DETERMINISTIC),
    ):
        yield (
            name,
            summarize(
                config.env.game,
                _play(config, agent, count, exploration, options) if count else [],
            ),
        )


def _play(
    config: DramaConfig,
    agent: Agent,
    episodes: int,
    exploration: ExplorationType,
    options: Mapping[str, Any],
) -> list[float]:
    results = evaluate(
        lambda: make_atari(config, seed=EVALUATION_SEED),
        lambda batch_size: make_policy(config, agent, batch_size=batch_size, **options),
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
    return [result.return_ for result in shown]


def score_run(
    config: DramaConfig,
    agent: Agent,
    run: RunDirectory,
    journal: Journal,
    **options: Any,
) -> dict[str, Any]:
    """Score a finished run by both measures and write its result and curve.

    The paper's measure is the mean return of the last five training episodes; the
    other is that of complete episodes played by the last checkpoint. ``result.json``
    is written before those are played too, so that an interruption loses nothing.

    Args:
        config: options of the run.
        agent: as it was trained; it does not change.
        run: where the result goes.
        journal: of the training.
        options: as for :func:`final_scores`.

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
        "devices": journal.processes * agent.num_devices,
        "provenance": provenance(agent.device),
        "config": asdict(config),
    }
    run.write_result(result)
    known = reference_scores(game)
    references = {} if known is None else known._asdict()
    plot_learning_curve(journal.episodes, run.learning_curve, game=game, **references)
    for name, scores in final_scores(config, agent, **options):
        result[name] = scores
        run.write_result(result)
    return result
