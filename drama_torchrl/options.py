"""The options of an agent: a tree of dataclasses, their limits and their sources.

Table and section numbers are those of the Drama paper (arXiv:2410.08893); what it
takes over from DreamerV3 (arXiv:2301.04104) says so. A *step* is one environment step,
that is `env.frame_skip` frames of the emulator.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from drama_torchrl.limits import (
    BELOW_ONE,
    NOT_NEGATIVE,
    POSITIVE,
    PROBABILITY,
    SEED,
    SEVERAL_SIZES,
    SIZES,
    WORD,
    Options,
    at_least,
    expect,
    one_of,
    option,
)

__all__ = [
    "CHANGES_NO_RESULT",
    "DYNAMICS",
    "MAY_CHANGE_ON_RESUME",
    "ActingConfig",
    "BehaviourConfig",
    "DramaConfig",
    "EnvConfig",
    "EvaluationConfig",
    "ExecutionConfig",
    "LogConfig",
    "ReplayConfig",
    "TrainingConfig",
    "WorldModelConfig",
]

DYNAMICS = ("mamba2", "mamba3", "mamba", "gru", "transformer")
"""Sequence models that a world model can have."""
CHANGES_NO_RESULT = (
    "run_dir",
    "training.max_lost_updates",
    "training.max_minutes",
    "replay.device",
    "execution.",
    "log.",
)
"""Options, or groups of them, that change no result of a complete run but rounding."""
MAY_CHANGE_ON_RESUME = (
    "run_dir",
    "training.max_lost_updates",
    "training.max_minutes",
    "evaluation.",
    "log.",
)
"""Options, or groups of them, that a run may go on with other values of."""


@dataclass
class EnvConfig(Options):
    """The Atari game and its protocol."""

    section: ClassVar[str] = "env"

    game: str = option("Boxing", WORD)
    """Name of the game as the ALE spells it. Table 1."""
    frame_skip: int = option(4, at_least(1))
    """Frames of the emulator for which an action is held."""
    repeat_action_probability: float = option(0.0, PROBABILITY)
    """Probability that the emulator repeats the last action instead ("sticky")."""
    max_noops: int = option(30, at_least(0))
    """Most no-operation frames at the start of an episode; the number is drawn."""
    max_frames: int = option(108_000, at_least(1))
    """Frames after which an episode is truncated (30 minutes of play)."""
    frame_size: int = option(64, at_least(1))
    """Height and width of a frame, in pixels. Table 5."""


@dataclass
class ReplayConfig(Options):
    """The replay buffer and how windows are drawn from it."""

    section: ClassVar[str] = "replay"

    capacity: int = option(100_000, at_least(1))
    """Transitions kept; the oldest are overwritten."""
    device: str = option("auto", one_of("auto", "cpu", "cuda"))
    """Where frames are kept; `auto` is the device that trains. A GPU reads those on the
    `cpu` by itself, from page-locked memory."""
    sampling: str = option("dfs", one_of("dfs", "uniform"))
    """Dynamic frequency-based or uniform draws of windows. Section 2.4, Table 4."""
    temperature: float = option(10.0, POSITIVE)
    """Temperature τ of the frequency-based draws, in visits. Section 2.4."""
    ratio: float = option(64.0, POSITIVE)
    """Imagination visits ρ that one model visit allows, N/B. Section 2.4."""
    model_batch: int = option(16, at_least(1))
    """Windows B in one world-model update. Section 2.2.2."""
    model_window: int = option(128, at_least(2))
    """Steps T in each of them. Section 2.2.2."""
    imagination_batch: int = option(1024, at_least(1))
    """Contexts N from which one behaviour update imagines. A.4.4."""
    imagination_window: int = option(8, at_least(1))
    """Steps in each of them. A.4.4."""

    def __post_init__(self) -> None:
        """Checks that a window fits into the buffer."""
        super().__post_init__()
        for name in ("model_window", "imagination_window"):
            window = getattr(self, name)
            expected = f"at most replay.capacity={self.capacity} steps"
            expect(window <= self.capacity, self.name_of(name), expected, window)


@dataclass
class WorldModelConfig(Options):
    """The world model, its loss and its optimiser."""

    section: ClassVar[str] = "world_model"

    filters: list[int] = option([16, 32, 48, 64, 64], SEVERAL_SIZES)
    """Filters of the encoder's convolutions; the decoder mirrors them. Table 5."""
    num_categoricals: int = option(32, at_least(1))
    """Categorical variables K in a latent. Section 2.2.1."""
    num_classes: int = option(32, at_least(2))
    """Classes M of each of them. Section 2.2.1."""
    unimix: float = option(0.01, BELOW_ONE)
    """Share of the uniform distribution in every categorical. DreamerV3."""
    dynamics: str = option("mamba2", one_of(*DYNAMICS))
    """Layers of the sequence model. Sections 3.2.2 and 3.2.3; arXiv:2603.15569."""
    d_model: int = option(512, at_least(1))
    """Width D of the dynamics and of the belief. Table 6."""
    num_layers: int = option(2, at_least(1))
    """Layers of the dynamics. Table 6."""
    d_state: int = option(16, at_least(1))
    """Size S of the state of each `mamba`; at least 4 of `mamba3`. Table 6."""
    head_dim: int = option(128, at_least(1))
    """Width P of one head of `mamba2` and `mamba3`. Table 6."""
    expand: int = option(2, at_least(1))
    """Inner width of each `mamba` over `d_model`. Mamba-2, arXiv:2405.21060."""
    d_conv: int = option(4, at_least(2))
    """Steps that the convolution of `mamba2` and `mamba` sees. arXiv:2405.21060."""
    attention_heads: int = option(8, at_least(1))
    """Heads of `transformer`. STORM, arXiv:2310.09615."""
    attention_window: int = option(64, at_least(1))
    """Steps that `transformer` sees, the current one included. STORM."""
    dropout: float = option(0.1, BELOW_ONE)
    """Dropout after the stem and on each residual branch. Table 6."""
    head_units: int = option(256, at_least(1))
    """Hidden units of the reward and termination heads. A.4.3."""
    termination: str = option("likeliest", one_of("likeliest", "drawn"))
    """Imagined ends: where an end is `likeliest` (eq. 5), or `drawn` at its odds."""
    num_bins: int = option(255, at_least(2))
    """Bins of every two-hot prediction: reward and value. DreamerV3."""
    bin_limit: float = option(20.0, POSITIVE)
    """The bins span [-bin_limit, bin_limit] in symlog units. DreamerV3."""
    dynamics_scale: float = option(1.0, NOT_NEGATIVE)
    """Weight of the loss that trains the prior. Eq. 7."""
    representation_scale: float = option(0.1, NOT_NEGATIVE)
    """Weight of the loss that trains the posterior towards the prior. Eq. 7."""
    free_nats: float = option(1.0, NOT_NEGATIVE)
    """Nats below which those two losses stop. Eq. 7."""
    reset_at_episode_start: bool = option(False)
    """Whether the memory is cleared where an episode starts inside a window."""
    learning_rate: float = option(4e-5, POSITIVE)
    """Tables 5 and 6."""
    warmup_steps: int = option(1000, at_least(0))
    """Updates over which the learning rate rises linearly."""
    weight_decay: float = option(1e-4, NOT_NEGATIVE)
    """Decoupled decay, scaled by the learning rate. Tables 5 and 6."""
    max_grad_norm: float = option(1000.0, POSITIVE)
    """Gradient norm above which gradients are scaled down."""

    def __post_init__(self) -> None:
        """Checks that the sizes of the chosen dynamics go together."""
        super().__post_init__()
        if self.dynamics in ("mamba2", "mamba3"):
            divides = self.inner_width % self.head_dim == 0
            inner = f"d_model*expand={self.d_model}*{self.expand}={self.inner_width}"
            expected = f"a divisor of {inner}"
            expect(divides, self.name_of("head_dim"), expected, self.head_dim)
        if self.dynamics == "mamba3":
            name, expected = self.name_of("d_state"), "at least 4 for mamba3"
            expect(self.d_state >= 4, name, expected, self.d_state)
        if self.dynamics == "transformer":
            divides = self.d_model % (2 * self.attention_heads) == 0
            expected = f"a divisor of d_model/2={self.d_model}/2"
            name = self.name_of("attention_heads")
            expect(divides, name, expected, self.attention_heads)

    @property
    def latent_dim(self) -> int:
        """Width of a flat latent: K·M."""
        return self.num_categoricals * self.num_classes

    @property
    def inner_width(self) -> int:
        """Inner width DI of a Mamba layer of any kind."""
        return self.d_model * self.expand

    @property
    def num_heads(self) -> int:
        """Heads NH of a Mamba-2 or Mamba-3 layer."""
        return self.inner_width // self.head_dim

    @property
    def downsampling(self) -> int:
        """Pixels of the frame per pixel of the encoder's last map, along one side."""
        return 2 ** (len(self.filters) - 1)


@dataclass
class BehaviourConfig(Options):
    """Actor, critic, their losses and their optimiser."""

    section: ClassVar[str] = "behaviour"

    horizon: int = option(16, at_least(1))
    """Imagined steps H. Section 2.3."""
    discount: float = option(0.985, BELOW_ONE)
    """Discount γ per step. A.4.4."""
    trace_decay: float = option(0.95, PROBABILITY)
    """Decay λ of the λ-return. A.4.4."""
    entropy_scale: float = option(3e-4, NOT_NEGATIVE)
    """Weight of the actor's entropy. A.4.4."""
    actor_units: list[int] = option([256, 256], SIZES)
    """Units of the actor's hidden layers. A.4.4."""
    critic_units: list[int] = option([512, 512], SIZES)
    """Units of the critic's hidden layers. A.4.4."""
    slow_decay: float = option(0.98, BELOW_ONE)
    """Decay per update of the slow critic's moving average. DreamerV3."""
    slow_scale: float = option(1.0, NOT_NEGATIVE)
    """Weight of the critic's loss towards the slow critic's return. DreamerV3."""
    return_decay: float = option(0.99, BELOW_ONE)
    """Decay per update of the moving average of the return range. DreamerV3."""
    learning_rate: float = option(4e-5, POSITIVE)
    """Of the one optimiser over actor and critic."""
    warmup_steps: int = option(1000, at_least(0))
    """Updates over which the learning rate rises linearly."""
    max_grad_norm: float = option(100.0, POSITIVE)
    """Gradient norm above which gradients are scaled down. A.4.4."""


@dataclass
class ActingConfig(Options):
    """What the agent knows when it acts in the real environment."""

    section: ClassVar[str] = "acting"

    latent: str = option("posterior", one_of("posterior", "prior"))
    """Encodes the current frame, or acts on its prediction as the paper does."""
    memory: str = option("carried", one_of("carried", "window"))
    """A recurrent state carried over the episode, or the last `window` steps."""
    window: int = option(16, at_least(1))
    """Steps that the `window` memory holds."""


@dataclass
class TrainingConfig(Options):
    """The schedule."""

    section: ClassVar[str] = "training"

    total_steps: int = option(100_000, at_least(1))
    """Environment steps of a whole run. Section 3.1."""
    random_steps: int = option(1_032, at_least(1))
    """Environment steps with random actions before the first update."""
    steps_per_update: int = option(1, at_least(1))
    """Environment steps between updates; world model and behaviour get one each."""
    updates: str = option("in_turn", one_of("in_turn", "at_once"))
    """Whether imagination waits for the step's update of the world model. Faster is
    `at_once`, on a GPU: the updates run beside each other."""
    max_lost_updates: int = option(10, at_least(1))
    """Updates in a row with a loss or gradient that is not finite, none of which is
    applied, after which the run stops; looked at every `log.every` steps."""
    max_minutes: float = option(0.0, NOT_NEGATIVE)
    """Stop early after this time of training; the result is partial. 0: never."""

    def __post_init__(self) -> None:
        """Checks that something is left to train on."""
        super().__post_init__()
        expected = f"more than training.random_steps={self.random_steps}"
        valid = self.total_steps > self.random_steps
        expect(valid, "training.total_steps", expected, self.total_steps)

    def updates_at(self, step: int) -> bool:
        """Whether the agent trains after an environment step, counted from 1.

        Example:
            >>> schedule = TrainingConfig(random_steps=10, steps_per_update=4)
            >>> [step for step in range(1, 21) if schedule.updates_at(step)]
            [12, 16, 20]
        """
        return step > self.random_steps and step % self.steps_per_update == 0


@dataclass
class EvaluationConfig(Options):
    """The final score."""

    section: ClassVar[str] = "evaluation"

    episodes: int = option(100, at_least(1))
    """Episodes whose actions are drawn from the policy."""
    greedy_episodes: int = option(100, at_least(0))
    """Episodes that take the policy's likeliest action; reported beside."""


@dataclass
class ExecutionConfig(Options):
    """Where and how the tensors are computed."""

    section: ClassVar[str] = "execution"

    device: str = option("auto", one_of("auto", "cpu", "cuda"))
    """Device that trains; `auto` is CUDA where there is a device, else the CPU."""
    behaviour_device: str = option("auto", one_of("auto", "own"))
    """Device that imagines, trains the behaviour and acts; `auto` is that of the world
    model. On a GPU of its `own` it does so beside the world model's next update."""
    autocast: bool = option(True)
    """bfloat16 on CUDA; a CPU always computes in float32."""
    compile: bool = option(False)
    """Passes the updates through `torch.compile`."""
    cudagraphs: bool = option(True)
    """Captures the updates as CUDA graphs; a CPU has none."""
    deterministic: bool = option(False)
    """Prefers repeatable kernels: a step took 12 % longer on an H100, as long on a CPU,
    which has no others."""


@dataclass
class LogConfig(Options):
    """What a run writes, beside its CSV file."""

    section: ClassVar[str] = "log"

    logger: str = option("csv", one_of("csv", "tensorboard", "wandb", "mlflow"))
    """Where metrics go; the CSV file is always written."""
    every: int = option(100, at_least(1))
    """Environment steps between rows of metrics."""
    checkpoint_every: int = option(10_000, at_least(1))
    """Environment steps between checkpoints."""
    film_every: int = option(10_000, at_least(2))
    """Environment steps between films of imagination beside reality."""
    on_write_error: str = option("stop", one_of("stop", "continue"))
    """What a run does that cannot write a file: the disk is full, for example."""
    progress: bool = option(True)
    """Whether a progress bar is shown."""


@dataclass
class DramaConfig(Options):
    """All options of an agent and its run; the defaults are the paper's."""

    preset: str = option("xs", WORD)
    """Preset that the options started from; names the run directory."""
    seed: int = option(0, SEED)
    """Of the environment, the weights and every draw."""
    run_dir: str = option("")
    """Directory that a run writes to; empty for one named after the run."""
    env: EnvConfig = field(default_factory=EnvConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    world_model: WorldModelConfig = field(default_factory=WorldModelConfig)
    behaviour: BehaviourConfig = field(default_factory=BehaviourConfig)
    acting: ActingConfig = field(default_factory=ActingConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self) -> None:
        """Checks the relations between groups."""
        super().__post_init__()
        for kind in ("model", "imagination"):
            batch = getattr(self.replay, f"{kind}_batch")
            starts = self.starts(getattr(self.replay, f"{kind}_window"))
            expected = (
                f"at most {max(starts, 0)}, the windows of "
                f"replay.{kind}_window={getattr(self.replay, f'{kind}_window')} steps "
                f"in training.random_steps={self.training.random_steps} steps"
            )
            expect(batch <= starts, f"replay.{kind}_batch", expected, batch)
        size, downsampling = self.env.frame_size, self.world_model.downsampling
        expected = (
            f"a multiple of {downsampling}, since every convolution of "
            f"world_model.filters={self.world_model.filters} but the first halves it"
        )
        expect(size % downsampling == 0, "env.frame_size", expected, size)

    def starts(self, window: int) -> int:
        """Different windows of that many steps when training begins.

        Args:
            window: steps in a window.

        Example:
            >>> DramaConfig().starts(window=8)
            1025
        """
        return min(self.training.random_steps, self.replay.capacity) - window + 1

    @property
    def run_path(self) -> Path:
        """Directory that the run writes to.

        Example:
            >>> DramaConfig(seed=3).run_path.as_posix()
            'runs/Boxing-xs-seed3'
        """
        name = f"{self.env.game}-{self.preset}-seed{self.seed}"
        return Path(self.run_dir) if self.run_dir else Path("runs", name)
