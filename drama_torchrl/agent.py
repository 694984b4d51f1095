"""The whole agent: its world model, its behaviour, and what trains them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModule

from drama_torchrl.acceleration import CapturedUpdate
from drama_torchrl.learner import Learner
from drama_torchrl.modules.world_model import WorldModel
from drama_torchrl.updates import Update

__all__ = ["Agent"]


@dataclass
class Agent:
    """Networks and learners of one agent; the learners train the networks.

    Example:
        >>> import torch
        >>> from drama_torchrl.config import load_config
        >>> from drama_torchrl.factories import make_agent
        >>> agent = make_agent(load_config("quick"), 6, torch.device("cpu"))
        >>> sorted(agent.state_dict())
        ['behaviour', 'world_model']
    """

    world_model: WorldModel
    """Predicts; always in evaluation mode outside its own update."""
    imagined: WorldModel
    """What the behaviour acts and imagines in: it, or its copy on another device."""
    actor: ProbabilisticTensorDictSequential
    """Acts on ``"latent"`` and ``"belief"``."""
    critic: TensorDictModule
    """Values ``"latent"`` and ``"belief"``."""
    learn_world_model: Learner
    """Takes real windows ``[B, T]``."""
    learn_behaviour: Learner
    """Takes real contexts ``[N, C]``."""
    learn_together: Update
    """One update of each, as one."""
    num_actions: int
    """Number A of actions."""

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.world_model.parameters()).device

    @property
    def behaviour_device(self) -> torch.device:
        """Where it imagines and acts."""
        return next(self.imagined.parameters()).device

    @property
    def num_devices(self) -> int:
        """Devices of this process that the networks are on: 1, or 2."""
        return len({self.device, self.behaviour_device})

    def learn(
        self, windows: TensorDictBase, contexts: TensorDictBase
    ) -> dict[str, TensorDictBase]:
        """Train the world model and the behaviour by one update each.

        Args:
            windows: real transitions ``[B, T]`` for the world model.
            contexts: real transitions ``[N, C]`` to imagine from.

        Returns:
            The metrics of ``"world_model"`` and ``"behaviour"``; the next call may
            overwrite them.
        """
        batches = TensorDict({"windows": windows, "contexts": contexts})
        metrics = self.learn_together(batches)
        for learner in (self.learn_world_model, self.learn_behaviour):
            learner.schedule.step()
        return {name: metrics.get(name) for name in ("world_model", "behaviour")}

    def state_dict(self) -> dict[str, Any]:
        """Everything that trains or normalises."""
        return {
            "world_model": self.learn_world_model.state_dict(),
            "behaviour": self.learn_behaviour.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.learn_world_model.load_state_dict(state_dict["world_model"])
        self.learn_behaviour.load_state_dict(state_dict["behaviour"])
        if isinstance(self.learn_together, CapturedUpdate):
            self.learn_together.forget()
