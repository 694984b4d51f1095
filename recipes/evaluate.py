"""Score a finished run's checkpoint again and film an episode.

    python recipes/evaluate.py runs/Pong-quick-seed1 evaluation.episodes=100

Options after the run directory change those of the run, for example
``execution.device=cpu`` or ``evaluation.greedy_episodes=0``. Writes
``evaluation.json``, with all options, and ``films/episode.gif`` beside the checkpoint;
what was there before is replaced. Reports count these episodes unless the run's own are
more. An agent that acts in another way than it was trained gets files of its own:
``acting.latent=prior`` writes ``evaluation-latent=prior.json`` and
``films/episode-latent=prior.gif``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torchrl.envs import ExplorationType

from drama_torchrl.agent import Agent
from drama_torchrl.config import (
    ConfigError,
    DramaConfig,
    config_from_dict,
    list_options,
)
from drama_torchrl.evaluation import record_episode
from drama_torchrl.factories import make_agent, make_atari, make_device, make_policy
from drama_torchrl.record.atomic import write_json
from drama_torchrl.record.checkpoint import CheckpointError, load_checkpoint
from drama_torchrl.record.film_files import save_gif
from drama_torchrl.record.origin import provenance
from drama_torchrl.record.result import EVALUATION_SEED, final_scores
from drama_torchrl.record.run_directory import RunDirectory
from drama_torchrl.seeding import seed_everything


def load_agent(
    run: RunDirectory, options: Sequence[str]
) -> tuple[DramaConfig, Agent, dict[str, Any]]:
    """Build a run's agent from its checkpoint alone, which is returned too."""
    state = load_checkpoint(run.checkpoint, "cpu")
    one_device = "execution.behaviour_device=auto"
    config = config_from_dict(state["config"], [one_device, *options])
    device = make_device(config.execution.device)
    agent = make_agent(config, state["num_actions"], device)
    try:
        agent.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{run.checkpoint}: expected weights of the networks that the options "
            f"describe, got others; drop {[*options]} or name another run."
        ) from error
    return config, agent, state


def way_of_acting(trained: Mapping[str, Any], config: DramaConfig) -> str:
    """Name what differs from how it acted in training, such as ``-latent=prior``."""
    before = asdict(config_from_dict(trained).acting)
    now = asdict(config.acting)
    return "".join(f"-{name}={now[name]}" for name in now if now[name] != before[name])


def main(arguments: Sequence[str]) -> dict[str, Any]:
    """Score and film the agent of a run directory; return what was written."""
    if not arguments or "=" in arguments[0]:
        raise ConfigError(
            "evaluate.py expects a run directory first, got "
            f"{arguments[0] if arguments else 'nothing'}; for example "
            "python recipes/evaluate.py runs/Boxing-xs-seed1"
        )
    run = RunDirectory(arguments[0])
    config, agent, state = load_agent(run, arguments[1:])
    seed_everything(config.seed)
    scores = {
        "game": config.env.game,
        "preset": config.preset,
        "seed": config.seed,
        "steps": state["step"],
        **dict(final_scores(config, agent)),
        "provenance": provenance(agent.device),
        "config": asdict(config),
    }
    way = way_of_acting(state["config"], config)
    write_json(run.evaluation.with_stem(run.evaluation.stem + way), scores)
    frames = record_episode(
        lambda: make_atari(config, seed=EVALUATION_SEED),
        lambda batch_size: make_policy(config, agent, batch_size=batch_size),
        seed=EVALUATION_SEED,
        exploration_type=ExplorationType.RANDOM,
    )
    run.films.mkdir(exist_ok=True)
    save_gif(frames, run.films / f"episode{way}.gif")
    return scores


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__, "Options:", *list_options(), sep="\n")
        sys.exit()
    try:
        main(sys.argv[1:])
    except ValueError as error:  # what this package says about bad input
        sys.exit(f"error: {error}")
