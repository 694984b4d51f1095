"""The running episode of an Atari game, saved as what leads to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict

from drama_torchrl.envs.atari import AtariEnv

__all__ = ["EpisodeMark", "episode_state", "mark_episode", "replay_episode"]


class EpisodeMark(NamedTuple):
    """A moment between two steps of an episode; a step later it is still that moment.

    Args:
        episode_seed: of the episode.
        actions: indices of the actions so far; the episode may append to the list.
        length: number of them.
        seeds: state of the generator of episode seeds.
    """

    episode_seed: int
    actions: list[int]
    length: int
    seeds: Mapping[str, Any]

    def state_dict(self) -> dict[str, Any]:
        """What :func:`episode_state` returned at that moment."""
        return {
            "episode_seed": self.episode_seed,
            "actions": torch.tensor(self.actions[: self.length], dtype=torch.uint8),
            # As text: the generator's integers have 128 bits.
            "seeds": json.dumps(self.seeds),
        }


def mark_episode(env: AtariEnv) -> EpisodeMark:
    """Note where an episode stands, in constant time.

    Args:
        env: the game, between two steps; a collector closes it after its last one.

    Raises:
        RuntimeError: if no episode was started, or a step is under way.
    """
    if env._awaits == "receive_frame" or not env._has_episode:
        raise RuntimeError(
            "Expected an environment between two steps of an episode, got one that was "
            "never reset or waits for receive_frame(); reset it or finish the step."
        )
    actions = env._actions
    seeds = env._rng.bit_generator.state
    return EpisodeMark(int(env._episode_seed), actions, len(actions), seeds)


def episode_state(env: AtariEnv) -> dict[str, Any]:
    """Describe the running episode and the seeds of those to come.

    The emulator is deterministic: the seed of an episode and its actions lead to the
    same state again, whatever the emulator keeps inside.

    Args:
        env: the game, between two steps; a collector closes it after its last one.

    Returns:
        ``"episode_seed"``, the indices of the ``"actions"`` so far (uint8 ``[t]``)
        and ``"seeds"``, the state of the generator of episode seeds.

    Raises:
        RuntimeError: if no episode was started, or a step is under way.

    Example:
        >>> from drama_torchrl.envs.atari import make_atari_env
        >>> env = make_atari_env("Pong", seed=0)
        >>> last = env.rollout(3)[-1]["next", "pixels"]
        >>> state = episode_state(env)
        >>> state["actions"].shape
        torch.Size([3])
        >>> other = make_atari_env("Pong", seed=1)
        >>> bool((replay_episode(other, state)["pixels"] == last).all())
        True
        >>> env.close(), other.close()
        (None, None)
    """
    return mark_episode(env).state_dict()


def replay_episode(env: AtariEnv, state: dict[str, Any]) -> TensorDict:
    """Bring a game to where :func:`episode_state` found it.

    Replaying costs what the emulator does: about 0.5 ms a step.

    Args:
        env: the same game with the same frame skip, stickiness, no-ops and frame cap.
        state: from :func:`episode_state`.

    Returns:
        What the last step, or the reset, returned.

    Raises:
        ValueError: if an action is none of this game, or the episode ends early: this
            is another game or another emulator.
    """
    actions = state["actions"].tolist()
    identity = torch.eye(env.action_spec.shape[-1], dtype=torch.bool)
    if actions and max(actions) >= len(identity):
        raise ValueError(
            f"Expected actions below {len(identity)}, got {max(actions)}: the episode "
            "was recorded in another game."
        )
    result = env._reset(episode_seed=state["episode_seed"])
    for number, action in enumerate(actions):
        if env._awaits == "reset":
            raise ValueError(
                f"Expected an episode of {len(actions)} steps or more, got its end "
                f"after {number}: it was recorded in another game or emulator."
            )
        env.send_action(TensorDict({"action": identity[action]}))
        result = env.receive_frame()
    env._rng.bit_generator.state = json.loads(state["seeds"])
    return result
