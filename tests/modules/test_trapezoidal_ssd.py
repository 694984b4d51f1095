"""The parallel form of Mamba-3's recurrence against its formula written as loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from drama_torchrl.modules.ssd import ssd
from drama_torchrl.modules.trapezoidal_ssd import (
    Past,
    trapezoidal_ssd,
    trapezoidal_ssd_recurrent,
    trapezoidal_ssd_step,
)

BATCH, HEADS, WIDTH, STATE = 2, 3, 4, 5
LENGTHS = [1, 2, 7, 128, 129, 300]
NAMES = ("x", "dt", "A", "share", "B", "C")
with_and_without_past = pytest.mark.parametrize(
    "past", [False, True], ids=["empty-past", "with-past"]
)


def make_inputs(length: int) -> dict[str, Any]:
    """Arguments in float64, of the sizes that a layer gives."""
    shape = (BATCH, length, HEADS)
    return {
        "x": torch.randn(*shape, WIDTH).double(),
        "dt": torch.rand(shape).double() + 0.01,
        "A": -torch.rand(shape).double() - 1e-4,
        "share": torch.rand(shape).double(),
        "B": torch.randn(*shape, STATE).double(),
        "C": torch.randn(*shape, STATE).double(),
    }


def make_past() -> Past:
    shapes = ((HEADS, WIDTH, STATE), (HEADS, STATE), (HEADS, WIDTH))
    return Past(*(torch.randn(BATCH, *shape).double() for shape in shapes))


def make_starts(length: int) -> Tensor:
    starts = torch.zeros(BATCH, length, dtype=torch.bool)
    starts[0, length // 2] = starts[0, length - 1] = starts[1, 0] = True
    return starts


def by_its_formula(
    inputs: dict[str, Tensor], past: Past | None, starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Outputs and the last states, number by number."""
    u: dict[str, Any] = {name: value.tolist() for name, value in inputs.items()}
    length = inputs["x"].shape[1]
    y = torch.zeros(BATCH, length, HEADS, WIDTH).double()
    h = torch.zeros(BATCH, HEADS, WIDTH, STATE).double()
    for b in range(BATCH):
        for n in range(HEADS):
            for p in range(WIDTH):
                for s in range(STATE):
                    state = before = 0.0
                    if past is not None:
                        state = past.ssm[b, n, p, s].item()
                        before = (past.x[b, n, p] * past.B[b, n, s]).item()
                    for t in range(length):
                        if starts is not None and starts[b, t]:
                            state = before = 0.0
                        dt, share = u["dt"][b][t][n], u["share"][b][t][n]
                        now = u["x"][b][t][n][p] * u["B"][b][t][n][s]
                        decay = math.exp(dt * u["A"][b][t][n])
                        state = (
                            decay * state
                            + (1 - share) * dt * decay * before
                            + share * dt * now
                        )
                        before = now
                        y[b, t, n, p] += state * u["C"][b][t][n][s]
                    h[b, n, p, s] = state
    return y, h


def results(
    run: Any, inputs: dict[str, Tensor], past: Past | None, **options: Any
) -> dict[str, Tensor]:
    """Values and gradients."""
    given = {name: value.detach().requires_grad_() for name, value in inputs.items()}
    if past is not None:
        past = Past(*(value.detach().requires_grad_() for value in past))
    y, end = run(*given.values(), past=past, **options)
    found = {"y": y, **end._asdict()}
    loss = sum(
        (value * torch.linspace(-1, 2, value.numel()).view_as(value).sin()).sum()
        for value in found.values()
    )
    leaves = [*given.values(), *(past or ())]
    gradients = torch.autograd.grad(loss, leaves)
    return found | {f"gradient {i}": g for i, g in enumerate(gradients)}


@pytest.mark.parametrize("length", [1, 2, 9])
@pytest.mark.parametrize("resets", [False, True], ids=["one-episode", "episodes"])
@with_and_without_past
def test_both_forms_compute_the_formula(length: int, past: bool, resets: bool) -> None:
    torch.manual_seed(0)
    inputs, before = make_inputs(length), make_past() if past else None
    starts = make_starts(length) if resets else None
    y, h = by_its_formula(inputs, before, starts)
    for run in (trapezoidal_ssd, trapezoidal_ssd_recurrent):
        found, end = run(**inputs, past=before, is_init=starts)
        torch.testing.assert_close(found, y)
        torch.testing.assert_close(end.ssm, h)
        assert torch.equal(end.B, inputs["B"][:, -1])
        assert torch.equal(end.x, inputs["x"][:, -1])


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("resets", [False, True], ids=["one-episode", "episodes"])
@with_and_without_past
def test_the_parallel_form_is_the_recurrence_in_values_and_all_gradients(
    length: int, past: bool, resets: bool
) -> None:
    torch.manual_seed(0)
    inputs, before = make_inputs(length), make_past() if past else None
    options = {"is_init": make_starts(length) if resets else None}
    expected = results(trapezoidal_ssd_recurrent, inputs, before, **options)
    found = results(trapezoidal_ssd, inputs, before, **options)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 5, 11, 12, 50])
@pytest.mark.parametrize("resets", [False, True], ids=["one-episode", "episodes"])
def test_chunks_change_nothing(chunk_size: int, resets: bool) -> None:
    torch.manual_seed(0)
    inputs, past = make_inputs(12), make_past()
    options = {"is_init": make_starts(12) if resets else None}
    expected = results(trapezoidal_ssd_recurrent, inputs, past, **options)
    found = results(trapezoidal_ssd, inputs, past, chunk_size=chunk_size, **options)
    torch.testing.assert_close(found, expected)


def test_it_is_ssd_with_other_weights_but_for_the_last_input() -> None:
    # Input s counts (share dt)_s + ((1 - share) dt)_{s+1} at later steps, and without
    # the second part at its own. Heads become sequences: their maps differ.
    torch.manual_seed(0)
    inputs = make_inputs(40)
    x, dt, A, share, B, C = inputs.values()
    later = torch.cat([((1 - share) * dt)[:, 1:], torch.zeros(BATCH, 1, HEADS)], 1)

    def fold(u: Tensor) -> Tensor:
        return u.transpose(1, 2).flatten(0, 1)

    decay = -dt * A  # the step size of a head whose rate is -1
    weighted = x * ((share * dt + later) / decay).unsqueeze(-1)
    y, ssm = ssd(
        fold(weighted).unsqueeze(2),
        fold(decay).unsqueeze(-1),
        -torch.ones(1).double(),
        fold(B),
        fold(C),
    )
    y = y.squeeze(2).unflatten(0, (BATCH, HEADS)).transpose(1, 2)
    y = y - (later * (B * C).sum(-1)).unsqueeze(-1) * x
    found, end = trapezoidal_ssd(**inputs)
    torch.testing.assert_close(found, y)
    torch.testing.assert_close(end.ssm, ssm.squeeze(1).unflatten(0, (BATCH, HEADS)))


@pytest.mark.parametrize("step", [0, 3, 127, 128, 150])
def test_outputs_before_a_changed_step_stay_bit_identical(step: int) -> None:
    torch.manual_seed(0)
    inputs = {name: value.float() for name, value in make_inputs(300).items()}
    past = Past(*(value.float() for value in make_past()))
    before, _ = trapezoidal_ssd(**inputs, past=past)
    for name in NAMES:
        changed = {**inputs, name: inputs[name].clone()}
        changed[name][:, step] *= 0.5
        after, _ = trapezoidal_ssd(**changed, past=past)
        assert torch.equal(after[:, :step], before[:, :step]), name
        assert (after[:, step] != before[:, step]).any(), name


def test_strong_decays_leave_no_infinity_in_values_and_gradients() -> None:
    torch.manual_seed(0)
    inputs = {name: value.float() for name, value in make_inputs(200).items()}
    inputs["A"] = inputs["A"] * 1e3
    found = results(trapezoidal_ssd, inputs, None)
    assert all(value.isfinite().all() for value in found.values())


def test_under_autocast_states_stay_float32() -> None:
    torch.manual_seed(0)
    inputs = {name: value.float() for name, value in make_inputs(200).items()}
    past = Past(*(value.float() for value in make_past()))
    exact, exact_end = trapezoidal_ssd(**inputs, past=past)
    inputs["x"] = inputs["x"].bfloat16()
    first = {name: value[:, 0] for name, value in inputs.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, end = trapezoidal_ssd(**inputs, past=past)
        stepped, after = trapezoidal_ssd_step(**first, past=past)
    assert y.dtype == stepped.dtype == torch.bfloat16
    assert end.ssm.dtype == after.ssm.dtype == torch.float32
    assert (y - exact).norm() < 0.02 * exact.norm()
    assert (end.ssm - exact_end.ssm).norm() < 0.01 * exact_end.ssm.norm()


@pytest.mark.parametrize("name", ["dt", "A", "share", "C", "is_init", "past.x"])
def test_what_does_not_fit_is_named(name: str) -> None:
    inputs, past = make_inputs(6), make_past()
    options: dict[str, Any] = {**inputs, "past": past, "is_init": make_starts(6)}
    if name == "past.x":
        options["past"] = past._replace(x=past.x[..., 1:])
    else:
        options[name] = options[name][:, 1:]
    for run in (trapezoidal_ssd, trapezoidal_ssd_recurrent):
        with pytest.raises(ValueError, match=rf"^{name}: expected shape .*reshape"):
            run(**options)


def test_no_step_is_refused() -> None:
    with pytest.raises(ValueError, match=r"x: expected .* at least one step"):
        trapezoidal_ssd(**make_inputs(0))
