"""Training steps, and the agent that has them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import cast

import torch
from tensordict.nn import ProbabilisticTensorDictSequential, TensorDictModule
from torch import nn
from torchrl.objectives import SoftUpdate

from drama_torchrl.acceleration import compile_regions
from drama_torchrl.agent import Agent
from drama_torchrl.config import DramaConfig
from drama_torchrl.envs import ImaginationEnv
from drama_torchrl.factories.machine import behaviour_device, capture_if_possible
from drama_torchrl.factories.networks import make_actor, make_critic, make_world_model
from drama_torchrl.learner import Learner
from drama_torchrl.modules import WorldModel
from drama_torchrl.objectives import (
    ActorLoss,
    CriticLoss,
    LambdaReturns,
    WorldModelLoss,
)
from drama_torchrl.optim import LaProp, linear_warmup
from drama_torchrl.parallel import connect
from drama_torchrl.precision import Precision
from drama_torchrl.side_by_side import HandOver
from drama_torchrl.updates import (
    BehaviourUpdate,
    Update,
    UpdatesApart,
    UpdatesApartAtOnce,
    UpdatesAtOnce,
    UpdatesInTurn,
    WorldModelUpdate,
)

__all__ = [
    "make_agent",
    "make_behaviour_learner",
    "make_world_model_learner",
]


def make_agent(config: DramaConfig, num_actions: int, device: torch.device) -> Agent:
    """Build the networks of an agent and what trains them.

    Example:
        >>> import torch
        >>> from drama_torchrl.config import load_config
        >>> agent = make_agent(load_config("quick"), 6, torch.device("cpu"))
        >>> agent.num_actions
        6
    """
    apart = behaviour_device(config, device)
    world_model = make_world_model(config, num_actions).to(device)
    imagined, followers, learn = world_model, [], _learn_together
    if apart != device:
        connect(apart)
        imagined = copy.deepcopy(world_model).to(apart)
        followers, learn = [HandOver(world_model, imagined)], _learn_apart
    actor = make_actor(config, num_actions).to(apart)
    critic = make_critic(config).to(apart)
    learn_world_model = make_world_model_learner(config, world_model, *followers)
    learn_behaviour = make_behaviour_learner(
        config, imagined, actor, critic, num_actions=num_actions
    )
    return Agent(
        world_model=world_model,
        imagined=imagined,
        actor=actor,
        critic=critic,
        learn_world_model=learn_world_model,
        learn_behaviour=learn_behaviour,
        learn_together=learn(config, apart, learn_world_model, learn_behaviour),
        num_actions=num_actions,
    )


def _learn_together(
    config: DramaConfig,
    device: torch.device,
    world_model: Learner,
    behaviour: Learner,
) -> Update:
    """One captured update of both, in the order asked for."""
    orders = {"in_turn": UpdatesInTurn, "at_once": UpdatesAtOnce}
    together = orders[config.training.updates](
        cast("WorldModelUpdate", world_model.update),
        cast("BehaviourUpdate", behaviour.update),
    )
    return capture_if_possible(together, config, device)


def _learn_apart(
    config: DramaConfig,
    device: torch.device,
    world_model: Learner,
    behaviour: Learner,
) -> Update:
    """Both updates, each captured on its device, in the order asked for."""
    orders = {"in_turn": UpdatesApart, "at_once": UpdatesApartAtOnce}
    order = orders[config.training.updates]
    return order(world_model.run, behaviour.run, device=device)


def make_world_model_learner(
    config: DramaConfig, world_model: WorldModel, *followers: Callable[[], None]
) -> Learner:
    """Build the training step of the world model, and what follows the model."""
    c = config.world_model
    loss = WorldModelLoss(
        world_model,
        dynamics_scale=c.dynamics_scale,
        representation_scale=c.representation_scale,
        free_nats=c.free_nats,
    )
    loss.set_keys(terminated=("next", "end-of-life"))
    optimizer = _make_optimizer(
        world_model, learning_rate=c.learning_rate, weight_decay=c.weight_decay
    )
    device = next(world_model.parameters()).device
    update = WorldModelUpdate(
        loss.eval(),
        optimizer,
        max_grad_norm=c.max_grad_norm,
        precision=_make_precision(config, device),
    )
    _compile(update, config)
    schedule = linear_warmup(optimizer, c.warmup_steps)
    run = capture_if_possible(update, config, device)
    return Learner(update, loss, optimizer, schedule, run=run, followers=followers)


def make_behaviour_learner(
    config: DramaConfig,
    world_model: WorldModel,
    actor: ProbabilisticTensorDictSequential,
    critic: TensorDictModule,
    *,
    num_actions: int,
) -> Learner:
    """Build the training step of actor and critic inside the world model."""
    c = config.behaviour
    horizons = {"discount": c.discount, "trace_decay": c.trace_decay}
    actor_loss = ActorLoss(
        actor, entropy_scale=c.entropy_scale, return_decay=c.return_decay
    )
    critic_loss = CriticLoss(
        critic, critic.module.two_hot, **horizons, slow_scale=c.slow_scale
    )
    device = next(actor.parameters()).device
    modules = nn.ModuleDict({"actor": actor_loss, "critic": critic_loss}).to(device)
    optimizer = _make_optimizer(modules, learning_rate=c.learning_rate)
    update = BehaviourUpdate(
        ImaginationEnv(world_model, num_actions),
        LambdaReturns(critic, **horizons),
        actor_loss.eval(),
        critic_loss,
        SoftUpdate(critic_loss, eps=c.slow_decay),
        optimizer,
        horizon=c.horizon,
        max_grad_norm=c.max_grad_norm,
        precision=_make_precision(config, device),
    )
    _compile(update, config)
    schedule = linear_warmup(optimizer, c.warmup_steps)
    run = capture_if_possible(update, config, device)
    return Learner(update, modules, optimizer, schedule, run=run)


def _make_optimizer(
    module: nn.Module, *, learning_rate: float, weight_decay: float = 0.0
) -> LaProp:
    params = [p for p in module.parameters() if p.requires_grad]
    # A tensor, so that a captured graph sees the warm-up move it.
    lr = torch.tensor(learning_rate, device=params[0].device)
    return LaProp(params, lr=lr, weight_decay=weight_decay)


def _make_precision(config: DramaConfig, device: torch.device) -> Precision:
    enabled = config.execution.autocast and device.type == "cuda"
    return Precision(device.type, enabled=enabled)


def _compile(update: WorldModelUpdate | BehaviourUpdate, config: DramaConfig) -> None:
    if config.execution.compile:
        compile_regions(update)
