"""Does imagination bring what reality brings? Rewards and ends of a trained agent.

    python -m benchmarks.calibration runs/CrazyClimber-xs-seed1 --steps 15000 \
        --out calibration.json

Plays the run's game with drawn actions, on the CPU, and compares the transitions, those
of the way the agent plays now, with

- ``seen``: what the world model says of each, from the frames up to its action, in
  windows of training's length;
- ``imagined``: rollouts from contexts among them, beside what came after each context;
- ``losses``: the world model's on these windows, ``fresh``, beside those it logged at
  the end of its ``training``, where it had seen each frame many times;
- ``values``: the critic's, beside the discounted rewards that came until the life was
  lost, which are those it should have learned, and the root mean square ``error``;
  ``at_ends`` where the life is lost;
- ``lives``: steps and reward of an episode's first life, second, third ...

An end is what the world model learned as such: on Atari a lost life or the game's end.
``likeliest`` are ends of probability above ½, the paper's prediction (eq. 5);
``probability`` is the mean of what the head says, ``found`` the share of real ends that
were likeliest. ``within`` counts rollouts in which an end comes before the horizon
does. Further options change those of the run.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs import ExplorationType, set_exploration_type

from drama_torchrl.agent import Agent
from drama_torchrl.config import DramaConfig
from drama_torchrl.factories import make_env, make_policy
from drama_torchrl.modules import WorldModel, evaluating
from drama_torchrl.objectives import LambdaReturns, WorldModelLoss, lambda_returns
from drama_torchrl.record.atomic import write_json
from drama_torchrl.record.origin import provenance
from drama_torchrl.record.run_directory import RunDirectory
from drama_torchrl.seeding import seed_everything
from drama_torchrl.updates import BehaviourUpdate, WorldModelUpdate
from recipes.evaluate import load_agent

__all__ = [
    "judge_imagined",
    "judge_lives",
    "judge_losses",
    "judge_seen",
    "judge_values",
    "main",
    "play",
]

_AT_ONCE = 64
_LOSSES = ("loss_reconstruction", "loss_reward", "loss_termination", "kl")
_ROWS = 100
_SEEN = ("pixels", "action", "is_init")
_END = ("next", "end-of-life")


def play(config: DramaConfig, agent: Agent, steps: int, seed: int) -> TensorDictBase:
    """Play on through episodes: transitions ``[steps]`` on the CPU."""
    env = make_env(config, seed=seed)
    policy = make_policy(config, agent)
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        rollout = env.rollout(steps, policy, break_when_any_done=False)
    env.close()
    kept: TensorDictBase = rollout.select(*_SEEN, ("next", "reward"), _END)
    return kept.reshape(steps).cpu()


@torch.no_grad()
def judge_seen(
    world_model: WorldModel, played: TensorDictBase, window: int
) -> dict[str, float | None]:
    """Compare real outcomes with what is said of them after their actions.

    Args:
        world_model: of the agent.
        played: transitions ``[T]``; a last, shorter window is left out.
        window: steps T of a sequence.
    """
    windows, head = _cut(played, window), world_model.reward_head
    _, belief = _follow(world_model, windows)
    odd, real = _odds(world_model, belief), windows[_END]
    return {
        "reward": windows["next", "reward"].mean().item(),
        "predicted_reward": head.decode(head(belief)).float().mean().item(),
        **_compare(real.float(), odd, (odd > 0.5).float()),
        "found": _mean((odd > 0.5)[real]),
    }


def judge_imagined(
    update: BehaviourUpdate, played: TensorDictBase, contexts: int, length: int
) -> dict[str, Any]:
    """Compare imagined rollouts with what came after their contexts.

    Args:
        update: of the behaviour.
        played: transitions ``[T]``.
        contexts: number of rollouts, from different steps.
        length: steps of a context.
    """
    horizon, world_model = update.horizon, update.env.world_model
    starts = torch.randperm(len(played) - length - horizon + 1)[:contexts]
    later = played[starts[:, None] + torch.arange(length, length + horizon)]
    rewards, odds = [], []
    for some in starts.split(_AT_ONCE):
        context = played[some[:, None] + torch.arange(length)]
        rollout = update.imagine(context.select(*_SEEN))
        rewards.append(rollout["next", "reward"].float())
        odds.append(_odds(world_model, rollout["next", "belief"]))
    odd, real = torch.cat(odds).squeeze(-1), later[_END].squeeze(-1)
    return {
        "contexts": len(starts),
        "horizon": horizon,
        "reward": later["next", "reward"].mean().item(),
        "imagined_reward": torch.cat(rewards).mean().item(),
        **_compare(real.float(), odd, (odd > 0.5).float()),
        "within": _compare(
            real.any(1).float(), 1 - (1 - odd).prod(1), (odd > 0.5).any(1).float()
        ),
    }


def judge_losses(
    loss: WorldModelLoss, played: TensorDictBase, window: int
) -> dict[str, float]:
    """Compute the world model's losses on transitions it was not trained on.

    Args:
        loss: of the world model.
        played: transitions ``[T]``; a last, shorter window is left out.
        window: steps T of a sequence.
    """
    windows = _cut(played, window)
    sums = dict.fromkeys(_LOSSES, 0.0)
    with torch.no_grad(), evaluating(loss):
        for some in windows.split(_AT_ONCE):
            found = loss(some)
            for name in _LOSSES:
                sums[name] += found[name].item() * len(some)
    return {name: value / len(windows) for name, value in sums.items()}


@torch.no_grad()
def judge_values(
    world_model: WorldModel, returns: LambdaReturns, played: TensorDictBase, window: int
) -> dict[str, float | None]:
    """Compare values with the discounted rewards of the rest of the life.

    Args:
        world_model: of the agent.
        returns: has the critic and the discount.
        played: transitions ``[T]``; steps after the last end are left out, and the
            first of each window, before which nothing was seen.
        window: steps T of a sequence.
    """
    reward, ends = played["next", "reward"][None], played[_END][None]
    nothing = torch.zeros(1, len(played) + 1, 1)
    real = lambda_returns(
        nothing, reward, ends, discount=returns.discount, trace_decay=1.0
    )
    whole = ends.flip(1).cumsum(1).flip(1) > 0
    steps = TensorDict(
        {"real": real[0], "whole": whole[0], "end": ends[0]}, [len(played)]
    )
    outcome = _cut(steps, window)[:, 1:]
    latent, belief = _follow(world_model, _cut(played, window))
    state = {"latent": latent[:, 1:], "belief": belief[:, :-1]}
    value = returns.critic(TensorDict(state, outcome.shape))["state_value"]
    whole = outcome["whole"]
    error = (value - outcome["real"]).square()
    return {
        "value": _mean(value[whole]),
        "return": _mean(outcome["real"][whole]),
        "error": _mean(error[whole], 0.5),
        "at_ends": _mean(value[outcome["end"]]),
    }


def judge_lives(played: TensorDictBase) -> list[dict[str, float]]:
    """Take the mean steps and reward of first lives, of second ones, and so on.

    Args:
        played: transitions ``[T]`` from an episode's start on; the last life, cut short
            by the end of play, is left out.
    """
    starts, ends = played["is_init"].flatten(), played[_END].flatten()
    begins = starts.clone()
    begins[1:] |= ends[:-1]
    life, episode = begins.cumsum(0) - 1, starts.cumsum(0) - 1
    order = (life - life[starts][episode])[begins][:-1]
    steps = life.bincount()[:-1]
    reward = life.bincount(played["next", "reward"].flatten())[:-1]
    return [
        {
            "lives": int(of.sum()),
            "steps": steps[of].double().mean().item(),
            "reward": reward[of].double().mean().item(),
        }
        for of in (order == place for place in order.unique())
    ]


def _read_losses(run: RunDirectory) -> dict[str, float]:
    if not run.metrics.is_file():
        raise FileNotFoundError(
            f"{run.metrics}: expected the metrics that the run logged, got no such "
            "file; name the directory in which the run was trained."
        )
    with run.metrics.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[-_ROWS:]
    return {
        name: fmean(float(row[f"world_model/{name}"]) for row in rows)
        for name in _LOSSES
    }


def _cut(played: TensorDictBase, window: int) -> TensorDictBase:
    count = len(played) // window
    return played[: count * window].reshape(count, window)


def _follow(world_model: WorldModel, windows: TensorDictBase) -> tuple[Tensor, Tensor]:
    """Latents of windows ``[N, T]``, and beliefs after their actions."""
    latents, beliefs = [], []
    with evaluating(world_model):
        for some in windows.split(_AT_ONCE):
            seen = world_model.encode(some.select(*_SEEN))
            latents.append(seen["latent"])
            beliefs.append(world_model.believe(seen)[0])
    return torch.cat(latents), torch.cat(beliefs)


def _mean(values: Tensor, power: float = 1.0) -> float | None:
    return values.double().mean().item() ** power if len(values) else None


def _compare(ends: Tensor, probability: Tensor, likeliest: Tensor) -> dict[str, float]:
    found = {"ends": ends, "probability": probability, "likeliest": likeliest}
    return {name: values.mean().item() for name, values in found.items()}


def _odds(world_model: WorldModel, belief: Tensor) -> Tensor:
    with torch.no_grad():
        head = world_model.termination_head
        return head(belief.float()).float().sigmoid()


def main(arguments: list[str]) -> dict[str, Any]:
    """Play, judge, write; return what was written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="directory of a run with a checkpoint")
    parser.add_argument("--steps", type=int, default=15_000)
    parser.add_argument("--contexts", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=77)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("options", nargs="*")
    args = parser.parse_intermixed_args(arguments)
    options = [*args.options, "execution.device=cpu"]
    run = RunDirectory(args.run)
    config, agent, state = load_agent(run, options)
    trained = _read_losses(run)
    seed_everything(args.seed)
    played = play(config, agent, args.steps, args.seed)
    # `load_agent` puts all of it on one device, where these are the updates.
    learnt = cast(WorldModelUpdate, agent.learn_world_model.update)
    update = cast(BehaviourUpdate, agent.learn_behaviour.update)
    window, length = config.replay.model_window, config.replay.imagination_window
    report = {
        "game": config.env.game,
        "trained_steps": state["step"],
        "played_steps": args.steps,
        "seed": args.seed,
        "seen": judge_seen(agent.world_model, played, window),
        "imagined": judge_imagined(update, played, args.contexts, length),
        "losses": {
            "fresh": judge_losses(learnt.loss, played, window),
            "training": trained,
        },
        "values": judge_values(agent.world_model, update.returns, played, window),
        "lives": judge_lives(played),
        "provenance": provenance(agent.device),
    }
    print(json.dumps(report, indent=2))
    if args.out:
        write_json(args.out, report)
    return report


if __name__ == "__main__":
    main(sys.argv[1:])
