"""The world model, the actor and the critic."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tensordict.nn import (
    InteractionType,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
)

from drama_torchrl.config import DramaConfig, WorldModelConfig
from drama_torchrl.modules import (
    Actor,
    Critic,
    DrawnTerminationHead,
    Dynamics,
    GRUDynamics,
    Mamba2Dynamics,
    Mamba3Dynamics,
    MambaDynamics,
    PixelDecoder,
    PixelEncoder,
    RewardHead,
    TerminationHead,
    TransformerDynamics,
    WorldModel,
)
from drama_torchrl.modules.distributions import RacedOneHotCategorical

__all__ = [
    "make_actor",
    "make_critic",
    "make_dynamics",
    "make_world_model",
]

_TERMINATION_HEADS = {"likeliest": TerminationHead, "drawn": DrawnTerminationHead}


def make_world_model(config: DramaConfig, num_actions: int) -> WorldModel:
    """Build the world model, in evaluation mode.

    Example:
        >>> from drama_torchrl.config import load_config
        >>> world_model = make_world_model(load_config("xs"), num_actions=18)
        >>> sum(p.numel() for p in world_model.parameters()) // 100_000
        71
    """
    c = config.world_model
    size = config.env.frame_size
    world_model = WorldModel(
        encoder=PixelEncoder(c.filters, out_features=c.latent_dim, frame_size=size),
        decoder=PixelDecoder(c.filters, in_features=c.latent_dim, frame_size=size),
        dynamics=make_dynamics(c, c.latent_dim, num_actions),
        reward_head=RewardHead(
            c.d_model,
            units=[c.head_units],
            num_bins=c.num_bins,
            bin_limit=c.bin_limit,
        ),
        termination_head=_TERMINATION_HEADS[c.termination](
            c.d_model, units=[c.head_units]
        ),
        num_categoricals=c.num_categoricals,
        num_classes=c.num_classes,
        unimix=c.unimix,
        reset_at_episode_start=c.reset_at_episode_start,
    )
    return world_model.eval()


def make_dynamics(
    config: WorldModelConfig, latent_dim: int, num_actions: int
) -> Dynamics:
    """Build the sequence model that is chosen, in training mode.

    Args:
        config: its kind and sizes.
        latent_dim: width of the latent.
        num_actions: number A of actions.

    Example:
        >>> from drama_torchrl.config import WorldModelConfig
        >>> config = WorldModelConfig(dynamics="gru")
        >>> type(make_dynamics(config, latent_dim=1024, num_actions=6)).__name__
        'GRUDynamics'
    """
    c = config
    build: Callable[..., Dynamics]
    match c.dynamics:
        case "mamba2":
            build = partial(
                Mamba2Dynamics,
                d_state=c.d_state,
                d_conv=c.d_conv,
                expand=c.expand,
                head_dim=c.head_dim,
            )
        case "mamba3":
            build = partial(
                Mamba3Dynamics, d_state=c.d_state, expand=c.expand, head_dim=c.head_dim
            )
        case "mamba":
            build = partial(
                MambaDynamics, d_state=c.d_state, d_conv=c.d_conv, expand=c.expand
            )
        case "gru":
            build = GRUDynamics
        case "transformer":
            build = partial(
                TransformerDynamics,
                num_heads=c.attention_heads,
                window=c.attention_window,
            )
    return build(
        latent_dim,
        num_actions,
        d_model=c.d_model,
        num_layers=c.num_layers,
        dropout=c.dropout,
    )


def make_actor(
    config: DramaConfig, num_actions: int
) -> ProbabilisticTensorDictSequential:
    """Build the policy over ``"latent"`` and ``"belief"``, in evaluation mode.

    Its actions are drawn unless the exploration type says otherwise.
    """
    actor = Actor(
        config.world_model.latent_dim,
        config.world_model.d_model,
        num_actions,
        units=config.behaviour.actor_units,
    )
    # validate_args would read the logits on the host at every call.
    return ProbabilisticTensorDictSequential(
        TensorDictModule(actor, in_keys=["latent", "belief"], out_keys=["logits"]),
        ProbabilisticTensorDictModule(
            in_keys=["logits"],
            out_keys=["action"],
            distribution_class=RacedOneHotCategorical,
            distribution_kwargs={"validate_args": False},
            default_interaction_type=InteractionType.RANDOM,
        ),
    ).eval()


def make_critic(config: DramaConfig) -> TensorDictModule:
    """Build the critic over ``"latent"`` and ``"belief"``."""
    critic = Critic(
        config.world_model.latent_dim,
        config.world_model.d_model,
        units=config.behaviour.critic_units,
        num_bins=config.world_model.num_bins,
        bin_limit=config.world_model.bin_limit,
    )
    return TensorDictModule(
        critic,
        in_keys=["latent", "belief"],
        out_keys=["state_value_logits", "state_value"],
    )
