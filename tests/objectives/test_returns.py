"""λ-returns by hand-written numbers, identities and a slow loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from tensordict.utils import NestedKey
from torch import Tensor

from drama_torchrl.envs.imagination import ImaginationEnv, imagine
from drama_torchrl.objectives.returns import (
    LambdaReturns,
    lambda_returns,
    rollout_values,
)
from tests.reference import scripted
from tests.reference.oracles import lambda_return_loop
from tests.reference.tiny import imagined_batch


def column(numbers: Sequence[float] | Sequence[bool]) -> Tensor:
    """One rollout: ``[1, time, 1]``."""
    return torch.tensor([numbers]).unsqueeze(-1)


def returns(
    values: Tensor,
    reward: Tensor,
    terminated: Tensor,
    discount: float = 0.5,
    trace_decay: float = 0.5,
) -> Tensor:
    return lambda_returns(
        values, reward, terminated, discount=discount, trace_decay=trace_decay
    )


REWARDS, VALUES = [1.0, 2.0, 4.0], [100.0, 8.0, 4.0, 16.0]


@pytest.mark.parametrize(
    ("terminated", "expected"),
    [
        # From the end: 4 + 16/2, then 2 + (4/2 + 12/2)/2, then 1 + (8/2 + 6/2)/2.
        ([False, False, False], [4.5, 6.0, 12.0]),
        # Nothing after the end counts: 2, then 1 + (8/2 + 2/2)/2.
        ([False, True, False], [3.5, 2.0, 12.0]),
        ([True, False, False], [1.0, 6.0, 12.0]),
        # From the end: 4, then 2 + (4/2 + 4/2)/2, then 1 + (8/2 + 4/2)/2.
        ([False, False, True], [4.0, 4.0, 4.0]),
    ],
    ids=["never", "middle", "first", "last"],
)
def test_hand_written_numbers(terminated: list[bool], expected: list[float]) -> None:
    given = returns(column(VALUES), column(REWARDS), column(terminated))
    torch.testing.assert_close(given, column(expected))


def test_the_value_of_the_state_itself_does_not_enter() -> None:
    values = torch.randn(3, 6, 1, requires_grad=True)
    ends = torch.zeros(3, 5, 1, dtype=torch.bool)
    for t in range(5):
        gradient = torch.autograd.grad(
            returns(values, torch.randn(3, 5, 1), ends)[:, t].sum(), values
        )[0]
        assert (gradient[:, : t + 1] == 0).all()
        assert (gradient[:, t + 1 :] > 0).all()


def random_rollout() -> tuple[Tensor, Tensor, Tensor]:
    values, reward = torch.randn(5, 9, 1).double(), torch.randn(5, 8, 1).double()
    return values, reward, torch.rand(5, 8, 1) < 0.2


def test_lambda_zero_is_one_step_bootstrapping() -> None:
    values, reward, terminated = random_rollout()
    given = returns(values, reward, terminated, discount=0.9, trace_decay=0.0)
    expected = reward + 0.9 * (~terminated).double() * values[:, 1:]
    torch.testing.assert_close(given, expected)


def test_lambda_one_is_the_discounted_sum_and_the_last_value() -> None:
    values, reward, _ = random_rollout()
    never = torch.zeros(5, 8, 1, dtype=torch.bool)
    given = returns(values, reward, never, discount=0.9, trace_decay=1.0)
    for t in range(8):
        discounts = 0.9 ** torch.arange(8 - t, dtype=torch.float64)[:, None]
        expected = (discounts * reward[:, t:]).sum(1) + 0.9 ** (8 - t) * values[:, -1]
        torch.testing.assert_close(given[:, t], expected)


def test_it_agrees_with_a_slow_loop() -> None:
    values, reward, terminated = random_rollout()
    given = returns(values, reward, terminated, discount=0.985, trace_decay=0.95)
    for row in range(5):
        expected = lambda_return_loop(
            values[row].flatten().tolist(),
            reward[row].flatten().tolist(),
            terminated[row].flatten().tolist(),
            discount=0.985,
            trace_decay=0.95,
        )
        assert given[row].flatten().tolist() == pytest.approx(expected)


def count_critic() -> TensorDictModule:
    """V = 10 times the sum of the latent, plus the sum of the belief."""
    return TensorDictModule(
        lambda latent, belief: (10 * latent.sum(-1) + belief.sum(-1)).unsqueeze(-1),
        in_keys=["latent", "belief"],
        out_keys=["state_value"],
    )


def test_values_are_those_of_all_states_and_of_the_one_after_the_last() -> None:
    rollout = imagined_batch(3, 4)
    last = rollout["next"][:, -1:]
    latent, belief = (
        torch.cat([rollout[key], last[key]], 1) for key in ("latent", "belief")
    )
    expected = 10 * latent.sum(-1) + belief.sum(-1)
    given = rollout_values(count_critic(), rollout)
    torch.testing.assert_close(given, expected.unsqueeze(-1))


class TestLambdaReturns:
    def test_it_writes_values_returns_and_their_difference(self) -> None:
        rollout = imagined_batch().exclude("advantage", "value_target")
        values = rollout_values(count_critic(), rollout)
        estimator = LambdaReturns(count_critic(), discount=0.9, trace_decay=0.7)
        out = estimator(rollout)
        target = returns(
            values, rollout["next", "reward"], rollout["next", "terminated"], 0.9, 0.7
        )
        torch.testing.assert_close(out["state_value"], values[:, :-1])
        torch.testing.assert_close(out["value_target"], target)
        torch.testing.assert_close(out["advantage"], target - values[:, :-1])

    def test_it_reads_and_writes_what_it_declares(self) -> None:
        estimator = LambdaReturns(count_critic(), discount=0.9, trace_decay=0.7)
        rollout = imagined_batch().select(*estimator.in_keys)
        read = set(rollout.keys(True, True))
        out = estimator(rollout)
        assert set(out.keys(True, True)) - read == set(estimator.out_keys)

    def test_nothing_it_writes_has_a_gradient(self) -> None:
        rollout = imagined_batch()
        rollout["belief"].requires_grad_()
        estimator = LambdaReturns(count_critic(), discount=0.9, trace_decay=0.7)
        out = estimator(rollout)
        assert not any(out[key].requires_grad for key in estimator.out_keys)

    RENAMED: ClassVar[dict[str, NestedKey]] = {
        "state_value": ("critic", "v"),
        "value_target": ("critic", "target"),
        "advantage": "a",
        "reward": ("next", "info", "gain"),
        "terminated": ("next", "info", "end"),
    }

    def test_renamed_nested_keys_give_the_same_numbers(self) -> None:
        plain = LambdaReturns(count_critic(), discount=0.9, trace_decay=0.7)
        rollout = imagined_batch().select(*plain.in_keys)
        expected = plain(rollout.clone())
        critic = count_critic()
        critic.out_keys = [self.RENAMED["state_value"]]
        estimator = LambdaReturns(critic, discount=0.9, trace_decay=0.7)
        estimator.set_keys(**self.RENAMED)
        for name in ("reward", "terminated"):
            rollout.set(self.RENAMED[name], rollout["next"].pop(name))
        out = estimator(rollout.select(*estimator.in_keys))
        for before, after in zip(plain.out_keys, estimator.out_keys, strict=True):
            assert torch.equal(out[after], expected[before])
        assert not {"state_value", "value_target", "advantage"} & set(out.keys())

    def test_keys_of_one_are_not_those_of_another(self) -> None:
        first, second = (
            LambdaReturns(count_critic(), discount=0.9, trace_decay=0.7)
            for _ in range(2)
        )
        first.set_keys(advantage="a")
        assert second.out_keys == ["state_value", "value_target", "advantage"]

    def test_an_unknown_key_is_explained(self) -> None:
        estimator = LambdaReturns(count_critic(), discount=0.9, trace_decay=0.7)
        with pytest.raises(ValueError, match=r"'rewards' is not a key.*'reward'"):
            estimator.set_keys(rewards="gain")


class TestScriptedWorld:
    """Action a is rewarded with a; the last action ends the episode."""

    SCRIPT = torch.tensor([[1, 2, 0, 1], [2, 3, 1, 1]])  # [N, H]

    def rollout(self) -> TensorDict:
        world_model = scripted.make_scripted_world_model()
        env = ImaginationEnv(world_model, scripted.ACTIONS)
        moves = iter(torch.eye(scripted.ACTIONS)[self.SCRIPT].unbind(1))
        actor = TensorDictModule(lambda _: next(moves), ["belief"], ["action"])
        context = TensorDict(
            pixels=scripted.frames_of(torch.zeros(2, 3, dtype=torch.long)),
            action=torch.eye(scripted.ACTIONS)[torch.zeros(2, 3, dtype=torch.long)],
            batch_size=[2, 3],
        )
        return imagine(env, actor, context, horizon=4)

    def test_without_values_the_return_is_what_the_actions_earn(self) -> None:
        nothing = TensorDictModule(
            lambda belief: 0 * belief[..., :1], ["belief"], ["state_value"]
        )
        estimator = LambdaReturns(nothing, discount=0.5, trace_decay=1.0)
        given = estimator(self.rollout())["value_target"].squeeze(-1)
        # The second rollout ends by its action 3 and earns nothing for it later.
        expected = torch.tensor([[2.125, 2.25, 0.5, 1.0], [3.5, 3.0, 1.5, 1.0]])
        torch.testing.assert_close(given, expected, atol=1e-4, rtol=1e-4)

    def test_the_bootstrap_is_the_value_of_the_state_after_the_action(self) -> None:
        # V(s_t): how often any action was taken before t: 3 in the context, then 3 + t
        actions = slice(scripted.ACTIONS, 2 * scripted.ACTIONS)
        taken = TensorDictModule(
            lambda belief: belief[..., actions].sum(-1, keepdim=True),
            ["belief"],
            ["state_value"],
        )
        estimator = LambdaReturns(taken, discount=0.5, trace_decay=0.0)
        out = estimator(self.rollout())
        values = torch.tensor([3.0, 4.0, 5.0, 6.0])
        torch.testing.assert_close(out["state_value"][0].flatten(), values)
        # r_t + V_{t+1} / 2
        expected = torch.tensor([[3.0, 4.5, 3.0, 4.5], [4.0, 3.0, 4.0, 4.5]])
        given = out["value_target"].squeeze(-1)
        torch.testing.assert_close(given, expected, atol=1e-4, rtol=1e-4)
