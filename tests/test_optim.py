"""LaProp by hand-written numbers and a slow loop; warm-up; clipping."""

from __future__ import annotations

import io
import math
import re
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor, nn

from drama_torchrl.optim import (
    LaProp,
    clip_gradients,
    differentiate,
    linear_warmup,
)
from tests.reference.oracles import laprop_loop


def apply_gradients(
    losses: TensorDict, optimizer: torch.optim.Optimizer, max_norm: float
) -> Tensor:
    """What an update does between the losses and the parameters."""
    differentiate(losses, optimizer)
    norm = clip_gradients(optimizer, max_norm)
    optimizer.step()
    return norm


def descend(
    optimizer: torch.optim.Optimizer, parameter: nn.Parameter, gradients: list[float]
) -> list[float]:
    """Values of a one-number parameter after each step."""
    trajectory = []
    for gradient in gradients:
        parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
        trajectory.append(parameter.flatten()[0].item())
    return trajectory


class TestLaProp:
    def test_hand_written_numbers(self) -> None:
        theta = nn.Parameter(torch.tensor([1.0]))
        optimizer = LaProp([theta], lr=0.1, betas=(0.5, 0.75))
        # v/c: 1, 2.714286, then 1.540541; g/sqrt: 1, -1.213954, 0; m/c: see the sums
        expected = [
            1.0 - 0.1 * 1.0,
            0.9 - 0.1 * (0.25 - 0.6069770) / 0.75,
            0.9475969 - 0.1 * (0.125 - 0.3034885) / 0.875,
        ]
        given = descend(optimizer, theta, [1.0, -2.0, 0.0])
        assert given == pytest.approx(expected, abs=1e-6)

    def test_weight_decay_is_decoupled_and_scaled_by_the_learning_rate(self) -> None:
        theta = nn.Parameter(torch.tensor([2.0]))
        optimizer = LaProp([theta], lr=0.1, weight_decay=0.5)
        given = descend(optimizer, theta, [0.0, 0.0])
        assert given == pytest.approx([2 * 0.95, 2 * 0.95**2])

    @pytest.mark.parametrize("weight_decay", [0.0, 0.3])
    @pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
    def test_it_follows_the_published_algorithm(
        self, weight_decay: float, scale: float
    ) -> None:
        gradients = (scale * torch.randn(30)).tolist()
        theta = nn.Parameter(torch.tensor([1.5]))
        optimizer = LaProp([theta], lr=0.01, weight_decay=weight_decay)
        given = descend(optimizer, theta, gradients)
        expected = laprop_loop(1.5, gradients, [0.01] * 30, weight_decay=weight_decay)
        assert given == pytest.approx(expected, abs=3e-6)

    def test_it_follows_a_learning_rate_that_moves(self) -> None:
        rates = [0.01 * min(1.0, (t + 1) / 5) for t in range(10)]
        gradients = torch.randn(10).tolist()
        theta = nn.Parameter(torch.tensor([1.5]))
        optimizer = LaProp([theta], lr=0.01)
        schedule = linear_warmup(optimizer, 5)
        given = []
        for gradient in gradients:
            given += descend(optimizer, theta, [gradient])
            schedule.step()
        assert given == pytest.approx(laprop_loop(1.5, gradients, rates), abs=3e-6)

    def test_the_first_step_is_as_long_as_the_learning_rate(self) -> None:
        for gradient in (1e-15, -1e-3, 1e12):
            theta = nn.Parameter(torch.tensor([0.0]))
            descend(LaProp([theta], lr=0.1), theta, [gradient])
            assert abs(theta.item()) == pytest.approx(0.1, rel=1e-4)

    def test_no_gradient_no_change(self) -> None:
        theta, idle = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(3))
        descend(LaProp([theta, idle], lr=0.1, weight_decay=0.1), theta, [1.0])
        assert torch.equal(idle.data, torch.ones(3))

    def test_zero_gradients_stay_finite(self) -> None:
        theta = nn.Parameter(torch.tensor([1.0]))
        assert descend(LaProp([theta], lr=0.1), theta, [0.0, 0.0]) == [1.0, 1.0]

    def test_a_parameter_that_joins_later_is_corrected_for_its_own_steps(self) -> None:
        first, late = (
            nn.Parameter(torch.tensor([1.5])),
            nn.Parameter(torch.tensor([1.5])),
        )
        optimizer = LaProp([first, late], lr=0.1)
        descend(optimizer, first, [1.0] * 5)
        first.grad = torch.ones(1)
        given = descend(optimizer, late, [0.5, -1.0])
        assert given == pytest.approx(
            laprop_loop(1.5, [0.5, -1.0], [0.1, 0.1]), abs=1e-5
        )

    @pytest.mark.parametrize("lost", [0, 3], ids=["first", "later"])
    @pytest.mark.parametrize("gradient", [math.nan, math.inf, 5.0])
    def test_a_step_that_is_not_applied_leaves_no_trace(
        self, lost: int, gradient: float
    ) -> None:
        ends = []
        for lose in (False, True):
            theta = nn.Parameter(torch.tensor([1.5, -2.0]))
            optimizer = LaProp([theta], lr=0.1, weight_decay=0.3)
            for number, given in enumerate([1.0, -3.0, 0.5, 2.0, 1.0]):
                if lose and number == lost:
                    optimizer.applied = torch.tensor(False)
                    before = theta.detach().clone()
                    descend(optimizer, theta, [gradient, gradient])
                    assert torch.equal(theta, before)
                optimizer.applied = torch.tensor(True)
                descend(optimizer, theta, [given])
            ends.append([theta.detach(), *optimizer.state[theta].values()])
        for one, other in zip(*ends, strict=True):
            assert torch.equal(one, other)

    def test_each_group_has_its_own_options(self) -> None:
        a, b = nn.Parameter(torch.tensor([0.0])), nn.Parameter(torch.tensor([0.0]))
        groups: list[dict[str, Any]] = [{"params": [a]}, {"params": [b], "lr": 0.5}]
        optimizer = LaProp(groups, lr=0.1)
        a.grad, b.grad = torch.ones(1), torch.ones(1)
        optimizer.step()
        assert [a.item(), b.item()] == pytest.approx([-0.1, -0.5], rel=1e-4)

    def test_a_tensor_learning_rate_gives_the_same_bits(self) -> None:
        results = []
        for lr in (0.0123, torch.tensor(0.0123)):
            torch.manual_seed(0)
            model = nn.Linear(5, 3)
            optimizer = LaProp(model.parameters(), lr=lr, weight_decay=0.1)
            for _ in range(5):
                optimizer.zero_grad()
                model(torch.randn(4, 5)).square().sum().backward()
                optimizer.step()
            results.append(model.weight.detach().clone())
        assert torch.equal(*results)

    @pytest.mark.parametrize("as_tensor", [False, True], ids=["float", "tensor"])
    def test_a_reloaded_optimizer_goes_on_as_this_one(self, as_tensor: bool) -> None:
        lr = torch.tensor(0.01) if as_tensor else 0.01
        gradients = torch.randn(12).tolist()
        theta = nn.Parameter(torch.tensor([1.5]))
        optimizer = LaProp([theta], lr=lr, weight_decay=0.1)
        schedule = linear_warmup(optimizer, 10)
        train(optimizer, schedule, theta, gradients[:6])

        file = io.BytesIO()
        torch.save((theta, optimizer.state_dict(), schedule.state_dict()), file)
        file.seek(0)
        copy, optimizer_state, schedule_state = torch.load(file, weights_only=False)
        other = LaProp([copy], lr=99.0, betas=(0.1, 0.2))
        other_schedule = linear_warmup(other, 10)
        other.load_state_dict(optimizer_state)
        other_schedule.load_state_dict(schedule_state)

        expected = train(optimizer, schedule, theta, gradients[6:])
        assert train(other, other_schedule, copy, gradients[6:]) == expected

    def test_a_closure_is_evaluated_with_gradients(self) -> None:
        theta = nn.Parameter(torch.tensor([1.0]))
        optimizer = LaProp([theta], lr=0.1)

        def closure() -> Tensor:
            loss = theta.square().sum()
            loss.backward()
            return loss

        assert optimizer.step(closure) == 1.0
        assert theta.item() == pytest.approx(0.9)

    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("betas", (1.0, 0.999)),
            ("betas", (0.9, -0.1)),
            ("eps", -1e-8),
            ("weight_decay", -0.1),
        ],
    )
    def test_impossible_options_are_explained(self, option: str, value: object) -> None:
        with pytest.raises(ValueError, match=re.escape(f"{option}={value}")):
            LaProp([nn.Parameter(torch.ones(1))], **{option: value})  # type: ignore[arg-type]


def train(
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    parameter: nn.Parameter,
    gradients: list[float],
) -> list[float]:
    trajectory = []
    for gradient in gradients:
        trajectory += descend(optimizer, parameter, [gradient])
        schedule.step()
    return trajectory


class TestWarmup:
    @pytest.mark.parametrize("as_tensor", [False, True], ids=["float", "tensor"])
    @pytest.mark.parametrize(
        ("steps", "factors"),
        [(4, [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]), (1, [1.0] * 3), (0, [1.0] * 3)],
    )
    def test_the_rate_rises_linearly_and_holds(
        self, steps: int, factors: list[float], as_tensor: bool
    ) -> None:
        theta = nn.Parameter(torch.zeros(1))
        lr = torch.tensor(0.2) if as_tensor else 0.2
        optimizer = LaProp([theta], lr=lr)
        schedule = linear_warmup(optimizer, steps)
        rates = []
        for _ in factors:
            rates.append(float(optimizer.param_groups[0]["lr"]))
            descend(optimizer, theta, [1.0])
            schedule.step()
        assert rates == pytest.approx([0.2 * factor for factor in factors])

    def test_a_tensor_rate_moves_in_place(self) -> None:
        theta, lr = nn.Parameter(torch.zeros(1)), torch.tensor(0.2)
        optimizer = LaProp([theta], lr=lr)
        where = lr.data_ptr()
        schedule = linear_warmup(optimizer, 4)
        descend(optimizer, theta, [1.0])
        schedule.step()
        now = optimizer.param_groups[0]["lr"]
        assert now.data_ptr() == where
        assert now.item() == pytest.approx(0.1)


class TestApplyGradients:
    def test_gradients_beyond_the_bound_are_scaled_down_together(self) -> None:
        a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([{"params": [a]}, {"params": [b]}], lr=1.0)
        losses = TensorDict(loss_a=30 * a.sum(), loss_b=-40 * b.sum())
        norm = apply_gradients(losses, optimizer, max_norm=5.0)
        assert norm == pytest.approx(50.0)
        assert [a.item(), b.item()] == pytest.approx([-3.0, 4.0], rel=1e-5)

    def test_gradients_within_the_bound_stay(self) -> None:
        theta = nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([theta], lr=1.0)
        norm = apply_gradients(
            TensorDict(loss=theta.sum(), loss_a=3 * theta.sum()), optimizer, 4.0
        )
        assert norm == pytest.approx(3.0)
        assert theta.item() == pytest.approx(-3.0)

    def test_metrics_and_old_gradients_do_not_count(self) -> None:
        theta = nn.Parameter(torch.zeros(1))
        theta.grad = torch.full((1,), 7.0)
        optimizer = torch.optim.SGD([theta], lr=1.0)
        losses = TensorDict(
            loss_a=theta.sum(), loss_b=2 * theta.sum(), metric=9 * theta.sum()
        )
        apply_gradients(losses, optimizer, max_norm=100.0)
        assert theta.item() == pytest.approx(-3.0)
