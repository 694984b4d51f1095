"""The parts of a running training that are no networks, each with a state."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.data import TensorDictReplayBuffer

from drama_torchrl.envs.atari import AtariEnv
from drama_torchrl.envs.episode_state import episode_state, replay_episode
from drama_torchrl.policies.memory import Memory
from drama_torchrl.record.checkpoint import CheckpointError

__all__ = ["ActingState", "ReplayState", "SamplerState", "Stateful"]


class Stateful(Protocol):
    """Anything that is saved as plain containers of tensors and numbers."""

    def state_dict(self) -> dict[str, Any]:
        """All that changes."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""


class ActingState:
    """A collector, the memory of its policy and the episode that it is in.

    The collector of TorchRL saves its counters and would start a new episode. Here
    the step that it stands before is saved too, with the return so far, and the
    emulator is brought there by the episode's own actions. Any other environment
    starts a new episode all the same.

    Args:
        collector: collects from one environment, with any transforms.
        memory: of the policy that acts.
    """

    def __init__(self, collector: Collector, memory: Memory) -> None:
        self.collector = collector
        self.memory = memory

    def state_dict(self) -> dict[str, Any]:
        """All that decides the next steps, together with the weights."""
        counters = self.collector.state_dict()
        env = self.collector.env.base_env
        return {
            "counters": {key: counters[key] for key in ("frames", "iter", "traj_pool")},
            "step": self.collector._carrier.clone().to_dict(),
            "memory": {k: v.clone() for k, v in self.memory.contents().items()},
            "episode": episode_state(env) if isinstance(env, AtariEnv) else None,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            CheckpointError: if the emulator shows another frame than it did then.
        """
        counters = state_dict["counters"]
        self.collector.load_state_dict(counters, strict=False)
        if state_dict["episode"] is not None:
            self._replay(state_dict["episode"], state_dict["step"])
            # Loading took a number for a new episode; this one goes on.
            self.collector._traj_pool.load_state_dict(counters["traj_pool"])
        contents = self.memory.contents()
        for name, value in state_dict["memory"].items():
            contents[name].copy_(value)

    def _replay(self, episode: dict[str, Any], step: dict[str, Any]) -> None:
        try:
            replayed = replay_episode(self.collector.env.base_env, episode)
        except ValueError as error:
            raise CheckpointError(f"The running episode: {error}") from error
        if not torch.equal(replayed["pixels"], step["pixels"]):
            raise CheckpointError(
                "The running episode: expected its last frame from the emulator, got "
                "another one; use the ale-py and the env options that recorded it."
            )
        carrier = self.collector._carrier
        carrier.update(TensorDict(step, batch_size=carrier.batch_size))


class ReplayState:
    """The transitions of a replay buffer that is written round-robin.

    Checkpoints keep them in files instead (``ReplayChunks``).

    Args:
        replay: the buffer, empty where a state is loaded.

    Example:
        >>> from torchrl.data import LazyTensorStorage
        >>> one, other = (
        ...     TensorDictReplayBuffer(storage=LazyTensorStorage(4)) for _ in "ab"
        ... )
        >>> _ = one.extend(TensorDict({"time": torch.arange(4)}, [4]))
        >>> _ = one.extend(TensorDict({"time": torch.arange(4, 6)}, [2]))
        >>> ReplayState(other).load_state_dict(ReplayState(one).state_dict())
        >>> other[:]["time"], other.write_count
        (tensor([4, 5, 2, 3]), 6)
    """

    def __init__(self, replay: TensorDictReplayBuffer) -> None:
        self.replay = replay

    def state_dict(self) -> dict[str, Any]:
        """All transitions, oldest first, and how many ever came."""
        written = self.replay.write_count
        slots = torch.arange(self._oldest(written), written) % self._capacity
        storage = self.replay.storage
        if not written:
            return {"written": 0, "records": None}
        records = storage.get(slots.to(storage.device)).exclude("index")
        return {"written": written, "records": records.cpu()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, each in the slot that it had."""
        written, writer = state_dict["written"], self.replay.writer
        if not written:
            return
        cursor = self._oldest(written) % self._capacity
        writer.load_state_dict({"_cursor": cursor, "_write_count": 0})
        self.replay.extend(state_dict["records"])
        cursor = written % self._capacity
        writer.load_state_dict({"_cursor": cursor, "_write_count": written})

    @property
    def _capacity(self) -> int:
        return self.replay.storage.max_size

    def _oldest(self, written: int) -> int:
        return max(0, written - self._capacity)


class SamplerState:
    """What the samplers of one storage remember of its slots.

    Args:
        buffers: the views of the storage.

    Example:
        >>> from torchrl.data import LazyTensorStorage
        >>> from drama_torchrl.data import UniformWindowSampler
        >>> replay = TensorDictReplayBuffer(
        ...     storage=LazyTensorStorage(8), sampler=UniformWindowSampler(window=2)
        ... )
        >>> _ = replay.extend(TensorDict({"time": torch.arange(10)}, [10])[:8])
        >>> _ = replay.extend(TensorDict({"time": torch.arange(3)}, [3]))
        >>> SamplerState(replay).state_dict()
        {'0': {'newest': 2}}
    """

    def __init__(self, *buffers: TensorDictReplayBuffer) -> None:
        self.buffers = buffers

    def state_dict(self) -> dict[str, Any]:
        """Visit counts and newest slots."""
        numbered = enumerate(self.buffers)
        return {str(each): buffer.sampler.state_dict() for each, buffer in numbered}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        for each, buffer in enumerate(self.buffers):
            buffer.sampler.load_state_dict(state_dict[str(each)])
