"""What the actor learns: actions that did better than expected, with entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tensordict import TensorDict, TensorDictBase
from tensordict.nn import ProbabilisticTensorDictSequential
from tensordict.utils import NestedKey
from torchrl.modules import PercentileValueNorm
from torchrl.objectives import LossModule

from drama_torchrl.parallel import all_mean, gather

__all__ = ["ActorLoss"]


class ActorLoss(LossModule):
    """REINFORCE on imagined advantages, scaled by the spread of the returns.

    L = -mean(log π(a_t|s_t) · sg((G_t - V_t) / S)) - η mean(H[π(·|s_t)]),
    S = max(1, EMA(P95(G) - P5(G)))   (Drama section 2.3; arXiv:2301.04104)

    The percentiles are those of all processes' returns.

    Args:
        actor_network: the stochastic policy, called in the mode it is in: its input
            statistics move if it trains.
        entropy_scale: η.
        return_decay: decay of the moving average in S, updated in training mode.

    The loss terms are ``loss_actor`` and ``loss_entropy``; sum them. ``entropy``,
    ``return_scale`` and ``advantage`` (its root mean square after scaling) are
    detached. Keys are renamed with ``set_keys``.

    Example:
        >>> import torch
        >>> from drama_torchrl.config import load_config
        >>> from drama_torchrl.factories import make_actor
        >>> config = load_config("quick")
        >>> loss = ActorLoss(make_actor(config, num_actions=6), entropy_scale=3e-4)
        >>> rollout = TensorDict(
        ...     latent=torch.zeros(4, 5, config.world_model.latent_dim),
        ...     belief=torch.zeros(4, 5, config.world_model.d_model),
        ...     action=torch.eye(6)[torch.zeros(4, 5, dtype=torch.long)],
        ...     advantage=torch.ones(4, 5, 1),
        ...     value_target=torch.ones(4, 5, 1),
        ...     batch_size=[4, 5],
        ... )
        >>> round(loss(rollout)["loss_actor"].item(), 2)
        1.79
    """

    @dataclass
    class _AcceptedKeys:
        """Keys of the rollout; the actor's inputs are its own ``in_keys``."""

        action: NestedKey = "action"
        advantage: NestedKey = "advantage"
        value_target: NestedKey = "value_target"

    tensor_keys: _AcceptedKeys
    default_keys = _AcceptedKeys
    actor_network: ProbabilisticTensorDictSequential
    out_keys: ClassVar[list[NestedKey]] = [
        "loss_actor",
        "loss_entropy",
        "entropy",
        "return_scale",
        "advantage",
    ]

    def __init__(
        self,
        actor_network: ProbabilisticTensorDictSequential,
        *,
        entropy_scale: float = 3e-4,
        return_decay: float = 0.99,
    ) -> None:
        super().__init__()
        self.actor_network = actor_network
        self.entropy_scale = entropy_scale
        self.return_norm = PercentileValueNorm(rate=1.0 - return_decay)

    @property
    def in_keys(self) -> list[NestedKey]:
        """Keys that :meth:`forward` reads."""
        keys = self.tensor_keys
        return [
            *self.actor_network.in_keys,
            keys.action,
            keys.advantage,
            keys.value_target,
        ]

    def _forward_value_estimator_keys(self, **kwargs: NestedKey) -> None:
        """The loss has no value estimator to pass its keys on to."""

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        """Compute the loss terms of imagined rollouts ``[N, H]``; the input is kept."""
        if self.training:
            self.return_norm.update(gather(tensordict[self.tensor_keys.value_target]))
        distribution = self.actor_network.get_dist(
            tensordict.select(*self.actor_network.in_keys)
        )
        # One-hot specs are often bool, of which argmax knows nothing.
        action = tensordict[self.tensor_keys.action].int()
        log_prob = distribution.log_prob(action)
        entropy = distribution.entropy().mean()
        advantage = tensordict[self.tensor_keys.advantage].detach()
        advantage = self.return_norm.normalize(advantage).squeeze(-1)
        (mean_square,) = all_mean(advantage.square().mean())
        return TensorDict(
            {
                "loss_actor": -(log_prob * advantage).mean(),
                "loss_entropy": -self.entropy_scale * entropy,
                "entropy": entropy.detach(),
                "return_scale": self.return_norm.scale().squeeze(),
                "advantage": mean_square.sqrt(),
            }
        )
