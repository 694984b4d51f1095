"""No number is read back while training: a GPU would be waited for at each.

An aten operator reads one on any device, so that a CPU finds it; what only CUDA's own
implementations wait for, ``tests/gpu`` finds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch.utils._python_dispatch import TorchDispatchMode

from drama_torchrl.agent import Agent
from drama_torchrl.config import load_config
from drama_torchrl.estimate import random_batches
from drama_torchrl.factories import make_agent

CPU = torch.device("cpu")
SMALL = ["replay.model_batch=2", "replay.imagination_batch=4"]


class NoReads(TorchDispatchMode):
    """Refuses operators that give the host a number or a size that it must know."""

    READERS = ("aten._local_scalar_dense", "aten.nonzero", "aten.equal")

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if str(func).startswith(self.READERS):
            raise AssertionError(f"{func} makes the host wait for the device")
        return func(*args, **(kwargs or {}))


def make(*options: str) -> tuple[Agent, TensorDict, TensorDict]:
    config = load_config("quick", [*SMALL, "execution.autocast=false", *options])
    return make_agent(config, 6, CPU), *random_batches(config, 6, CPU)


def test_a_read_is_noticed() -> None:
    with pytest.raises(AssertionError, match="wait for the device"), NoReads():
        torch.ones(()).item()


@pytest.mark.parametrize("updates", ["in_turn", "at_once"])
def test_an_update_reads_nothing_back(updates: str) -> None:
    agent, windows, contexts = make(f"training.updates={updates}")
    agent.learn(windows, contexts)  # what is lazy is made
    with NoReads():
        agent.learn(windows, contexts)
