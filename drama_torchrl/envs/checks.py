"""A transform that refuses broken transitions before they reach the replay buffer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torchrl.envs import Transform

__all__ = [
    "CheckTransition",
]


class CheckTransition(Transform):
    """Raise when an environment returns a wrong frame or a reward that is not finite.

    One NaN in the replay buffer spoils every later update; this transform stops at the
    transition that brings it. It reads the reward on the host, so it belongs on
    environments that step on the CPU.

    Args:
        frame_shape: Shape that a frame must have, ``[3, height, width]``; its dtype
            must be uint8.
        pixels_key: Where the frame is.
        reward_key: Where the reward is, below ``"next"``.

    Raises:
        ValueError: At reset or step, if the frame is missing or has another shape or
            dtype, or if the reward is missing, NaN or infinite.

    Example:
        >>> from torchrl.envs import TransformedEnv
        >>> from drama_torchrl.envs.atari import make_atari_env
        >>> env = make_atari_env("Pong", seed=0, frame_size=84)
        >>> checked = TransformedEnv(env, CheckTransition((3, 64, 64)))
        >>> try:
        ...     checked.reset()
        ... except ValueError as error:
        ...     print(str(error).split(". ")[0])
        Expected 'pixels' to be a torch.uint8 frame of shape (3, 64, 64), got torch.uint8 of shape (3, 84, 84)
        >>> checked.close()
    """  # noqa: E501  a doctest's output cannot be wrapped

    def __init__(
        self,
        frame_shape: Sequence[int],
        *,
        pixels_key: NestedKey = "pixels",
        reward_key: NestedKey = "reward",
    ) -> None:
        """Set what is expected; nothing is checked before the first reset."""
        super().__init__(in_keys=[], out_keys=[])
        self.frame_shape = torch.Size(frame_shape)
        self.pixels_key = pixels_key
        self.reward_key = reward_key

    def _reset(
        self,
        tensordict: TensorDictBase,  # noqa: ARG002  TorchRL's signature
        tensordict_reset: TensorDictBase,
    ) -> TensorDictBase:
        self._check_pixels(tensordict_reset)
        return tensordict_reset

    def _step(
        self,
        tensordict: TensorDictBase,  # noqa: ARG002  TorchRL's signature
        next_tensordict: TensorDictBase,
    ) -> TensorDictBase:
        self._check_pixels(next_tensordict)
        self._check_reward(next_tensordict)
        return next_tensordict

    def _check_pixels(self, tensordict: TensorDictBase) -> None:
        pixels = tensordict.get(self.pixels_key, None)
        expected = tensordict.batch_size + self.frame_shape
        if (
            pixels is not None
            and pixels.shape == expected
            and pixels.dtype is torch.uint8
        ):
            return
        got = (
            f"no such key among {sorted(map(str, tensordict.keys()))}"
            if pixels is None
            else f"{pixels.dtype} of shape {tuple(pixels.shape)}"
        )
        raise ValueError(
            f"Expected {self.pixels_key!r} to be a torch.uint8 frame of shape "
            f"{tuple(expected)}, got {got}. Resize or permute the environment's "
            f"frames, or set the frame size of the model to theirs."
        )

    def _check_reward(self, tensordict: TensorDictBase) -> None:
        reward = tensordict.get(self.reward_key, None)
        values = [] if reward is None else reward.flatten().tolist()
        if values and all(map(math.isfinite, values)):
            return
        got = values or "no such key"
        raise ValueError(
            f"Expected {self.reward_key!r} to be a finite number, got {got}. The "
            f"transition was not stored; repair the environment's reward and start "
            f"again."
        )
