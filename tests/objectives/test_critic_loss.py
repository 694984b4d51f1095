"""The critic's loss: its numbers, its slow copy, whom it trains."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict, TensorDictParams
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.objectives import SoftUpdate

from drama_torchrl.factories import make_critic
from drama_torchrl.modules.distributions import SymlogTwoHot
from drama_torchrl.objectives.critic import CriticLoss
from tests.reference.oracles import lambda_return_loop
from tests.reference.tiny import imagined_batch, tiny_config


def weights(params: TensorDictParams) -> dict[str, Tensor]:
    """What learns in a critic: all but the bins of its distribution."""
    leaves = params.flatten_keys(".").items()
    return {name: leaf for name, leaf in leaves if "bins" not in name}


class GivenValue(nn.Module):
    """The same logits in every state, shifted towards the top bin by the state."""

    def __init__(self, two_hot: SymlogTwoHot) -> None:
        super().__init__()
        self.two_hot = two_hot
        self.logits = nn.Parameter(torch.zeros(len(two_hot.bins)))

    def forward(self, belief: Tensor) -> tuple[Tensor, Tensor]:
        top = torch.eye(len(self.logits))[-1]
        logits = self.logits + belief * top
        return logits, self.two_hot(logits)


def given_loss(**options: float) -> CriticLoss:
    critic = TensorDictModule(
        GivenValue(SymlogTwoHot(5, 2.0)),
        in_keys=["belief"],
        out_keys=["state_value_logits", "state_value"],
    )
    return updated(CriticLoss(critic, critic.module.two_hot, **options))


def updated(loss: CriticLoss) -> CriticLoss:
    """TorchRL warns of a slow copy that nothing moves."""
    SoftUpdate(loss, eps=0.98)
    return loss


def rollout(targets: list[float]) -> TensorDict:
    shape = (1, len(targets))
    zeros = torch.zeros(*shape, 1)
    return TensorDict(
        {
            "belief": zeros,
            ("next", "belief"): zeros,
            ("next", "reward"): zeros,
            ("next", "terminated"): torch.zeros(*shape, 1, dtype=torch.bool),
            "value_target": torch.tensor(targets).view(*shape, 1),
        },
        batch_size=shape,
    )


class TestHandWrittenNumbers:
    PROBS = torch.tensor([1.0, 1.0, 2.0, 4.0, 1.0]) / 9

    def loss(self) -> CriticLoss:
        loss = given_loss()
        with torch.no_grad():
            (parameter,) = weights(loss.critic_network_params).values()
            parameter.copy_(self.PROBS.log())
        return loss

    def test_the_loss_is_the_two_hot_cross_entropy_to_the_return(self) -> None:
        # G = e^(1/4) - 1: 3/4 on bin 0, 1/4 on bin 1; G = e - 1: all on bin 1
        out = self.loss()(rollout([math.exp(0.25) - 1, math.e - 1]))
        first = 0.75 * math.log(9 / 2) + 0.25 * math.log(9 / 4)
        expected = (first + math.log(9 / 4)) / 2
        assert out["loss_critic"].item() == pytest.approx(expected)

    def test_metrics_are_means(self) -> None:
        value = math.exp(1 / 3) - 1  # mean of the bins: (-2 - 1 + 0 + 4 + 2) / 9
        out = self.loss()(rollout([2.0, 0.0]))
        assert out["value"].item() == pytest.approx(value)
        assert out["value_target"].item() == pytest.approx(1.0)
        error = ((2 - value) + value) / 2
        assert out["value_error"].item() == pytest.approx(error)

    def test_the_slow_critic_sets_a_target_of_its_own(self) -> None:
        # Slow values are still 0, so its λ-return is 0: all on the middle bin.
        out = self.loss()(rollout([1.0, 1.0]))
        assert out["loss_slow_critic"].item() == pytest.approx(math.log(9 / 2))


class TestSlowCritic:
    OPTIONS = {"discount": 0.9, "trace_decay": 0.7}  # noqa: RUF012

    def test_its_target_is_its_own_lambda_return(self) -> None:
        loss = given_loss(**self.OPTIONS)
        with torch.no_grad():
            (slow,) = weights(loss.target_critic_network_params).values()
            slow.copy_(torch.tensor([0.0, -1.0, 0.5, 1.0, 2.0]))
            (fast,) = weights(loss.critic_network_params).values()
            fast.copy_(torch.randn(5))
        batch = imagined_batch(3, 5)
        states = torch.randn(3, 6, 1)
        batch["belief"], batch["next", "belief"] = states[:, :-1], states[:, 1:]
        two_hot, top = loss.two_hot, torch.eye(5)[-1]
        values = two_hot(slow.detach() + states * top).squeeze(-1)
        target = [
            lambda_return_loop(
                values[row].tolist(),
                batch["next", "reward"][row].flatten().tolist(),
                batch["next", "terminated"][row].flatten().tolist(),
                **self.OPTIONS,
            )
            for row in range(3)
        ]
        logits = fast.detach() + states[:, :-1] * top
        expected = two_hot.cross_entropy(logits, torch.tensor(target).unsqueeze(-1))
        given = loss(batch)["loss_slow_critic"].detach()
        torch.testing.assert_close(given, expected.mean(), rtol=1e-4, atol=1e-5)

    def test_it_starts_as_a_copy(self) -> None:
        loss = make_tiny()
        slow = weights(loss.target_critic_network_params)
        assert all(
            torch.equal(slow[name], parameter)
            for name, parameter in weights(loss.critic_network_params).items()
        )

    @pytest.mark.parametrize("scale", [0.0, 2.5])
    def test_its_term_is_scaled(self, scale: float) -> None:
        expected = (
            scale * given_loss(slow_scale=1.0)(rollout([1.0]))["loss_slow_critic"]
        )
        given = given_loss(slow_scale=scale)(rollout([1.0]))["loss_slow_critic"]
        torch.testing.assert_close(given, expected)

    def test_it_follows_by_a_fiftieth_each_time(self) -> None:
        loss = make_tiny()
        updater = SoftUpdate(loss, eps=0.98)
        fast = weights(loss.critic_network_params)
        slow = weights(loss.target_critic_network_params)
        with torch.no_grad():
            for parameter in fast.values():
                parameter.add_(torch.randn_like(parameter))
        expected = {name: 0.98 * slow[name] + 0.02 * fast[name] for name in fast}
        loss(imagined_batch())  # the functional calls leave the copies in place
        updater.step()
        after = weights(loss.target_critic_network_params)
        torch.testing.assert_close(after, expected)
        assert not any(parameter.requires_grad for parameter in after.values())


def make_tiny() -> CriticLoss:
    critic = make_critic(tiny_config())
    for parameter in critic.parameters():  # the last layer starts at almost nothing
        nn.init.normal_(parameter, std=0.3)
    return updated(CriticLoss(critic, critic.module.two_hot))


class TestGradients:
    @pytest.mark.parametrize("term", ["loss_critic", "loss_slow_critic"])
    def test_the_critic_is_trained_and_neither_its_copy_nor_the_rollout(
        self, term: str
    ) -> None:
        loss, batch = make_tiny(), imagined_batch()
        target = batch["value_target"].requires_grad_()
        future = [batch["next", key].requires_grad_() for key in ("reward", "belief")]
        loss(batch)[term].backward()
        fast = weights(loss.critic_network_params).values()
        slow = weights(loss.target_critic_network_params).values()
        assert all(p.grad is not None and p.grad.any() for p in fast)
        assert all(p.grad is None and not p.requires_grad for p in slow)
        assert all(value.grad is None for value in (target, *future))

    def test_the_trained_parameters_are_those_of_the_critic_itself(self) -> None:
        critic = make_critic(tiny_config())
        loss = CriticLoss(critic, critic.module.two_hot)
        trainable = {p for p in loss.parameters() if p.requires_grad}
        assert trainable == set(critic.parameters())

    def test_terms_have_gradients_and_metrics_have_none(self) -> None:
        out = make_tiny()(imagined_batch())
        terms = {key for key, value in out.items() if value.requires_grad}
        assert terms == {"loss_critic", "loss_slow_critic"}


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
        loss, batch = make_tiny(), imagined_batch()
        expected = loss(batch)
        batch.set(("critic", "target"), batch.pop("value_target"))
        for name, key in (("reward", "gain"), ("terminated", "end")):
            batch["next"].set(("info", key), batch["next"].pop(name))
        loss.set_keys(
            value_target=("critic", "target"),
            reward=("next", "info", "gain"),
            terminated=("next", "info", "end"),
        )
        assert (loss(batch.select(*loss.in_keys)) == expected).all()

    @pytest.mark.parametrize("name", ["state_value_logits", "state_value"])
    def test_a_critic_may_name_its_outputs(self, name: str) -> None:
        plain, batch = make_critic(tiny_config()), imagined_batch()
        expected = updated(CriticLoss(plain, plain.module.two_hot))(batch)
        renamed = [("critic", key) if key == name else key for key in plain.out_keys]
        critic = TensorDictModule(plain.module, plain.in_keys, renamed)
        loss = updated(CriticLoss(critic, plain.module.two_hot))
        loss.set_keys(**{name: ("critic", name)})
        assert (loss(batch) == expected).all()

    def test_an_unknown_key_is_refused(self) -> None:
        with pytest.raises(ValueError, match="rewards"):
            make_tiny().set_keys(rewards="gain")

    def test_a_reloaded_loss_gives_the_same_bits(self) -> None:
        loss, copy = make_tiny(), make_tiny()
        with torch.no_grad():
            for parameter in weights(loss.critic_network_params).values():
                parameter.mul_(1.5)  # and its slow copy stays
        copy.load_state_dict(loss.state_dict())
        batch = imagined_batch()
        assert (loss(batch) == copy(batch)).all()
