"""Causal attention over a sliding window, with a cache of fixed length."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from drama_torchrl.modules.sequence_layer import (
    as_size,
    check_input,
    check_is_init,
    check_state,
)

__all__ = ["Attention", "rotate"]


def rotate(x: Tensor, position: Tensor, *, base: float = 10_000.0) -> Tensor:
    """Turn pairs of features by angles proportional to the position.

    (x_i, x_{i+P/2}) is rotated by position · base^(-2i/P) for i < P/2, so that a
    product of two rotated vectors depends on their distance alone (arXiv:2104.09864).

    Args:
        x: [..., T, P], P even.
        position: [..., T], whole numbers.
        base: ratio of the slowest to the fastest turn.

    Returns:
        [..., T, P], in the dtype of ``x``.

    Example:
        >>> x = torch.tensor([[1.0, 0.0]])
        >>> rotate(x, torch.tensor([1]))  # cos 1, sin 1
        tensor([[0.5403, 0.8415]])
    """
    half, wide = x.shape[-1] // 2, torch.promote_types(x.dtype, torch.float32)
    exponents = torch.arange(half, device=x.device, dtype=wide) / half
    angles = position.unsqueeze(-1) * base**-exponents
    cos, sin = angles.cos(), angles.sin()
    a, b = x.to(wide).chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


class Attention(nn.Module):
    """Causal multi-head attention over the last W steps, its own one included.

    Per head, with q, k, v = in_proj(input) and R_t the rotation of step t:

        y_t = sum_s softmax_s((R_t q_t) · (R_s k_s) / sqrt(P)) v_s,  t - W < s <= t
        output = out_proj(y)   (arXiv:1706.03762; rotations: arXiv:2104.09864)

    Steps are counted from the start of the episode, but only distances matter: the
    window may slide for ever.

    The recurrent state is a TensorDict of batch size [B] with the keys

    - ``"keys"`` and ``"values"`` [B, NH, W - 1, P]: of the last steps, newest last,
      keys rotated, in the dtype of the projection that made them (bfloat16 under
      autocast); slots not used yet are zero;
    - ``"position"`` [B] int64: steps seen since the episode started. It tells which
      slots are used, so that all zeros is an empty past.

    Passed states are never written to. A step costs O(W), whatever is in the window.

    Args:
        d_model: width D of inputs and outputs.
        num_heads: number NH of heads, of P = D / NH channels each.
        window: steps W that are seen.

    Raises:
        ValueError: if ``num_heads`` does not split D into heads of even width.

    Example:
        >>> layer = Attention(8, num_heads=2, window=3)
        >>> x = torch.randn(2, 5, 8)
        >>> y, state = layer(x[:, :4])
        >>> y_last, state = layer.step(x[:, 4], state)
        >>> torch.testing.assert_close(y_last, layer(x)[0][:, 4])
        >>> state["keys"].shape, state["position"]
        (torch.Size([2, 2, 2, 4]), tensor([5, 5]))
    """

    def __init__(self, d_model: int, *, num_heads: int = 8, window: int = 64) -> None:
        super().__init__()
        if d_model % (2 * num_heads):
            raise ValueError(
                f"expected num_heads to split d_model = {d_model} into heads of even "
                f"width, got num_heads={num_heads}; choose a divisor of {d_model // 2}."
            )
        self.d_model, self.num_heads, self.window = d_model, num_heads, window
        self.in_proj = nn.Linear(d_model, 3 * d_model)
        self.out_proj = nn.Linear(d_model, d_model)

    @property
    def _slots(self) -> tuple[int, int, int]:
        return self.num_heads, self.window - 1, self.d_model // self.num_heads

    def initial_state(self, batch_size: int | torch.Size) -> TensorDict:
        """Give the state before the first step, zeros on the parameters' device.

        Args:
            batch_size: B, or the whole batch size.

        Returns:
            TensorDict of that batch size: ``"keys"``, ``"values"``, ``"position"``.
        """
        size, weight = as_size(batch_size), self.in_proj.weight
        return TensorDict(
            {
                "keys": weight.new_zeros(*size, *self._slots),
                "values": weight.new_zeros(*size, *self._slots),
                "position": weight.new_zeros(size, dtype=torch.int64),
            },
            batch_size=size,
        )

    def forward(
        self,
        x: Tensor,
        state: TensorDictBase | None = None,
        *,
        is_init: Tensor | None = None,
    ) -> tuple[Tensor, TensorDict]:
        """Run over a sequence.

        Args:
            x: [B, T, D] inputs, at least one step.
            state: what an earlier call returned; zeros where omitted.
            is_init: [B, T] bool, True where an episode starts: nothing from before
                that step, state included, is seen from it on.

        Returns:
            y [B, T, D], and the state after the last step.

        Raises:
            ValueError: if the shape of ``x``, ``state`` or ``is_init`` does not fit.
        """
        check_input(x, self.d_model, ndim=3)
        check_is_init(is_init, x)
        check_state(
            state, x.shape[0], keys=self._slots, values=self._slots, position=()
        )
        batch, length, _ = x.shape
        now = torch.arange(length, device=x.device)
        start = self._episode_starts(now, batch, state, is_init)  # [B, T]
        position = now - start
        heads = self.in_proj(x).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # [B, NH, T, P] each
        query, key = (rotate(t, position.unsqueeze(1)) for t in (query, key))
        if state is not None:
            key = torch.cat([state["keys"].to(key.dtype), key], dim=2)
            value = torch.cat([state["values"].to(value.dtype), value], dim=2)
        then = torch.arange(length - key.shape[2], length, device=x.device)
        if state is None and is_init is None and length <= self.window:
            # No mask to be read: kernels for long sequences want none.
            y = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            visible = self._visible(now, then, start)
            y = F.scaled_dot_product_attention(query, key, value, attn_mask=visible)
        if is_init is not None:
            forgotten = (then < start[:, -1:])[:, None, :, None]
            key, value = (t.masked_fill(forgotten, 0.0) for t in (key, value))
        y = self.out_proj(y.transpose(1, 2).flatten(2))
        return y, self._remember(key, value, position[:, -1] + 1)

    def step(self, x: Tensor, state: TensorDictBase) -> tuple[Tensor, TensorDict]:
        """Run one step; the cost does not depend on how many came before.

        Args:
            x: [B, D] inputs.
            state: what an earlier call or :meth:`initial_state` returned.

        Returns:
            y [B, D], and the state after the step.

        Raises:
            ValueError: if the shape of ``x`` or ``state`` does not fit.
        """
        check_input(x, self.d_model, ndim=2)
        y, state = self(x.unsqueeze(1), state)
        return y.squeeze(1), state

    @staticmethod
    def _episode_starts(
        now: Tensor, batch: int, state: TensorDictBase | None, is_init: Tensor | None
    ) -> Tensor:
        """Give the step [B, T] at which the episode of each step started, < 0: before.

        Steps are counted from the start of the sequence.
        """
        if state is None:
            start = torch.zeros_like(now).expand(batch, -1)
        else:
            start = -state["position"].unsqueeze(1).expand(-1, now.shape[0])
        if is_init is None:
            return start
        return torch.where(is_init, now, start).cummax(1).values

    def _visible(self, now: Tensor, then: Tensor, start: Tensor) -> Tensor:
        """Say which keys of then [keys] each step sees: [B, 1, T, keys]."""
        now = now.unsqueeze(-1)
        recent = (then <= now) & (then > now - self.window)
        return (recent & (then >= start.unsqueeze(-1))).unsqueeze(1)

    def _remember(self, key: Tensor, value: Tensor, position: Tensor) -> TensorDict:
        """Keep the last W - 1 steps, empty slots first."""
        missing = self.window - 1 - key.shape[2]  # below zero: too many
        keys, values = (F.pad(t, (0, 0, missing, 0)).contiguous() for t in (key, value))
        state = {"keys": keys, "values": values, "position": position}
        return TensorDict(state, batch_size=position.shape)
