"""Two GPUs, connected by NCCL, train as one does: graphs, kernels and all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from tests.reference.processes import run_together
from tests.reference.shared_batch import learn, make_tiny_agent
from tests.reference.tiny import real_batch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs"),
]
EXACT = ("execution.autocast=false", "execution.cudagraphs=false")


def as_arrays(tree: Any) -> Any:
    return tree_map_only(Tensor, lambda x: x.detach().cpu().numpy(), tree)


def learn_plainly(updates: str) -> dict[str, Any]:
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    options = (*EXACT, f"training.updates={updates}")
    return as_arrays(learn(*options, device="cuda"))


@pytest.mark.parametrize("updates", ["in_turn", "at_once"])
def test_two_gpus_learn_what_one_does(updates: str) -> None:
    (alone,) = run_together(learn_plainly, updates, count=1, device="cuda")
    first, second = run_together(learn_plainly, updates, device="cuda")
    for name, value in first["state"].items():
        np.testing.assert_array_equal(second["state"][name], value, err_msg=name)
    for part, tolerance in {"gradients": 1e-3, "state": 1e-2}.items():
        for name, value in alone[part].items():
            near = tolerance * np.abs(value).max() + 1e-6
            np.testing.assert_allclose(first[part][name], value, 0, near, err_msg=name)
    for expected, actual in zip(alone["metrics"], first["metrics"], strict=True):
        for part, values in expected.items():
            for name, value in values.items():
                np.testing.assert_allclose(actual[part][name], value, 1e-3, 1e-5)


def learn_by_graphs(options: list[str]) -> dict[str, Any]:
    """The state after replays, and the losses of each step, with draws of its own."""
    torch.manual_seed(0)
    windows, contexts = real_batch(2, 8).to("cuda"), real_batch(4, 4).to("cuda")
    agent = make_tiny_agent(*options, device="cuda")
    losses = []
    for _ in range(12):
        found = agent.learn(windows, contexts)
        losses.append(found["world_model"]["loss_reconstruction"].item())
    modules = agent.learn_world_model.modules.state_dict()
    return {"losses": losses, "state": as_arrays(dict(modules))}


@pytest.mark.parametrize("compiled", ["false", "true"])
@pytest.mark.parametrize("updates", ["in_turn", "at_once"])
def test_captured_exchanges_keep_processes_alike(compiled: str, updates: str) -> None:
    options = [f"execution.compile={compiled}", f"training.updates={updates}"]
    first, second = run_together(learn_by_graphs, options, device="cuda")
    assert first["losses"] == second["losses"]  # means over both
    assert first["losses"][-1] < first["losses"][0]
    for name, value in first["state"].items():
        np.testing.assert_array_equal(second["state"][name], value, err_msg=name)
    plain = [*options, "execution.cudagraphs=false"]
    expected, _ = run_together(learn_by_graphs, plain, device="cuda")
    np.testing.assert_allclose(first["losses"], expected["losses"], rtol=0.05)
