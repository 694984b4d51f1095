"""The least arithmetic and memory traffic of a training step, from the configuration.

The floor of a part is what an ideal implementation could not avoid:

- FLOP: two per multiply-add of every convolution, matrix product and recurrence.
  A backward pass costs twice its forward pass, once for the gradient of the inputs and
  once for that of the weights; frames and imagined states need none of the first kind.
  Norms, activations, draws, losses and the optimiser's arithmetic are not counted.
- Bytes: each layer reads its inputs and writes its outputs once per kernel that needs
  them: forward, gradient of the inputs, gradient of the weights. What works element by
  element is free, done where a neighbour reads or writes. BatchNorm in training is
  not: its outputs are not stored and its backward needs two sums over the map first,
  so the map is read once more for the sums and again, beside its gradient, by both
  gradient kernels. Frames are one byte a value; the recurrent state is float32, read
  and written at each imagined step. Weights are not counted per kernel (they stay in
  the cache), only the 32 bytes per parameter that LaProp moves: gradient, parameter
  and two moments, each read and written.

A real program does more: it is a bound, not a forecast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from drama_torchrl.config import DramaConfig

__all__ = ["PARTS", "Layer", "Work", "step_floor"]

PARTS = ("world_model", "imagination", "actor_critic", "behaviour", "step")

_KERNEL, _COLOURS = 5, 3
_OPTIMIZER_BYTES = 32
_STATE_BYTES = 4
# A multiply-add to read h out; a product and a multiply-add to move it.
_RECURRENCE_FLOP = 5


@dataclass(frozen=True)
class Work:
    """Floating-point operations and bytes of memory traffic.

    Example:
        >>> 2 * (Work(1, 2) + Work(3, 4))
        Work(flop=8, bytes=12)
    """

    flop: float
    bytes: float

    def __add__(self, other: Work) -> Work:
        return Work(self.flop + other.flop, self.bytes + other.bytes)

    def __rmul__(self, count: float) -> Work:
        return Work(count * self.flop, count * self.bytes)


class Layer(NamedTuple):
    """One layer for one record: values in, values out, forward FLOP."""

    inputs: int
    outputs: int
    flop: int

    def forward(self, width: int, input_width: int | None = None) -> Work:
        """Work without gradients at ``width`` bytes a value."""
        reads = self.inputs * (width if input_width is None else input_width)
        return Work(self.flop, reads + self.outputs * width)

    def backward(self, width: int, *, input_width: int | None = None) -> Work:
        """Work of the gradients; ``input_width`` marks inputs that need none."""
        reads = self.inputs * (width if input_width is None else input_width)
        of_weights = Work(self.flop, reads + self.outputs * width)
        if input_width is not None:
            return of_weights
        return of_weights + Work(self.flop, (self.inputs + self.outputs) * width)

    def normalised_backward(
        self, width: int, *, input_width: int | None = None
    ) -> Work:
        """``backward`` where BatchNorm follows: two or three more reads of its map."""
        extra = 3 if input_width is None else 2
        return self.backward(width, input_width=input_width) + Work(
            0, extra * self.outputs * width
        )


def step_floor(
    config: DramaConfig,
    num_actions: int,
    *,
    parameters: Mapping[str, int],
    width: int,
) -> dict[str, Work]:
    """Compute the floor of each part of a training step.

    Args:
        config: sizes.
        num_actions: number A of actions.
        parameters: number of trained parameters by learner: ``"world_model"`` and
            ``"behaviour"``.
        width: bytes of an activation: 2 in bfloat16, 4 in float32.

    Returns:
        Work by name of :data:`PARTS`; the last two are sums of those before.
    """
    updates = {k: Work(0, _OPTIMIZER_BYTES * n) for k, n in parameters.items()}
    world_model = _world_model(config, num_actions, width) + updates["world_model"]
    imagination = _imagination(config, num_actions, width)
    actor_critic = _actor_critic(config, num_actions, width) + updates["behaviour"]
    behaviour = imagination + actor_critic
    works = (world_model, imagination, actor_critic, behaviour, world_model + behaviour)
    return dict(zip(PARTS, works, strict=True))


def _world_model(config: DramaConfig, num_actions: int, width: int) -> Work:
    """Forward and backward of ``[B, T]`` frames."""
    c = config.replay
    first, *convs, to_logits = encoder_layers(config)
    from_latent, *deconvs, to_pixels = decoder_layers(config)
    work = first.forward(width, input_width=1)
    work += first.normalised_backward(width, input_width=1)
    for layer in (*convs, from_latent, *deconvs):
        work += layer.forward(width) + layer.normalised_backward(width)
    tokens = [*dynamics_layers(config, num_actions), *prediction_layers(config)]
    for layer in (to_logits, to_pixels, *tokens):
        work += layer.forward(width) + layer.backward(width)
    work += Work(0, to_pixels.outputs)  # the frames that the loss compares with
    return c.model_batch * c.model_window * work


def _imagination(config: DramaConfig, num_actions: int, width: int) -> Work:
    """Contexts ``[N, C]``, then H steps of actor and world model, without gradients."""
    c, w = config.replay, config.world_model
    first, *layers = encoder_layers(config)
    dynamics = dynamics_layers(config, num_actions)
    frame = first.forward(width, input_width=1)
    frame += _forward([*layers, *dynamics], width)
    prior, *heads = prediction_layers(config)
    actor = mlp_layers(
        w.latent_dim + w.d_model, config.behaviour.actor_units, num_actions
    )
    step = _forward([*actor, *dynamics, prior, *heads], width)
    convolved = w.inner_width + 2 * w.d_state
    state = w.inner_width * w.d_state + convolved * (w.d_conv - 1)
    step += Work(0, 2 * _STATE_BYTES * w.num_layers * state)
    rollout = c.imagination_window * frame + prior.forward(width)
    return c.imagination_batch * (rollout + config.behaviour.horizon * step)


def _actor_critic(config: DramaConfig, num_actions: int, width: int) -> Work:
    """Two critics on H+1 states; backward of one critic and the actor on H.

    The values that make the returns are those that the critic's loss needs: one
    forward pass. The actor needs its own: its input statistics have moved.
    """
    c, n = config.behaviour, config.replay.imagination_batch
    state = config.world_model.latent_dim + config.world_model.d_model
    actor = mlp_layers(state, c.actor_units, num_actions)
    critic = mlp_layers(state, c.critic_units, config.world_model.num_bins)
    values = 2 * (c.horizon + 1) * _forward(critic, width)
    learning = _forward(actor, width)
    for first, *rest in (actor, critic):
        learning += first.backward(width, input_width=width)
        for layer in rest:
            learning += layer.backward(width)
    return n * (values + c.horizon * learning)


def _forward(layers: Sequence[Layer], width: int) -> Work:
    return sum((layer.forward(width) for layer in layers), Work(0, 0))


def linear(inputs: int, outputs: int) -> Layer:
    """A matrix product; its bias is free."""
    return Layer(inputs, outputs, 2 * inputs * outputs)


def mlp_layers(inputs: int, units: Sequence[int], outputs: int) -> list[Layer]:
    """The products of an MLP."""
    return [linear(a, b) for a, b in pairwise((inputs, *units, outputs))]


def encoder_layers(config: DramaConfig) -> list[Layer]:
    """Convolutions of the encoder for one frame, then its linear layer.

    The first keeps the frame's size, each further one halves it. Taps outside the
    frame are counted.
    """
    c, size = config.world_model, config.env.frame_size
    layers, area = [], size * size
    for i, (a, b) in enumerate(pairwise((_COLOURS, *c.filters))):
        out = area // 4 if i else area
        layers.append(Layer(a * area, b * out, 2 * _KERNEL**2 * a * b * out))
        area = out
    return [*layers, linear(c.filters[-1] * area, c.latent_dim)]


def decoder_layers(config: DramaConfig) -> list[Layer]:
    """Linear layer of the decoder for one frame, then its transposed convolutions."""
    *convs, to_logits = encoder_layers(config)
    return [Layer(to_logits.outputs, to_logits.inputs, to_logits.flop)] + [
        Layer(conv.outputs, conv.inputs, conv.flop) for conv in reversed(convs)
    ]


def dynamics_layers(config: DramaConfig, num_actions: int) -> list[Layer]:
    """Stem and Mamba-2 layers for one step of one sequence.

    The recurrence is counted as such; the quadratic form does more.
    """
    c = config.world_model
    convolved = c.inner_width + 2 * c.d_state
    scan = Layer(
        convolved + c.num_heads,
        c.inner_width,
        2 * c.d_conv * convolved + _RECURRENCE_FLOP * c.inner_width * c.d_state,
    )
    project = linear(c.d_model, c.inner_width + convolved + c.num_heads)
    layer = [project, scan, linear(c.inner_width, c.d_model)]
    return [linear(c.latent_dim + num_actions, c.d_model), *layer * c.num_layers]


def prediction_layers(config: DramaConfig) -> list[Layer]:
    """What is predicted from one belief: the prior first, then reward, termination."""
    c = config.world_model
    reward = mlp_layers(c.d_model, [c.head_units], c.num_bins)
    termination = mlp_layers(c.d_model, [c.head_units], 1)
    return [linear(c.d_model, c.latent_dim), *reward, *termination]
