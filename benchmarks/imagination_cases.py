"""What is measured of imagination, and whether it computes what it should."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.envs import ExplorationType, set_exploration_type

from benchmarks.harness import Call, autocast, relative_error
from benchmarks.substitution import fixed_draws
from drama_torchrl.agent import Agent
from drama_torchrl.config import DramaConfig
from drama_torchrl.envs.imagination import ImaginationEnv, imagine
from drama_torchrl.estimate import random_batches

__all__ = ["NUM_ACTIONS", "Context", "Measurement", "Rollout"]

NUM_ACTIONS = 18
# Largest share of other latents; largest relative errors of rewards and of beliefs.
OTHER_LATENTS, REWARD_TOLERANCE, BELIEF_TOLERANCE = 0.01, 0.01, 1e-3


class Measurement(Protocol):
    """Something that is compared with a reference and then timed."""

    def calls(self) -> dict[str, Call]:
        """What to time, by name."""

    def errors(self, run: Callable[[Call], Call]) -> dict[str, float]:
        """Errors over what is allowed, all at most 1 if it agrees.

        Args:
            run: makes of a call one in the mode to check.
        """


class Rollout:
    """Imagination from contexts ``[N, C]`` over H steps.

    Args:
        config: says the size of frames.
        agent: its world model and actor imagine.
        batch, context, horizon: N, C and H.
    """

    def __init__(
        self, config: DramaConfig, agent: Agent, batch: int, context: int, horizon: int
    ) -> None:
        device = agent.device
        sizes = replace(
            config.replay, imagination_batch=batch, imagination_window=context
        )
        # As many transitions as so many contexts would need.
        steps = config.training.total_steps - 1
        training = replace(config.training, random_steps=steps)
        config = replace(config, replay=sizes, training=training)
        _, self.context = random_batches(config, NUM_ACTIONS, device)
        self.env = ImaginationEnv(agent.world_model, NUM_ACTIONS)
        self.actor = agent.actor
        self.horizon = horizon
        self.device = device
        self.num_classes = max(NUM_ACTIONS, config.world_model.num_classes)

    def imagine(self) -> TensorDictBase:
        """Imagine in the precision of training."""
        with autocast(self.device):
            return self.imagine_exactly()

    def imagine_exactly(self) -> TensorDictBase:
        """Imagine in float32."""
        return imagine(self.env, self.actor, self.context, self.horizon)

    def calls(self) -> dict[str, Call]:
        """The rollout."""
        return {"rollout": self.imagine}

    @torch.no_grad()
    def reference(self) -> TensorDictBase:
        """TorchRL's rollout of the same environment and policy."""
        with set_exploration_type(ExplorationType.RANDOM):
            return self.env.rollout(
                self.horizon,
                self.actor,
                auto_reset=False,
                tensordict=self.env.reset(context=self.context),
                break_when_any_done=False,
            )

    def errors(self, run: Callable[[Call], Call]) -> dict[str, float]:
        """Share of other latents and error of rewards, over what is allowed."""
        with fixed_draws(self.device, self.num_classes):
            expected = self.reference()
            call = run(self.imagine_exactly)
            found: Any = call()
        one, other = (rollout.get("latent") > 0.5 for rollout in (found, expected))
        # Where a latent differs, two of its entries do.
        categoricals = expected.get("latent").sum(-1).mean()
        differing = (one != other).float().sum(-1).mean() / (2 * categoricals)
        rewards = [rollout.get(("next", "reward")) for rollout in (found, expected)]
        return {
            "latents": differing.item() / OTHER_LATENTS,
            "rewards": relative_error(*rewards) / REWARD_TOLERANCE,
        }


class Context:
    """The sequence model over given latents ``[B, T]``, and one step after them.

    Args:
        config: says the sizes.
        agent: its world model is used.
        batch, length: B and T.
    """

    def __init__(
        self, config: DramaConfig, agent: Agent, batch: int, length: int
    ) -> None:
        self.dynamics, self.device = agent.world_model.dynamics, agent.device
        c = config.world_model
        shape = (batch, length)

        def draw(*categories: int) -> Tensor:
            drawn = torch.randint(categories[-1], (*shape, *categories[:-1]))
            hot = torch.nn.functional.one_hot(drawn.to(self.device), categories[-1])
            return hot.to(torch.float32).flatten(2)

        self.latent = draw(c.num_categoricals, c.num_classes)
        self.action = draw(NUM_ACTIONS)
        with torch.no_grad():
            head = self.latent[:, :-1], self.action[:, :-1]
            self.belief, self.state = self.dynamics(*head)

    @torch.no_grad()
    def run(self) -> Any:
        """Pass over the context."""
        with autocast(self.device):
            return self.dynamics(self.latent, self.action)

    @torch.no_grad()
    def step(self) -> Any:
        """Make one step after it."""
        with autocast(self.device):
            return self.step_exactly()

    def step_exactly(self) -> Any:
        """Make that step in float32."""
        return self.dynamics.step(self.latent[:, -1], self.action[:, -1], self.state)

    def calls(self) -> dict[str, Call]:
        """The pass and the step."""
        return {"context": self.run, "step": self.step}

    @torch.no_grad()
    def errors(self, run: Callable[[Call], Call]) -> dict[str, float]:
        """Error of the last belief of the pass against the step's, over the allowed."""
        call = run(lambda: self.dynamics(self.latent, self.action))
        found: Any = call()
        beliefs, _ = found
        expected, _ = self.step_exactly()
        return {"belief": relative_error(beliefs[:, -1], expected) / BELIEF_TOLERANCE}
