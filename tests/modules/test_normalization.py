"""Normalisation by one vector's own size and by what was seen before."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor

from drama_torchrl.modules.normalization import RMSNorm, RunningNorm


class TestRMSNorm:
    def test_hand_written_numbers(self) -> None:
        norm = RMSNorm(2)
        with torch.no_grad():
            norm.weight.copy_(torch.tensor([1.0, 2.0]))
        # root mean square of (3, 4): sqrt(12.5)
        expected = torch.tensor([3.0, 8.0]) / 12.5**0.5
        torch.testing.assert_close(norm(torch.tensor([3.0, 4.0])), expected)

    def test_bfloat16_is_widened_before_anything_is_computed(self) -> None:
        norm, x = RMSNorm(64), torch.randn(5, 64).bfloat16()
        assert norm(x).dtype == torch.float32
        assert torch.equal(norm(x), norm(x.float()))

    def test_autocast_does_not_narrow_it(self) -> None:
        norm, x = RMSNorm(64), torch.randn(5, 64)
        with torch.autocast("cpu", torch.bfloat16):
            inside = norm(x)
        assert torch.equal(inside, norm(x))

    def test_float64_stays(self) -> None:
        assert RMSNorm(4).double()(torch.randn(4).double()).dtype == torch.float64


def reloaded(module: RunningNorm) -> RunningNorm:
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    copy = RunningNorm(module.mean.shape[0])
    copy.load_state_dict(torch.load(file))
    return copy


class TestRunningNorm:
    def test_hand_written_numbers(self) -> None:
        norm = RunningNorm(1)
        norm(torch.tensor([[0.0], [2.0]]))  # mean 1, variance 1
        norm(torch.tensor([[7.0]]))  # 0, 2, 7: mean 3, variance (9 + 1 + 16) / 3
        expected = torch.tensor([[2.0 / (26 / 3) ** 0.5]])
        torch.testing.assert_close(norm.eval()(torch.tensor([[5.0]])), expected)

    @pytest.mark.parametrize("shift", [0.0, 300.0], ids=["centred", "far-off"])
    def test_statistics_are_those_of_all_batches_together(self, shift: float) -> None:
        norm = RunningNorm(3)
        scale = torch.tensor([0.5, 1.0, 4.0])
        batches = [shift + scale * torch.randn(n, 2, 3) for n in (7, 1, 40, 3)]
        for batch in batches:
            norm(batch)
        everything = torch.cat(batches).reshape(-1, 3).double()
        variance, mean = torch.var_mean(everything, 0, correction=0)
        torch.testing.assert_close(norm.mean.double(), mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(norm.var.double(), variance, rtol=1e-3, atol=1e-6)
        assert norm.count == len(everything)

    def test_a_batch_is_normalised_with_itself_included(self) -> None:
        out = RunningNorm(4)(5 + 3 * torch.randn(1000, 4))
        torch.testing.assert_close(out.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
        torch.testing.assert_close(out.var(0, correction=0), torch.ones(4))

    def test_the_output_is_clipped_on_both_sides(self) -> None:
        norm = RunningNorm(1).eval()
        out = norm(torch.tensor([[-1e9], [-9.0], [9.0], [1e9]])).flatten()
        assert out.tolist() == pytest.approx([-10.0, -9.0, 9.0, 10.0])

    def test_statistics_of_bfloat16_are_kept_in_float32(self) -> None:
        x = (100 + torch.randn(64, 3)).bfloat16()
        norm, exact = RunningNorm(3), RunningNorm(3)
        norm(x)
        exact(x.float())
        assert torch.equal(norm.var, exact.var)

    def test_a_constant_feature_stays_finite(self) -> None:
        assert RunningNorm(2)(torch.full((5, 2), 3.0)).abs().max() == 0

    def test_evaluation_leaves_the_statistics_alone(self) -> None:
        norm = RunningNorm(3)
        norm(torch.randn(10, 3))
        before = {name: value.clone() for name, value in norm.state_dict().items()}
        norm.eval()(100 * torch.randn(10, 3))
        assert_same(norm.state_dict(), before)

    def test_statistics_move_in_place(self) -> None:
        norm = RunningNorm(3)
        where = [buffer.data_ptr() for buffer in norm.buffers()]
        norm(torch.randn(10, 3))
        assert [buffer.data_ptr() for buffer in norm.buffers()] == where

    def test_the_gradient_treats_the_statistics_as_constants(self) -> None:
        norm, x = RunningNorm(1), torch.tensor([[0.0], [4.0]], requires_grad=True)
        norm(x)[0].sum().backward()
        torch.testing.assert_close(x.grad, torch.tensor([[0.5], [0.0]]))

    def test_state_dict_holds_all_that_the_next_outputs_need(self) -> None:
        norm = RunningNorm(3)
        for _ in range(3):
            norm(2 + torch.randn(6, 3))
        copy, x = reloaded(norm), torch.randn(6, 3)
        assert torch.equal(copy(x), norm(x))  # trains: the count matters too
        assert_same(copy.state_dict(), norm.state_dict())
        assert set(norm.state_dict()) == {"mean", "var", "count"}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of inductor
def test_compiled_statistics_move_alike() -> None:
    norm, twin = RunningNorm(3), RunningNorm(3)
    compiled = torch.compile(twin, fullgraph=True)
    for _ in range(3):
        x = torch.randn(8, 3)
        torch.testing.assert_close(compiled(x), norm(x))
    assert twin.count == 24
    torch.testing.assert_close(twin.state_dict(), norm.state_dict())
