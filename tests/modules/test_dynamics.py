"""The sequence model: parallel, step by step and by its formula are one function."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tensordict import TensorDict
from torch import Tensor, nn

from drama_torchrl.modules.dynamics import MambaDynamics

BATCH, TIME, LATENT, ACTIONS, WIDTH = 3, 9, 10, 4, 8


def make_dynamics(*, dropout: float = 0.1, num_layers: int = 2) -> MambaDynamics:
    dynamics = MambaDynamics(
        LATENT,
        ACTIONS,
        d_model=WIDTH,
        num_layers=num_layers,
        d_state=5,
        head_dim=4,
        dropout=dropout,
    )
    for name, parameter in dynamics.named_parameters():
        if "norm" in name:  # they start at one: a swap would not show
            nn.init.normal_(parameter)
    return dynamics.eval()


def sequence(batch: int = BATCH, time: int = TIME) -> tuple[Tensor, Tensor]:
    actions = torch.eye(ACTIONS)[torch.randint(ACTIONS, (batch, time))]
    return torch.rand(batch, time, LATENT), actions


def run_steps(
    dynamics: MambaDynamics, latent: Tensor, action: Tensor, state: TensorDict
) -> tuple[Tensor, TensorDict]:
    beliefs = []
    for t in range(latent.shape[1]):
        belief, state = dynamics.step(latent[:, t], action[:, t], state)
        beliefs.append(belief)
    return torch.stack(beliefs, 1), state


def assert_same_state(a: TensorDict, b: TensorDict) -> None:
    torch.testing.assert_close(a.to_dict(), b.to_dict())


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-12).sqrt() * weight


def test_it_computes_its_formula() -> None:
    dynamics, (latent, action) = make_dynamics(), sequence()
    weight = dict(dynamics.named_parameters())
    u = torch.cat([latent, action], -1) @ weight["stem.0.weight"].T
    u = F.silu(rms_norm(u + weight["stem.0.bias"], weight["stem.1.weight"]))
    for i, layer in enumerate(dynamics.layers):
        u = u + layer(rms_norm(u, weight[f"norms.{i}.weight"]))[0]
    expected = rms_norm(u, weight["final_norm.weight"])
    torch.testing.assert_close(dynamics(latent, action)[0], expected)


@pytest.mark.parametrize("num_layers", [1, 3])
def test_step_agrees_with_forward(num_layers: int) -> None:
    dynamics, (latent, action) = make_dynamics(num_layers=num_layers), sequence()
    belief, state = dynamics(latent, action)
    empty = dynamics.initial_state(BATCH)
    steps, step_state = run_steps(dynamics, latent, action, empty)
    torch.testing.assert_close(steps, belief)
    assert_same_state(step_state, state)


@pytest.mark.parametrize("first", [1, 4, 8])
def test_a_sequence_may_be_split_anywhere(first: int) -> None:
    dynamics, (latent, action) = make_dynamics(), sequence()
    belief, state = dynamics(latent, action)
    before, carried = dynamics(latent[:, :first], action[:, :first])
    after, end = dynamics(latent[:, first:], action[:, first:], carried)
    torch.testing.assert_close(torch.cat([before, after], 1), belief)
    assert_same_state(end, state)


@pytest.mark.parametrize("changed", ["latent", "action"])
def test_a_belief_includes_its_own_step_and_no_later_one(changed: str) -> None:
    dynamics, (latent, action) = make_dynamics(), sequence()
    other = {"latent": latent.clone(), "action": action.clone()}
    other[changed][:, 5] = other[changed][:, 5].roll(1, -1)
    difference = (dynamics(**other)[0] - dynamics(latent, action)[0]).abs().amax((0, 2))
    assert (difference[:5] == 0).all()
    assert (difference[5:] > 1e-6).all()


def test_sequences_of_a_batch_do_not_mix() -> None:
    dynamics, (latent, action) = make_dynamics(), sequence()
    alone = [dynamics(latent[i : i + 1], action[i : i + 1])[0] for i in range(BATCH)]
    torch.testing.assert_close(dynamics(latent, action)[0], torch.cat(alone))


def test_episode_starts_forget_in_each_sequence_on_its_own() -> None:
    dynamics, (latent, action) = make_dynamics(), sequence(batch=2)
    is_init = torch.zeros(2, TIME, dtype=torch.bool)
    is_init[0, 4] = is_init[1, 0] = is_init[1, 7] = True
    carried = dynamics.initial_state(2).apply(torch.randn_like)
    belief, _ = dynamics(latent, action, carried, is_init=is_init)
    first, second = (latent[:1], action[:1]), (latent[1:], action[1:])
    pieces = [
        (belief[:1, :4], first, slice(0, 4), carried[:1]),
        (belief[:1, 4:], first, slice(4, None), None),
        (belief[1:, :7], second, slice(0, 7), None),
        (belief[1:, 7:], second, slice(7, None), None),
    ]
    for given, (z, a), at, past in pieces:
        torch.testing.assert_close(given, dynamics(z[:, at], a[:, at], past)[0])


def test_bool_actions_are_taken_as_they_are() -> None:
    dynamics, (latent, action) = make_dynamics(), sequence()
    assert torch.equal(dynamics(latent, action.bool())[0], dynamics(latent, action)[0])


def test_bfloat16_autocast_keeps_state_and_belief_in_float32() -> None:
    dynamics, (latent, action) = make_dynamics(), sequence()
    with torch.autocast("cpu", torch.bfloat16):
        belief, state = dynamics(latent, action)
        stepped, step_state = dynamics.step(latent[:, 0], action[:, 0], state)
    for layer in ("0", "1"):
        assert state[layer, "ssm"].dtype == torch.float32
        assert step_state[layer, "ssm"].dtype == torch.float32
    assert belief.dtype == stepped.dtype == torch.float32


def inputs_of_norms(dynamics: MambaDynamics) -> tuple[Tensor, Tensor, Tensor]:
    """What stands in the residual stream before, between and after the layers."""
    seen: list[Tensor] = []
    norms = [*dynamics.norms, dynamics.final_norm]
    hooks = [
        norm.register_forward_pre_hook(lambda _, x: seen.append(x[0])) for norm in norms
    ]
    dynamics(*sequence(batch=8, time=32))
    for hook in hooks:
        hook.remove()
    return seen[0], seen[1], seen[2]


def test_dropout_acts_after_the_stem_and_on_each_residual_branch() -> None:
    stem, first, second = inputs_of_norms(make_dynamics(dropout=0.25).train())
    for branch in (stem, first - stem, second - first):
        dropped = (branch == 0).float().mean()
        assert abs(dropped - 0.25) < 0.05


def test_evaluation_drops_nothing() -> None:
    stem, first, second = inputs_of_norms(make_dynamics(dropout=0.25).eval())
    for branch in (stem, first - stem, second - first):
        assert (branch == 0).float().mean() < 0.01


@pytest.mark.parametrize("batch_size", [3, torch.Size([3])], ids=["int", "size"])
def test_an_empty_past_changes_nothing(batch_size: int | torch.Size) -> None:
    dynamics, (latent, action) = make_dynamics(), sequence()
    state = dynamics.initial_state(batch_size)
    assert state.batch_size == (3,)
    torch.testing.assert_close(
        dynamics(latent, action, state)[0], dynamics(latent, action)[0]
    )
