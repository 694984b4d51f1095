"""Categoricals and two-hot scalars by hand-written numbers and identities."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from drama_torchrl.modules.distributions import (
    SymlogTwoHot,
    categorical_entropy,
    categorical_kl,
    sample_one_hot,
    straight_through,
    unimix,
)

K, M = 6, 5


def log(*probs: float) -> Tensor:
    return torch.tensor(probs).log()


class TestUnimix:
    def test_hand_written_numbers(self) -> None:
        # softmax [1/4, 3/4]; 0.9 of it and 0.1 / 2 each
        mixed = unimix(torch.tensor([[0.0, math.log(3.0)]]), 0.1).exp()
        torch.testing.assert_close(mixed, torch.tensor([[0.275, 0.725]]))

    def test_the_denominator_is_the_number_of_classes(self) -> None:
        logits = torch.full((K, M), -1e4)
        logits[:, 2] = 1e4
        expected = torch.full((K, M), 0.01 / M)
        expected[:, 2] = 0.99 + 0.01 / M
        torch.testing.assert_close(unimix(logits, 0.01).exp(), expected)

    @pytest.mark.parametrize("ratio", [0.0, 0.01, 0.5])
    def test_probabilities_sum_to_one_and_have_a_floor(self, ratio: float) -> None:
        probs = unimix(5 * torch.randn(9, K, M), ratio).exp()
        torch.testing.assert_close(probs.sum(-1), torch.ones(9, K))
        assert probs.min() >= ratio / M * (1 - 1e-5)

    def test_nothing_is_mixed_at_ratio_zero(self) -> None:
        logits = torch.randn(K, M)
        torch.testing.assert_close(unimix(logits, 0.0), torch.log_softmax(logits, -1))

    @pytest.mark.parametrize(
        ("given", "returned"),
        [
            (torch.bfloat16, torch.float32),
            (torch.float32, torch.float32),
            (torch.float64, torch.float64),
        ],
        ids=str,
    )
    def test_it_computes_in_float32_or_wider(
        self, given: torch.dtype, returned: torch.dtype
    ) -> None:
        logits = torch.randn(K, M).to(given)
        mixed = unimix(logits, 0.01)
        assert mixed.dtype == returned
        exact = unimix(logits.double(), 0.01)
        torch.testing.assert_close(mixed.double(), exact, atol=1e-6, rtol=1e-6)

    @pytest.mark.parametrize("ratio", [0.0, 0.01])
    def test_extreme_logits_keep_values_and_gradients_finite(
        self, ratio: float
    ) -> None:
        logits = torch.tensor([[1e30, -1e30, 0.0]], requires_grad=True)
        log_probs = unimix(logits, ratio)
        log_probs.sum().backward()
        assert log_probs.isfinite().all()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()


class TestSampleOneHot:
    PROBS = (0.5, 0.3, 0.15, 0.05)

    def test_frequencies_are_the_probabilities(self) -> None:
        draws = sample_one_hot(log(*self.PROBS).expand(20_000, 4))
        expected = 20_000 * torch.tensor(self.PROBS, dtype=torch.float64)
        assert chisquare(draws.sum(0).double(), expected).pvalue > 1e-3

    def test_categoricals_of_one_latent_are_drawn_independently(self) -> None:
        first, second = (0.7, 0.3), (0.2, 0.8)
        draws = sample_one_hot(
            torch.stack([log(*first), log(*second)]).expand(8000, 2, 2)
        )
        joint = torch.einsum("na,nb->ab", draws[:, 0], draws[:, 1]).flatten().double()
        expected = torch.outer(torch.tensor(first), torch.tensor(second)).flatten()
        expected = 8000 * expected.double() / expected.double().sum()
        assert chisquare(joint, expected).pvalue > 1e-3

    def test_draws_are_exactly_one_hot_floats_without_gradient(self) -> None:
        log_probs = unimix(torch.randn(50, K, M, requires_grad=True), 0.01)
        draws = sample_one_hot(log_probs)
        assert draws.dtype == log_probs.dtype
        assert not draws.requires_grad
        assert draws.unique().tolist() == [0.0, 1.0]
        assert (draws.sum(-1) == 1).all()

    def test_a_class_of_probability_zero_is_never_drawn(self) -> None:
        draws = sample_one_hot(log(0.5, 0.0, 0.5).expand(2000, 3))
        assert draws[:, 1].sum() == 0
        assert (draws.sum(-1) == 1).all()


class TestStraightThrough:
    def test_values_are_exactly_the_sample(self) -> None:
        log_probs = unimix(3 * torch.randn(500, K, M), 0.01)
        sample = sample_one_hot(log_probs)
        assert torch.equal(straight_through(sample, log_probs), sample)

    def test_the_gradient_is_that_of_the_probabilities(self) -> None:
        # p = (1 - r) softmax + r / 2 at logits 0: dp_0 / dlogits = (1 - r) [1/4, -1/4]
        logits = torch.zeros(1, 2, requires_grad=True)
        log_probs = unimix(logits, 0.2)
        straight_through(torch.tensor([[0.0, 1.0]]), log_probs)[0, 0].backward()
        torch.testing.assert_close(logits.grad, torch.tensor([[0.2, -0.2]]))


class TestKLAndEntropy:
    def test_kl_by_hand_written_numbers(self) -> None:
        # ln 2 / 2 + ln(2/3) / 2, once for each of two categoricals, plus a zero
        p = torch.stack([log(0.5, 0.5), log(0.5, 0.5), log(0.1, 0.9)])
        q = torch.stack([log(0.25, 0.75), log(0.75, 0.25), log(0.1, 0.9)])
        kl = categorical_kl(p, q)
        assert kl.shape == ()
        assert kl.item() == pytest.approx(2 * 0.14384104, abs=1e-6)
        # ln(1/2) / 4 + 3 ln(3/2) / 4: the other direction is another number
        assert categorical_kl(q, p).item() == pytest.approx(2 * 0.13081204, abs=1e-6)

    def test_kl_of_a_distribution_with_itself_is_zero(self) -> None:
        p = unimix(torch.randn(7, K, M), 0.01)
        assert torch.equal(categorical_kl(p, p), torch.zeros(7))

    def test_kl_to_uniform_is_what_entropy_lacks(self) -> None:
        p = unimix(torch.randn(7, K, M), 0.01)
        uniform = torch.full((K, M), -math.log(M))
        lacks = K * math.log(M) - categorical_entropy(p)
        torch.testing.assert_close(categorical_kl(p, uniform), lacks)

    def test_entropy_by_hand_written_numbers(self) -> None:
        p = torch.stack([log(0.5, 0.5), log(0.25, 0.75)])
        assert categorical_entropy(p).item() == pytest.approx(0.69314718 + 0.56233514)


def encoding(two_hot: SymlogTwoHot, target: Tensor) -> Tensor:
    """What the cross-entropy takes ``target`` for: its gradient is softmax - target."""
    logits = torch.zeros(len(target), len(two_hot.bins), requires_grad=True)
    two_hot.cross_entropy(logits, target[:, None]).sum().backward()
    assert logits.grad is not None
    return torch.softmax(logits, -1).detach() - logits.grad


class TestSymlogTwoHot:
    def test_cross_entropy_by_hand_written_numbers(self) -> None:
        # Bins -2 … 2; symlog(e^(1/4) - 1) = 1/4: 3/4 on bin 0 and 1/4 on bin 1.
        two_hot = SymlogTwoHot(num_bins=5, limit=2.0)
        probs = torch.tensor([1.0, 1.0, 2.0, 4.0, 1.0]) / 9
        target = torch.tensor([[math.exp(0.25) - 1.0]])
        expected = 0.75 * math.log(9 / 2) + 0.25 * math.log(9 / 4)
        loss = two_hot.cross_entropy(probs.log()[None], target)
        torch.testing.assert_close(loss, torch.tensor([expected]))

    @pytest.mark.parametrize(
        ("probs", "value"),
        [
            ([0.0, 0.0, 0.75, 0.25, 0.0], math.exp(0.25) - 1),
            ([0.0, 0.5, 0.5, 0.0, 0.0], 1 - math.exp(0.5)),
            # the mean is taken in symlog space: e - 1, not (e² - 1) / 2
            ([0.0, 0.0, 0.5, 0.0, 0.5], math.e - 1),
            ([0.0, 0.0, 0.0, 0.0, 1.0], math.exp(2) - 1),
            ([0.2, 0.2, 0.2, 0.2, 0.2], 0.0),
        ],
        ids=["positive", "negative", "spread", "top", "uniform"],
    )
    def test_decoding_by_hand_written_numbers(
        self, probs: list[float], value: float
    ) -> None:
        two_hot = SymlogTwoHot(num_bins=5, limit=2.0)
        decoded = two_hot(torch.tensor(probs).log())
        torch.testing.assert_close(decoded, torch.tensor([value]))

    @pytest.mark.parametrize(
        "two_hot", [SymlogTwoHot(), SymlogTwoHot(8, 3.0)], ids=["odd", "even"]
    )
    def test_decoding_inverts_encoding_up_to_both_ends(
        self, two_hot: SymlogTwoHot
    ) -> None:
        limit = two_hot.bins[-1].item()
        y = torch.linspace(-limit, limit, 401)
        target = y.sign() * torch.expm1(y.abs())
        decoded = two_hot(encoding(two_hot, target).clamp_min(0).log()).squeeze(-1)
        torch.testing.assert_close(decoded, target, rtol=2e-4, atol=1e-5)

    def test_an_encoding_lies_on_two_neighbours(self) -> None:
        encoded = encoding(SymlogTwoHot(41, 4.0), 20 * torch.randn(300))
        torch.testing.assert_close(encoded.sum(-1), torch.ones(300))
        assert encoded.min() > -1e-6
        where = [row.nonzero().flatten().tolist() for row in encoded > 1e-5]
        assert all(len(at) <= 2 and at[-1] - at[0] <= 1 for at in where)

    @pytest.mark.parametrize("sign", [-1.0, 1.0])
    def test_scalars_beyond_the_bins_count_as_the_last_one(self, sign: float) -> None:
        two_hot = SymlogTwoHot(num_bins=5, limit=2.0)
        encoded = encoding(two_hot, torch.tensor([sign * 1e9]))
        end = torch.zeros(1, 5)
        end[0, -1 if sign > 0 else 0] = 1.0
        torch.testing.assert_close(encoded, end)

    def test_leading_dimensions_stay(self) -> None:
        two_hot = SymlogTwoHot(11, 3.0)
        logits, target = torch.randn(4, 1, 11), torch.randn(4, 1, 1)
        assert two_hot(logits).shape == (4, 1, 1)
        loss = two_hot.cross_entropy(logits, target)
        rows = [two_hot.cross_entropy(logits[i], target[i]) for i in range(4)]
        torch.testing.assert_close(loss, torch.stack(rows))
        assert loss.shape == (4, 1)

    def test_bfloat16_logits_are_widened_first(self) -> None:
        two_hot = SymlogTwoHot()
        logits, target = torch.randn(3, 255).bfloat16(), torch.randn(3, 1)
        for narrow, wide in (
            (two_hot(logits), two_hot(logits.float())),
            (
                two_hot.cross_entropy(logits, target),
                two_hot.cross_entropy(logits.float(), target),
            ),
        ):
            assert narrow.dtype == torch.float32
            assert torch.equal(narrow, wide)

    @pytest.mark.parametrize(("bins", "limit"), [(1, 20.0), (255, 0.0), (255, -1.0)])
    def test_impossible_bins_are_explained(self, bins: int, limit: float) -> None:
        with pytest.raises(ValueError, match=f"num_bins={bins} and limit={limit}"):
            SymlogTwoHot(bins, limit)
