"""Whether a way of running the updates computes what plain eager updates compute."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from benchmarks.harness import exact_float32
from benchmarks.substitution import fixed_draws
from drama_torchrl.agent import Agent
from drama_torchrl.config import load_config
from drama_torchrl.estimate import random_batches
from drama_torchrl.factories import make_agent
from drama_torchrl.parallel import my_share

__all__ = ["TOLERANCES", "Trace", "compare_traces", "trace_updates"]

# Of each way to train: enough to run, record and replay a CUDA graph.
UPDATES = 6
# Norm of the difference over the norm: of each metric over all updates, of what each
# buffer and each parameter changed by, and of the parameter at the median.
TOLERANCES = {
    "metric": 0.01,
    "statistic": 0.01,
    "parameter": 0.3,
    "median_parameter": 0.02,
}

_NEUTRAL = (
    "world_model.dropout=0",
    "execution.autocast=false",
    # A learning rate that moves at each update: a stale one shows.
    f"world_model.warmup_steps={2 * UPDATES}",
    f"behaviour.warmup_steps={2 * UPDATES}",
)


Metrics = Mapping[str, TensorDictBase]
Way = Callable[[TensorDict, TensorDict], Metrics]


class Trace(NamedTuple):
    """What some updates reported, and by how much they changed everything, by name."""

    metric: dict[str, Tensor]  # [2 UPDATES] each
    statistic: dict[str, Tensor]
    parameter: dict[str, Tensor]


def trace_updates(
    preset: str, overrides: Sequence[str], num_actions: int, device: torch.device
) -> Trace:
    """Train a fresh agent a little, with nothing left to chance.

    Six steps of ``agent.learn`` and then six of its two learners, one after the other,
    in float32 (TF32 off), two batches in turn, a learning rate that rises at each, no
    dropout, draws as fixed functions of their probabilities
    (:func:`benchmarks.substitution.fixed_draws`): enough to run, record and replay a
    CUDA graph of each, and to show stale inputs or a stale learning rate. Weights and
    batches depend on the seed alone; of several processes, each trains on its share.

    What it does not cover: the fresh random numbers of real draws and dropout
    (``tests/gpu`` does), and bfloat16, whose rounding differs by fusion.

    Args:
        preset: of the configuration.
        overrides: of the configuration, the mode among them.
        num_actions: number A of actions.
        device: where to train.
    """
    config = load_config(preset, [*overrides, *_NEUTRAL])
    torch.manual_seed(0)
    draws = fixed_draws(device, max(num_actions, config.world_model.num_classes))
    with draws, exact_float32():
        agent = make_agent(config, num_actions, device)
        before = [_copy(values) for values in _changing(agent)]
        batches = [random_batches(config, num_actions, device) for _ in range(2)]
        shares = [tuple(map(my_share, batch)) for batch in batches]
        ways: list[Way] = [agent.learn, partial(_learn_one_by_one, agent)]
        rows = [_report(way(*shares[i % 2])) for way in ways for i in range(UPDATES)]
        after = [_copy(values) for values in _changing(agent)]
    metrics = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    moved_statistics, moved_parameters = (
        {name: new[name] - value for name, value in old.items()}
        for old, new in zip(before, after, strict=True)
    )
    return Trace(_copy(metrics), moved_statistics, moved_parameters)


def compare_traces(found: Trace, expected: Trace) -> dict[str, Any]:
    """Compare the trace of a mode with that of the reference.

    Errors are norms of differences over norms. Metrics agree within 1 % each; those
    smaller than 0.01 are compared with 0.01, because they are differences of larger
    numbers. Running statistics and slow copies move alike within 1 % each. Parameters
    move alike within 2 % at the median and 30 % each: LaProp divides gradients by
    their size, so that an entry whose gradient is nothing but rounding moves as far
    as any other, either way. One that is not trained, or not by the right learning
    rate, is beyond that.

    Returns:
        ``"agrees"``; for each kind in :data:`TOLERANCES` the ``"errors"`` that count
        and the names of the ``"worst"``.
    """
    by_kind = {
        kind: {
            name: _error(found_values[name], value, 0.01 if kind == "metric" else 0.0)
            for name, value in values.items()
        }
        for kind, found_values, values in zip(
            Trace._fields, found, expected, strict=True
        )
    }
    worst = {kind: max(e, key=lambda name: e[name]) for kind, e in by_kind.items()}
    errors = {kind: by_kind[kind][name] for kind, name in worst.items()}
    errors["median_parameter"] = statistics.median(by_kind["parameter"].values())
    return {
        "agrees": all(errors[kind] <= bound for kind, bound in TOLERANCES.items()),
        "errors": errors,
        "worst": worst,
        "tolerances": TOLERANCES,
    }


def _error(found: Tensor, expected: Tensor, least: float) -> float:
    """Norm of the difference over the norm; both zero agree, a NaN never does."""
    difference = torch.linalg.vector_norm(found - expected).item()
    scale = torch.linalg.vector_norm(expected).clamp_min(least).item()
    if math.isnan(difference) or math.isnan(scale):
        return math.inf
    if difference == 0:
        return 0.0
    return difference / scale if scale else math.inf


def _learn_one_by_one(agent: Agent, batch: TensorDict, context: TensorDict) -> Metrics:
    """Train as ``agent.learn`` does, by the two learners."""
    world_model = agent.learn_world_model(batch)
    behaviour = agent.learn_behaviour(context.to(agent.behaviour_device))
    return {"world_model": world_model, "behaviour": behaviour}


def _report(metrics: Metrics) -> dict[str, Tensor]:
    """Copy metrics: the next update may overwrite them."""
    return {
        f"{group}/{name}": value.detach().clone()
        for group, row in metrics.items()
        for name, value in row.items()
    }


def _changing(agent: Agent) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Buffers and parameters of what the learners train, by name."""
    modules = {
        "world_model": agent.learn_world_model.modules,
        "behaviour": agent.learn_behaviour.modules,
    }
    buffers: dict[str, Tensor] = {}
    parameters: dict[str, Tensor] = {}
    for group, module in modules.items():
        trained = {p.data_ptr() for p in module.parameters() if p.requires_grad}
        for name, value in module.state_dict().items():
            if isinstance(value, Tensor):
                kind = parameters if value.data_ptr() in trained else buffers
                kind[f"{group}/{name}"] = value
    return buffers, parameters


def _copy(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """In float64 on the CPU: float32 would round away what a few updates change."""
    return {
        name: value.detach().to("cpu", torch.float64, copy=True)
        for name, value in values.items()
    }
