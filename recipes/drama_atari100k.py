"""Train Drama on a game of Atari100k, from the first frame to a scored checkpoint.

    python recipes/drama_atari100k.py preset=quick env.game=Pong seed=1

Options are ``key=value``; ``drama_torchrl/options.py`` lists them. What a run leaves
behind is in ``runs/<game>-<preset>-seed<seed>``, unless ``run_dir`` says otherwise.
Interrupted, by SIGTERM or Ctrl-C (exit code 75) or by force, it goes on exactly with

    python recipes/drama_atari100k.py resume=RUN_DIR
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDictBase
from torchrl.envs import EnvBase

from drama_torchrl.agent import Agent
from drama_torchrl.config import DramaConfig, list_options
from drama_torchrl.estimate import warn_if_long
from drama_torchrl.factories import (
    check_environment,
    describe_replay,
    make_agent,
    make_collector,
    make_device,
    make_env,
    make_logger,
    make_policy,
    make_replay,
)
from drama_torchrl.parallel import ProcessFailedError, processes, rank
from drama_torchrl.record.divergence import stop_if_diverged
from drama_torchrl.record.film_files import write_film
from drama_torchrl.record.journal import Journal
from drama_torchrl.record.result import score_run
from drama_torchrl.record.resuming import open_run, read_arguments
from drama_torchrl.record.run_directory import RunDirectory
from drama_torchrl.record.run_state import ActingState, ReplayState, SamplerState
from drama_torchrl.record.safeguard import Safeguard
from drama_torchrl.record.snapshot import Snapshots, discard_snapshots
from drama_torchrl.record.stopping import RunStopped, StopSignals
from drama_torchrl.record.write_errors import Stop, make_write_errors
from drama_torchrl.seeding import (
    RandomState,
    prefer_repeatable_kernels,
    seed_alike,
    seed_apart,
    seed_everything,
)
from drama_torchrl.team import Team

REMEMBERED = [
    "pixels",
    "action",
    "is_init",
    ("next", "reward"),
    ("next", "end-of-life"),
]


def train(
    config: DramaConfig,
    agent: Agent,
    env: EnvBase,
    run: RunDirectory,
    stop: StopSignals,
) -> Journal:
    """Run the algorithm of the paper for one agent in one environment.

    Of several processes, the first one plays, writes and returns; the others learn with
    it, each on its share of every batch, and exit.
    """
    replay, contexts = make_replay(config, agent.device)
    samplers = SamplerState(replay, contexts)
    batches: dict[str, TensorDictBase] = {}  # of this step's updates
    metrics: dict[str, TensorDictBase] = {}
    team = Team(agent, ReplayState(replay), samplers)
    remember = team.everywhere(replay.add)

    @team.everywhere
    def learn(step: int) -> None:
        """Train on the past, on the device."""
        seed_alike(config.seed, step)
        windows, starts = replay.sample(), contexts.sample()
        seed_apart(config.seed, step)
        batches.update(windows=windows, contexts=starts)
        # 2. Learn how the world goes; 3. learn how to act in imagination.
        metrics.update(agent.learn(windows, starts))

    def meanwhile() -> None:
        """Learn while the environment takes a step."""
        step = journal.steps + 1
        if config.training.updates_at(step):
            with safeguard.indivisible():
                learn(step)

    with team:
        team.follow()
        write_errors = make_write_errors(config, run)
        journal = Journal(
            run,
            total_steps=config.training.total_steps,
            progress=config.log.progress,
            logger=make_logger(config, run.path),
            write_errors=write_errors,
        )
        policy = make_policy(config, agent, meanwhile=meanwhile)
        collector = make_collector(config, env, policy)
        snapshots = Snapshots(
            run,
            config,
            agent,
            replay,
            journal,
            write_errors=write_errors,
            acting=ActingState(collector, policy.memory),
            samplers=samplers,
            random=RandomState(),
        )
        safeguard = Safeguard(snapshots)
        with journal:
            done = snapshots.restore()  # 0 in a new run
            stop.check()
            team.align()
            collected = safeguard.steps(collector)
            for step, transition in enumerate(collected, start=done + 1):
                # 1. Act, and remember the transition.
                remember(transition.select(*REMEMBERED)[0])
                journal.step(step, transition)
                logged = step % config.log.every < config.training.steps_per_update
                if metrics and logged:
                    row = journal.metrics(step, metrics)
                    stop_if_diverged(
                        run,
                        step,
                        row,
                        batches,
                        limit=config.training.max_lost_updates,
                    )
                metrics.clear()
                batches.clear()
                with write_errors.during("a film"):
                    film(agent, journal, run, every=config.log.film_every)
                # Last, so that a run goes on with the next step.
                if stop.requested or step % config.log.checkpoint_every == 0:
                    snapshots.save(step)
                    stop.check()
                if journal.minutes > config.training.max_minutes > 0:
                    break
            snapshots.save(journal.steps)
            collector.shutdown(close_env=False)
    return journal


def film(agent: Agent, journal: Journal, run: RunDirectory, every: int = 1) -> None:
    """Put the newest transitions beside what the world model imagines of them."""
    if journal.steps % every:
        return
    if journal.steps < 2:  # nothing would be seen, or nothing imagined
        return
    write_film(agent.world_model, journal.recent_sequence(), run, journal.steps)


def main(arguments: Sequence[str]) -> dict[str, Any]:
    """Train, score and write everything of one run; return its result."""
    config, resumed = read_arguments(arguments)
    if config.execution.deterministic:
        prefer_repeatable_kernels()
    device = make_device(config.execution.device)
    with StopSignals(config.run_path) as stop, processes(device):
        check_environment(config)
        seed_everything(config.seed)
        env = make_env(config, seed=config.seed)
        num_actions = env.action_spec.shape[-1]
        description = describe_replay(config, num_actions, device)
        if rank() == 0:
            print(description)
        warn_if_long(config, num_actions=num_actions, device=device)
        with open_run(config, resumed=resumed) as run:
            agent = make_agent(config, num_actions, device)
            # The first process alone returns.
            journal = train(config, agent, env, run, stop)
            env.close()
            with Stop(run).during("the result"):
                film(agent, journal, run)
                result = score_run(config, agent, run, journal, meanwhile=stop.check)
            if result["complete"]:
                discard_snapshots(run)
    return result


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__, "Options:", *list_options(), sep="\n")
        sys.exit()
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True  # the sizes never change
    try:
        main(sys.argv[1:])
    except RunStopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.exit_code)
    except (ValueError, ProcessFailedError) as error:  # what this package says itself
        sys.exit("\n".join([f"error: {error}", *getattr(error, "__notes__", [])]))
