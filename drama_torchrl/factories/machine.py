"""What this machine has: devices, what they can do, and loggers."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from torchrl.record.loggers import Logger, MLFlowLogger, get_logger

from drama_torchrl.acceleration import CapturedUpdate
from drama_torchrl.config import ConfigError, DramaConfig
from drama_torchrl.parallel import local_rank, local_size, size
from drama_torchrl.updates import Update

__all__ = [
    "behaviour_device",
    "capture_if_possible",
    "check_environment",
    "make_device",
    "make_logger",
]


def check_environment(config: DramaConfig) -> None:
    """Refuse what this machine lacks, before anything is built or written.

    Raises:
        ConfigError: if a device or the package of the chosen logger is missing, or if
            the processes cannot share a batch evenly.

    Example:
        >>> from drama_torchrl.config import load_config
        >>> check_environment(load_config("quick", ["log.logger=csv"]))
    """
    make_device(config.execution.device)
    make_device(config.replay.device, "replay.device")
    _check_behaviour_device(config)
    for option in ("model_batch", "imagination_batch"):
        batch = getattr(config.replay, option)
        if batch % size():
            raise ConfigError(
                f"replay.{option} expects a multiple of {size()}, the number of "
                f"processes that share it, got {batch}."
            )
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


def behaviour_device(config: DramaConfig, device: torch.device) -> torch.device:
    """Choose where the agent imagines and acts.

    With ``own``, the GPUs of all processes' world models come first, and as many for
    their behaviours after them.

    Args:
        config: says which.
        device: where the world model trains.

    Example:
        >>> from drama_torchrl.config import load_config
        >>> behaviour_device(load_config("quick"), torch.device("cpu"))
        device(type='cpu')
    """
    if config.execution.behaviour_device == "auto":
        return device
    return torch.device("cuda", local_size() + local_rank())


def _check_behaviour_device(config: DramaConfig) -> None:
    name = config.execution.behaviour_device
    if name == "auto":
        return
    found, expected = torch.cuda.device_count(), 2 * local_size()
    if make_device(config.execution.device).type != "cuda" or found < expected:
        raise ConfigError(
            f"execution.behaviour_device={name} expects {expected} CUDA GPUs, two for "
            f"each process, got {found}; leave it out."
        )


def capture_if_possible(
    update: Update, config: DramaConfig, device: torch.device
) -> Update:
    """Capture an update as a CUDA graph, where there is CUDA and it is wanted."""
    if config.execution.cudagraphs and device.type == "cuda":
        return CapturedUpdate(update, device=device)
    return update


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
