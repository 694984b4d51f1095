"""How long a training run will take, from one measured step."""

from __future__ import annotations

import time
import warnings

import torch
from tensordict import TensorDict

from drama_torchrl.config import DramaConfig
from drama_torchrl.factories import make_agent
from drama_torchrl.parallel import my_share, rank

__all__ = ["estimate_hours", "random_batches", "warn_if_long"]


def random_batches(
    config: DramaConfig, num_actions: int, device: torch.device
) -> tuple[TensorDict, TensorDict]:
    """Draw what the replay buffers would return, for timing.

    Args:
        config: sizes of batches, windows and frames.
        num_actions: number A of actions.
        device: where to put them.

    Returns:
        Random transitions for the world model and contexts for imagination.

    Example:
        >>> import torch
        >>> from drama_torchrl.config import load_config
        >>> config, device = load_config("quick"), torch.device("cpu")
        >>> batch, context = random_batches(config, 6, device)
        >>> batch.shape, context.shape
        (torch.Size([4, 32]), torch.Size([64, 4]))
    """
    c = config.replay
    windows = (c.model_batch, c.model_window)
    contexts = (c.imagination_batch, c.imagination_window)
    size = config.env.frame_size

    def draw(shape: tuple[int, int]) -> TensorDict:
        frames = (*shape, 3, size, size)
        action = torch.randint(num_actions, shape, device=device)
        flag = torch.zeros(*shape, 1, dtype=torch.bool, device=device)
        return TensorDict(
            {
                "pixels": torch.randint(256, frames, dtype=torch.uint8, device=device),
                "action": torch.nn.functional.one_hot(action, num_actions).bool(),
                "is_init": flag,
                ("next", "reward"): torch.randn(*shape, 1, device=device),
                ("next", "end-of-life"): flag.clone(),
            },
            batch_size=shape,
            device=device,
        )

    return draw(windows), draw(contexts)


def estimate_hours(
    config: DramaConfig, *, num_actions: int, device: torch.device
) -> float:
    """Time one training step of a throw-away agent and extrapolate to the whole run.

    Args:
        config: the run to estimate.
        num_actions: number A of actions.
        device: where the run will train.

    Returns:
        Hours of training, without acting and evaluation.

    Example:
        >>> import torch
        >>> from drama_torchrl.config import load_config
        >>> config = load_config("quick")
        >>> hours = estimate_hours(config, num_actions=6, device=torch.device("cpu"))
        >>> 0 < hours < 1
        True
    """
    schedule = config.training
    with torch.random.fork_rng():
        agent = make_agent(config, num_actions, device)
        batch, context = random_batches(config, num_actions, device)
        start = time.perf_counter()
        agent.learn_world_model(my_share(batch))
        agent.learn_behaviour(my_share(context))
        seconds = time.perf_counter() - start
    updates = (schedule.total_steps - schedule.random_steps) / schedule.steps_per_update
    return seconds * updates / 3600


def warn_if_long(
    config: DramaConfig, *, num_actions: int, device: torch.device
) -> None:
    """Say beforehand when a run on a CPU will take hours.

    Args:
        config: the run to estimate.
        num_actions: number A of actions.
        device: where the run will train; nothing is measured on a GPU.
    """
    if device.type != "cpu":
        return
    hours = estimate_hours(config, num_actions=num_actions, device=device)
    if hours > 1 and rank() == 0:
        warnings.warn(
            f"On this CPU, preset={config.preset} will take about {hours:,.0f} hours "
            f"for {config.training.total_steps:,} steps, by one measured step. "
            "A CUDA GPU needs minutes; preset=quick shows everything on a CPU.",
            stacklevel=2,
        )
