"""An update together with everything that it trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from drama_torchrl.acceleration import CapturedUpdate
from drama_torchrl.updates import Update

__all__ = ["Learner"]


class Learner:
    """Run an update and its learning-rate schedule; save and load what they change.

    Args:
        update: one training step.
        modules: all parameters, buffers and statistics that it changes.
        optimizer: the optimizer it steps.
        schedule: its learning rate, stepped after each update.
        run: what calls the update, such as its captured form; the update by default.
        followers: called when the modules have changed, by an update or by loading.

    Example:
        >>> import torch
        >>> from drama_torchrl.config import load_config
        >>> from drama_torchrl.factories import make_agent
        >>> agent = make_agent(load_config("quick"), 6, torch.device("cpu"))
        >>> sorted(agent.learn_world_model.state_dict())
        ['modules', 'optimizer', 'schedule']
    """

    def __init__(
        self,
        update: Update,
        modules: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        *,
        run: Update | None = None,
        followers: tuple[Callable[[], None], ...] = (),
    ) -> None:
        self.update = update
        self.modules = modules
        self.optimizer = optimizer
        self.schedule = schedule
        self._run = update if run is None else run
        self._followers = followers

    def __call__(self, batch: TensorDictBase) -> TensorDictBase:
        """Train on a batch and return metrics; the next call may overwrite them."""
        metrics = self.run(batch)
        self.schedule.step()
        return metrics

    def run(self, batch: TensorDictBase) -> TensorDictBase:
        """Train as a call does, but leave the schedule's step to the caller."""
        metrics = self._run(batch)
        self._follow()
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Everything a later run needs to go on as this one would."""
        return {
            "modules": self.modules.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.modules.load_state_dict(state_dict["modules"])
        # Torch would leave step counts where they were saved.
        device = self.optimizer.param_groups[0]["params"][0].device
        moved = tree_map_only(Tensor, lambda x: x.to(device), state_dict["optimizer"])
        self.optimizer.load_state_dict(moved)
        self.schedule.load_state_dict(state_dict["schedule"])
        if isinstance(self._run, CapturedUpdate):
            # The optimizer's state is new: a recording would go on with the old one.
            self._run.forget()
        self._follow()

    def _follow(self) -> None:
        for follow in self._followers:
            follow()
