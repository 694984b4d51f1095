"""The actor's loss: its numbers, its scale, whom it trains."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import (
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
)
from torch import Tensor, nn
from torchrl.envs import ExplorationType, set_exploration_type
from torchrl.modules import OneHotCategorical

from drama_torchrl.factories import make_actor
from drama_torchrl.objectives.actor import ActorLoss
from tests.reference.tiny import ACTIONS, imagined_batch, tiny_config


class GivenLogits(nn.Module):
    """The same logits in every state."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, belief: Tensor) -> Tensor:
        return self.logits.expand(*belief.shape[:-1], -1)


def given_loss(
    logits: Tensor, *, entropy_scale: float = 3e-4, return_decay: float = 0.99
) -> ActorLoss:
    actor = ProbabilisticTensorDictSequential(
        TensorDictModule(GivenLogits(logits), ["belief"], ["logits"]),
        ProbabilisticTensorDictModule(
            in_keys=["logits"],
            out_keys=["action"],
            distribution_class=OneHotCategorical,
        ),
    )
    return ActorLoss(actor, entropy_scale=entropy_scale, return_decay=return_decay)


def logits_of(loss: ActorLoss) -> nn.Parameter:
    (parameter,) = loss.parameters()
    return parameter


def rollout(
    actions: list[int], advantages: list[float], targets: Tensor | None = None
) -> TensorDict:
    """One imagined rollout among four actions."""
    shape = (1, len(actions))
    column = torch.tensor(advantages).view(*shape, 1)
    return TensorDict(
        belief=torch.zeros(*shape, 2),
        action=torch.eye(4)[torch.tensor(actions)].view(*shape, 4),
        advantage=column,
        value_target=torch.zeros(*shape, 1) if targets is None else targets,
        batch_size=shape,
    )


PROBS = torch.tensor([0.1, 0.2, 0.3, 0.4])


class TestHandWrittenNumbers:
    def test_reinforce_weighs_log_probabilities_with_advantages(self) -> None:
        loss = given_loss(PROBS.log()).eval()
        out = loss(rollout([1, 3], [2.0, -3.0]))
        expected = -(2 * math.log(0.2) - 3 * math.log(0.4)) / 2
        assert out["loss_actor"].item() == pytest.approx(expected)
        rms = math.sqrt((4 + 9) / 2)
        assert out["advantage"].item() == pytest.approx(rms)

    def test_the_gradient_raises_what_did_better(self) -> None:
        loss = given_loss(PROBS.log()).eval()
        loss(rollout([1], [2.0]))["loss_actor"].backward()
        # -A (1{a} - π)
        expected = -2 * (torch.eye(4)[1] - PROBS)
        torch.testing.assert_close(logits_of(loss).grad, expected)

    def test_entropy_is_rewarded(self) -> None:
        loss = given_loss(torch.zeros(4), entropy_scale=0.1).eval()
        out = loss(rollout([0, 1], [0.0, 0.0]))
        assert out["entropy"].item() == pytest.approx(math.log(4))
        assert out["loss_entropy"].item() == pytest.approx(-0.1 * math.log(4))

    def test_the_entropy_is_spread_by_its_gradient(self) -> None:
        loss = given_loss(PROBS.log(), entropy_scale=1.0).eval()
        loss(rollout([0], [0.0]))["loss_entropy"].backward()
        entropy = -(PROBS * PROBS.log()).sum()
        # d(-H)/dlogit_i = π_i (ln π_i + H)
        expected = PROBS * (PROBS.log() + entropy)
        torch.testing.assert_close(logits_of(loss).grad, expected)


class TestReturnScale:
    # 101 returns from 0 to `span`: P95 - P5 = 0.9 span
    def targets(self, span: float) -> Tensor:
        return torch.linspace(0.0, span, 101).view(1, 101, 1)

    def scale(self, loss: ActorLoss, span: float) -> float:
        batch = rollout([0] * 101, [1.0] * 101, self.targets(span))
        return loss(batch)["return_scale"].item()

    def test_it_is_a_moving_average_of_the_percentile_range(self) -> None:
        loss = given_loss(PROBS.log()).train()
        assert self.scale(loss, 1000.0) == pytest.approx(0.01 * 900)
        assert self.scale(loss, 2000.0) == pytest.approx(0.99 * 9 + 0.01 * 1800)

    def test_it_is_never_below_one(self) -> None:
        assert self.scale(given_loss(PROBS.log()).train(), 10.0) == 1.0

    def test_advantages_are_divided_by_it(self) -> None:
        loss = given_loss(PROBS.log(), return_decay=0.0).train()
        batch = rollout([1] * 101, [2.0] * 101, self.targets(100.0))
        out = loss(batch)
        assert out["return_scale"].item() == pytest.approx(90.0)
        expected = -2 * math.log(0.2) / 90
        assert out["loss_actor"].item() == pytest.approx(expected)
        assert out["advantage"].item() == pytest.approx(2 / 90)

    def test_only_training_moves_it(self) -> None:
        loss = given_loss(PROBS.log(), return_decay=0.0).eval()
        assert self.scale(loss, 100.0) == 1.0
        assert self.scale(loss.train(), 100.0) == pytest.approx(90.0)


def make_tiny() -> ActorLoss:
    actor = make_actor(tiny_config(), ACTIONS)
    for parameter in actor.parameters():  # the last layer starts at almost nothing
        nn.init.normal_(parameter, std=0.3)
    return ActorLoss(actor)


class TestGradients:
    def test_the_whole_actor_and_nothing_of_the_rollout_is_trained(self) -> None:
        loss, batch = make_tiny().train(), imagined_batch()
        inputs = [
            batch[key].requires_grad_()
            for key in ("latent", "belief", "advantage", "value_target")
        ]
        out = loss(batch)
        (out["loss_actor"] + out["loss_entropy"]).backward()
        actor = list(loss.actor_network.parameters())
        assert all(p.grad is not None and p.grad.any() for p in actor)
        assert set(loss.parameters()) == set(actor)
        assert inputs[2].grad is None
        assert inputs[3].grad is None

    def test_terms_have_gradients_and_metrics_have_none(self) -> None:
        out = make_tiny()(imagined_batch())
        terms = {key for key, value in out.items() if value.requires_grad}
        assert terms == {"loss_actor", "loss_entropy"}


class TestInputStatistics:
    @pytest.mark.parametrize(("train", "count"), [(True, 20), (False, 0)])
    def test_they_move_in_training_alone(self, train: bool, count: int) -> None:
        loss = make_tiny().train(train)
        loss(imagined_batch())
        (seen,) = (
            value for key, value in loss.state_dict().items() if key.endswith(".count")
        )
        assert seen == count


class TestLossModule:
    def test_the_input_stays_as_it_was(self) -> None:
        batch = imagined_batch()
        before = batch.clone()
        make_tiny()(batch)
        assert set(batch.keys(True, True)) == set(before.keys(True, True))
        assert (batch == before).all()

    def test_it_reads_and_returns_what_it_declares(self) -> None:
        loss = make_tiny()
        out = loss(imagined_batch().select(*loss.in_keys))
        assert set(out.keys()) == set(loss.out_keys)
        assert all(value.shape == () for value in out.values())

    def test_renamed_nested_keys_give_the_same_losses(self) -> None:
        loss, batch = make_tiny().eval(), imagined_batch()
        expected = loss(batch)
        renamed = {
            "action": ("agent", "move"),
            "advantage": ("critic", "surprise"),
            "value_target": ("critic", "target"),
        }
        for name, key in renamed.items():
            batch.set(key, batch.pop(name))
        loss.set_keys(**renamed)
        assert (loss(batch.select(*loss.in_keys)) == expected).all()

    @pytest.mark.parametrize("dtype", [torch.bool, torch.float32], ids=str)
    def test_actions_may_have_any_dtype_of_a_one_hot_spec(
        self, dtype: torch.dtype
    ) -> None:
        loss, batch = make_tiny().eval(), imagined_batch()
        expected = loss(batch)
        batch["action"] = batch["action"].to(dtype)
        assert (loss(batch) == expected).all()

    def test_an_unknown_key_is_refused(self) -> None:
        with pytest.raises(ValueError, match="actions"):
            make_tiny().set_keys(actions="move")

    def test_a_reloaded_loss_gives_the_same_bits(self) -> None:
        loss, copy = make_tiny().train(), make_tiny().train()
        batch = imagined_batch()
        batch["value_target"] *= 1000
        loss(batch)  # statistics of inputs and returns move
        copy.load_state_dict(loss.state_dict())
        one, other = loss(batch), copy(batch)
        assert one["return_scale"] > 1
        assert (one == other).all()

    @pytest.mark.parametrize(
        "how", [ExplorationType.RANDOM, ExplorationType.DETERMINISTIC]
    )
    def test_actions_are_those_of_the_rollout_however_one_explores(
        self, how: ExplorationType
    ) -> None:
        loss, batch = make_tiny().eval(), imagined_batch()
        with set_exploration_type(how):
            assert (loss(batch) == loss(batch)).all()

    def test_the_paper_weighs_entropy_by_3e_4(self) -> None:
        assert make_tiny().entropy_scale == 3e-4
