"""One Atari game as a TorchRL environment, with the Atari100k protocol built in."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from ale_py.vector_env import AtariVectorEnv
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Binary, Composite, OneHot, Unbounded
from torchrl.envs import EnvBase

from drama_torchrl.envs.games import find_rom_id

__all__ = [
    "AtariEnv",
    "make_atari_env",
]

# The emulator's numbers are 32-bit; a negative seed means "keep the old state".
_MAX_INT32 = 2**31 - 1
_Call = Literal["reset", "send_action", "receive_frame"]


def make_atari_env(
    game: str,
    *,
    seed: int,
    frame_size: int = 64,
    frame_skip: int = 4,
    repeat_action_probability: float = 0.0,
    max_noops: int = 30,
    max_frames: int = 108_000,
) -> AtariEnv:
    """Build one Atari game under the Atari100k protocol (arXiv:1903.00374).

    The defaults are the protocol of the Drama paper (arXiv:2410.08893, A.1): 64x64 RGB
    frames resized by area, 4 emulator frames per step, maximum of the last two, the
    minimal action set, no sticky actions, up to 30 no-ops at the start of an episode,
    rewards not clipped.

    Args:
        game: ``"MsPacman"``, ``"ms_pacman"`` or ``"mspacman"``;
            :func:`~drama_torchrl.envs.games.list_games` lists all games.
        seed: Seed of the sequence of episode seeds, 0 or more.
        frame_size: Height and width of a frame, in pixels.
        frame_skip: Emulator frames per environment step.
        repeat_action_probability: Probability that an emulator frame repeats the
            action of the frame before it ("sticky actions").
        max_noops: Most emulator frames of no-op before an episode; their number is
            uniform in [0, max_noops].
        max_frames: Emulator frames, without the no-ops, that truncate an episode.

    Returns:
        A seeded :class:`AtariEnv`.

    Raises:
        ValueError: If the game is unknown or a value is impossible.

    Example:
        >>> env = make_atari_env("Pong", seed=0)
        >>> env.rollout(3)["next", "pixels"].shape
        torch.Size([3, 3, 64, 64])
        >>> env.close()
    """
    rom_id = find_rom_id(game)
    _expect_whole("seed", seed, 0, 2**64 - 1)
    _expect_whole("frame_size", frame_size, 1)
    _expect_whole("frame_skip", frame_skip, 1)
    _expect_whole("max_noops", max_noops, 0, _MAX_INT32 - 1)
    _expect_whole("max_frames", max_frames, 1)
    if not 0.0 <= repeat_action_probability <= 1.0:
        raise ValueError(
            "Expected repeat_action_probability to be a number in [0, 1], got "
            f"{repeat_action_probability!r}."
        )
    emulator = AtariVectorEnv(
        rom_id,
        num_envs=1,
        num_threads=1,
        max_num_frames_per_episode=max_frames,
        repeat_action_probability=repeat_action_probability,
        img_height=frame_size,
        img_width=frame_size,
        grayscale=False,
        stack_num=1,
        frameskip=frame_skip,
        # The emulator draws from [0, noop_max).
        noop_max=max_noops + 1,
        reward_clipping=False,
        use_fire_reset=False,
    )
    env = AtariEnv(emulator)
    env.set_seed(seed)
    return env


class AtariEnv(EnvBase):
    """One Atari game, emulated and preprocessed by ``ale_py``'s C++ vector environment.

    A step writes ``("next", "pixels")`` (uint8 ``[3, frame_size, frame_size]``),
    ``("next", "reward")``, ``("next", "terminated")`` (game over), ``("next",
    "truncated")`` (frame cap) and ``("next", "end-of-life")``: a life was lost or the
    game ended, which the world model learns as termination while the game goes on.

    The frame of an episode's final step is stale, as in gymnasium's preprocessing: the
    emulator stops before it captures it. No action follows that frame.

    Each episode starts from a seed of its own, present in every transition as
    ``"episode_seed"``: ``env.reset(episode_seed=s)`` and the same actions replay that
    episode exactly. A seeded reset reloads the game, which costs about 0.1 s.

    ``step`` is :meth:`send_action` followed by :meth:`receive_frame`; between the two
    the emulator runs in its own thread and the caller is free to compute.

    Args:
        emulator: A single game with RGB frames that are not stacked, which does not end
            episodes at a lost life. :func:`make_atari_env` builds it.

    Example:
        >>> env = make_atari_env("Breakout", seed=0)
        >>> env.reset(episode_seed=5)["episode_seed"]
        tensor([5])
        >>> env.action_spec.shape
        torch.Size([4])
        >>> env.close()
    """

    def __init__(self, emulator: AtariVectorEnv) -> None:
        """Take over the emulator; the first episode starts at ``reset``."""
        super().__init__(device=torch.device("cpu"), batch_size=torch.Size([]))
        self.is_closed = False
        self._emulator = emulator
        self._set_specs()
        self._lives = 0
        self._episode_seed = torch.zeros(1, dtype=torch.int64)
        self._actions: list[int] = []  # of the running episode
        self._has_episode = False
        self._awaits: _Call = "reset"
        self._set_seed(None)

    def _set_specs(self) -> None:
        flag = Binary(shape=(1,), dtype=torch.bool)
        *_, height, width, channels = self._emulator.ale.get_observation_shape()
        self.observation_spec = Composite(
            {
                "pixels": Unbounded((channels, height, width), dtype=torch.uint8),
                "end-of-life": flag.clone(),
                "episode_seed": Unbounded((1,), dtype=torch.int64),
            }
        )
        num_actions = len(self._emulator.ale.get_action_set())
        self.action_spec = OneHot(num_actions, dtype=torch.bool)
        self.reward_spec = Unbounded((1,), dtype=torch.float32)
        done_keys = ("done", "terminated", "truncated")
        self.done_spec = Composite({key: flag.clone() for key in done_keys})

    def send_action(self, tensordict: TensorDictBase) -> None:
        """Start a step in the emulator's thread and return at once.

        Args:
            tensordict: Holds the one-hot ``"action"`` ``[A]``.
        """
        self._expect("send_action")
        action = tensordict.get("action")
        if action.shape != self.action_spec.shape:
            # The emulator waits for ever on an action outside its set.
            raise ValueError(
                f"Expected a one-hot action of shape {tuple(self.action_spec.shape)}, "
                f"got {tuple(action.shape)}. Draw actions from env.action_spec."
            )
        index = action.int().argmax(-1, keepdim=True).numpy(force=True)
        self._emulator.send(index)
        self._actions.append(int(index[0]))
        self._awaits = "receive_frame"

    def receive_frame(self) -> TensorDict:
        """Wait for the step that :meth:`send_action` started.

        Returns:
            The frame, reward and flags that the action caused, without ``"next"``.
        """
        self._expect("receive_frame")
        frames, rewards, terminated, truncated, info = self._emulator.recv()
        game_over, cut = bool(terminated[0]), bool(truncated[0])
        lives_before, self._lives = self._lives, int(info["lives"][0])
        self._awaits = "reset" if game_over or cut else "send_action"
        return self._pack(
            frames,
            end_of_life=game_over or self._lives < lives_before,
            reward=float(rewards[0]),
            terminated=game_over,
            truncated=cut,
            done=game_over or cut,
        )

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        self.send_action(tensordict)
        return self.receive_frame()

    def _reset(
        self,
        tensordict: TensorDictBase | None = None,  # noqa: ARG002  TorchRL's signature
        *,
        episode_seed: int | None = None,
    ) -> TensorDict:
        self._expect("reset")
        if episode_seed is None:
            episode_seed = int(self._rng.integers(_MAX_INT32))
        _expect_whole("episode_seed", episode_seed, 0)
        if self._awaits == "receive_frame":
            self._emulator.recv()
        frames, info = self._emulator.reset(seed=episode_seed)
        self._lives = int(info["lives"][0])
        self._episode_seed = torch.tensor([episode_seed])
        self._actions = []
        self._has_episode = True
        self._awaits = "send_action"
        return self._pack(frames, end_of_life=False)

    def _pack(
        self, frames: np.ndarray, *, end_of_life: bool, **scalars: float
    ) -> TensorDict:
        """Turn the emulator's frames ``[1, 1, height, width, 3]`` into tensors."""
        pixels = torch.from_numpy(frames[0, 0]).permute(2, 0, 1).contiguous()
        return TensorDict(
            {
                "pixels": pixels,  # [3, height, width]
                "end-of-life": torch.tensor([end_of_life]),
                "episode_seed": self._episode_seed.clone(),
                **{key: torch.tensor([value]) for key, value in scalars.items()},
            },
            batch_size=self.batch_size,
            device=self.device,
        )

    def _expect(self, call: _Call) -> None:
        if self.is_closed:
            raise RuntimeError("Expected an open environment, got a closed one.")
        if call not in ("reset", self._awaits):
            raise RuntimeError(
                f"Expected a call of {self._awaits}() next, got {call}(). An episode "
                "goes reset, then send_action and receive_frame in turn until it is "
                "done, then reset again."
            )

    def _set_seed(self, seed: int | None) -> None:
        self._rng = np.random.default_rng(seed)

    def close(self, *, raise_if_closed: bool = True) -> None:
        """Stop the emulator's thread and free the game; closing twice is harmless."""
        super().close(raise_if_closed=raise_if_closed)
        self.__dict__.pop("_emulator", None)


def _expect_whole(name: str, value: int, low: int, high: int = _MAX_INT32) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(
            f"Expected {name} to be a whole number in [{low}, {high}], got {value!r}."
        )
