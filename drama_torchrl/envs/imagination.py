"""The world model as an environment: imagined rollouts from real contexts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import nn
from torchrl.data import Composite, OneHot, Unbounded
from torchrl.envs import ExplorationType, set_exploration_type
from torchrl.envs.model_based import ModelBasedEnvBase

from drama_torchrl.modules.mode import evaluating
from drama_torchrl.modules.world_model import WorldModel
from drama_torchrl.precision import round_as_autocast

__all__ = ["ImaginationEnv", "imagine"]

_STATE = ("latent", "belief")


class ImaginationEnv(ModelBasedEnvBase):
    """Act inside a :class:`~drama_torchrl.modules.WorldModel` (Drama section 2.3).

    ``reset(context=batch)`` takes real transitions ``[N, C]`` and runs them in
    parallel: their frames are encoded, the beliefs follow, and the first imagined
    latent is drawn from the prior after the last of them. A tensordict of batch size
    ``[N]`` with the batch under ``"context"`` does the same, but not in a
    ``TransformedEnv``, which hides from ``reset`` what it does not know. ``step`` then
    costs O(1) whatever the length of the context.

    The recurrent state lives in the environment, not in the tensordicts: a
    ``rollout`` would otherwise stack it twice for every step (5.4 GB at the
    paper's sizes). So a step continues the last reset or step and nothing else. Under
    autocast it is kept in autocast's dtype: its bytes are most of what a step moves.
    Predicted terminations stay in ``("next", "terminated")`` and stop no rollout that
    is called with ``break_when_any_done=False``: where a wrapper asks for a reset of
    what has ended, imagination goes on. Gradients are off and modules evaluate.

    Args:
        world_model: the model to imagine with; it stays the caller's. It reads the
            context by its own keys; ``"latent"``, ``"belief"`` and ``"action"`` are
            the environment's.
        num_actions: number A of actions.

    Raises:
        ValueError: if a reset with a tensordict finds no context, if the context lacks
            its time dimension, or if a step's batch size is not that of the last
            reset.

    Example:
        >>> import torch
        >>> from drama_torchrl.config import load_config
        >>> from drama_torchrl.factories import make_world_model
        >>> world_model = make_world_model(load_config("quick"), num_actions=6)
        >>> env = ImaginationEnv(world_model, num_actions=6)
        >>> context = TensorDict(
        ...     pixels=torch.zeros(4, 8, 3, 64, 64, dtype=torch.uint8),
        ...     action=torch.zeros(4, 8, 6),
        ...     batch_size=[4, 8],
        ... )
        >>> start = env.reset(context=context)
        >>> start["belief"].shape
        torch.Size([4, 128])
    """

    def __init__(self, world_model: WorldModel, num_actions: int) -> None:
        device = next(world_model.parameters()).device
        super().__init__(world_model, device=device, allow_done_after_reset=True)
        self._state: TensorDictBase | None = None
        self._recurrent_state: TensorDict | None = None
        state = {
            "latent": Unbounded((world_model.latent_dim,), device=device),
            "belief": Unbounded((world_model.belief_dim,), device=device),
        }
        self.observation_spec = Composite(state)
        self.state_spec = Composite(state).clone()
        # int64 is what torchrl's OneHotCategorical draws.
        self.action_spec = OneHot(num_actions, dtype=torch.int64, device=device)
        self.reward_spec = Unbounded((1,), device=device)

    def any_done(self, tensordict: TensorDictBase) -> bool:
        """Nothing is ever reset for being done: no host synchronisation to see it."""
        del tensordict
        return False

    def maybe_reset(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Imagination is never reset within a rollout."""
        return tensordict

    @torch.no_grad()
    def _reset(
        self,
        tensordict: TensorDictBase | None = None,
        *,
        context: TensorDictBase | None = None,
        **kwargs: Any,
    ) -> TensorDictBase:
        del kwargs
        if context is None and tensordict is not None:
            context = tensordict.get("context", None)
        with evaluating(self.world_model):
            if context is not None:
                shape = context.shape[:1] if tensordict is None else tensordict.shape
                self._state, self._recurrent_state = self._look_from(shape, context)
            elif tensordict is None:
                self._state, self._recurrent_state = self._blank_start(self.batch_size)
            elif self._state is None or "_reset" not in tensordict:
                raise ValueError(
                    'ImaginationEnv.reset expects real transitions under "context", '
                    f"got {sorted(map(str, tensordict.keys()))}; pass them as "
                    "reset(context=batch), in a TransformedEnv too."
                )
        return self.full_done_spec.zero(self._state.shape).update(self._state)

    def _look_from(
        self, shape: torch.Size, context: TensorDictBase
    ) -> tuple[TensorDictBase, TensorDict]:
        if context.ndim != len(shape) + 1:
            raise ValueError(
                'ImaginationEnv.reset expects "context" of batch size '
                f"[{', '.join(map(str, shape))}, time], got "
                f"{list(context.shape)}; pass real transitions [N, C] as "
                "reset(context=batch)."
            )
        return self.look(context)

    def _blank_start(self, shape: torch.Size) -> tuple[TensorDictBase, TensorDict]:
        belief = torch.zeros(*shape, self.world_model.belief_dim, device=self.device)
        start = TensorDict({"belief": belief}, batch_size=shape)
        start.set("latent", self.world_model.draw_prior(belief))
        return start, self.world_model.initial_state(shape.numel())

    @torch.no_grad()
    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        memory = self._recurrent_state
        if memory is None or memory.numel() != max(tensordict.numel(), 1):
            raise ValueError(
                "ImaginationEnv.step continues the last reset: expected batch size "
                f"{None if memory is None else list(memory.shape)}, got "
                f"{list(tensordict.shape)}; call reset with as many contexts first."
            )
        state = tensordict.select(*_STATE, "action").reshape(memory.shape)
        with evaluating(self.world_model):
            following, self._recurrent_state = self.advance(state, memory)
            self._state = following.reshape(tensordict.shape)
            outcomes = self.outcomes(following).reshape(tensordict.shape)
        return self._state.copy().update(outcomes)

    def look(self, context: TensorDictBase) -> tuple[TensorDictBase, TensorDict]:
        """Run real transitions ``[N, C]`` through the world model, in its mode.

        Returns:
            ``"latent"`` and ``"belief"`` of the first imagined state, and the
            recurrent state, both of batch size ``[N]``.
        """
        context = self.world_model.encode(context.copy())
        beliefs, memory = self.world_model.believe(context)
        # Laid out as steps lay it out, or acting would be compiled for both.
        belief = beliefs[:, -1].contiguous()
        latent = self.world_model.draw_prior(belief)
        start = {"latent": latent, "belief": belief.float()}
        start = TensorDict(start, batch_size=context.shape[:1])
        return start, round_as_autocast(memory)

    def advance(
        self, state: TensorDictBase, memory: TensorDict
    ) -> tuple[TensorDictBase, TensorDict]:
        """Compute of a step what the next one needs, in the world model's mode.

        Args:
            state: ``"latent"``, ``"belief"`` and ``"action"``, batch size ``[N]``.
            memory: the recurrent state before the step.

        Returns:
            The next ``"latent"`` and ``"belief"``, and the recurrent state after the
            step.
        """
        belief, latent, memory = self.world_model.advance(
            state.get("latent"), state.get("action"), memory
        )
        following = {"latent": latent, "belief": belief}
        following = TensorDict(following, batch_size=state.shape)
        return following, round_as_autocast(memory)

    def outcomes(self, following: TensorDictBase) -> TensorDictBase:
        """Predict ``"reward"`` and ``"terminated"`` from next states ``[*]``.

        All steps of a rollout at once: no step waits for those of the one before.
        """
        reward, terminated = self.world_model.outcomes(following.get("belief"))
        outcomes = {"reward": reward, "terminated": terminated}
        return TensorDict(outcomes, batch_size=following.shape)


def imagine(
    env: ImaginationEnv,
    policy: Callable[[TensorDictBase], TensorDictBase],
    context: TensorDictBase,
    horizon: int,
) -> TensorDictBase:
    """Roll a policy out in imagination, from the end of real contexts.

    a_t ~ π(s_t), d_t = f(z_≤t, a_≤t), ẑ_{t+1} ~ p(· | d_t), r̂_t, ê_t from d_t,
    for t = 0 … H-1   (Drama section 2.3)

    The states of ``env.rollout``, each stored once: those at the root and those under
    ``"next"`` share memory. The recurrent state is not left in the environment, so
    that several rollouts may run beside each other.

    Args:
        env: the imagination.
        policy: adds ``"action"`` to ``"latent"`` and ``"belief"``; its actions are
            drawn, and it evaluates if it is a module.
        context: real transitions ``[N, C]``.
        horizon: number H of imagined steps.

    Returns:
        The rollout ``[N, H]``, without gradient.

    Example:
        >>> import torch
        >>> from drama_torchrl.config import load_config
        >>> from drama_torchrl.factories import make_actor, make_world_model
        >>> config = load_config("quick")
        >>> env = ImaginationEnv(make_world_model(config, num_actions=6), 6)
        >>> context = TensorDict(
        ...     pixels=torch.zeros(4, 8, 3, 64, 64, dtype=torch.uint8),
        ...     action=torch.zeros(4, 8, 6),
        ...     batch_size=[4, 8],
        ... )
        >>> rollout = imagine(env, make_actor(config, num_actions=6), context, 5)
        >>> rollout["next", "reward"].shape
        torch.Size([4, 5, 1])
    """
    modules = [policy] if isinstance(policy, nn.Module) else []
    steps = []
    with (
        torch.no_grad(),
        evaluating(env.world_model, *modules),
        set_exploration_type(ExplorationType.RANDOM),
    ):
        state, memory = env.look(context)
        for _ in range(horizon):
            step = policy(state)
            following, memory = env.advance(step, memory)
            steps.append(step)
            state = following
        # Each state is stored once.
        states = TensorDict.stack([step.select(*_STATE) for step in [*steps, state]], 1)
        rollout = TensorDict.stack([step.exclude(*_STATE) for step in steps], 1)
        following = states[:, 1:]
        outcomes = env.outcomes(following)
        ended = outcomes.get("terminated")
        following = following.update(outcomes).set("done", ended)
        return rollout.update(states[:, :-1]).set("next", following)
