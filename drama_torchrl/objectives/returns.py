"""λ-returns and advantages of imagined rollouts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.objectives.value.functional import td_lambda_return_estimate

from drama_torchrl.modules.tensor_keys import rename

__all__ = ["LambdaReturns", "lambda_returns", "rollout_values"]


def lambda_returns(
    values: Tensor,
    reward: Tensor,
    terminated: Tensor,
    *,
    discount: float,
    trace_decay: float,
) -> Tensor:
    """Textbook λ-returns, by TorchRL's estimator.

    G_t = r_t + γ (1 - e_t) [(1-λ) V_{t+1} + λ G_{t+1}],  G_H = V_H
    (Sutton & Barto 2018, section 12.1; decision D2)

    Args:
        values: V_0 … V_H, ``[N, H+1, 1]``.
        reward: r_t caused by a_t, ``[N, H, 1]``.
        terminated: e_t caused by a_t, bool ``[N, H, 1]``.
        discount: γ.
        trace_decay: λ.

    Returns:
        G_0 … G_{H-1}, ``[N, H, 1]``.

    Example:
        >>> import torch
        >>> lambda_returns(
        ...     torch.tensor([[[5.0], [6.0], [8.0]]]),
        ...     torch.tensor([[[1.0], [2.0]]]),
        ...     torch.tensor([[[False], [False]]]),
        ...     discount=0.5,
        ...     trace_decay=0.5,
        ... ).flatten()
        tensor([4., 6.])
    """
    return td_lambda_return_estimate(
        discount, trace_decay, values[:, 1:], reward, terminated, terminated
    )


def rollout_values(
    critic: TensorDictModuleBase,
    rollout: TensorDictBase,
    value_key: NestedKey = "state_value",
) -> Tensor:
    """Values of all states of a rollout, the one after the last step included.

    Args:
        critic: module writing values.
        rollout: ``[N, H]`` with the critic's inputs at the root and under ``"next"``.
        value_key: where it writes them.

    Returns:
        V_0 … V_H, ``[N, H+1, 1]``.

    Example:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from tensordict.nn import TensorDictModule
        >>> critic = TensorDictModule(
        ...     lambda x: 2 * x, in_keys=["x"], out_keys=["state_value"]
        ... )
        >>> x = torch.arange(4.0).reshape(1, 4, 1)
        >>> rollout = TensorDict({"x": x[:, :3], ("next", "x"): x[:, 1:]}, [1, 3])
        >>> rollout_values(critic, rollout).flatten()
        tensor([0., 2., 4., 6.])
    """
    states = rollout.select(*critic.in_keys)
    last = rollout.get("next").select(*critic.in_keys)[:, -1:]
    return critic(torch.cat([states, last], 1)).get(value_key)


class LambdaReturns(TensorDictModuleBase):
    """Write the values, λ-returns and advantages of imagined rollouts.

    A_t = G_t - V_t, with G_t of :func:`lambda_returns` (Drama section 2.3)

    Args:
        critic: module writing ``"state_value"``; it receives no gradient, and its
            inputs are its own ``in_keys``.
        discount: γ.
        trace_decay: λ.

    Writes ``"state_value"``, ``"value_target"`` and ``"advantage"``, ``[N, H, 1]``.
    Keys are renamed with :meth:`set_keys`.

    Example:
        >>> from drama_torchrl.config import load_config
        >>> from drama_torchrl.factories import make_critic
        >>> critic = make_critic(load_config("quick"))
        >>> LambdaReturns(critic, discount=0.985, trace_decay=0.95).out_keys
        ['state_value', 'value_target', 'advantage']
    """

    @dataclass
    class _AcceptedKeys:
        """Keys of the rollout."""

        state_value: NestedKey = "state_value"
        value_target: NestedKey = "value_target"
        advantage: NestedKey = "advantage"
        reward: NestedKey = ("next", "reward")
        terminated: NestedKey = ("next", "terminated")

    def __init__(
        self, critic: TensorDictModuleBase, *, discount: float, trace_decay: float
    ) -> None:
        super().__init__()
        self.critic = critic
        self.discount = discount
        self.trace_decay = trace_decay
        self.tensor_keys = self._AcceptedKeys()

    @property
    def in_keys(self) -> list[NestedKey]:
        """Keys that :meth:`forward` reads."""
        inputs, keys = self.critic.in_keys, self.tensor_keys
        nexts = [("next", key) for key in inputs]
        return [*inputs, *nexts, keys.reward, keys.terminated]

    @property
    def out_keys(self) -> list[NestedKey]:
        """Keys that :meth:`forward` writes."""
        keys = self.tensor_keys
        return [keys.state_value, keys.value_target, keys.advantage]

    def set_keys(self, **keys: NestedKey) -> None:
        """Rename entries, as in TorchRL's loss modules.

        Raises:
            ValueError: if a name is not among ``tensor_keys``.
        """
        rename(self.tensor_keys, keys, owner="LambdaReturns")

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Complete a rollout ``[N, H]``."""
        keys = self.tensor_keys
        values = rollout_values(self.critic, tensordict, keys.state_value)
        value = values[:, :-1]
        value_target = lambda_returns(
            values,
            tensordict[keys.reward],
            tensordict[keys.terminated],
            discount=self.discount,
            trace_decay=self.trace_decay,
        )
        tensordict.set(keys.state_value, value)
        tensordict.set(keys.value_target, value_target)
        return tensordict.set(keys.advantage, value_target - value)
