"""The four ways to run Mamba-2's recurrence against its formula written as loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from drama_torchrl.modules.ssd import (
    QUADRATIC_MAX_LENGTH,
    ssd,
    ssd_chunked,
    ssd_quadratic,
    ssd_recurrent,
    ssd_step,
)

Run = Callable[..., tuple[Tensor, Tensor]]
BATCH, HEADS, WIDTH, STATE = 2, 3, 4, 5
LENGTHS = [1, 7, 63, 128, 300]
FORMS = {
    "recurrent": ssd_recurrent,
    "quadratic": ssd_quadratic,
    "chunks-of-128": ssd_chunked,
    "chunks-of-16": partial(ssd_chunked, chunk_size=16),
    "chunks-of-1": partial(ssd_chunked, chunk_size=1),
    "by-length": ssd,
}
every_form = pytest.mark.parametrize("run", FORMS.values(), ids=FORMS.keys())
fast_forms = pytest.mark.parametrize(
    "run",
    [ssd_quadratic, ssd_chunked, FORMS["chunks-of-16"]],
    ids=["quadratic", "chunks-of-128", "chunks-of-16"],
)


def make_inputs(
    length: int, dtype: torch.dtype = torch.float64, seed: int = 0
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    return {
        "x": normal(BATCH, length, HEADS, WIDTH),
        "dt": torch.nn.functional.softplus(normal(BATCH, length, HEADS) - 2),
        "A": -torch.exp(normal(HEADS)),
        "B": normal(BATCH, length, STATE),
        "C": normal(BATCH, length, STATE),
        "initial_state": normal(BATCH, HEADS, WIDTH, STATE),
    }


def make_is_init(length: int) -> Tensor:
    """Two starts in a row, one in the middle, one at the very end, another per row."""
    is_init = torch.zeros(BATCH, length, dtype=torch.bool)
    for start in (length // 2, length // 2 + 1, length - 1):
        is_init[0, min(start, length - 1)] = True
    is_init[1, length // 3] = True
    return is_init


def formula(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    initial_state: Tensor,
    is_init: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T; y_t = h_t C_t, number by number."""
    y = torch.zeros_like(x)
    final = initial_state.clone()
    for b in range(x.shape[0]):
        for head in range(x.shape[2]):
            for p in range(x.shape[3]):
                h = initial_state[b, head, p].tolist()
                for t in range(x.shape[1]):
                    step, rate = dt[b, t, head].item(), A[head].item()
                    dropped = is_init is not None and bool(is_init[b, t])
                    kept = 0.0 if dropped else math.exp(step * rate)
                    value = x[b, t, head, p].item()
                    total = 0.0
                    for s in range(B.shape[2]):
                        h[s] = kept * h[s] + step * value * B[b, t, s].item()
                        total += h[s] * C[b, t, s].item()
                    y[b, t, head, p] = total
                final[b, head, p] = torch.tensor(h)
    return y, final


def values_and_gradients(
    run: Run, inputs: dict[str, Tensor], is_init: Tensor | None = None
) -> list[Tensor]:
    leaves = {k: v.detach().clone().requires_grad_() for k, v in inputs.items()}
    y, state = run(**leaves, is_init=is_init)
    weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
    loss = (y * weights.sin()).sum() + (state * state.detach().cos()).sum()
    return [y, state, *torch.autograd.grad(loss, list(leaves.values()))]


@every_form
@pytest.mark.parametrize("resets", [False, True], ids=["one-episode", "episodes"])
def test_each_form_computes_the_formula(run: Run, resets: bool) -> None:
    inputs = make_inputs(19)
    is_init = make_is_init(19) if resets else None
    expected = formula(**inputs, is_init=is_init)
    torch.testing.assert_close(run(**inputs, is_init=is_init), expected)


@fast_forms
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("resets", [False, True], ids=["one-episode", "episodes"])
@pytest.mark.parametrize("stateful", [False, True], ids=["zero-state", "with-state"])
def test_forms_agree_in_values_and_all_gradients(
    run: Run, length: int, resets: bool, stateful: bool
) -> None:
    inputs = make_inputs(length)
    if not stateful:
        del inputs["initial_state"]
    is_init = make_is_init(length) if resets else None
    expected = values_and_gradients(ssd_recurrent, inputs, is_init)
    torch.testing.assert_close(values_and_gradients(run, inputs, is_init), expected)


@every_form
def test_gradients_are_those_of_finite_differences(run: Run) -> None:
    inputs = make_inputs(5)
    leaves = tuple(t[:1].requires_grad_() for t in inputs.values() if t.ndim > 1)
    is_init = make_is_init(5)[:1]

    def outputs(x: Tensor, dt: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
        B, C, state = rest
        return run(x, dt, inputs["A"], B, C, initial_state=state, is_init=is_init)

    assert torch.autograd.gradcheck(outputs, leaves, fast_mode=True)


@fast_forms
@pytest.mark.parametrize("split", [1, 16, 31, 62])
def test_a_split_with_the_state_carried_changes_nothing(run: Run, split: int) -> None:
    inputs, is_init = make_inputs(63), make_is_init(63)
    A, state = inputs.pop("A"), inputs.pop("initial_state")
    y, final = run(**inputs, A=A, initial_state=state, is_init=is_init)
    parts = []
    for part in (slice(None, split), slice(split, None)):
        piece = {key: value[:, part] for key, value in inputs.items()}
        y_part, state = run(**piece, A=A, initial_state=state, is_init=is_init[:, part])
        parts.append(y_part)
    torch.testing.assert_close((torch.cat(parts, 1), state), (y, final))


@every_form
def test_outputs_before_a_changed_step_stay_bit_identical(run: Run) -> None:
    inputs = make_inputs(300)
    before, _ = run(**inputs)
    for name in ("x", "dt", "B", "C"):
        inputs[name] = inputs[name].clone()
        inputs[name][:, 200] += 1.0
    after, _ = run(**inputs)
    torch.testing.assert_close(after[:, :200], before[:, :200], rtol=0, atol=0)
    # Only near the change: the fast heads have forgotten it 100 steps later.
    assert (after[:, 200:204] != before[:, 200:204]).all()


@every_form
def test_episodes_in_one_sequence_equal_separate_runs(run: Run) -> None:
    inputs, start = make_inputs(40), 17
    is_init = torch.zeros(BATCH, 40, dtype=torch.bool)
    is_init[:, start] = True
    y, final = run(**inputs, is_init=is_init)
    A, state = inputs.pop("A"), inputs.pop("initial_state")
    first, _ = run(
        **{k: v[:, :start] for k, v in inputs.items()}, A=A, initial_state=state
    )
    second, last = run(**{k: v[:, start:] for k, v in inputs.items()}, A=A)
    torch.testing.assert_close((y, final), (torch.cat([first, second], 1), last))


@every_form
def test_nothing_flows_back_across_an_episode_start(run: Run) -> None:
    inputs, start = make_inputs(40), 17
    inputs["x"].requires_grad_()
    inputs["initial_state"].requires_grad_()
    is_init = torch.zeros(BATCH, 40, dtype=torch.bool)
    is_init[:, start] = True
    y, final = run(**inputs, is_init=is_init)
    loss = y[:, start:].sum() + final.sum()
    to_x, to_state = torch.autograd.grad(loss, [inputs["x"], inputs["initial_state"]])
    assert not to_x[:, :start].any()
    assert not to_state.any()
    assert (to_x[:, start:] != 0).all()


@every_form
@pytest.mark.parametrize("scale", [1e-6, 1e3], ids=["tiny-steps", "huge-steps"])
def test_extreme_decays_give_finite_values_and_gradients(
    run: Run, scale: float
) -> None:
    inputs = make_inputs(128, torch.float32)
    inputs["dt"] = inputs["dt"] * scale
    for result in values_and_gradients(run, inputs, make_is_init(128)):
        assert result.isfinite().all()


@fast_forms
def test_float32_stays_close_to_float64_over_a_long_sequence(run: Run) -> None:
    inputs = make_inputs(QUADRATIC_MAX_LENGTH)
    exact, exact_state = ssd_recurrent(**inputs)
    y, state = run(**{name: t.float() for name, t in inputs.items()})
    assert y.dtype == state.dtype == torch.float32
    torch.testing.assert_close(y.double(), exact, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(state.double(), exact_state, rtol=1e-4, atol=1e-4)


@every_form
def test_the_state_stays_float32_under_bfloat16_autocast(run: Run) -> None:
    inputs = make_inputs(300, torch.float32)
    exact, exact_state = run(**inputs)
    for name in ("x", "B", "C"):
        inputs[name] = inputs[name].bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = run(**inputs)
    assert y.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    assert (y.float() - exact).norm() < 1e-2 * exact.norm()
    assert (state - exact_state).norm() < 5e-3 * exact_state.norm()


@fast_forms
def test_the_state_is_not_rounded_by_autocast(run: Run) -> None:
    inputs = make_inputs(300, torch.float32)
    expected = run(**inputs)[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        state = run(**inputs)[1]
    torch.testing.assert_close(state, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("length", "choice"),
    [(QUADRATIC_MAX_LENGTH, ssd_quadratic), (QUADRATIC_MAX_LENGTH + 1, ssd_chunked)],
    ids=["quadratic-up-to-256", "chunked-beyond"],
)
def test_the_form_is_chosen_by_length(length: int, choice: Run) -> None:
    inputs = make_inputs(length, torch.float32)
    torch.testing.assert_close(ssd(**inputs), choice(**inputs), rtol=0, atol=0)


def test_two_steps_give_hand_computed_numbers() -> None:
    # Half of the state decays per step: h = 0.5*4 + 1*3*2 = 8, then 0.5*8 + 1*1*2 = 6.
    one, half = torch.ones(1, 1), torch.tensor([math.log(0.5)])
    state = torch.full((1, 1, 1, 1), 4.0)
    y, state = ssd_step(torch.full((1, 1, 1), 3.0), one, half, 2 * one, 10 * one, state)
    torch.testing.assert_close(y, torch.full((1, 1, 1), 80.0))
    y, state = ssd_step(torch.ones(1, 1, 1), one, half, 2 * one, 10 * one, state)
    torch.testing.assert_close(y, torch.full((1, 1, 1), 60.0))
    torch.testing.assert_close(state, torch.full((1, 1, 1, 1), 6.0))


def test_a_step_leaves_the_passed_state_unchanged() -> None:
    inputs = make_inputs(1)
    state = inputs.pop("initial_state")
    copy = state.clone()
    A = inputs.pop("A")
    ssd_step(**{name: t[:, 0] for name, t in inputs.items()}, A=A, state=state)
    torch.testing.assert_close(state, copy, rtol=0, atol=0)


@pytest.mark.parametrize("length", [7, 300])
def test_ssd_compiles_without_a_graph_break(length: int) -> None:
    inputs, is_init = make_inputs(length, torch.float32), make_is_init(length)
    compiled = torch.compile(ssd, fullgraph=True, backend="eager")
    expected = values_and_gradients(ssd, inputs, is_init)
    torch.testing.assert_close(
        values_and_gradients(compiled, inputs, is_init), expected
    )


@every_form
@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("x", (2, 6, 12), r"x: expected shape \[B, T, NH, P\].*\(2, 6, 12\)"),
        ("x", (2, 0, 3, 4), r"at least one step, got \(2, 0, 3, 4\)"),
        ("dt", (2, 6, 4), r"dt: expected shape \[B, T, NH\] = \(2, 6, 3\)"),
        ("A", (2,), r"A: expected shape \[NH\] = \(3,\).*got \(2,\)"),
        ("B", (2, 7, 5), r"B: expected shape \[B, T, S\] = \(2, 6, 5\)"),
        ("C", (2, 6, 4), r"C: expected shape .* got \(2, 6, 4\)"),
        ("initial_state", (3, 3, 4, 5), r"initial_state: .* = \(2, 3, 4, 5\)"),
        ("is_init", (2, 6, 1), r"is_init: .* = \(2, 6\) .*got \(2, 6, 1\)"),
    ],
)
def test_wrong_shapes_say_what_was_expected(
    run: Run, name: str, shape: tuple[int, ...], message: str
) -> None:
    inputs = make_inputs(6)
    inputs[name] = torch.zeros(shape)
    with pytest.raises(ValueError, match=message):
        run(**inputs)
