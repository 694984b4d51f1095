"""Whether the replay buffer fits into memory, asked before a run starts."""

from __future__ import annotations

from pathlib import Path

import torch

from drama_torchrl.config import ConfigError, DramaConfig
from drama_torchrl.data.page_locked import largest_page_locked, page_locked_bytes
from drama_torchrl.factories.machine import make_device
from drama_torchrl.factories.replay import has_frames_on_host

__all__ = ["describe_replay", "find_free_memory", "transition_bytes"]

_FILES = {
    # By version: the hierarchy's folder, limit, usage.
    2: ("", "memory.max", "memory.current"),
    1: ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
}


def transition_bytes(config: DramaConfig, num_actions: int) -> int:
    """Bytes that the replay buffer keeps of one transition.

    Args:
        config: the size of the frames.
        num_actions: number A of actions.

    Example:
        >>> transition_bytes(DramaConfig(), num_actions=18)
        12320
    """
    flags = 2  # is_init, end-of-life
    reward, index = 4, 8
    return _frame_bytes(config) + num_actions + flags + reward + index


def _frame_bytes(config: DramaConfig) -> int:
    return 3 * config.env.frame_size**2


def describe_replay(
    config: DramaConfig,
    num_actions: int,
    device: torch.device,
    *,
    free: int | None = None,
) -> str:
    """Say how large the replay buffer is; refuse one that cannot fit.

    Of one on the host for a GPU these are the frames, in as much memory as torch locks.

    Args:
        config: its capacity and place.
        num_actions: number A of actions.
        device: where the run trains.
        free: bytes that are free there; by default they are looked up.

    Raises:
        ConfigError: if it is larger than the free memory; the choices are listed.

    Example:
        >>> from drama_torchrl.config import load_config
        >>> config = load_config("quick", ["replay.device=cpu"])
        >>> describe_replay(config, 6, torch.device("cpu"), free=10**9)
        'replay: 10,000 transitions, 0.12 GB on cpu, where 1.00 GB are free'
    """
    name = config.replay.device
    where = device if name == "auto" else make_device(name, "replay.device")
    free = find_free_memory(where) if free is None else free
    capacity, each = config.replay.capacity, transition_bytes(config, num_actions)
    needed, usable, place = capacity * each, free, f"on {where.type}"
    if has_frames_on_host(config, device):
        each, place = _frame_bytes(config), f"page-locked {place}"
        needed = page_locked_bytes(capacity * each)
        usable = None if free is None else largest_page_locked(free)
    size = f"{needed / 1e9:,.2f} GB {place}"
    room = "" if free is None else f", where {free / 1e9:,.2f} GB are free"
    if usable is not None and needed > usable:
        choices = [f"replay.capacity={usable // each} or less"]
        if capacity > config.training.total_steps:
            total = config.training.total_steps
            choices.append(f"replay.capacity={total}, all steps of the run")
        if where.type == "cuda":
            choices.append("replay.device=cpu")
        choices.append(f"an env.frame_size below {config.env.frame_size}")
        raise ConfigError(
            f"replay.capacity: expected a replay buffer that fits into memory, got "
            f"{capacity} transitions of {each} bytes, {size}{room}; use "
            f"{', or '.join(choices)}"
        )
    return f"replay: {capacity:,} transitions, {size}{room}"


def find_free_memory(device: torch.device, root: Path = Path("/")) -> int | None:
    """Bytes that this process can still get on a device.

    On the host that is what Linux calls available, or what the limit of the
    process's control group leaves, page cache not counted.

    Args:
        device: the host or a GPU.
        root: where ``proc`` and ``sys`` are.

    Returns:
        The bytes; ``None`` where nobody tells.

    Example:
        >>> find_free_memory(torch.device("cpu"), Path("/nowhere")) is None
        True
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = [_available(root), *(_left(root, v) for v in _FILES)]
    return min((each for each in found if each is not None), default=None)


def _available(root: Path) -> int | None:
    kilobytes = _numbers(root / "proc/meminfo").get("MemAvailable:")
    return None if kilobytes is None else 1024 * kilobytes


def _left(root: Path, version: int) -> int | None:
    """What the limit of a control group leaves."""
    hierarchy, limit_name, usage_name = _FILES[version]
    folder = root / "sys/fs/cgroup" / hierarchy
    own = folder / _group(root, hierarchy).lstrip("/")
    # In a container the own group is often mounted as the root.
    folder = own if (own / limit_name).is_file() else folder
    try:
        limit = int((folder / limit_name).read_text())
        usage = int((folder / usage_name).read_text())
    except (OSError, ValueError):  # no such hierarchy, or "max"
        return None
    stat = _numbers(folder / "memory.stat")
    cache = stat.get("inactive_file", 0) + stat.get("active_file", 0)
    return max(0, limit - usage + cache)


def _group(root: Path, hierarchy: str) -> str:
    """Path of this process's control group; lines are ``number:controllers:path``."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return ""
    entries = [line.split(":", 2) for line in lines]
    named = [entry[2] for entry in entries if hierarchy in entry[1].split(",")]
    return next(iter(named), "")


def _numbers(path: Path) -> dict[str, int]:
    """Lines of a name and a number."""
    try:
        words = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {
        each[0]: int(each[1]) for each in words if each[1:2] and each[1].isdecimal()
    }
