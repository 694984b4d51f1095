"""Modes that differ are told from modes that agree."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.agreement import UPDATES, Trace, compare_traces, trace_updates
from benchmarks.substitution import fixed_draws, substituted
from drama_torchrl.modules import distributions, world_model
from drama_torchrl.modules.distributions import RacedOneHotCategorical

CPU = torch.device("cpu")
TINY = (
    "env.frame_size=16",
    "world_model.filters=[4,8,8]",
    "world_model.d_model=32",
    "world_model.head_dim=16",
    "replay.model_batch=2",
    "replay.model_window=8",
    "replay.imagination_batch=8",
    "behaviour.horizon=3",
)


def trace(*overrides: str) -> Trace:
    return trace_updates("quick", [*TINY, *overrides], 6, CPU)


@pytest.fixture(scope="module")
def reference() -> Trace:
    return trace()


def test_an_update_agrees_with_itself(reference: Trace) -> None:
    torch.manual_seed(123)  # nothing may depend on the generator's state
    found = compare_traces(trace(), reference)
    assert found["agrees"]
    assert set(found["errors"].values()) == {0.0}


def test_a_trace_has_all_that_learns(reference: Trace) -> None:
    assert len(reference.metric["world_model/loss_reconstruction"]) == 2 * UPDATES
    names = " ".join(reference.statistic)
    for statistic in ("running_mean", "normalizer.count", "return_norm", "target_"):
        assert statistic in names
    assert all(change.any() for change in reference.parameter.values())


@pytest.mark.parametrize(
    "override",
    [
        "world_model.learning_rate=6e-4",
        "behaviour.learning_rate=2e-4",
        "behaviour.slow_decay=0.5",
        "behaviour.horizon=4",
    ],
)
def test_other_updates_do_not_agree(reference: Trace, override: str) -> None:
    assert not compare_traces(trace(override), reference)["agrees"]


def changed(reference: Trace, kind: str, part: str, factor: float) -> Trace:
    """A trace of which one entry moved by another factor."""
    values = dict(getattr(reference, kind))
    name = next(name for name in values if part in name)
    values[name] = factor * values[name]
    return reference._replace(**{kind: values})


@pytest.mark.parametrize(
    ("kind", "part", "factor"),
    [
        ("statistic", "normalizer.count", 0.0),
        ("statistic", "running_mean", 0.0),
        ("statistic", "running_var", 1.02),
        ("parameter", "reward_head", 0.0),
        ("parameter", "convs.0", 2.0),
        ("metric", "loss_reward", 1.02),
        ("metric", "loss_critic", math.nan),
    ],
)
def test_one_wrong_entry_is_enough(
    reference: Trace, kind: str, part: str, factor: float
) -> None:
    found = compare_traces(changed(reference, kind, part, factor), reference)
    assert not found["agrees"]
    assert part in found["worst"][kind]


def test_rounding_agrees(reference: Trace) -> None:
    found = changed(reference, "statistic", "running_var", 1.001)
    assert compare_traces(found, reference)["agrees"]


def test_fixed_draws_follow_the_probabilities() -> None:
    p = torch.tensor([0.7, 0.2, 0.1])
    with fixed_draws(CPU, 3):
        hot = distributions.sample_one_hot(p.log().expand(4093, 3))
        again = distributions.sample_one_hot(p.log().expand(4093, 3))
        action = RacedOneHotCategorical(logits=p.log().expand(4093, 3)).sample()
    assert torch.equal(hot, again)
    assert torch.equal(hot, action.float())
    assert hot.sum(-1).eq(1).all()
    # Three standard deviations of the mean of 4093 draws are 0.02.
    torch.testing.assert_close(hot.mean(0), p, atol=0.02, rtol=0)


def test_draws_are_real_again_afterwards() -> None:
    original = distributions.sample_one_hot
    with fixed_draws(CPU, 3):
        assert world_model.sample_one_hot is distributions.sample_one_hot
        assert distributions.sample_one_hot is not original
    assert distributions.sample_one_hot is original
    assert world_model.sample_one_hot is original


def test_nothing_to_substitute_is_an_error() -> None:
    with pytest.raises(LookupError, match="No module"), substituted(len, max):
        pass
