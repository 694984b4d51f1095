"""A small pixel environment: walk to the side that is lit."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Categorical, Composite, OneHot, Unbounded
from torchrl.envs import EnvBase

FRAME_SIZE = 16
CELLS = 5


class LitSideEnv(EnvBase):
    """A corridor of five cells, one of whose ends is lit; the walk starts between.

    Actions go left and right. Reaching the lit end gives 1 and the dark end 0; both
    end the episode, and so do 20 steps. A random walk earns 0.5 an episode on
    average; knowing the way earns 1. The lit side shows in the first frame only, so
    that it must be remembered.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(batch_size=[])
        frame = (3, FRAME_SIZE, FRAME_SIZE)
        flag = Categorical(2, (1,), dtype=torch.bool)
        self.observation_spec = Composite(
            {
                "pixels": Unbounded(frame, dtype=torch.uint8),
                "end-of-life": flag.clone(),
            }
        )
        self.action_spec = OneHot(2, dtype=torch.bool)
        self.reward_spec = Unbounded((1,))
        self.full_done_spec = Composite(
            {"done": flag, "terminated": flag.clone(), "truncated": flag.clone()}
        )
        self.rng = torch.Generator().manual_seed(seed)

    def _set_seed(self, seed: int | None) -> None:
        self.rng.manual_seed(seed or 0)

    def _frame(self) -> torch.Tensor:
        frame = torch.zeros(3, FRAME_SIZE, FRAME_SIZE, dtype=torch.uint8)
        width = FRAME_SIZE // CELLS
        if self.steps == 0:
            lit = slice(0, width) if self.lit == 0 else slice(-width, None)
            frame[1, :, lit] = 255
        left = self.cell * width + 1
        frame[0, 5:11, left : left + width] = 255
        return frame

    def _observation(self, *, over: bool) -> dict[str, torch.Tensor]:
        return {"pixels": self._frame(), "end-of-life": torch.tensor([over])}

    def _reset(
        self, tensordict: TensorDictBase | None = None, **kwargs: Any
    ) -> TensorDictBase:
        del tensordict, kwargs
        self.lit = int(torch.randint(2, (), generator=self.rng)) * (CELLS - 1)
        self.cell = CELLS // 2
        self.steps = 0
        no = torch.tensor([False])
        done = {"done": no, "terminated": no.clone(), "truncated": no.clone()}
        return TensorDict(self._observation(over=False) | done)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        self.cell += 2 * int(tensordict["action"].int().argmax()) - 1
        self.steps += 1
        over = self.cell in (0, CELLS - 1)
        late = self.steps >= 20
        return TensorDict(
            {
                **self._observation(over=over),
                "reward": torch.tensor([float(over and self.cell == self.lit)]),
                "terminated": torch.tensor([over]),
                "truncated": torch.tensor([late and not over]),
                "done": torch.tensor([over or late]),
            }
        )
