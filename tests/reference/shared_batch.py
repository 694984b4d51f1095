"""Updates that one process or several make of the same batches, with equal draws."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor
from torch.utils._pytree import tree_flatten_with_path

from drama_torchrl.agent import Agent
from drama_torchrl.factories import make_agent
from drama_torchrl.optim import LaProp
from drama_torchrl.parallel import my_share, size
from tests.reference.tiny import ACTIONS, real_batch, tiny_config

STEPS = 4
_OPTIONS = (
    "world_model.dropout=0",
    "world_model.warmup_steps=0",
    "behaviour.warmup_steps=0",
    "world_model.learning_rate=1e-3",
    "behaviour.learning_rate=1e-3",
)
# Gradients that are zero but for rounding would be normalised to whole steps.
_EPS = 1e-3


@contextmanager
def draws_of_the_whole_batch() -> Iterator[None]:
    """Lets each process draw for all rows of a batch and use those of its own."""
    own = Tensor.exponential_

    def shared(x: Tensor) -> Tensor:
        whole = own(x.new_empty(len(x) * size(), *x.shape[1:]))
        return x.copy_(my_share(whole))

    Tensor.exponential_ = shared  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Tensor.exponential_ = own  # type: ignore[method-assign]


def make_tiny_agent(*overrides: str, device: str = "cpu") -> Agent:
    torch.manual_seed(0)
    config = tiny_config(*_OPTIONS, *overrides)
    agent = make_agent(config, ACTIONS, torch.device(device))
    for learner in (agent.learn_world_model, agent.learn_behaviour):
        assert isinstance(learner.optimizer, LaProp)
        for group in learner.optimizer.param_groups:
            group["eps"] = _EPS
    return agent


def batches(step: int, device: str) -> tuple[TensorDict, TensorDict]:
    torch.manual_seed(100 + step)
    windows, contexts = real_batch(batch=4, time=8), real_batch(batch=8, time=4)
    # Unlike rows, so that the statistics of the shares differ.
    windows["pixels"] //= torch.arange(1, 5).byte().view(4, 1, 1, 1, 1)
    windows["next", "reward"] *= torch.arange(4).view(4, 1, 1)
    return windows.to(device), contexts.to(device)


def learn(*overrides: str, device: str = "cpu", steps: int = STEPS) -> dict[str, Any]:
    """Returns the metrics of each step, the first gradients and the last state."""
    agent = make_tiny_agent(*overrides, device=device)
    metrics, gradients = [], {}
    with draws_of_the_whole_batch():
        for step in range(steps):
            windows, contexts = map(my_share, batches(step, device))
            found = agent.learn(windows, contexts)
            metrics.append({k: v.clone().to_dict() for k, v in found.items()})
            if step == 0:
                gradients = _gradients(agent)
    return {
        "metrics": metrics,
        "gradients": gradients,
        "state": _flat(agent.state_dict()),
    }


def _gradients(agent: Agent) -> dict[str, Tensor]:
    learners = {"world": agent.learn_world_model, "behaviour": agent.learn_behaviour}
    return {
        f"{part}.{name}": p.grad.clone()
        for part, learner in learners.items()
        for name, p in learner.modules.named_parameters()
        if p.grad is not None
    }


def _flat(tree: Any) -> dict[str, Tensor]:
    leaves = tree_flatten_with_path(tree)[0]
    return {str(path): leaf for path, leaf in leaves if isinstance(leaf, Tensor)}
