"""Several processes train as one does; alone, nothing is exchanged.

The workers are functions at the top of this file, which each process imports. Random
numbers that must differ between processes are made comparable by
``draws_of_the_whole_batch``: each process draws for all rows and takes its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from drama_torchrl.config import ConfigError, load_config
from drama_torchrl.data import DFSSampler, VisitCounts
from drama_torchrl.factories import check_environment
from drama_torchrl.kernels.batch_norm_silu import (
    batch_norm_silu_fused,
    batch_norm_silu_reference,
)
from drama_torchrl.learner import Learner
from drama_torchrl.modules.normalization import RunningNorm
from drama_torchrl.parallel import (
    all_mean,
    all_sum,
    gather,
    my_share,
    pool_moments,
    rank,
    size,
    watch,
)
from drama_torchrl.seeding import seed_alike, seed_apart
from drama_torchrl.team import Team
from tests.reference.interpreted import interpreted_kernels
from tests.reference.processes import run_together
from tests.reference.shared_batch import batches, learn, make_tiny_agent
from tests.reference.stopping import (
    SignalAfter,
    different,
    remains,
    run_training,
)
from tests.reference.tiny_run import run_options

REPOSITORY = Path(__file__).parents[1]
# The divergence is about 2.5 nats in one half of the batch and 1.0 in the other; their
# mean begins above these free nats and falls below.
VARIANTS = {
    "in turn": ["training.updates=in_turn"],
    "at once": ["training.updates=at_once"],
    "free nats between the divergences of the shares": ["world_model.free_nats=1.78"],
}


def as_arrays(tree: Any) -> Any:
    return tree_map_only(Tensor, lambda x: x.detach().numpy(), tree)


def learn_all_variants() -> dict[str, Any]:
    return {name: as_arrays(learn(*options)) for name, options in VARIANTS.items()}


@pytest.fixture(scope="module")
def shared() -> list[dict[str, Any]]:
    return run_together(learn_all_variants)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
class TestLearning:
    def test_two_processes_learn_what_one_does(
        self, shared: list[dict[str, Any]], variant: str
    ) -> None:
        alone, first = as_arrays(learn(*VARIANTS[variant])), shared[0][variant]
        # Steps divide gradients by their size, and so enlarge rounding.
        tolerances = {"metrics": 1e-5, "gradients": 5e-5, "state": 2e-3}
        for part, tolerance in tolerances.items():
            expected, actual = flat(alone[part]), flat(first[part])
            assert actual.keys() == expected.keys()
            for name, value in expected.items():
                near = tolerance * np.abs(value).max() + 1e-7
                np.testing.assert_allclose(actual[name], value, 0, near, err_msg=name)

    def test_all_processes_hold_the_same_bits(
        self, shared: list[dict[str, Any]], variant: str
    ) -> None:
        first, second = (flat(each[variant]) for each in shared)
        assert first.keys() == second.keys()
        assert any("running_var" in name for name in first)
        assert any("normalizer.count" in name for name in first)
        assert any("return_norm" in name for name in first)
        for name, value in first.items():
            np.testing.assert_array_equal(value, second[name], err_msg=name)


def flat(tree: Any, name: str = "") -> dict[str, np.ndarray]:
    if isinstance(tree, dict | list):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {k: v for key, x in items for k, v in flat(x, f"{name}/{key}").items()}
    return {name: np.asarray(tree)}


def compiled_losses() -> list[dict[str, Any]]:
    """Losses of two steps, plain and with every region traced whole."""
    found = []
    for compiled in (False, True):
        # Every layer is traced, which takes seconds, and none exchanges anything.
        agent = make_tiny_agent("world_model.num_layers=1")
        for learner in (agent.learn_world_model, agent.learn_behaviour):
            for owner, method in learner.update.regions if compiled else ():  # type: ignore[attr-defined]
                region = torch.compile(
                    getattr(owner, method), backend="aot_eager", fullgraph=True
                )
                setattr(owner, method, region)
        torch.manual_seed(7 + rank())
        metrics: dict[str, Any] = {}
        for step in range(2):
            shares = map(my_share, batches(step, "cpu"))
            for part, values in agent.learn(*shares).items():
                metrics |= {f"{part}/{k}/{step}": v.clone() for k, v in values.items()}
        found.append(as_arrays(metrics))
    return found


def lose_updates() -> dict[str, list[tuple[float, bool]]]:
    """Steps not applied in a row and whether parameters moved; one share is broken."""
    found: dict[str, list[tuple[float, bool]]] = {}
    for updates in ("in_turn", "at_once"):
        agent = make_tiny_agent(f"training.updates={updates}")
        world_model, behaviour = agent.learn_world_model, agent.learn_behaviour
        for part, learner in (("world_model", world_model), ("behaviour", behaviour)):
            rows = found[f"{updates} {part}"] = []
            for step in range(3):
                windows, contexts = map(my_share, batches(step, "cpu"))
                broken = step == 1 and rank() == 1
                if broken and learner is world_model:
                    windows["next", "reward"] *= float("nan")
                before = [p.detach().clone() for p in learner.modules.parameters()]
                with endless_entropy(behaviour, broken and learner is behaviour):
                    lost = agent.learn(windows, contexts)[part]["not_applied"].item()
                after = learner.modules.parameters()
                pairs = zip(before, after, strict=True)
                rows.append((lost, not all(torch.equal(*pair) for pair in pairs)))
    return found


@contextmanager
def endless_entropy(behaviour: Learner, broken: bool) -> Iterator[None]:
    """A loss that is not finite, with gradients that are."""
    update: Any = behaviour.update
    losses = update.losses

    def break_losses(rollout: TensorDict) -> TensorDict:
        found = losses(rollout)
        return found.set("loss_entropy", found["loss_entropy"] + float("inf"))

    update.losses = break_losses if broken else losses
    yield
    update.losses = losses


@pytest.mark.slow
def test_a_share_that_is_not_finite_stops_the_step_of_all() -> None:
    lost = [(0.0, True), (1.0, False), (0.0, True)]
    for found in run_together(lose_updates):
        assert list(found.values()) == [lost] * 4, found


@pytest.mark.slow
def test_compiled_regions_exchange_the_same() -> None:
    for plain, compiled in run_together(compiled_losses):
        assert plain.keys() == compiled.keys()
        for name, value in plain.items():
            np.testing.assert_allclose(compiled[name], value, 1e-4, 1e-6, err_msg=name)


@interpreted_kernels()
def batch_norms() -> dict[str, Any]:
    """Values, gradients and statistics of both paths on this process's rows."""
    torch.manual_seed(3)
    x, dy = torch.randn(2, 82, 5) * torch.linspace(0.5, 2, 82)[:, None]
    weight, bias = 1 + torch.rand(5), torch.rand(5)
    found = {}
    for compute in (batch_norm_silu_reference, batch_norm_silu_fused):
        leaves = [v.clone().requires_grad_() for v in (my_share(x), weight, bias)]
        rows, gamma, beta = leaves
        mean, variance = torch.zeros(5), torch.ones(5)
        y = compute(rows, gamma, beta, mean, variance, momentum=0.3, eps=1e-5)
        y.backward(my_share(dy))
        gradients = [leaf.grad for leaf in leaves]
        matrices = (y.detach(), gradients[0])
        sums = all_sum(*(g for g in gradients[1:] if g is not None))
        everything = [*(gather(v) for v in matrices if v is not None), *sums]
        found[compute.__name__] = as_arrays([*everything, mean, variance])
    return found


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="needs triton: pip install it"
)
def test_batch_norm_of_shares_is_that_of_the_whole() -> None:
    whole = batch_norms()
    for shares in run_together(batch_norms):
        for path in whole:
            expected = whole["batch_norm_silu_reference"]
            for actual, true in zip(shares[path], expected, strict=True):
                np.testing.assert_allclose(actual, true, 1e-4, 1e-5, err_msg=path)


def exchanges() -> dict[str, Any]:
    """Small numbers through every exchange."""
    torch.manual_seed(0)
    rows = torch.randn(6, 3) * torch.tensor([1.0, 5.0, 0.1]) + 2.0
    own = my_share(rows)
    x = torch.full((2,), 1.0 + rank(), requires_grad=True)
    (total,) = all_sum(x)
    ((rank() + 1) * total.square()).sum().backward()
    norm = RunningNorm(3)
    norm(own)
    mean = own.mean(0)
    m2 = (own - mean).square().sum(0)
    pooled = pool_moments(mean, m2, len(own))
    seed_apart(5, 1)
    noise = torch.rand(3)
    seed_alike(5, 1)
    return {
        "size": size(),
        "share": own,
        "total": total.detach(),
        "gradient": x.grad,
        "mean": all_mean(torch.tensor(float(rank())), torch.ones(2))[0],
        "gathered": gather(own),
        "alike": torch.rand(3),
        "pooled": torch.stack(pooled),
        "expected": torch.stack([rows.mean(0), (rows - rows.mean(0)).square().sum(0)]),
        "norm": [norm.mean, norm.var, norm.count],
        "norm expected": [
            rows.mean(0),
            rows.var(0, correction=0),
            torch.tensor(6),
        ],
        "noise": noise,
        "rows": rows,
        "draws": draw_windows(),
        "refusal": refusal(),
    }


@pytest.fixture(scope="module")
def exchanged() -> list[dict[str, Any]]:
    return run_together(exchanges)


class TestExchanges:
    def test_each_process_has_its_rows_and_all_can_be_joined(
        self, exchanged: list[dict[str, Any]]
    ) -> None:
        first, second = exchanged
        assert first["size"] == second["size"] == 2
        rows = np.concatenate([first["share"], second["share"]])
        np.testing.assert_array_equal(rows, first["rows"])
        np.testing.assert_array_equal(second["gathered"], first["rows"])

    def test_sums_have_the_gradient_of_all_losses(
        self, exchanged: list[dict[str, Any]]
    ) -> None:
        for each in exchanged:
            assert each["total"].tolist() == [3.0, 3.0]
            # d/dx of 1·(x₀+x₁)² + 2·(x₀+x₁)² is 6·3 for either x.
            assert each["gradient"].tolist() == [18.0, 18.0]
            assert each["mean"] == 0.5

    def test_statistics_are_those_of_all_rows(
        self, exchanged: list[dict[str, Any]]
    ) -> None:
        for each in exchanged:
            np.testing.assert_allclose(each["pooled"], each["expected"], 1e-5)
            for actual, true in zip(each["norm"], each["norm expected"], strict=True):
                np.testing.assert_allclose(actual, true, 1e-5)

    def test_draws_are_alike_and_noise_differs(
        self, exchanged: list[dict[str, Any]]
    ) -> None:
        first, second = exchanged
        np.testing.assert_array_equal(first["alike"], second["alike"])
        assert not np.array_equal(first["noise"], second["noise"])


def draw_windows() -> dict[str, Any]:
    torch.manual_seed(0)
    counts = VisitCounts()
    replay = TensorDictReplayBuffer(
        storage=LazyTensorStorage(40),
        sampler=DFSSampler(counts, window=3, temperature=0.5),
        batch_size=6,
    )
    replay.extend(TensorDict({"time": torch.arange(30)}, [30]))
    windows = torch.stack([replay.sample()["time"] for _ in range(4)])
    return {"windows": windows, "counts": counts.model}


def test_samplers_draw_one_batch_and_read_their_share(
    exchanged: list[dict[str, Any]],
) -> None:
    first, second = (each["draws"] for each in exchanged)
    np.testing.assert_array_equal(first["counts"], second["counts"])
    alone = draw_windows()
    np.testing.assert_array_equal(first["counts"], alone["counts"])
    both = np.concatenate([first["windows"], second["windows"]], 1)
    np.testing.assert_array_equal(both, alone["windows"])


def refusal() -> str:
    options = ("replay.model_batch=3", "execution.device=cpu")
    with pytest.raises(ConfigError) as error:
        check_environment(load_config("quick", options))
    return str(error.value)


def test_a_batch_that_cannot_be_shared_is_refused(
    exchanged: list[dict[str, Any]],
) -> None:
    for each in exchanged:
        assert each["refusal"] == (
            "replay.model_batch expects a multiple of 2, the number of processes that "
            "share it, got 3."
        )


def fail_in_a_call() -> None:
    with Team() as team:

        @team.everywhere
        def step(number: int) -> None:
            if number == 2 and rank() == 1:
                raise ValueError("no such thing")
            all_sum(torch.ones(1))

        team.follow()
        for number in range(5):
            step(number)


def fail_between_calls() -> None:
    with Team() as team:
        add = team.everywhere(lambda: all_sum(torch.ones(1)))
        team.follow()
        add()
        raise KeyError("played badly")


def fail_before_all() -> None:
    if rank() == 0:
        raise ValueError("the directory is taken")
    Team().follow()


@pytest.mark.parametrize(
    ("function", "first", "second"),
    [
        pytest.param(
            fail_in_a_call,
            "ProcessFailedError: Process 0 of 2 lost another one and ends too: "
            "process 1 of 2: ValueError: no such thing.",
            "ValueError: no such thing",
            id="in-a-call",
        ),
        pytest.param(
            fail_between_calls, "KeyError: 'played badly'", "exited", id="between-calls"
        ),
        pytest.param(
            fail_before_all,
            "ValueError: the directory is taken",
            "ProcessFailedError: Process 1 of 2 lost another one and ends too: "
            "process 0 of 2: ValueError: the directory is taken.",
            id="before-all",
        ),
    ],
)
def test_an_error_in_one_process_ends_all(
    function: Any, first: str, second: str
) -> None:
    assert run_together(function) == [first, second]


def wait_for_one_that_is_killed() -> None:
    watch._GRACE_S = 1.0  # who waits for a GPU only seems to be stuck
    all_sum(torch.ones(1))
    if rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(200)  # as for a GPU that waits for another one


@pytest.mark.slow
def test_a_process_that_is_killed_ends_those_that_wait_for_it(
    capfd: pytest.CaptureFixture[str],
) -> None:
    start = time.monotonic()
    ended = run_together(wait_for_one_that_is_killed)
    assert ended == ["exit code 1", f"exit code {-signal.SIGKILL}"]
    assert time.monotonic() - start < 60
    assert capfd.readouterr().err.count(
        "error: Process 0 of 2 lost another one and ends too: one that ended without "
        "a word."
    )


# Two episodes, training from step 20 on, a buffer that wraps.
SHORT = (
    "env.max_frames=80",
    "training.total_steps=36",
    "training.random_steps=20",
    "training.steps_per_update=2",
    "replay.capacity=30",
    "log.checkpoint_every=9",
)


def run_and_stop(arguments: list[str], after: int) -> None:
    run_training(arguments, *([SignalAfter(after)] if after else []))


@pytest.mark.slow
def test_a_run_that_stops_goes_on_exactly(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_together(run_and_stop, run_options(whole, *SHORT), 0)
    stopped, exited = run_together(run_and_stop, run_options(broken, *SHORT), 31)
    assert stopped.startswith("RunStopped: stopped; to go on:")
    assert exited == "exited"
    assert run_together(run_and_stop, [f"resume={broken}"], 0) == [None, "exited"]
    assert different(remains(broken), remains(whole)) == []


@pytest.mark.slow
def test_torchrun_trains_and_scores_one_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    script = str(REPOSITORY / "recipes" / "drama_atari100k.py")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    options = run_options(run, *SHORT, "log.film_every=1000")
    done = subprocess.run(
        [*launcher, "--nproc-per-node", "2", script, *options],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "result.json").read_text())["devices"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
