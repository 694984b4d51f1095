"""The parts of a running training that are no networks, each with a state."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.collectors import Collector
from torchrl.data import TensorDictReplayBuffer

from drama_torchrl.data import UnblockedReplayBuffer
from drama_torchrl.envs.atari import AtariEnv
from drama_torchrl.envs.episode_state import (
    EpisodeMark,
    mark_episode,
    replay_episode,
)
from drama_torchrl.policies.memory import Memory
from drama_torchrl.record.checkpoint import CheckpointError
from drama_torchrl.record.ring import first_kept, refilling

__all__ = [
    "ActingMark",
    "ActingState",
    "Mark",
    "MovedByAStep",
    "ReplayState",
    "SamplerState",
    "Stateful",
]


class Mark(Protocol):
    """A state that is saved as plain containers of tensors and numbers."""

    def state_dict(self) -> dict[str, Any]:
        """All that changes."""


class Stateful(Mark, Protocol):
    """Anything whose state is saved and restored."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""


@runtime_checkable
class MovedByAStep(Protocol):
    """Anything that an environment step changes before it is known to succeed."""

    def mark(self) -> Mark:
        """The state of this moment, to be read when it is past."""


class ActingMark(NamedTuple):
    """What :class:`ActingState` noted between two steps.

    Args:
        counters: of the collector.
        step: that it stands before.
        memory: contents of the policy's, overwritten by the next mark.
        episode: of an Atari game; no other can be replayed.
    """

    counters: dict[str, Any]
    step: TensorDictBase
    memory: dict[str, Tensor]
    episode: EpisodeMark | None

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`ActingState.state_dict` returned at that moment."""
        return {
            "counters": self.counters,
            "step": self.step.clone().to_dict(),
            "memory": {name: value.clone() for name, value in self.memory.items()},
            "episode": self.episode.state_dict() if self.episode else None,
        }


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
        # Memories change in place, so these stay what is remembered.
        self._contents = memory.contents()
        self._kept = [value.clone() for value in self._contents.values()]

    def mark(self) -> ActingMark:
        """Note the state between two steps; cheap enough for every one of them."""
        collector, env = self.collector, self.collector.env.base_env
        for kept, value in zip(self._kept, self._contents.values(), strict=True):
            kept.copy_(value)
        return ActingMark(
            counters={"frames": collector._frames, "iter": collector._iter},
            # A step replaces its entries and changes none in place.
            step=collector._carrier.copy(),
            memory=dict(zip(self._contents, self._kept, strict=True)),
            episode=mark_episode(env) if isinstance(env, AtariEnv) else None,
        )

    def state_dict(self) -> dict[str, Any]:
        """All that decides the next steps, together with the weights."""
        return self.mark().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            CheckpointError: if the emulator shows another frame than it did then.
        """
        self.collector.load_state_dict(state_dict["counters"], strict=False)
        if state_dict["episode"] is not None:
            self._replay(state_dict["episode"], state_dict["step"])
        for name, value in state_dict["memory"].items():
            self._contents[name].copy_(value)

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
        written, storage = self.replay.write_count, self.replay.storage
        oldest = first_kept(self.replay, written)
        slots = torch.arange(oldest, written) % storage.max_size
        if not written:
            return {"written": 0, "records": None}
        records = storage.get(slots.to(storage.device)).exclude("index")
        return {"written": written, "records": records.cpu()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, each in the slot that it had."""
        written = state_dict["written"]
        if written:
            with refilling(self.replay, written):
                self.replay.extend(state_dict["records"])


class SamplerState:
    """What the samplers of one storage remember of its slots.

    Args:
        buffers: the views of the storage.

    Example:
        >>> from torchrl.data import LazyTensorStorage
        >>> from drama_torchrl.data import UniformWindowSampler
        >>> replay = UnblockedReplayBuffer(
        ...     stream=None,
        ...     storage=LazyTensorStorage(8),
        ...     sampler=UniformWindowSampler(window=2),
        ... )
        >>> _ = replay.extend(TensorDict({"time": torch.arange(10)}, [10])[:8])
        >>> _ = replay.extend(TensorDict({"time": torch.arange(3)}, [3]))
        >>> SamplerState(replay).state_dict()
        {'0': {'newest': 2}}
    """

    def __init__(self, *buffers: UnblockedReplayBuffer) -> None:
        # What samplers share is there once.
        self.buffers = {buffer.sampler.slots: buffer for buffer in buffers}

    def state_dict(self) -> dict[str, Any]:
        """Visit counts and newest slots."""
        states = {}
        for each, buffer in enumerate(self.buffers.values()):
            with buffer.in_turn():
                states[str(each)] = buffer.sampler.state_dict()
        return states

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        for each, buffer in enumerate(self.buffers.values()):
            with buffer.in_turn():
                buffer.sampler.load_state_dict(state_dict[str(each)])
