"""Two processes, connected by NCCL, train as one does: graphs, kernels and all.

Each has one GPU, or two. Each process is a new one, and each test starts several: a
minute or two a test.
"""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch import Tensor
from torch.utils._pytree import tree_map_only

from drama_torchrl.acceleration import CapturedUpdate
from drama_torchrl.parallel import all_sum, rank
from tests.reference.processes import run_together
from tests.reference.shared_batch import learn, make_tiny_agent
from tests.reference.tiny import real_batch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs"),
]
# Three ordinary calls, one that is recorded, three replays.
STEPS = 7
ARRANGEMENTS = [
    "training.updates=in_turn",
    "training.updates=at_once",
    pytest.param(
        "execution.behaviour_device=own",
        marks=pytest.mark.skipif(
            torch.cuda.device_count() < 4, reason="needs four CUDA GPUs"
        ),
    ),
]


def as_arrays(tree: Any) -> Any:
    return tree_map_only(Tensor, lambda x: x.detach().cpu().numpy(), tree)


def learn_exactly(options: list[str]) -> dict[str, Any]:
    """In float32, with the draws of one process for all rows."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    exact = [*options, "execution.autocast=false"]
    return as_arrays(learn(*exact, device="cuda", steps=STEPS))


@pytest.mark.parametrize("graphs", ["true", "false"])
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_two_processes_learn_what_one_does(arrangement: str, graphs: str) -> None:
    options = [arrangement, f"execution.cudagraphs={graphs}"]
    plain = [arrangement, "execution.cudagraphs=false"]
    (alone,) = run_together(learn_exactly, plain, count=1, device="cuda")
    first, second = run_together(learn_exactly, options, device="cuda")
    for name, value in first["state"].items():
        np.testing.assert_array_equal(second["state"][name], value, err_msg=name)
    for part, tolerance in {"gradients": 1e-3, "state": 3e-2}.items():
        for name, value in alone[part].items():
            near = tolerance * np.abs(value).max() + 1e-6
            np.testing.assert_allclose(first[part][name], value, 0, near, err_msg=name)
    for expected, actual in zip(alone["metrics"], first["metrics"], strict=True):
        for part, values in expected.items():
            for name, value in values.items():
                near = {"rtol": 5e-3, "atol": 1e-4, "err_msg": name}
                np.testing.assert_allclose(actual[part][name], value, **near)


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


@pytest.mark.parametrize(
    "compiled",
    ["false", pytest.param("true", marks=pytest.mark.slow)],
    ids=["graphs", "compile+graphs"],
)
@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_captured_exchanges_keep_processes_alike(
    compiled: str, arrangement: str
) -> None:
    options = [f"execution.compile={compiled}", arrangement]
    first, second = run_together(learn_by_graphs, options, device="cuda")
    assert first["losses"] == second["losses"]  # means over both
    assert first["losses"][-1] < first["losses"][0]
    for name, value in first["state"].items():
        np.testing.assert_array_equal(second["state"][name], value, err_msg=name)
    plain = [*options, "execution.cudagraphs=false"]
    for count in (1, 2):  # the rows are the same in each process, the draws are not
        expected, *_ = run_together(learn_by_graphs, plain, count=count, device="cuda")
        np.testing.assert_allclose(first["losses"], expected["losses"], rtol=0.05)


def replay_beside_one_that_is_killed() -> None:
    x = TensorDict(x=torch.ones(4, device="cuda"), batch_size=[4])
    update = CapturedUpdate(lambda batch: TensorDict(x=all_sum(batch["x"])[0]))
    for _ in range(6):
        assert update(x)["x"].tolist() == [2.0] * 4
    if rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    update(x)
    torch.cuda.synchronize()  # never returns


def test_a_graph_that_waits_for_a_process_that_is_killed_does_not_hang() -> None:
    ended = run_together(replay_beside_one_that_is_killed, device="cuda")
    assert ended == ["exit code 1", f"exit code {-signal.SIGKILL}"]
