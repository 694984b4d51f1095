"""GRU: a gated recurrent layer under the contract of the other dynamics."""

from __future__ import annotations

import warnings

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from drama_torchrl.modules.sequence_layer import (
    as_size,
    check_input,
    check_is_init,
    check_state,
)

__all__ = ["GRU"]


class GRU(nn.Module):
    """A GRU layer without its residual connection (arXiv:1406.1078, torch's form).

    r, i, n from the input u and the state h, with one weight and bias each:

        r_t, i_t = sigmoid(W u_t + V h_{t-1})
        n_t = tanh(W_n u_t + r_t * V_n h_{t-1})
        h_t = (1 - i_t) * n_t + i_t * h_{t-1}     output = h_t

    The recurrent state is a TensorDict of batch size [B] with the key ``"hidden"``
    [B, D]: h, in the parameters' dtype also under autocast. Passed states are never
    written to.

    A sequence runs through cuDNN's kernel, or torch's on a CPU. With episode starts, or
    under ``torch.compile``, it is T steps instead.

    Args:
        d_model: width D of inputs, state and outputs.

    Example:
        >>> layer = GRU(8)
        >>> x = torch.randn(2, 5, 8)
        >>> y, state = layer(x[:, :4])
        >>> y_last, state = layer.step(x[:, 4], state)
        >>> torch.testing.assert_close(y_last, layer(x)[0][:, 4])
        >>> state["hidden"].shape
        torch.Size([2, 8])
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.d_model = d_model
        self.cell = nn.GRUCell(d_model, d_model)

    def initial_state(self, batch_size: int | torch.Size) -> TensorDict:
        """Give the state before the first step, zeros on the parameters' device.

        Args:
            batch_size: B, or the whole batch size.

        Returns:
            TensorDict of that batch size with the key ``"hidden"``.
        """
        size = as_size(batch_size)
        return TensorDict({"hidden": self._zeros(size)}, batch_size=size)

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
        check_state(state, x.shape[0], hidden=(self.d_model,))
        hidden = self._zeros(x.shape[:1]) if state is None else state["hidden"]
        # A kernel cannot forget midway, and a compiler cannot look into it.
        if is_init is not None or torch.compiler.is_compiling():
            y = self._run_by_steps(x, hidden, is_init)
            return y, self._state(y[:, -1])
        y, hidden = _run_fused(x, hidden, self.cell)
        return y, self._state(hidden)

    def step(self, x: Tensor, state: TensorDictBase) -> tuple[Tensor, TensorDict]:
        """Run one step.

        Args:
            x: [B, D] inputs.
            state: what an earlier call or :meth:`initial_state` returned.

        Returns:
            y [B, D], and the state after the step.

        Raises:
            ValueError: if the shape of ``x`` or ``state`` does not fit.
        """
        check_input(x, self.d_model, ndim=2)
        check_state(state, x.shape[0], hidden=(self.d_model,))
        state = self._state(self.cell(x, state["hidden"]))
        return state["hidden"], state

    def _run_by_steps(
        self, x: Tensor, hidden: Tensor, is_init: Tensor | None
    ) -> Tensor:
        outputs = []
        for t in range(x.shape[1]):
            if is_init is not None:
                hidden = hidden.masked_fill(is_init[:, t, None], 0.0)
            hidden = self.cell(x[:, t], hidden)
            outputs.append(hidden)
        return torch.stack(outputs, 1)

    def _zeros(self, size: torch.Size) -> Tensor:
        return self.cell.weight_hh.new_zeros(*size, self.d_model)

    def _state(self, hidden: Tensor) -> TensorDict:
        hidden = hidden.to(self.cell.weight_hh.dtype)
        return TensorDict({"hidden": hidden}, batch_size=hidden.shape[:1])


def _run_fused(x: Tensor, hidden: Tensor, cell: nn.GRUCell) -> tuple[Tensor, Tensor]:
    with warnings.catch_warnings():
        # cuDNN copies a cell's weights into one piece first: six megabytes.
        warnings.filterwarnings("ignore", "RNN module weights are not part")
        y, hidden = torch.gru(
            x,
            hidden.unsqueeze(0).contiguous(),
            (cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh),
            has_biases=True,
            num_layers=1,
            dropout=0.0,
            train=torch.is_grad_enabled(),
            bidirectional=False,
            batch_first=True,
        )
    return y, hidden.squeeze(0)
