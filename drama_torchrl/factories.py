"""Where configuration becomes objects: nothing below this file knows of it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from tensordict.nn import (
    InteractionType,
    ProbabilisticTensorDictModule,
    ProbabilisticTensorDictSequential,
    TensorDictModule,
)
from torch import nn
from torchrl.collectors import Collector
from torchrl.data import (
    ImmutableDatasetWriter,
    LazyTensorStorage,
    TensorDictReplayBuffer,
)
from torchrl.data.replay_buffers import Sampler
from torchrl.envs import (
    Compose,
    EnvBase,
    InitTracker,
    RewardSum,
    StepCounter,
    TransformedEnv,
)
from torchrl.modules import OneHotCategorical
from torchrl.objectives import SoftUpdate
from torchrl.record.loggers import Logger, MLFlowLogger, get_logger

from drama_torchrl.acceleration import CapturedUpdate, Update, compile_regions
from drama_torchrl.agent import Agent
from drama_torchrl.config import ConfigError, DramaConfig
from drama_torchrl.data import (
    DFSImaginationSampler,
    DFSSampler,
    UniformWindowSampler,
    VisitCounts,
)
from drama_torchrl.envs import (
    AtariEnv,
    CheckTransition,
    ImaginationEnv,
    make_atari_env,
)
from drama_torchrl.learner import Learner
from drama_torchrl.modules import (
    Actor,
    Critic,
    MambaDynamics,
    PixelDecoder,
    PixelEncoder,
    RewardHead,
    TerminationHead,
    WorldModel,
)
from drama_torchrl.objectives import (
    ActorLoss,
    CriticLoss,
    LambdaReturns,
    WorldModelLoss,
)
from drama_torchrl.optim import LaProp, linear_warmup
from drama_torchrl.policies import (
    CarriedMemory,
    Memory,
    PosteriorPolicy,
    PriorPolicy,
    WindowMemory,
)
from drama_torchrl.updates import BehaviourUpdate, Precision, WorldModelUpdate

__all__ = [
    "check_environment",
    "make_actor",
    "make_agent",
    "make_atari",
    "make_behaviour_learner",
    "make_collector",
    "make_critic",
    "make_device",
    "make_env",
    "make_logger",
    "make_policy",
    "make_replay",
    "make_world_model",
    "make_world_model_learner",
    "with_agent_transforms",
]


def check_environment(config: DramaConfig) -> None:
    """Refuse what this machine lacks, before anything is built or written.

    Raises:
        ConfigError: if a device or the package of the chosen logger is missing.

    Example:
        >>> from drama_torchrl.config import load_config
        >>> check_environment(load_config("quick", ["log.logger=csv"]))
    """
    make_device(config.execution.device)
    make_device(config.replay.device, "replay.device")
    name = config.log.logger
    if name != "csv" and find_spec(name) is None:
        raise ConfigError(
            f"log.logger={name} expects the package {name}, which is not installed; "
            f"pip install 'drama_torchrl[{name}]', or use log.logger=csv."
        )


def make_device(name: str, option: str = "execution.device") -> torch.device:
    """Choose a device.

    Args:
        name: ``"cpu"``, ``"cuda"``, or ``"auto"`` for CUDA where there is one.
        option: the option that named it, for the error.

    Raises:
        ConfigError: if CUDA is asked for and absent.

    Example:
        >>> make_device("cpu")
        device(type='cpu')
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError(
            f"{option}=cuda expects a CUDA GPU, but this torch "
            f"({torch.__version__}) sees none; check the driver and that torch is a "
            f"CUDA build, or use {option}=cpu."
        )
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def make_atari(config: DramaConfig, *, seed: int) -> AtariEnv:
    """Build the configured Atari game as it is."""
    env = config.env
    return make_atari_env(
        env.game,
        seed=seed,
        frame_size=env.frame_size,
        frame_skip=env.frame_skip,
        repeat_action_probability=env.repeat_action_probability,
        max_noops=env.max_noops,
        max_frames=env.max_frames,
    )


def make_env(config: DramaConfig, *, seed: int) -> EnvBase:
    """Build the configured Atari game with the transforms the agent relies on.

    Example:
        >>> from drama_torchrl.config import load_config
        >>> env = make_env(load_config("quick"), seed=0)
        >>> env.reset()["pixels"].shape
        torch.Size([3, 64, 64])
        >>> env.close()
    """
    atari = make_atari(config, seed=seed)
    return with_agent_transforms(atari, frame_size=config.env.frame_size)


def with_agent_transforms(env: EnvBase, *, frame_size: int) -> EnvBase:
    """Add to any pixel environment what the agent needs to know of its steps.

    That is ``"is_init"``, ``"episode_reward"`` and ``"step_count"``; broken
    transitions are refused.
    """
    frame_shape = (3, frame_size, frame_size)
    transforms = [
        CheckTransition(frame_shape),
        InitTracker(),
        RewardSum(),
        StepCounter(),
    ]
    return TransformedEnv(env, Compose(*transforms))


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
        dynamics=MambaDynamics(
            c.latent_dim,
            num_actions,
            d_model=c.d_model,
            num_layers=c.num_layers,
            d_state=c.d_state,
            d_conv=c.d_conv,
            expand=c.expand,
            head_dim=c.head_dim,
            dropout=c.dropout,
        ),
        reward_head=RewardHead(
            c.d_model,
            units=[c.head_units],
            num_bins=c.num_bins,
            bin_limit=c.bin_limit,
        ),
        termination_head=TerminationHead(c.d_model, units=[c.head_units]),
        num_categoricals=c.num_categoricals,
        num_classes=c.num_classes,
        unimix=c.unimix,
        reset_at_episode_start=c.reset_at_episode_start,
    )
    return world_model.eval()


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
            distribution_class=OneHotCategorical,
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


def make_agent(config: DramaConfig, num_actions: int, device: torch.device) -> Agent:
    """Build the networks of an agent and what trains them.

    Example:
        >>> import torch
        >>> from drama_torchrl.config import load_config
        >>> agent = make_agent(load_config("quick"), 6, torch.device("cpu"))
        >>> agent.num_actions
        6
    """
    world_model = make_world_model(config, num_actions).to(device)
    actor = make_actor(config, num_actions).to(device)
    critic = make_critic(config).to(device)
    return Agent(
        world_model=world_model,
        actor=actor,
        critic=critic,
        learn_world_model=make_world_model_learner(config, world_model),
        learn_behaviour=make_behaviour_learner(
            config, world_model, actor, critic, num_actions=num_actions
        ),
        num_actions=num_actions,
    )


def make_policy(
    config: DramaConfig, agent: Agent, *, batch_size: int = 1
) -> PosteriorPolicy | PriorPolicy:
    """Build the policy of decisions D4 and D5 for ``batch_size`` environments."""
    memory: Memory
    if config.acting.memory == "carried":
        memory = CarriedMemory(agent.world_model, batch_size)
    else:
        memory = WindowMemory(
            agent.world_model, batch_size, agent.num_actions, config.acting.window
        )
    policies = {"posterior": PosteriorPolicy, "prior": PriorPolicy}
    return policies[config.acting.latent](agent.world_model, agent.actor, memory)


def make_replay(
    config: DramaConfig, device: torch.device
) -> tuple[TensorDictReplayBuffer, TensorDictReplayBuffer]:
    """Build the replay buffer and a read-only view that draws imagination contexts.

    Both draw windows of one storage; with ``replay.sampling=dfs`` they share visit
    counts.

    Returns:
        The buffer, sampled as ``[model_batch, model_window]``, and the view, sampled
        as ``[imagination_batch, imagination_window]``.
    """
    c = config.replay
    where = device if c.device == "auto" else make_device(c.device, "replay.device")
    storage = LazyTensorStorage(c.capacity, device=where)
    samplers: tuple[Sampler, Sampler]
    if c.sampling == "dfs":
        counts = VisitCounts()
        samplers = (
            DFSSampler(counts, window=c.model_window, temperature=c.temperature),
            DFSImaginationSampler(
                counts,
                window=c.imagination_window,
                ratio=c.ratio,
                temperature=c.temperature,
            ),
        )
    else:
        samplers = (
            UniformWindowSampler(window=c.model_window),
            UniformWindowSampler(window=c.imagination_window),
        )
    replay = TensorDictReplayBuffer(
        storage=storage, sampler=samplers[0], batch_size=c.model_batch
    )
    contexts = TensorDictReplayBuffer(
        storage=storage,
        sampler=samplers[1],
        batch_size=c.imagination_batch,
        writer=ImmutableDatasetWriter(),
    )
    return replay, contexts


def make_world_model_learner(config: DramaConfig, world_model: WorldModel) -> Learner:
    """Build the training step of the world model."""
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
    if config.execution.compile:
        compile_regions(world_model)
    update = WorldModelUpdate(
        loss.eval(),
        optimizer,
        max_grad_norm=c.max_grad_norm,
        precision=_make_precision(config, device),
    )
    schedule = linear_warmup(optimizer, c.warmup_steps)
    return Learner(_accelerate(update, config, device), loss, optimizer, schedule)


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
    schedule = linear_warmup(optimizer, c.warmup_steps)
    return Learner(_accelerate(update, config, device), modules, optimizer, schedule)


def make_collector(
    config: DramaConfig, env: EnvBase, policy: PosteriorPolicy | PriorPolicy
) -> Collector:
    """Build the collector: one real step at a time, the first ones random.

    It is given no device: the policy moves what crosses between devices itself.
    """
    return Collector(
        env,
        policy,
        frames_per_batch=1,
        total_frames=config.training.total_steps,
        init_random_frames=config.training.random_steps,
        trust_policy=True,
    )


def make_logger(config: DramaConfig, run_dir: Path) -> Logger | None:
    """Build the logger that receives metrics beside the CSV file, if one is chosen."""
    name = config.log.logger
    if name == "csv":
        return None
    if name == "mlflow":
        # Its file store is gone from mlflow 3; torchrl's get_logger asks for it.
        folder = run_dir.absolute()
        return MLFlowLogger(
            exp_name=run_dir.name,
            tracking_uri=f"sqlite:///{folder / 'mlflow.db'}",
            artifact_location=(folder / "mlartifacts").as_uri(),
        )
    return get_logger(name, str(run_dir), name)


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


def _accelerate(update: Update, config: DramaConfig, device: torch.device) -> Update:
    if config.execution.cudagraphs and device.type == "cuda":
        return CapturedUpdate(update)
    return update
