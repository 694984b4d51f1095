"""Train Drama on a game of Atari100k, from the first frame to a scored checkpoint.

    python recipes/drama_atari100k.py preset=quick env.game=Pong seed=1

Options are ``key=value``; ``drama_torchrl/options.py`` lists them. What a run leaves
behind is in ``runs/<game>-<preset>-seed<seed>``, unless ``run_dir`` says otherwise.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torchrl.envs import EnvBase

from drama_torchrl.agent import Agent
from drama_torchrl.config import DramaConfig, list_options, load_config
from drama_torchrl.estimate import warn_if_long
from drama_torchrl.factories import (
    check_environment,
    make_agent,
    make_collector,
    make_device,
    make_env,
    make_logger,
    make_policy,
    make_replay,
)
from drama_torchrl.record.checkpoint import save_checkpoint
from drama_torchrl.record.film_files import write_film
from drama_torchrl.record.journal import Journal
from drama_torchrl.record.result import score_run
from drama_torchrl.record.run_directory import RunDirectory
from drama_torchrl.seeding import seed_everything

REMEMBERED = [
    "pixels",
    "action",
    "is_init",
    ("next", "reward"),
    ("next", "end-of-life"),
]


def train(
    config: DramaConfig, agent: Agent, env: EnvBase, run: RunDirectory
) -> Journal:
    """Run the algorithm of the paper for one agent in one environment."""
    replay, contexts = make_replay(config, agent.device)
    collector = make_collector(config, env, make_policy(config, agent))
    journal = Journal(
        run,
        total_steps=config.training.total_steps,
        progress=config.log.progress,
        logger=make_logger(config, run.path),
    )
    with journal:
        for step, transition in enumerate(collector, start=1):
            # 1. Act, and remember the transition.
            replay.extend(transition.select(*REMEMBERED))
            journal.step(step, transition)
            if config.training.updates_at(step):
                # 2. Learn how the world goes.
                model = agent.learn_world_model(replay.sample().to(agent.device))
                # 3. Learn how to act in imagination.
                behaviour = agent.learn_behaviour(contexts.sample().to(agent.device))
                if step % config.log.every < config.training.steps_per_update:
                    metrics = {"world_model": model, "behaviour": behaviour}
                    journal.metrics(step, metrics)
            if step % config.log.checkpoint_every == 0:
                save_run(config, agent, run, step)
            if step % config.log.film_every == 0:
                film(agent, journal, run)
            if journal.minutes > config.training.max_minutes > 0:
                break
        collector.shutdown(close_env=False)
    return journal


def save_run(config: DramaConfig, agent: Agent, run: RunDirectory, step: int) -> None:
    """Write the checkpoint that ``recipes/evaluate.py`` scores again."""
    state: dict[str, Any] = {
        "step": step,
        "config": asdict(config),
        "num_actions": agent.num_actions,
    }
    save_checkpoint(run.checkpoint, state | agent.state_dict())


def film(agent: Agent, journal: Journal, run: RunDirectory) -> None:
    """Put the newest transitions beside what the world model imagines of them."""
    if journal.steps < 2:  # nothing would be seen, or nothing imagined
        return
    write_film(agent.world_model, journal.recent_sequence(), run, journal.steps)


def main(arguments: Sequence[str]) -> dict[str, Any]:
    """Train, score and write everything of one run; return its result."""
    config = load_config(overrides=arguments)
    check_environment(config)
    device = make_device(config.execution.device)
    seed_everything(config.seed)
    env = make_env(config, seed=config.seed)
    num_actions = env.action_spec.shape[-1]
    warn_if_long(config, num_actions=num_actions, device=device)
    run = RunDirectory.create(config.run_path, config)

    agent = make_agent(config, num_actions, device)
    journal = train(config, agent, env, run)
    save_run(config, agent, run, journal.steps)
    film(agent, journal, run)
    env.close()
    return score_run(config, agent, run, journal)


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__, "Options:", *list_options(), sep="\n")
        sys.exit()
    torch.set_float32_matmul_precision("high")
    try:
        main(sys.argv[1:])
    except ValueError as error:  # what this package says about bad input
        sys.exit(f"error: {error}")
