"""What is measured of the dynamics models, and whether it computes what it should."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from benchmarks.harness import autocast, relative_error
from drama_torchrl.config import DramaConfig, load_config
from drama_torchrl.factories import make_dynamics
from drama_torchrl.modules import Dynamics
from drama_torchrl.modules.mode import evaluating

__all__ = ["CASES", "Imagination", "Training"]

NUM_ACTIONS = 18
TOLERANCE = 1e-3


class Case:
    """A dynamics model of the paper's sizes and latents for it.

    Args:
        args: sizes and options.
        kind: of the model.
        batch: sequences.
        length: steps of each.
        device: where they are.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        kind: str,
        batch: int,
        length: int,
        device: torch.device,
    ) -> None:
        window = f"world_model.attention_window={length}"
        chosen = f"world_model.dynamics={kind}"
        config = load_config("xs", [*args.overrides, chosen, window])
        torch.manual_seed(0)
        self.device = device
        self.dynamics = _make_dynamics(config, device)
        c = config.world_model
        self.latent = _draw(batch, length, (c.num_categoricals, c.num_classes), device)
        self.action = _draw(batch, length, (1, NUM_ACTIONS), device)

    @property
    def parameters(self) -> int:
        """Number of parameters of the dynamics."""
        return sum(p.numel() for p in self.dynamics.parameters())

    def split_error(self, at: int) -> float:
        """Error of a pass against a pass over what comes before and one after it."""
        with torch.no_grad(), evaluating(self.dynamics):
            expected, _ = self.dynamics(self.latent, self.action)
            head, state = self.dynamics(self.latent[:, :at], self.action[:, :at])
            tail, _ = self.dynamics(self.latent[:, at:], self.action[:, at:], state)
        return relative_error(torch.cat([head, tail], 1), expected) / TOLERANCE


class Training(Case):
    """Forward and backward over B × T."""

    def __init__(
        self, args: argparse.Namespace, kind: str, length: int, device: torch.device
    ) -> None:
        super().__init__(args, kind, args.batch, length, device)
        self.dynamics.train()
        self.length = length

    def call(self) -> object:
        """Form the gradients of all parameters."""
        with autocast(self.device):
            belief, _ = self.dynamics(self.latent, self.action)
        parameters = [*self.dynamics.parameters()]
        return torch.autograd.grad(belief, parameters, torch.ones_like(belief))

    def error(self) -> float:
        """Error of its two halves over what is allowed."""
        return self.split_error(self.length // 2)


class Imagination(Case):
    """A pass over contexts N × C and H steps."""

    def __init__(
        self, args: argparse.Namespace, kind: str, length: int, device: torch.device
    ) -> None:
        super().__init__(args, kind, args.rollouts, length + args.horizon, device)
        self.dynamics.eval()
        self.context, self.horizon = length, args.horizon

    @torch.no_grad()
    def call(self) -> Tensor:
        """Imagine in the precision of training."""
        with autocast(self.device):
            return self.imagine()

    def imagine(self) -> Tensor:
        """Give the beliefs of the steps, ``[N, H, D]``."""
        end, beliefs = self.context, []
        _, state = self.dynamics(self.latent[:, :end], self.action[:, :end])
        for t in range(end, end + self.horizon):
            latent, action = self.latent[:, t], self.action[:, t]
            belief, state = self.dynamics.step(latent, action, state)
            beliefs.append(belief)
        return torch.stack(beliefs, 1)

    @torch.no_grad()
    def error(self) -> float:
        """Error of the steps against one pass, over what is allowed."""
        expected, _ = self.dynamics(self.latent, self.action)
        return relative_error(self.imagine(), expected[:, self.context :]) / TOLERANCE


CASES: dict[str, type[Training] | type[Imagination]] = {
    "training": Training,
    "imagination": Imagination,
}


def _make_dynamics(config: DramaConfig, device: torch.device) -> Dynamics:
    latent_dim = config.world_model.latent_dim
    return make_dynamics(config.world_model, latent_dim, NUM_ACTIONS).to(device)


def _draw(
    batch: int, length: int, categories: tuple[int, int], device: torch.device
) -> Tensor:
    """Draw one-hot categories, flat: [B, T, K M]."""
    number, classes = categories
    shape = (batch, length, number)
    index = torch.randint(classes, shape, device=device)
    drawn = torch.zeros(*shape, classes, device=device)
    return drawn.scatter_(-1, index.unsqueeze(-1), 1.0).flatten(2)
