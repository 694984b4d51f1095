"""What the critic learns: imagined returns, kept close to its own slow copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from tensordict import TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import TensorDictModule
from tensordict.utils import NestedKey
from torchrl.objectives import LossModule

from drama_torchrl.modules.distributions import SymlogTwoHot
from drama_torchrl.objectives.returns import lambda_returns, rollout_values

__all__ = ["CriticLoss"]


class CriticLoss(LossModule):
    """Two-hot cross-entropy to the λ-return and to that of a slow critic.

    L = CE(v_t, sg(G_t)) + μ CE(v_t, sg(G̃_t)), where G̃_t bootstraps from the slow
    critic   (Drama A.4.4; arXiv:2301.04104)

    The slow critic is ``target_critic_network_params``; move it with
    ``SoftUpdate(loss, eps=0.98)``.

    Args:
        critic_network: module writing ``"state_value_logits"`` and ``"state_value"``.
        two_hot: the distribution over the logits.
        discount: γ of G̃.
        trace_decay: λ of G̃.
        slow_scale: μ.

    The loss terms are ``loss_critic`` and ``loss_slow_critic``; sum them.
    ``value``, ``value_target`` (means) and ``value_error`` (mean absolute) are
    detached. Keys are renamed with ``set_keys``.

    Example:
        >>> from drama_torchrl.config import load_config
        >>> from drama_torchrl.factories import make_critic
        >>> from torchrl.objectives import SoftUpdate
        >>> critic = make_critic(load_config("quick"))
        >>> loss = CriticLoss(critic, critic.module.two_hot)
        >>> updater = SoftUpdate(loss, eps=0.98)
        >>> loss.out_keys[:2]
        ['loss_critic', 'loss_slow_critic']
    """

    @dataclass
    class _AcceptedKeys:
        """Keys of the rollout; the critic's inputs are its own ``in_keys``."""

        state_value_logits: NestedKey = "state_value_logits"
        state_value: NestedKey = "state_value"
        value_target: NestedKey = "value_target"
        reward: NestedKey = ("next", "reward")
        terminated: NestedKey = ("next", "terminated")

    tensor_keys: _AcceptedKeys
    default_keys = _AcceptedKeys
    critic_network: TensorDictModule
    critic_network_params: TensorDictParams
    target_critic_network_params: TensorDictParams
    out_keys: ClassVar[list[NestedKey]] = [
        "loss_critic",
        "loss_slow_critic",
        "value",
        "value_target",
        "value_error",
    ]

    def __init__(
        self,
        critic_network: TensorDictModule,
        two_hot: SymlogTwoHot,
        *,
        discount: float = 0.985,
        trace_decay: float = 0.95,
        slow_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.convert_to_functional(
            critic_network, "critic_network", create_target_params=True
        )
        self.two_hot = two_hot
        self.discount = discount
        self.trace_decay = trace_decay
        self.slow_scale = slow_scale

    @property
    def in_keys(self) -> list[NestedKey]:
        """Keys that :meth:`forward` reads."""
        inputs = self.critic_network.in_keys
        keys = self.tensor_keys
        return [
            *inputs,
            *(("next", key) for key in inputs),
            keys.value_target,
            keys.reward,
            keys.terminated,
        ]

    def _forward_value_estimator_keys(self, **kwargs: NestedKey) -> None:
        """The loss calls its estimator as a function: no keys to pass on."""

    @torch.no_grad()
    def _slow_returns(self, tensordict: TensorDictBase) -> torch.Tensor:
        # Without preserve_module_state=False the targets would come back as
        # trainable parameters and SoftUpdate would refuse them.
        with self.target_critic_network_params.to_module(
            self.critic_network, preserve_module_state=False
        ):
            values = rollout_values(
                self.critic_network, tensordict, self.tensor_keys.state_value
            )
        return lambda_returns(
            values,
            tensordict[self.tensor_keys.reward],
            tensordict[self.tensor_keys.terminated],
            discount=self.discount,
            trace_decay=self.trace_decay,
        )

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Compute the loss terms of imagined rollouts ``[N, H]``; the input is kept."""
        value_target = tensordict[self.tensor_keys.value_target].detach()
        slow_target = self._slow_returns(tensordict)
        with self.critic_network_params.to_module(
            self.critic_network, preserve_module_state=False
        ):
            out = self.critic_network(tensordict.select(*self.critic_network.in_keys))
        logits = out.get(self.tensor_keys.state_value_logits)
        value = out.get(self.tensor_keys.state_value).detach()
        loss = self.two_hot.cross_entropy(logits, value_target).mean()
        slow_loss = self.two_hot.cross_entropy(logits, slow_target).mean()
        return TensorDict(
            {
                "loss_critic": loss,
                "loss_slow_critic": self.slow_scale * slow_loss,
                "value": value.mean(),
                "value_target": value_target.mean(),
                "value_error": (value - value_target).abs().mean(),
            }
        )
